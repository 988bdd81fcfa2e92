"""Is this request one that does not hold its body: that creates an upload, or tells its body in blocks?

Asked of every request, as soon as its head is there, where uploads are configured; so it looks at little.
"""

from __future__ import annotations

from penstock.gateway.kept.blocks import BlockRoom
from penstock.gateway.kept.by_path import Work
from penstock.gateway.kept.uploads import FILES, UploadRoom
from penstock.gateway.routes import RELAYED
from penstock.messages import Tenant
from penstock.net.exchange import Exchange


class InPieces:
    """Those who take what is not sent whole."""

    __slots__ = ("_blocks", "_uploads")

    def __init__(self, uploads: UploadRoom, blocks: BlockRoom) -> None:
        self._uploads = uploads
        self._blocks = blocks

    def __repr__(self) -> str:
        return f"<InPieces {self._uploads}, {self._blocks}>"

    def opening(self, exchange: Exchange, tenant: Tenant) -> Work | None:
        """The work that such a request asks for; None: it is no such request."""
        headers = exchange.headers
        if b"upload-complete" in headers or b"tus-resumable" in headers or exchange.method == "OPTIONS":
            return self._uploads.creation(exchange, tenant, RELAYED.get(exchange.path))
        if headers.get(b"content-type") == b"application/json":
            return None  # nearly every request
        endpoint = RELAYED.get(exchange.path)
        if endpoint is None and exchange.path != FILES:
            return None
        return self._blocks.told_in_blocks(exchange, tenant, endpoint)
