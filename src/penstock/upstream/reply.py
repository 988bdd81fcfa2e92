"""A small answer of an upstream, as a whole."""

from __future__ import annotations

from penstock.messages import Headers
from penstock.net.connection import Connection

MAX_BYTES = 65_536


class Reply:
    """Receives one answer (:class:`~penstock.net.response.Receiver`); what is larger is broken off."""

    __slots__ = ("_connection", "body", "status")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.status = 0
        self.body = bytearray()

    def __repr__(self) -> str:
        return f"<Reply {self.status}, {len(self.body)} bytes>"

    @property
    def is_full(self) -> bool:
        """Whether there was more than is kept."""
        return len(self.body) > MAX_BYTES

    def on_head(self, status: int, headers: Headers) -> None:
        del headers
        self.status = status

    def on_data(self, data: bytes) -> None:
        self.body += data
        if self.is_full:
            self._connection.abort()
