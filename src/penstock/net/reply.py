"""A small answer as a whole, to a request that is no call: a webhook, a question about an answer."""

from __future__ import annotations

import asyncio

from penstock.errors import PenstockError
from penstock.messages import Headers
from penstock.net.connection import Connection, StaleConnection
from penstock.net.pool import Pool

MAX_BYTES = 65_536


class Reply:
    """Receives one answer (:class:`~penstock.net.response.Receiver`); what is larger is broken off."""

    __slots__ = ("_connection", "_most", "body", "headers", "status")

    def __init__(self, connection: Connection, most: int) -> None:
        self._connection = connection
        self._most = most
        self.status = 0
        self.headers: Headers = {}
        self.body = bytearray()

    def __repr__(self) -> str:
        return f"<Reply {self.status}, {len(self.body)} bytes>"

    @property
    def is_full(self) -> bool:
        """Whether there was more than is kept."""
        return len(self.body) > self._most

    def on_head(self, status: int, headers: Headers) -> None:
        self.status = status
        self.headers = headers

    def on_data(self, data: bytes) -> None:
        self.body += data
        if self.is_full:
            self._connection.abort()


async def reply_to(
    pool: Pool, head: bytes, body: bytes = b"", *, most: int = MAX_BYTES, once: bool = False
) -> Reply:
    """Send a request, again if its connection had been closed while it lay idle; an answer that is too large is one.

    :param most: bytes of its body; what is more is broken off
    :param once: never again, whatever becomes of the connection, which is a new one: what was closed may have been read
    :raises PenstockError: there was none
    """
    if once:
        return await _reply(await pool.acquire(fresh=True), head, body, most)
    try:
        return await _reply(await pool.acquire(), head, body, most)
    except StaleConnection:
        return await _reply(await pool.acquire(fresh=True), head, body, most)


async def _reply(connection: Connection, head: bytes, body: bytes, most: int) -> Reply:
    reply = Reply(connection, most)
    try:
        await connection.send(head, body, reply)
    except asyncio.CancelledError:
        connection.abort()
        raise
    except PenstockError:
        if not reply.is_full:
            raise
    return reply
