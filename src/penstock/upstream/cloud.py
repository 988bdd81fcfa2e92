"""Models at clouds: the model in the path, and a cloud's own credentials.  Here: Anthropic's at Vertex AI.

Bedrock: :mod:`penstock.upstream.bedrock`.  Vertex AI: https://platform.claude.com/docs/en/build-with-claude/claude-on-vertex-ai.
"""

from __future__ import annotations

from typing import ClassVar

from penstock.messages import Call, Endpoint
from penstock.upstream.encoder import Encoder
from penstock.upstream.http import HTTPUpstream
from penstock.wire.cloud import invoked, segment

_VERTEX_VERSION = "vertex-2023-10-16"


class CloudEncoder(Encoder):
    """The model stands in the path."""

    def as_sent(
        self,
        call: Call,
        endpoint: Endpoint,
        path: bytes,  # noqa: ARG002 - it is the model's
        model: str,
        body: bytes,
    ) -> tuple[bytes, bytes]:
        """As for every upstream."""
        target, body = self._invocation(call, endpoint, model, body)
        return self._head(call, endpoint, (self._base + target).encode(), len(body)), body

    def _invocation(self, call: Call, endpoint: Endpoint, model: str, body: bytes) -> tuple[str, bytes]:
        """The path below the base URL's, and the body that goes there."""
        raise NotImplementedError


class VertexEncoder(CloudEncoder):
    """Anthropic's requests as Vertex AI wants them."""

    def _invocation(self, call: Call, endpoint: Endpoint, model: str, body: bytes) -> tuple[str, bytes]:
        models = "/publishers/anthropic/models"
        if endpoint is Endpoint.COUNT_TOKENS:  # for all models at one place, so its body keeps the name
            return f"{models}/count-tokens:rawPredict", invoked(body, _VERTEX_VERSION, keeps_model=True)
        how = "streamRawPredict" if call.stream else "rawPredict"
        return f"{models}/{segment(model)}:{how}", invoked(body, _VERTEX_VERSION)


class VertexUpstream(HTTPUpstream):
    """Vertex AI: ``base_url`` is ``https://REGION-aiplatform.googleapis.com/v1/projects/PROJECT/locations/REGION``."""

    encodes: ClassVar[type[Encoder]] = VertexEncoder
    native = frozenset({Endpoint.MESSAGES, Endpoint.COUNT_TOKENS})
