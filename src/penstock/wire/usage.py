"""What an answer used, read from the provider's own figures, or estimated where they never came.

Providers agree on few names; each struct below lists those that are known, and every member may be
absent or null.  All are brought to the one form of ``messages.Usage``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

import msgspec

from penstock.messages import Endpoint, Usage
from penstock.wire import sse
from penstock.wire.not_json import NOT_JSON

# ---- OpenAI: chat, completions, embeddings ---------------------------------------------------------


class _InputDetails(msgspec.Struct, frozen=True):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    audio_tokens: int | None = None


class _OutputDetails(msgspec.Struct, frozen=True):
    reasoning_tokens: int | None = None
    audio_tokens: int | None = None


_NO_INPUT_DETAILS = _InputDetails()
_NO_OUTPUT_DETAILS = _OutputDetails()


class _ChatUsage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: _InputDetails | None = None
    completion_tokens_details: _OutputDetails | None = None
    prompt_cache_hit_tokens: int | None = None  # DeepSeek
    num_cached_tokens: int | None = None  # Mistral
    cached_tokens: int | None = None  # Moonshot
    reasoning_tokens: int | None = None  # Perplexity

    def neutral(self) -> Usage:
        inputs = self.prompt_tokens or 0
        output = self.completion_tokens or 0
        given = self.prompt_tokens_details or _NO_INPUT_DETAILS
        made = self.completion_tokens_details or _NO_OUTPUT_DETAILS
        reasoning = made.reasoning_tokens or self.reasoning_tokens or 0
        # xAI counts reasoning beside completion_tokens; its total gives it away.
        if reasoning and self.total_tokens == inputs + output + reasoning:
            output += reasoning
        return _usage(
            inputs,
            output,
            cached=given.cached_tokens
            or self.prompt_cache_hit_tokens
            or self.num_cached_tokens
            or self.cached_tokens
            or 0,
            written=given.cache_write_tokens or 0,
            reasoning=reasoning,
            audio_in=given.audio_tokens or 0,
            audio_out=made.audio_tokens or 0,
        )


class _Groq(msgspec.Struct):
    usage: _ChatUsage | None = None


class _ChatBody(msgspec.Struct):
    usage: _ChatUsage | None = None
    x_groq: _Groq | None = None  # Groq's streams carry it here


# ---- OpenAI: responses -----------------------------------------------------------------------------


class _ResponseUsage(msgspec.Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: _InputDetails | None = None
    output_tokens_details: _OutputDetails | None = None

    def neutral(self) -> Usage:
        given = self.input_tokens_details or _NO_INPUT_DETAILS
        made = self.output_tokens_details or _NO_OUTPUT_DETAILS
        return _usage(
            self.input_tokens or 0,
            self.output_tokens or 0,
            cached=given.cached_tokens or 0,
            written=given.cache_write_tokens or 0,
            reasoning=made.reasoning_tokens or 0,
            audio_in=given.audio_tokens or 0,
            audio_out=made.audio_tokens or 0,
        )


class _ResponseBody(msgspec.Struct):
    usage: _ResponseUsage | None = None


class _ResponseEvent(msgspec.Struct):
    response: _ResponseBody | None = None


# ---- Anthropic -------------------------------------------------------------------------------------


class _CacheCreation(msgspec.Struct):
    ephemeral_5m_input_tokens: int | None = None
    ephemeral_1h_input_tokens: int | None = None


class _ThinkingDetails(msgspec.Struct):
    thinking_tokens: int | None = None


class _MessageUsage(msgspec.Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation: _CacheCreation | None = None
    output_tokens_details: _ThinkingDetails | None = None

    def neutral(self) -> Usage:
        read = self.cache_read_input_tokens or 0
        written = self.cache_creation_input_tokens or 0
        for_an_hour = 0
        if (made := self.cache_creation) is not None:
            for_an_hour = made.ephemeral_1h_input_tokens or 0
            written = written or (made.ephemeral_5m_input_tokens or 0) + for_an_hour
        thinking = self.output_tokens_details
        return _usage(
            (self.input_tokens or 0) + read + written,  # Anthropic counts these three beside each other
            self.output_tokens or 0,
            cached=read,
            written=written,
            for_an_hour=min(for_an_hour, written),
            reasoning=(thinking.thinking_tokens or 0) if thinking is not None else 0,
        )


class _MessageBody(msgspec.Struct):
    usage: _MessageUsage | None = None
    message: _MessageBody | None = None  # message_start


# ---- reading ---------------------------------------------------------------------------------------


BYTES_PER_TOKEN = 4
MAX_TOKENS = 2**40  # a larger figure is no count of tokens; taken for one it would spoil every sum
# Tokens of a part that its provider counts beside the whole, as some do with what a model thought.
BESIDE = 2**20


def _usage(
    inputs: int,
    output: int,
    *,
    cached: int = 0,
    written: int = 0,
    for_an_hour: int = 0,
    reasoning: int = 0,
    audio_in: int = 0,
    audio_out: int = 0,
) -> Usage:
    plain = not (cached or written or reasoning or audio_in or audio_out)
    if plain and 0 <= inputs <= MAX_TOKENS and 0 <= output <= MAX_TOKENS:  # most answers
        return Usage(inputs, output)
    if (
        inputs > MAX_TOKENS
        or output > MAX_TOKENS
        or cached > inputs + BESIDE
        or written > inputs + BESIDE
        or reasoning > output + BESIDE
        or audio_in > inputs + BESIDE
        or audio_out > output + BESIDE
    ):
        raise msgspec.ValidationError("a count of tokens that no model reaches")
    return Usage(
        max(inputs, 0),
        max(output, 0),
        max(cached, 0),
        max(written, 0),
        max(reasoning, 0),
        max(audio_in, 0),
        max(audio_out, 0),
        cache_write_1h_tokens=max(for_an_hour, 0),
    )


_chat = msgspec.json.Decoder(_ChatBody, strict=False).decode
_response = msgspec.json.Decoder(_ResponseBody, strict=False).decode
_response_event = msgspec.json.Decoder(_ResponseEvent, strict=False).decode
_message = msgspec.json.Decoder(_MessageBody, strict=False).decode
_MESSAGES, _RESPONSES = Endpoint.MESSAGES, Endpoint.RESPONSES
_AS_RESPONSES = frozenset({_RESPONSES, Endpoint.COMPACT})
_COUNTS = frozenset({Endpoint.COUNT_TOKENS, Endpoint.INPUT_TOKENS})


def usage_of_body(endpoint: Endpoint, body: bytes) -> Usage | None:
    """What a plain answer says that it used; None: it does not say, or not so that it can be read.

    Counting tokens uses none: providers do not charge for it, and nothing was generated.
    """
    if endpoint in _COUNTS:
        return Usage()
    try:
        if endpoint is _MESSAGES:
            return _of_message(body)
        if endpoint in _AS_RESPONSES:
            found = _response(body).usage
            return found.neutral() if found is not None else None
        return _of_chat(body)
    except NOT_JSON:
        return None


def usage_of_event(endpoint: Endpoint, data: bytes) -> Usage | None:
    """What one event of a stream says that was used so far.

    Anthropic spreads it over two kinds of event, see :func:`merge`.
    """
    try:
        if endpoint is _MESSAGES:
            return _of_message(data)
        if endpoint is _RESPONSES:
            response = _response_event(data).response
            used = response.usage if response is not None else None
            return used.neutral() if used is not None else None
        return _of_chat(data)
    except NOT_JSON:
        return None


def _of_chat(data: bytes) -> Usage | None:
    body = _chat(data)
    found = body.usage or (body.x_groq.usage if body.x_groq is not None else None)
    return found.neutral() if found is not None else None


def _of_message(data: bytes) -> Usage | None:
    body = _message(data)
    if body.message is not None:
        body = body.message
    return body.usage.neutral() if body.usage is not None else None


def merge(earlier: Usage, later: Usage) -> Usage:
    """The figures of an Anthropic stream so far.

    ``message_start`` has the prompt's; ``message_delta`` has the answer's, and may repeat the prompt's
    in whole or in part.  All are totals, so a later one replaces an earlier one; a figure that is
    absent from the later event (0 here) leaves the earlier one standing.
    """
    cached = later.cached_input_tokens or earlier.cached_input_tokens
    written = later.cache_write_tokens or earlier.cache_write_tokens
    return Usage(
        (_fresh(later) or _fresh(earlier)) + cached + written,
        later.output_tokens or earlier.output_tokens,
        cached,
        written,
        later.reasoning_tokens or earlier.reasoning_tokens,
        later.audio_input_tokens or earlier.audio_input_tokens,
        later.audio_output_tokens or earlier.audio_output_tokens,
        later.estimated or earlier.estimated,
        min(later.cache_write_1h_tokens or earlier.cache_write_1h_tokens, written),
    )


def _fresh(usage: Usage) -> int:
    return max(usage.input_tokens - usage.cached_input_tokens - usage.cache_write_tokens, 0)


# ---- estimating ------------------------------------------------------------------------------------


def estimate_tokens(text_bytes: int) -> int:
    """Tokens of a text of this many bytes: four bytes a token, rounded up.

    About right for English and code with today's vocabularies, too high for nothing that matters; a
    tokeniser would cost a hundred times more and be the wrong one for most upstreams.
    """
    return -(-text_bytes // BYTES_PER_TOKEN)


def tokens_of_delta(text: str) -> int:
    """Tokens of one delta of a stream.

    Most providers send one token a frame, and few tokens have more than eight characters: so a short
    delta is one token, whatever its length.  A long one was put together by the provider or a proxy.
    """
    if not text:
        return 0
    return 1 if len(text) <= 8 else max(1, round(len(text) / 4))


class _Function(msgspec.Struct):
    arguments: str | None = None


class _ToolCall(msgspec.Struct):
    function: _Function | None = None


class _ChatDelta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct):
    delta: _ChatDelta | None = None
    text: str | None = None  # legacy completions


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []


class _BlockDelta(msgspec.Struct):
    text: str | None = None
    thinking: str | None = None
    partial_json: str | None = None


class _MessageEvent(msgspec.Struct):
    delta: _BlockDelta | None = None


class _ResponseDelta(msgspec.Struct):
    type: str = ""
    delta: str | None = None


_chunk = msgspec.json.Decoder(_Chunk).decode
_message_event = msgspec.json.Decoder(_MessageEvent).decode
_response_delta = msgspec.json.Decoder(_ResponseDelta).decode


def output_tokens_in(endpoint: Endpoint, frames: Iterable[bytes]) -> int:
    """How many output tokens the frames of a stream carry: an estimate, for a stream that broke before
    its usage came.  Text, reasoning, refusals and tools' arguments count; frames that cannot be read
    do not.
    """
    if endpoint is _MESSAGES:
        texts = _message_texts
    elif endpoint is _RESPONSES:
        texts = _response_texts
    else:
        texts = _chunk_texts
    total = 0
    for frame in frames:
        data = sse.data_of(frame)
        if data.startswith(b"{"):
            try:
                for text in texts(data):
                    total += tokens_of_delta(text)
            except NOT_JSON:
                continue
    return total


def usage_in(endpoint: Endpoint, frames: Sequence[bytes], prompt_tokens: Callable[[], int]) -> Usage:
    """What the frames of a stream that broke say that was used, or what can be counted of them.

    :param prompt_tokens: asked only if no frame tells what the prompt cost
    :returns: the least that may be charged, marked as estimated
    """
    if not frames:
        return Usage()
    told: Usage | None = None
    for frame in frames:
        data = sse.data_of(frame)
        found = usage_of_event(endpoint, data) if data.startswith(b"{") else None
        if found is not None:
            told = found if told is None else merge(told, found)
    if told is not None and endpoint is not Endpoint.MESSAGES:
        return msgspec.structs.replace(told, estimated=True)
    output = output_tokens_in(endpoint, frames)
    if told is None:
        return Usage(prompt_tokens(), output, estimated=True)
    return merge(told, Usage(told.input_tokens, output, estimated=True))


# What a model has written, in the plain answers of all endpoints; the last string may have been cut.
_WRITTEN = re.compile(
    rb'"(?:content|text|reasoning_content|reasoning|thinking|refusal|arguments)"\s*:\s*"((?:[^"\\]|\\.)*)',
    re.DOTALL,
)
_ESCAPE = re.compile(rb"\\(?:u[0-9a-fA-F]{4}|.)", re.DOTALL)


def output_tokens_in_part(body: bytes) -> int:
    """How many output tokens the beginning of a plain answer carries: an estimate, for one that broke off.

    The names and numbers around the text cost nothing.  Where no text can be found, the size must do.
    """
    # An escape is a character; the few of more than one byte make no difference here.
    written = [_ESCAPE.sub(b"x", found) for found in _WRITTEN.findall(body)]
    return estimate_tokens(sum(map(len, written)) if written else len(body))


def _chunk_texts(data: bytes) -> Iterable[str]:
    for choice in _chunk(data).choices:
        yield choice.text or ""
        if (delta := choice.delta) is not None:
            yield delta.content or ""
            yield delta.reasoning_content or delta.reasoning or ""  # some servers send both names
            yield delta.refusal or ""
            for call in delta.tool_calls or ():
                if call.function is not None:
                    yield call.function.arguments or ""


def _message_texts(data: bytes) -> Iterable[str]:
    if (delta := _message_event(data).delta) is not None:
        yield delta.text or delta.thinking or delta.partial_json or ""


def _response_texts(data: bytes) -> Iterable[str]:
    event = _response_delta(data)
    if event.type.endswith(".delta"):
        yield event.delta or ""
