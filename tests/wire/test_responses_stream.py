"""Any answer, streamed in any pieces, says what the plain answer says, and comes back as it was."""

import json
import re

from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import UpstreamBroken
from penstock.messages import Usage
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
from penstock.wire.responses import (
    SUCCESSFUL_EVENTS,
    TERMINAL_EVENTS,
    StreamEncoder,
    decode_prompt,
    encode_answer,
    read_settings,
)

counts = st.integers(0, 2**40)
text = st.text(max_size=12)
parts = st.one_of(
    st.builds(Text, text, citations=st.sampled_from([(), ({"type": "char_location", "document_index": 1},)])),
    st.builds(Refusal, text),
    st.builds(Thinking, text, text, text),
    st.builds(ToolCall, st.text(min_size=1, max_size=8), st.text(min_size=1, max_size=8), text),
)
answers = st.builds(
    Answer,
    id=st.one_of(st.just(""), st.from_regex(r"(chatcmpl-|msg_|resp_)?[0-9A-Za-z/.]{1,20}", fullmatch=True)),
    model=text,
    parts=st.lists(parts, max_size=6).map(tuple),
    stop=st.sampled_from(
        [
            "stop",
            "stop_sequence",
            "length",
            "tool_calls",
            "content_filter",
            "refusal",
            "pause",
            "context_length",
        ]
    ),
    usage=st.builds(
        Usage, counts, counts, cached_input_tokens=counts, cache_write_tokens=counts, reasoning_tokens=counts
    ),
    created=st.integers(0, 2**33),
)
requests = st.fixed_dictionaries(
    {"model": st.just("m"), "input": st.just("x")},
    optional={
        "instructions": text,
        "temperature": st.floats(0, 2),
        "reasoning": st.sampled_from([None, {"summary": "auto"}, {"effort": "low"}]),
        "metadata": st.dictionaries(text, text, max_size=2),
        "tools": st.just([{"type": "function", "name": "f", "parameters": {}, "strict": True}]),
        "text": st.sampled_from([None, {"verbosity": "low"}]),
    },
).map(lambda members: json.dumps(members).encode())


@st.composite
def streams(draw):
    """An answer, and the same answer as events, cut at any places."""
    answer = draw(answers)
    events = [Started(answer.id, answer.model, answer.created)]
    for part in answer.parts:
        said = part.arguments if isinstance(part, ToolCall) else part.text
        cuts = sorted(draw(st.lists(st.integers(0, len(said)), max_size=3)))
        pieces = [said[a:b] for a, b in zip([0, *cuts], [*cuts, len(said)], strict=True)]
        first = pieces.pop(0) if draw(st.booleans()) else ""
        if isinstance(part, ToolCall):
            opened = ToolCall(part.id, part.name, first)
        elif isinstance(part, Thinking):
            opened = Thinking(first, redacted=part.redacted)
        else:
            opened = type(part)(first)
        events.append(PartStarted(opened))
        events += [PartDelta(piece) for piece in pieces]
        if isinstance(part, Thinking):
            events.append(PartDelta(signature=part.signature))
        if isinstance(part, Text):
            events += [PartDelta(citation=citation) for citation in part.citations]
        events.append(PartEnded())
    events.append(Finished(answer.stop, answer.usage))
    return answer, events


def decoded(frames):
    for frame in frames:
        assert re.fullmatch(rb"event: [a-z_.]+\ndata: \{[^\n\r]*\}\n\n", frame)
        head, data = frame[:-2].split(b"\n")
        event = json.loads(data[len(b"data: ") :])
        assert head == b"event: " + event["type"].encode()
        yield event


def encoded(events, body):
    encoder = StreamEncoder(read_settings(body))
    return [event for step in events for event in decoded(encoder.feed(step))]


@settings(max_examples=150, deadline=None)
@given(streams(), requests)
def test_the_last_event_carries_the_plain_answer(stream, body):
    answer, events = stream
    found = encoded(events, body)
    assert found[-1]["response"] == json.loads(encode_answer(answer, read_settings(body)))
    assert found[-1]["type"] in SUCCESSFUL_EVENTS
    assert not TERMINAL_EVENTS & {event["type"] for event in found[:-1]}
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    assert {event["response"]["id"] for event in found if "response" in event} == {found[0]["response"]["id"]}


@settings(max_examples=150, deadline=None)
@given(streams(), requests)
def test_deltas_add_up_to_what_is_done_and_every_item_opens_and_closes_once(stream, body):
    _, events = stream
    items, texts = {}, {}
    order = []
    for event in encoded(events, body):
        kind = event["type"]
        if kind == "response.output_item.added":
            assert event["output_index"] == len(order)
            order.append(event["item"]["id"])
            items[event["output_index"]] = "open"
        elif kind == "response.output_item.done":
            assert items[event["output_index"]] == "open"
            assert event["item"]["id"] == order[event["output_index"]]
            items[event["output_index"]] = "done"
        elif "item_id" in event:
            assert event["item_id"] == order[-1]
            assert event["output_index"] == len(order) - 1
            assert items[event["output_index"]] == "open"
            where = (event["item_id"], event.get("content_index"), event.get("summary_index"))
            if kind.endswith(".delta"):
                assert event["delta"]
                texts[where] = texts.get(where, "") + event["delta"]
            elif kind.rsplit(".", 1)[0] in {
                "response.output_text",
                "response.refusal",
                "response.function_call_arguments",
                "response.reasoning_text",
                "response.reasoning_summary_text",
            }:
                whole = next(event[name] for name in ("text", "refusal", "arguments") if name in event)
                assert texts.pop(where, "") == whole
    assert not texts
    assert set(items.values()) <= {"done"}
    assert len(set(order)) == len(order)


@settings(max_examples=150, deadline=None)
@given(answers, requests)
def test_what_the_model_said_comes_back_as_it_was(answer, body):
    """All but citations, which no model reads of earlier answers, and a call's arguments are always JSON."""
    response = json.loads(encode_answer(answer, read_settings(body)))
    items = [{"role": "user", "content": "q"}, *response["output"]]
    turns = decode_prompt(json.dumps({"model": "m", "input": items}).encode()).turns
    said = [part for turn in turns if turn.role == "assistant" for part in turn.parts]
    assert said == [expected(part) for part in answer.parts]
    assert len(turns) == (2 if answer.parts else 1)


def expected(part):
    if isinstance(part, Text):
        return Text(part.text)
    if isinstance(part, ToolCall):
        return ToolCall(part.id, part.name, part.arguments or "{}")
    return part


@settings(max_examples=100, deadline=None)
@given(streams(), st.integers(0, 40))
def test_a_stream_may_break_off_anywhere(stream, heard):
    _, events = stream
    encoder = StreamEncoder()
    heard = min(heard, len(events) - 1)
    found = [event for step in events[:heard] for event in decoded(encoder.feed(step))]
    (failed,) = decoded(encoder.fail(UpstreamBroken("gone")))
    assert failed["type"] == "response.failed"
    assert failed["sequence_number"] == len(found)
    assert failed["error"]["message"] == failed["response"]["error"]["message"] == "gone"
    told = {}
    for event in found:
        if event["type"] in {"response.output_text.delta", "response.function_call_arguments.delta"}:
            where = (event["output_index"], event.get("content_index"))
            told[where] = told.get(where, "") + event["delta"]
    output = failed["response"]["output"]
    for (index, content), said in told.items():
        item = output[index]
        assert said == (item["arguments"] if content is None else item["content"][content]["text"])
    if output and heard:
        assert all(item["status"] in {"completed", "incomplete"} for item in output)
