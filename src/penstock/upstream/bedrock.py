"""Bedrock: Anthropic's models by their own API, all others by Converse.

Invoke: https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-anthropic-claude-messages.html.
Converse: :mod:`penstock.wire.converse`.  Either answers in Anthropic's form by the time that anybody looks: the second
one's answers are told as messages where bytes become frames, so that clocks, bills, breaks and callers' dialects are
the same for both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import msgspec

from penstock.config.model import TimeoutConfig
from penstock.errors import UpstreamBroken
from penstock.generation.log import Generation
from penstock.messages import Call, Dialect, Endpoint, Usage
from penstock.upstream.cloud import CloudEncoder
from penstock.upstream.encoder import Encoder
from penstock.upstream.http import HTTPUpstream
from penstock.upstream.job import Job
from penstock.upstream.ladder import How, Point
from penstock.upstream.prompt_cache import PromptCare
from penstock.upstream.streamed import Frames, StreamTransfer
from penstock.upstream.transfer import Transfer
from penstock.upstream.unsaid import without
from penstock.upstream.whole import PlainTransfer
from penstock.wire import boundary, converse, request, usage
from penstock.wire.cloud import invoked, segment
from penstock.wire.conversation import Prompt
from penstock.wire.event_stream import MEDIA_TYPE, EventStream
from penstock.wire.request import Extra
from penstock.wire.sse import MAX_FRAME_BYTES
from penstock.wire.translate import translation

_VERSION = "bedrock-2023-05-31"


class BedrockStream(StreamTransfer):
    """An answer in Amazon's event stream."""

    __slots__ = ()
    media_type: ClassVar[bytes] = MEDIA_TYPE
    splitter: ClassVar[type[Frames]] = EventStream

    def expect_converse(self) -> None:
        """What comes will be Converse's events."""
        call = self.job.call
        limit = min(MAX_FRAME_BYTES, self.generation.max_bytes)
        self._splitter = converse.ConverseStream(limit, model=call.model, name=_name_of(call))

    def told_usage(self) -> Usage | None:
        """As for every transfer.  Converse tells at the end what the prompt was; until then nothing is known of it."""
        told = super().told_usage()
        return told if told is not None and told.input_tokens else None

    def _received(self) -> Usage:
        used = super()._received()
        if used.estimated and not used.input_tokens:
            return usage.merge(used, Usage(self._prompt_tokens(), estimated=True))
        return used


class BedrockPlain(PlainTransfer):
    """An answer in JSON."""

    __slots__ = ("_conversed",)

    def __init__(self, generation: Generation, job: Job, now: Callable[[], float]) -> None:
        super().__init__(generation, job, now)
        self._conversed = False

    def expect_converse(self) -> None:
        """What comes will be Converse's answer."""
        self._conversed = True

    def _usage_told(self, body: bytes) -> Usage | None:
        return super()._usage_told(self._message(body) if self._conversed else body)

    def _complete(self) -> None:
        if self._conversed:
            body = b"".join(self._pieces)
            try:
                self._pieces = [self._message(body)]
            except UpstreamBroken:
                if not body.lstrip().startswith(b"{"):
                    self._no_answer()
                raise
        super()._complete()

    def _message(self, body: bytes) -> bytes:
        call = self.job.call
        return converse.message_of(body, call.model, _name_of(call))


def _name_of(call: Call) -> str:
    """The id of the message: Converse's answers have none."""
    return "msg_" + call.id.removeprefix("gen_")


class BedrockEncoder(CloudEncoder):
    """Requests of either API."""

    def converses(self, model: str) -> bool:
        """Whether this model is asked by Converse."""
        api = self._config.api
        return converse.speaks_converse(model) if api is None else api == "converse"

    def encode(
        self, call: Call, transfer: Transfer, model: str, care: PromptCare | None = None, extra: Extra = None
    ) -> tuple[bytes, bytes]:
        """As for every upstream."""
        if not self.converses(model):
            care = None if converse.keeps_none(model) else care
            return super().encode(call, transfer, model, care, extra)
        _expect_converse(transfer)
        body = converse.encode_prompt(_prompt(without(call, self._config.leave_out), model))
        if care is not None and converse.keeps_prompts(model):
            fields = request.members(body)
            if changes := care.points(call, fields, transfer.job.upstream, model):
                body = msgspec.json.encode(
                    {**fields, **{name: msgspec.Raw(text) for name, text in changes.items()}}
                )
        if extra:
            body = request.with_members(body, extra)
        return self.as_sent(call, Endpoint.MESSAGES, b"", model, body)

    def asked_more(self, call: Call, model: str, how: How, point: Point) -> tuple[Endpoint, bytes, bytes]:
        """As for every upstream."""
        if not self.converses(model):
            return super().asked_more(call, model, how, point)
        prompt = _prompt(without(call, self._config.leave_out), model)
        text, received = point.delivered.text or "", point.delivered.output_tokens
        if how is How.PREFILL:
            prompt = converse.prefilled(prompt, text[: boundary.safe_end(text)], received)
        elif how is How.PROMPT:
            prompt = converse.prompted(prompt, text, boundary.anchor_of(text), received)
        return Endpoint.MESSAGES, b"", converse.encode_prompt(prompt)

    def _invocation(self, call: Call, endpoint: Endpoint, model: str, body: bytes) -> tuple[str, bytes]:  # noqa: ARG002
        if self.converses(model):
            return f"/model/{segment(model)}/{'converse-stream' if call.stream else 'converse'}", body
        betas = call.headers.get(b"anthropic-beta", b"")
        how = "invoke-with-response-stream" if call.stream else "invoke"
        body = invoked(body, _VERSION, betas=betas, path_streams=True)
        return f"/model/{segment(model)}/{how}", body


class BedrockUpstream(HTTPUpstream):
    """Bedrock's runtime: ``base_url`` is ``https://bedrock-runtime.REGION.amazonaws.com``."""

    receiver: ClassVar[type[StreamTransfer]] = BedrockStream
    whole: ClassVar[type[PlainTransfer]] = BedrockPlain
    encodes: ClassVar[type[Encoder]] = BedrockEncoder
    native = frozenset({Endpoint.MESSAGES})

    def continued(
        self,
        call: Call,
        generation: Generation,
        timeouts: TimeoutConfig,
        model: str,
        how: How,
        point: Point,
        extra: Extra = None,
    ) -> tuple[StreamTransfer, bytes, bytes]:
        """As for every upstream."""
        transfer, head, body = super().continued(call, generation, timeouts, model, how, point, extra)
        assert isinstance(self.encoder, BedrockEncoder)
        if self.encoder.converses(model):
            _expect_converse(transfer)
        return transfer, head, body


def _prompt(call: Call, model: str) -> Prompt:
    """What the call asks for, in the neutral form."""
    return translation(call.endpoint, Dialect.ANTHROPIC, call.body, call.id).prompt(call.body, model)


def _expect_converse(transfer: Transfer) -> None:
    assert isinstance(transfer, BedrockStream | BedrockPlain)
    transfer.expect_converse()
