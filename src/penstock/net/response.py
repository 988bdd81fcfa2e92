"""One answer of an upstream, as the caller of the connection pool sees it."""

from __future__ import annotations

from typing import Protocol

from penstock.messages import Headers


class Receiver(Protocol):
    """Takes one upstream answer as it comes.  Called from the event loop; must not block or raise."""

    def on_head(self, status: int, headers: Headers) -> None:
        """Status line and header fields of the final answer (interim 1xx are not shown)."""

    def on_data(self, data: bytes) -> None:
        """A piece of the body, transfer coding removed; at least one byte."""
