"""Translation in whole: both ways, plain and streamed, read by the official SDKs."""

import contextlib
import itertools
import json

import msgspec
import pydantic
import pytest
from anthropic.types import Message
from anthropic.types.message_create_params import MessageCreateParamsNonStreaming
from conversations import answers, anthropic_client, cut, fold, openai_client, prompts, stream_of
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming

from penstock.errors import CallerError, PenstockError, Untranslatable, UpstreamBroken
from penstock.messages import Dialect, Endpoint, Usage
from penstock.wire import anthropic, chat, sse
from penstock.wire.conversation import (
    Answer,
    Finished,
    PartDelta,
    PartEnded,
    PartStarted,
    Refusal,
    Started,
    Text,
    Thinking,
    ToolCall,
)
from penstock.wire.translate import translation

DIALECTS = [chat, anthropic]
both = pytest.mark.parametrize("dialect", DIALECTS, ids=["chat", "messages"])


def encoded(dialect, events, **options):
    encoder = dialect.StreamEncoder(**options)
    return [frame for event in events for frame in encoder.feed(event)]


def decoded(dialect, frames):
    decoder = dialect.StreamDecoder()
    events = [event for frame in frames for event in decoder.feed(frame)]
    return events + decoder.close()


# ---- prompts ---------------------------------------------------------------------------------------


def as_anthropic_says_it(prompt):
    """What the neutral form of a prompt becomes on its way through Anthropic's."""
    output = prompt.output and msgspec.structs.replace(prompt.output, name="")
    return msgspec.structs.replace(
        prompt, output=output, thinking_adaptive=bool(prompt.effort), include_usage=False
    )


@given(prompts())
def test_a_prompt_survives_anthropics_form(prompt):
    assert anthropic.decode_prompt(anthropic.encode_prompt(prompt)) == as_anthropic_says_it(prompt)


@given(prompts())
def test_a_prompt_survives_the_way_from_chat_to_anthropic_and_back(prompt):
    asked = chat.encode_prompt(prompt)
    there = anthropic.encode_prompt(chat.decode_prompt(asked))
    back = chat.encode_prompt(anthropic.decode_prompt(there))
    assert json.loads(back) == json.loads(asked)


def unknown_members(params, body):
    return body.keys() - params.__annotations__.keys() - {"stream"}


chat_params = pydantic.TypeAdapter(CompletionCreateParamsNonStreaming)
message_params = pydantic.TypeAdapter(MessageCreateParamsNonStreaming)


@given(prompts())
@settings(max_examples=50)
def test_what_upstreams_are_asked_is_what_the_sdks_would_send(prompt):
    prompt = msgspec.structs.replace(prompt, stream=False)
    asked = json.loads(chat.encode_prompt(prompt))
    base = CompletionCreateParamsNonStreaming.__mro__[0]
    chat_params.validate_python(asked)
    assert not unknown_members(base, asked)
    asked = json.loads(anthropic.encode_prompt(prompt))
    message_params.validate_python(asked)
    # The SDK has given up what the newest models refuse; older models still take it.
    assert not unknown_members(MessageCreateParamsNonStreaming, asked) - {"temperature", "top_p"}
    roles = [message["role"] for message in asked["messages"]]
    assert all(one != other for one, other in itertools.pairwise(roles))


# ---- answers ---------------------------------------------------------------------------------------


@both
@given(answer=answers())
def test_an_answer_survives_each_form(dialect, answer):
    expected = answer if dialect is chat else msgspec.structs.replace(answer, created=0)
    assert dialect.decode_answer(dialect.encode_answer(answer)) == expected


@given(answers())
def test_the_openai_sdk_reads_a_whole_answer(answer):
    client = openai_client(content=chat.encode_answer(answer))
    read = client.chat.completions.create(model="m", messages=[])
    ChatCompletion.model_validate_json(chat.encode_answer(answer), strict=True)
    check_completion(read, answer)


def check_completion(read, answer):
    message = read.choices[0].message
    spoken = "".join(part.text for part in answer.parts if isinstance(part, Text))
    assert (message.content or "") == spoken
    made = [part for part in answer.parts if isinstance(part, ToolCall)]
    calls = [(call.id, call.function.name, call.function.arguments) for call in message.tool_calls or []]
    assert calls == [(call.id, call.name, call.arguments) for call in made]
    assert read.choices[0].finish_reason == answer.stop
    assert read.model == answer.model
    assert read.usage.prompt_tokens == answer.usage.input_tokens
    assert read.usage.completion_tokens == answer.usage.output_tokens
    assert read.usage.prompt_tokens_details.cached_tokens == answer.usage.cached_input_tokens
    assert read.usage.completion_tokens_details.reasoning_tokens == answer.usage.reasoning_tokens
    thoughts = [part for part in answer.parts if isinstance(part, Thinking)]
    if words := "".join(thought.text for thought in thoughts):
        assert message.reasoning_content == words
    if thoughts:
        assert [d.get("signature", d.get("data")) for d in message.reasoning_details] == [
            thought.signature or thought.redacted for thought in thoughts
        ]


@given(answers())
def test_the_anthropic_sdk_reads_a_whole_answer(answer):
    client = anthropic_client(content=anthropic.encode_answer(answer))
    read = client.messages.create(model="m", messages=[], max_tokens=1)
    Message.model_validate_json(anthropic.encode_answer(answer))
    check_message(read, answer)


STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


def check_message(read, answer):
    blocks = []
    for part in answer.parts:
        if isinstance(part, Text):
            blocks.append(("text", part.text))
        elif isinstance(part, ToolCall):
            blocks.append(("tool_use", part.id, part.name, json.loads(part.arguments)))
        elif part.redacted:
            blocks.append(("redacted_thinking", part.redacted))
        else:
            blocks.append(("thinking", part.text, part.signature))
    found = []
    for block in read.content:
        if block.type == "text":
            found.append(("text", block.text))
        elif block.type == "tool_use":
            found.append(("tool_use", block.id, block.name, block.input))
        elif block.type == "thinking":
            found.append(("thinking", block.thinking, block.signature))
        else:
            found.append((block.type, block.data))
    assert found == blocks
    assert read.stop_reason == STOP_REASONS[answer.stop]
    assert read.model == answer.model
    used = answer.usage
    assert read.usage.cache_read_input_tokens == used.cached_input_tokens
    assert read.usage.cache_creation_input_tokens == used.cache_write_tokens
    assert read.usage.input_tokens + used.cached_input_tokens + used.cache_write_tokens == used.input_tokens
    assert read.usage.output_tokens == used.output_tokens


# ---- streams ---------------------------------------------------------------------------------------

sizes = st.lists(st.integers(1, 9), min_size=1, max_size=3)


@given(answers(), sizes)
@settings(max_examples=50)
def test_the_openai_sdk_puts_a_stream_together(answer, pieces):
    frames = encoded(chat, cut(answer, pieces), include_usage=True)
    for frame in frames[:-1]:
        ChatCompletionChunk.model_validate_json(sse.data_of(frame), strict=True)
    assert frames[-1] == b"data: [DONE]\n\n"
    with openai_client(**stream_of(frames)).chat.completions.stream(model="m", messages=[]) as stream:
        check_completion(stream.until_done().current_completion_snapshot, answer)


@given(answers(), sizes)
@settings(max_examples=50)
def test_the_anthropic_sdk_puts_a_stream_together(answer, pieces):
    frames = encoded(anthropic, cut(answer, pieces))
    client = anthropic_client(**stream_of(frames))
    with client.messages.stream(model="m", messages=[], max_tokens=1) as stream:
        check_message(stream.get_final_message(), answer)


@both
@given(answer=answers(), pieces=sizes)
def test_a_stream_survives_each_form(dialect, answer, pieces):
    frames = encoded(dialect, cut(answer, pieces), include_usage=True)
    read = fold(decoded(dialect, frames))
    expected = answer if dialect is chat else msgspec.structs.replace(answer, created=0)
    assert read == expected


@given(answers(), sizes, st.booleans())
@settings(max_examples=50)
def test_a_stream_goes_from_anthropic_to_chat_and_back(answer, pieces, include_usage):
    frames = encoded(anthropic, cut(answer, pieces))
    there = translation(Endpoint.CHAT, Dialect.ANTHROPIC).stream("callers", True, created=17)
    middle = [out for frame in frames for out in there.feed(frame)] + there.close()
    assert there.finished
    with openai_client(**stream_of(middle)).chat.completions.stream(model="m", messages=[]) as stream:
        completion = stream.until_done().current_completion_snapshot
    assert completion.created == 17
    check_completion(completion, msgspec.structs.replace(answer, model="callers"))
    back = translation(Endpoint.MESSAGES, Dialect.OPENAI).stream("again", include_usage)
    end = [out for frame in middle for out in back.feed(frame)] + back.close()
    client = anthropic_client(**stream_of(end))
    with client.messages.stream(model="m", messages=[], max_tokens=1) as stream:
        check_message(stream.get_final_message(), msgspec.structs.replace(answer, model="again"))


@given(answers())
def test_a_whole_answer_goes_both_ways(answer):
    to_chat = translation(Endpoint.CHAT, Dialect.ANTHROPIC)
    assert to_chat.endpoint is Endpoint.MESSAGES
    middle = to_chat.answer(anthropic.encode_answer(answer), "callers", created=17)
    assert json.loads(middle)["created"] == 17
    check_completion(
        ChatCompletion.model_validate_json(middle), msgspec.structs.replace(answer, model="callers")
    )
    to_messages = translation(Endpoint.MESSAGES, Dialect.OPENAI)
    assert to_messages.endpoint is Endpoint.CHAT
    end = to_messages.answer(middle, "again")
    check_message(Message.model_validate_json(end), msgspec.structs.replace(answer, model="again"))


@both
@given(answer=answers(), data=st.data())
def test_a_stream_that_is_cut_short_is_never_taken_for_whole(dialect, answer, data):
    frames = encoded(dialect, cut(answer), include_usage=True)
    upto = data.draw(st.integers(0, len(frames) - 1))
    decoder = dialect.StreamDecoder()
    for frame in frames[:upto]:
        decoder.feed(frame)
    with pytest.raises(UpstreamBroken):
        decoder.close()


@both
def test_nothing_may_follow_the_end_but_comments(dialect):
    answer = Answer(id="a", model="m", parts=(Text("Hi"),), stop="stop", usage=Usage())
    frames = encoded(dialect, cut(answer))
    decoder = dialect.StreamDecoder()
    for frame in frames:
        decoder.feed(frame)
    assert decoder.feed(b": hb\n\n") == []
    with pytest.raises(UpstreamBroken):
        decoder.feed(frames[0])
    assert decoder.close() == []


@both
def test_frames_come_through_however_the_bytes_come(dialect):
    answer = Answer(
        id="a",
        model="m",
        parts=(Text("Grüße 👋"), ToolCall("c", "f", '{"a":1}')),
        stop="tool_calls",
        usage=Usage(),
    )
    stream = b": hello\n\n" + b"".join(encoded(dialect, cut(answer)))
    for size in (1, 7, len(stream)):
        splitter, decoder = sse.Splitter(), dialect.StreamDecoder()
        events = []
        for start in range(0, len(stream), size):
            for frame in splitter.feed(stream[start : start + size]):
                events += decoder.feed(frame)
        assert fold(events).parts == answer.parts
        assert splitter.rest == b""


def test_usage_is_told_only_to_those_who_asked():
    answer = Answer(id="a", model="m", parts=(Text("Hi"),), stop="stop", usage=Usage(3, 1))
    quiet = encoded(chat, cut(answer), include_usage=False)
    assert all(b"usage" not in frame for frame in quiet)
    loud = encoded(chat, cut(answer), include_usage=True)
    assert json.loads(sse.data_of(loud[-2]))["choices"] == []
    assert all(b'"usage":null' in frame for frame in loud[:-2])


# ---- what is refused, what is garbage --------------------------------------------------------------


@pytest.mark.parametrize("endpoint", [Endpoint.COMPLETIONS, Endpoint.EMBEDDINGS])
def test_endpoints_that_anthropic_has_not_are_refused(endpoint):
    with pytest.raises(Untranslatable, match=endpoint.path):
        translation(endpoint, Dialect.ANTHROPIC)


def test_counting_tokens_is_anthropics_alone():
    with pytest.raises(Untranslatable):
        translation(Endpoint.COUNT_TOKENS, Dialect.OPENAI)


junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["type", "text", "x"]), inner, max_size=2)
    ),
    max_leaves=4,
)


@st.composite
def spoiled(draw, value):
    """A JSON value of which one member, somewhere, is something else."""
    value = json.loads(json.dumps(value))
    here = value
    while True:
        keys = list(here) if isinstance(here, dict) else list(range(len(here)))
        if not keys:
            return value
        key = draw(st.sampled_from(keys))
        if isinstance(here[key], dict | list) and here[key] and draw(st.booleans()):
            here = here[key]
            continue
        if isinstance(here, dict) and draw(st.integers(0, 5)) == 0:
            del here[key]
        else:
            here[key] = draw(junk)
        return value


@given(prompts(), st.data())
@settings(max_examples=200)
def test_a_spoiled_request_is_the_callers_error_or_still_means_something(prompt, data):
    for asks, answering in ((chat, anthropic), (anthropic, chat)):
        body = data.draw(spoiled(json.loads(asks.encode_prompt(prompt))))
        with contextlib.suppress(CallerError):
            answering.encode_prompt(asks.decode_prompt(json.dumps(body).encode()))


@both
@given(answer=answers(), data=st.data())
def test_a_spoiled_answer_is_the_upstreams_error_or_still_means_something(dialect, answer, data):
    body = data.draw(spoiled(json.loads(dialect.encode_answer(answer))))
    with contextlib.suppress(UpstreamBroken):
        read = dialect.decode_answer(json.dumps(body).encode())
        chat.encode_answer(read)
        anthropic.encode_answer(read)


@both
@given(answer=answers(), data=st.data())
def test_a_spoiled_stream_is_the_upstreams_error_or_still_means_something(dialect, answer, data):
    frames = encoded(dialect, cut(answer), include_usage=True)
    position = data.draw(st.integers(0, len(frames) - 1))
    payload = sse.data_of(frames[position])
    if payload.startswith(b"{"):
        event = data.draw(spoiled(json.loads(payload)))
        frames[position] = sse.encode(json.dumps(event).encode())
    else:
        frames[position] = b"data: nonsense\n\n"
    decoder = dialect.StreamDecoder()
    encoders = [other.StreamEncoder() for other in DIALECTS]
    with contextlib.suppress(PenstockError):
        events = []
        for frame in frames:
            for event in decoder.feed(frame):
                events.append(event)
                for encoder in encoders:
                    encoder.feed(event)
        decoder.close()
        assert fold(events)


@both
@pytest.mark.parametrize(
    "body", [b"", b"null", b"[]", b"{}", b"<html>", b"[" * 100_000, b'{"choices":[]}', b"\xff"]
)
def test_garbage_is_told_apart_from_an_answer(dialect, body):
    with pytest.raises(UpstreamBroken):
        dialect.decode_answer(body)
    with pytest.raises(CallerError):
        dialect.decode_prompt(body)
    decoder = dialect.StreamDecoder()
    with pytest.raises(UpstreamBroken):  # at once, or where the rest is missing
        (decoder.feed(sse.encode(body or b"x")), decoder.close())


def test_states_show_in_the_reprs():
    decoder, encoder = chat.StreamDecoder(), chat.StreamEncoder()
    assert "new" in repr(decoder)
    encoder.feed(Started("a", "m"))
    encoder.feed(PartStarted(Refusal("")))
    assert "Refusal" in repr(encoder)
    assert repr(anthropic.StreamDecoder()) == "<StreamDecoder of messages new, block -1>"
    for event in (
        Started("a", "m"),
        PartStarted(Text("")),
        PartDelta("x"),
        PartEnded(),
        Finished("stop", Usage()),
    ):
        assert anthropic.StreamEncoder().feed(event)
