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


class BedrockUpstream(HTTPUpstream):
    """Bedrock's runtime: ``base_url`` is ``https://bedrock-runtime.REGION.amazonaws.com``."""

    receiver: ClassVar[type[StreamTransfer]] = BedrockStream

    def _request(
        self,
        call: Call,
        endpoint: Endpoint,
        path: bytes,  # noqa: ARG002 - it is the model's
        model: str,
        body: bytes,
    ) -> tuple[bytes, bytes]:
        betas = call.headers.get(b"anthropic-beta", b"")
        body = invoked(body, _BEDROCK_VERSION, betas=betas, path_streams=True)
        how = "invoke-with-response-stream" if call.stream else "invoke"
        target = f"{self._base}/model/{segment(model)}/{how}"
        return self._head(call, endpoint, target.encode(), len(body)), body


class VertexUpstream(HTTPUpstream):
    """Vertex AI: ``base_url`` is ``https://REGION-aiplatform.googleapis.com/v1/projects/PROJECT/locations/REGION``."""

    def _request(
        self,
        call: Call,
        endpoint: Endpoint,
        path: bytes,  # noqa: ARG002 - it is the model's
        model: str,
        body: bytes,
    ) -> tuple[bytes, bytes]:
        if endpoint is Endpoint.COUNT_TOKENS:  # for all models at one place, so its body keeps the name
            name, how = "count-tokens", "rawPredict"
            body = invoked(body, _VERTEX_VERSION, keeps_model=True)
        else:
            name, how = segment(model), "streamRawPredict" if call.stream else "rawPredict"
            body = invoked(body, _VERTEX_VERSION)
        target = f"{self._base}/publishers/anthropic/models/{name}:{how}"
        return self._head(call, endpoint, target.encode(), len(body)), body
