"""What a log holds of an answer that is not complete: read when it breaks, and not before.

Nothing is kept per event while an answer runs well.  When it breaks, its events are read once, in the
caller's dialect, whoever wrote them: this process or another one before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from penstock.errors import PenstockError, UpstreamBroken
from penstock.messages import JSON, Endpoint, Event, Usage
from penstock.wire import anthropic, chat, completions, members, sse, usage
from penstock.wire.chat.answer import write_usage
from penstock.wire.conversation import (
    AnswerEvent,
    PartDelta,
    PartEnded,
    PartStarted,
    Refusal,
    Started,
    StopReason,
    Text,
    Thinking,
    ToolCall,
)
from penstock.wire.dialect import Encoder
from penstock.wire.not_json import NOT_JSON
from penstock.wire.progress import progress

_DONE = b"[DONE]"


class Said(msgspec.Struct):
    """One part of the answer, as far as it has come."""

    part: Text | Thinking | ToolCall | Refusal
    text: str
    ended: bool


class Delivered(msgspec.Struct):
    """An answer that has begun.

    ``encoder`` writes the caller's dialect, and has told all of this already; ``stop`` is the finish reason,
    if it came; ``prompt`` what the upstream said that the prompt cost; ``output_tokens`` are those of the
    events, counted by us unless ``exact``.
    """

    said: list[Said]
    encoder: Encoder
    stop: StopReason | None
    prompt: Usage | None
    output_tokens: int
    exact: bool

    @property
    def nothing(self) -> bool:
        """Whether no word of an answer has come yet."""
        return not any(said.text or said.ended or isinstance(said.part, ToolCall) for said in self.said)

    @property
    def text(self) -> str | None:
        """The text so far, where it is the last thing that was said and all but thoughts; else None."""
        if not self.said or not isinstance(self.said[-1].part, Text):
            return None
        if any(not isinstance(said.part, Text | Thinking) for said in self.said):
            return None
        texts = [said.text for said in self.said if isinstance(said.part, Text)]
        return "".join(texts)


class _Reader(Protocol):
    @property
    def stop(self) -> StopReason | None: ...

    def feed(self, frame: bytes) -> list[AnswerEvent]: ...


def read(endpoint: Endpoint, events: Sequence[Event], *, include_usage: bool) -> Delivered:
    """Read a log of ``endpoint``'s dialect.

    :param include_usage: whether the caller of a chat wants the closing chunk with the usage
    :raises UpstreamBroken: it holds something that nothing can be added to
    """
    reader, encoder = _dialect(endpoint, include_usage=include_usage)
    said: list[Said] = []
    prompt: Usage | None = None
    begun = False
    try:
        for frame in events:
            for event in reader.feed(frame):
                begun = True
                if isinstance(event, Started):
                    prompt = event.usage
                _note(said, event)
                if encoder is not None:
                    encoder.feed(event)
    except PenstockError as error:
        raise UpstreamBroken(f"the answer cannot be continued: {error.message}") from error
    if not begun:
        raise UpstreamBroken("the answer cannot be continued: it has no beginning")
    if isinstance(reader, chat.StreamDecoder) and reader.interleaved:
        raise UpstreamBroken("the answer cannot be continued: it has several tool calls open")
    tokens, exact = _tokens(endpoint, events)
    return Delivered(said, encoder or _resumed(events), reader.stop, prompt, tokens, exact)


def _dialect(endpoint: Endpoint, *, include_usage: bool) -> tuple[_Reader, Encoder | None]:
    if endpoint is Endpoint.RESPONSES:
        from penstock.wire import responses  # noqa: PLC0415 - not every process needs it

        return responses.StreamDecoder(), None
    if endpoint is Endpoint.MESSAGES:
        return anthropic.StreamDecoder(), anthropic.StreamEncoder()
    dialect = completions if endpoint is Endpoint.COMPLETIONS else chat
    return dialect.StreamDecoder(), dialect.StreamEncoder(include_usage=include_usage)


def _resumed(events: Sequence[Event]) -> Encoder:
    from penstock.wire import responses  # noqa: PLC0415

    return responses.ResumedEncoder(events)


def _note(said: list[Said], event: AnswerEvent) -> None:
    if isinstance(event, PartStarted):
        part = event.part
        begins = part.arguments if isinstance(part, ToolCall) else part.text
        said.append(Said(part, begins, ended=False))
    elif isinstance(event, PartDelta):
        said[-1].text += event.text
    elif isinstance(event, PartEnded):
        said[-1].ended = True


def _tokens(endpoint: Endpoint, events: Sequence[Event]) -> tuple[int, bool]:
    """Output tokens so far, and whether that is the upstream's own figure."""
    if endpoint in {Endpoint.CHAT, Endpoint.COMPLETIONS}:
        if (ids := token_ids(endpoint, events)) is not None:
            return len(ids[1]), True
        told = usage.usage_of_event(endpoint, sse.data_of(events[-1]))
        if told is not None:
            return told.output_tokens, True
    return usage.output_tokens_in(endpoint, events), False


# ---- tokens ----------------------------------------------------------------------------------------


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: JSON = None


class _Choice(msgspec.Struct):
    index: int = 0
    delta: _Delta | None = None
    text: str | None = None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    prompt_token_ids: list[int] | None = None


_chunk = msgspec.json.Decoder(_Chunk).decode


def token_ids(endpoint: Endpoint, events: Sequence[Event]) -> tuple[list[int], list[int]] | None:
    """The prompt's token ids and the answer's, if the log has all of them, and nothing but text.

    As vLLM sends them when it is asked to (``return_token_ids``): the prompt's in the first chunk of a chat,
    or in the first choice of a completion; the answer's in each choice.
    """
    if endpoint not in {Endpoint.CHAT, Endpoint.COMPLETIONS}:
        return None
    prompt: list[int] | None = None
    ids: list[int] = []
    for frame in events:
        data = sse.data_of(frame)
        if not data.startswith(b"{"):
            continue
        try:
            chunk = _chunk(data)
        except NOT_JSON:
            return None
        prompt = prompt or chunk.prompt_token_ids
        for choice in chunk.choices:
            prompt = prompt or choice.prompt_token_ids
            delta = choice.delta or _Delta()
            text = choice.text or delta.content
            if choice.index or delta.reasoning_content or delta.reasoning or delta.tool_calls:
                return None
            if text and not choice.token_ids:
                return None
            ids += choice.token_ids or []
    return (prompt, ids) if prompt and ids else None


# ---- the end ---------------------------------------------------------------------------------------


class _Head(msgspec.Struct):
    id: JSON = None
    object: JSON = None
    created: JSON = None
    model: JSON = None
    choices: list[_Choice] = []
    usage: JSON = None


_head = msgspec.json.Decoder(_Head).decode


def is_whole(endpoint: Endpoint, events: Sequence[Event]) -> bool:
    """Whether a log lacks nothing, its end included."""
    watching = progress(endpoint)
    try:
        watching.take(list(events), [])
    except PenstockError:
        return False
    return watching.complete


def closing(
    endpoint: Endpoint, events: Sequence[Event], choices: int, used: Usage, *, include_usage: bool
) -> list[Event] | None:
    """What a log still lacks whose every choice has its finish reason; None: it lacks more than an end.

    :param used: told in the closing chunk, if the caller wants one and it had not come
    """
    if endpoint is Endpoint.MESSAGES:
        reader = anthropic.StreamDecoder()
        try:
            for frame in events:
                reader.feed(frame)
        except PenstockError:
            return None
        return [sse.encode(b'{"type":"message_stop"}', "message_stop")] if reader.stop else None
    if endpoint is Endpoint.RESPONSES:
        return None  # its last event is both
    finished: set[int] = set()
    last = _Head()
    told = False
    for frame in events:
        try:
            last = _head(sse.data_of(frame))
        except NOT_JSON:
            return None
        finished.update(choice.index for choice in last.choices if choice.finish_reason is not None)
        told = told or (last.usage is not None and not last.choices)
    if len(finished) < choices:
        return None
    frames = []
    if include_usage and not told:
        head = {"id": last.id, "object": last.object, "created": last.created, "model": last.model}
        frames.append(sse.encode(members.encode({**head, "choices": [], "usage": write_usage(used)})))
    return [*frames, sse.encode(_DONE)]
