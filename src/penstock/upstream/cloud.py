"""Anthropic's models at clouds: its Messages API with the model in the path, and a cloud's own credentials.

Bedrock: https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-anthropic-claude-messages.html.
Vertex AI: https://platform.claude.com/docs/en/build-with-claude/claude-on-vertex-ai.
"""

from __future__ import annotations

from typing import ClassVar

from penstock.messages import Call, Endpoint
from penstock.upstream.http import HTTPUpstream
from penstock.upstream.streamed import Frames, StreamTransfer
from penstock.wire.cloud import invoked, segment
from penstock.wire.event_stream import MEDIA_TYPE, EventStream

_BEDROCK_VERSION = "bedrock-2023-05-31"
_VERTEX_VERSION = "vertex-2023-10-16"


class BedrockStream(StreamTransfer):
    """An answer in Amazon's event stream."""

    __slots__ = ()
    media_type: ClassVar[bytes] = MEDIA_TYPE
    splitter: ClassVar[type[Frames]] = EventStream


class _CloudUpstream(HTTPUpstream):
    """The model stands in the path."""

    def _request(
        self,
        call: Call,
        endpoint: Endpoint,
        path: bytes,  # noqa: ARG002 - it is the model's
        model: str,
        body: bytes,
    ) -> tuple[bytes, bytes]:
        target, body = self._invocation(call, endpoint, model, body)
        return self._head(call, endpoint, (self._base + target).encode(), len(body)), body

    def _invocation(self, call: Call, endpoint: Endpoint, model: str, body: bytes) -> tuple[str, bytes]:
        """The path below the base URL's, and the body that goes there."""
        raise NotImplementedError


class BedrockUpstream(_CloudUpstream):
    """Bedrock's runtime: ``base_url`` is ``https://bedrock-runtime.REGION.amazonaws.com``."""

    receiver: ClassVar[type[StreamTransfer]] = BedrockStream
    native = frozenset({Endpoint.MESSAGES})

    def _invocation(self, call: Call, endpoint: Endpoint, model: str, body: bytes) -> tuple[str, bytes]:  # noqa: ARG002
        betas = call.headers.get(b"anthropic-beta", b"")
        how = "invoke-with-response-stream" if call.stream else "invoke"
        body = invoked(body, _BEDROCK_VERSION, betas=betas, path_streams=True)
        return f"/model/{segment(model)}/{how}", body


class VertexUpstream(_CloudUpstream):
    """Vertex AI: ``base_url`` is ``https://REGION-aiplatform.googleapis.com/v1/projects/PROJECT/locations/REGION``."""

    native = frozenset({Endpoint.MESSAGES, Endpoint.COUNT_TOKENS})

    def _invocation(self, call: Call, endpoint: Endpoint, model: str, body: bytes) -> tuple[str, bytes]:
        models = "/publishers/anthropic/models"
        if endpoint is Endpoint.COUNT_TOKENS:  # for all models at one place, so its body keeps the name
            return f"{models}/count-tokens:rawPredict", invoked(body, _VERTEX_VERSION, keeps_model=True)
        how = "streamRawPredict" if call.stream else "rawPredict"
        return f"{models}/{segment(model)}:{how}", invoked(body, _VERTEX_VERSION)
