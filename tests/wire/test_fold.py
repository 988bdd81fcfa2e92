"""Complete streams as plain answers: as the SDKs fold them, and with all that the provider sent."""

import json
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streams import as_sdk_folds, bare, json_values, simulated

from penstock.errors import PenstockError, UpstreamBroken
from penstock.messages import Endpoint, Usage
from penstock.wire import sse
from penstock.wire.fold import STEP_BYTES, STEP_EVENTS, fold, folding

STREAMING = [endpoint for endpoint in Endpoint if endpoint.streams]
DONE = sse.encode(b"[DONE]")
STOP = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}


def chunks(*found):
    return [*(sse.encode(json.dumps(chunk).encode()) for chunk in found), DONE]


def deltas(*found):
    """The message that these deltas of one choice make."""
    events = [{"choices": [{"index": 0, "delta": delta}]} for delta in found]
    return json.loads(fold(Endpoint.CHAT, chunks(*events, STOP)))["choices"][0]["message"]


def calls(*found):
    return deltas(*({"tool_calls": [call]} for call in found))["tool_calls"]


def events(*found):
    return [sse.encode(json.dumps(event).encode(), event["type"]) for event in found]


START = {
    "type": "message_start",
    "message": {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {
            "input_tokens": 9,
            "cache_read_input_tokens": 4,
            "output_tokens": 1,
            "service_tier": "standard",
        },
    },
}
LAST = {"type": "message_stop"}


def ending(reason="end_turn", **more):
    delta = {"stop_reason": reason, "stop_sequence": None}
    return {"type": "message_delta", "delta": delta, "usage": {"output_tokens": 5}, **more}


def message(*inside, end=None):
    return json.loads(fold(Endpoint.MESSAGES, events(START, *inside, end or ending(), LAST)))


def block(content, *found, index=0):
    """The events of a content block."""
    return [
        {"type": "content_block_start", "index": index, "content_block": content},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in found),
        {"type": "content_block_stop", "index": index},
    ]


# ---- the simulator's streams -----------------------------------------------------------------------

SCRIPTS = [
    ("tokens=300", {}),
    ("tokens=1", {}),
    ("thinking", {}),
    ("tool,parallel=3", {"tools": True}),
]


@pytest.mark.parametrize("endpoint", STREAMING)
@pytest.mark.parametrize(("script", "more"), SCRIPTS)
def test_the_simulators_stream_folds_to_its_plain_answer(endpoint, script, more):
    if endpoint in {Endpoint.CHAT, Endpoint.COMPLETIONS}:
        more = {**more, "stream_options": {"include_usage": True}}
    if endpoint is Endpoint.COMPLETIONS and script == "thinking":
        pytest.skip("a completion does not think")
    plain, frames = simulated(endpoint, script, stream=True, **more)
    folded = bare(json.loads(fold(endpoint, frames)))
    for choice in folded.get("choices", ()):
        if choice.get("message", {}).get("content") == "":
            del choice["message"]["content"]  # its stream opens with an empty text, whatever follows
    expected = bare(json.loads(plain))
    for choice in expected.get("choices", ()):
        choice.get("message", {}).pop("annotations", None)  # its stream does not have them
    assert folded == expected


@pytest.mark.parametrize("endpoint", [Endpoint.CHAT, Endpoint.COMPLETIONS])
@pytest.mark.parametrize("running", [False, True])
def test_several_choices_come_apart_again(endpoint, running):
    options = {"include_usage": True, "continuous_usage_stats": running}
    plain, frames = simulated(endpoint, n=3, stream=True, stream_options=options)
    folded, expected = json.loads(fold(endpoint, frames)), json.loads(plain)
    assert len(folded["choices"]) == 3
    for one, other in zip(folded["choices"], expected["choices"], strict=True):
        if endpoint is Endpoint.CHAT:
            assert one["message"]["content"] == other["message"]["content"]
        else:
            assert one["text"] == other["text"]
    assert folded["usage"] == expected["usage"]


@pytest.mark.parametrize("endpoint", [Endpoint.CHAT, Endpoint.MESSAGES, Endpoint.RESPONSES])
@pytest.mark.parametrize(("script", "more"), SCRIPTS)
def test_the_sdk_folds_the_simulators_stream_to_the_same_answer(endpoint, script, more):
    if endpoint is Endpoint.CHAT:
        more = {**more, "stream_options": {"include_usage": True}}
    _, frames = simulated(endpoint, script, stream=True, **more)
    assert bare(as_sdk_folds(endpoint, frames)) == bare(json.loads(fold(endpoint, frames)))


# ---- usage -----------------------------------------------------------------------------------------

USAGE = Usage(input_tokens=5, output_tokens=7, cached_input_tokens=2)


@pytest.mark.parametrize("endpoint", [Endpoint.CHAT, Endpoint.COMPLETIONS])
def test_usage_that_the_stream_does_not_tell_is_taken_from_the_log(endpoint):
    _, frames = simulated(endpoint, stream=True)
    used = json.loads(fold(endpoint, frames, usage=USAGE))["usage"]
    assert (used["prompt_tokens"], used["completion_tokens"], used["total_tokens"]) == (5, 7, 12)
    assert used["prompt_tokens_details"]["cached_tokens"] == 2
    assert json.loads(fold(endpoint, frames))["usage"] is None


def test_the_providers_own_figures_come_before_those_of_the_log():
    told = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3, "x_energy": 4}
    frames = chunks(STOP, {"choices": [], "usage": told})
    assert json.loads(fold(Endpoint.CHAT, frames, usage=USAGE))["usage"] == told


def test_groqs_usage_is_found():
    frames = chunks(
        {"x_groq": {"id": "req_1"}}, {**STOP, "x_groq": {"id": "req_1", "usage": {"prompt_tokens": 1}}}
    )
    body = json.loads(fold(Endpoint.CHAT, frames))
    assert (body["usage"], body["x_groq"]) == ({"prompt_tokens": 1}, {"id": "req_1"})


def test_a_messages_usage_is_merged():
    used = message(end=ending(usage={"output_tokens": 5, "input_tokens": None, "server_tool_use": {"n": 1}}))[
        "usage"
    ]
    assert used == {
        "input_tokens": 9,
        "cache_read_input_tokens": 4,
        "output_tokens": 5,
        "service_tier": "standard",
        "server_tool_use": {"n": 1},
    }


def test_a_response_without_usage_gets_that_of_the_log():
    closing = {"type": "response.completed", "response": {"id": "r", "output": [], "usage": None}}
    used = json.loads(fold(Endpoint.RESPONSES, events(closing), usage=USAGE))["usage"]
    assert (used["input_tokens"], used["output_tokens"]) == (5, 7)


# ---- chat: how pieces become one -------------------------------------------------------------------


def test_members_that_nobody_knows_survive():
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "provider": "Acme"}
    first = {
        **head,
        "choices": [
            {"index": 0, "delta": {"role": "assistant", "x_note": "ab", "x_list": [1]}, "x_score": 1}
        ],
    }
    second = {
        **head,
        "choices": [
            {"index": 0, "delta": {"x_note": "cd", "x_list": [2], "x_deep": {"a": "x"}}, "x_score": 2}
        ],
    }
    third = {**head, "choices": [{"index": 0, "delta": {"x_deep": {"a": "y"}}, "finish_reason": "stop"}]}
    body = json.loads(fold(Endpoint.CHAT, chunks(first, second, third)))
    assert body == {
        **head,
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": None,
                    "x_note": "abcd",
                    "x_list": [1, 2],
                    "x_deep": {"a": "xy"},
                },
                "logprobs": None,
                "finish_reason": "stop",
                "x_score": 2,
            }
        ],
        "usage": None,
    }


def test_text_of_any_script_is_put_together():
    pieces = ["Grüße", " 日本", "👩‍👩‍👧", "\u0000", ' "\\']
    assert deltas(*({"content": piece} for piece in pieces))["content"] == "".join(pieces)


def test_a_role_or_an_id_that_comes_with_every_chunk_is_one():
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{"}}
    again = {**call, "function": {"name": "f", "arguments": "}"}}
    found = deltas({"role": "assistant", "tool_calls": [call]}, {"role": "assistant", "tool_calls": [again]})
    assert found["role"] == "assistant"
    assert found["tool_calls"] == [
        {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    ]


def test_an_empty_id_takes_nothing_back():
    first = {"index": 0, "id": "call_1", "function": {"name": "f", "arguments": ""}}
    (call,) = calls(first, {"index": 0, "id": "", "function": {"name": None, "arguments": "{}"}})
    assert (call["id"], call["function"]) == ("call_1", {"name": "f", "arguments": "{}"})


def test_calls_whose_arguments_interleave_come_apart():
    a = {"index": 0, "id": "a", "function": {"name": "f", "arguments": ""}}
    b = {"index": 1, "id": "b", "function": {"name": "g", "arguments": ""}}
    more = [{"index": number % 2, "function": {"arguments": str(number)}} for number in range(6)]
    assert [call["function"]["arguments"] for call in calls(a, b, *more)] == ["024", "135"]


@pytest.mark.parametrize("number", [{}, {"index": 0}, {"index": None}])
def test_calls_that_are_not_numbered_are_told_apart_by_their_ids(number):
    a = {**number, "id": "a", "function": {"name": "f", "arguments": "1"}}
    b = {**number, "id": "b", "function": {"name": "g", "arguments": "2"}}
    more = {**number, "function": {"arguments": "3"}}
    assert [(call["id"], call["function"]["arguments"]) for call in calls(a, b, more)] == [
        ("a", "1"),
        ("b", "23"),
    ]


def test_calls_may_be_numbered_from_one():
    assert [call["id"] for call in calls({"index": 2, "id": "b"}, {"index": 1, "id": "a"})] == ["a", "b"]


def test_lists_with_an_index_are_merged_entry_by_entry():
    found = deltas(
        {"reasoning_details": [{"index": 0, "type": "reasoning.text", "text": "a", "format": "v1"}]},
        {"reasoning_details": [{"index": 0, "type": "reasoning.text", "text": "b", "format": "v1"}]},
        {"reasoning_details": [{"index": 1, "type": "reasoning.encrypted", "data": "x"}]},
    )
    assert found["reasoning_details"] == [
        {"index": 0, "type": "reasoning.text", "text": "ab", "format": "v1"},
        {"index": 1, "type": "reasoning.encrypted", "data": "x"},
    ]


def test_mistrals_content_in_parts_is_put_together():
    def thinking(text):
        return [{"type": "thinking", "thinking": [{"type": "text", "text": text}]}]

    found = deltas(
        {"content": ""},
        {"content": thinking("a")},
        {"content": thinking("b")},
        {"content": "c"},
        {"content": "d"},
    )
    assert found["content"] == [
        {"type": "thinking", "thinking": [{"type": "text", "text": "ab"}]},
        {"type": "text", "text": "cd"},
    ]


def test_citations_of_one_kind_stay_apart():
    notes = [{"type": "url_citation", "url_citation": {"url": str(number)}} for number in range(2)]
    assert deltas(*({"annotations": [note]} for note in notes))["annotations"] == notes


def test_logprobs_are_one_list_after_the_other():
    def chunk(letter):
        logprobs = {"content": [{"token": letter, "logprob": -1, "top_logprobs": []}], "refusal": None}
        return {"choices": [{"index": 0, "delta": {"content": letter}, "logprobs": logprobs}]}

    (choice,) = json.loads(fold(Endpoint.CHAT, chunks(chunk("a"), chunk("b"), STOP)))["choices"]
    assert [entry["token"] for entry in choice["logprobs"]["content"]] == ["a", "b"]


def test_the_chunk_about_the_prompt_hides_neither_id_nor_model():
    azure = {"id": "", "created": 0, "model": "", "choices": [], "prompt_filter_results": [{"x": 1}]}
    rest = {**STOP, "id": "c", "created": 5, "model": "m"}
    body = json.loads(fold(Endpoint.CHAT, chunks(azure, rest)))
    assert (body["id"], body["created"], body["model"]) == ("c", 5, "m")
    assert body["prompt_filter_results"] == [{"x": 1}]


def test_what_was_told_is_not_taken_back_by_a_later_chunk():
    told = {**STOP, "id": "c", "created": 5, "model": "m", "usage": {"prompt_tokens": 1}}
    later = {
        "id": "",
        "created": 0,
        "model": "",
        "choices": [{"index": 0, "delta": {"role": None}, "finish_reason": None}],
        "usage": None,
    }
    body = json.loads(fold(Endpoint.CHAT, chunks(told, later)))
    assert (body["id"], body["created"], body["model"], body["usage"]) == ("c", 5, "m", {"prompt_tokens": 1})
    (choice,) = body["choices"]
    assert (choice["finish_reason"], choice["message"]["role"]) == ("stop", "assistant")


def test_a_call_that_is_not_numbered_goes_on_by_its_id():
    a, b = ({"id": name, "function": {"name": name, "arguments": "1"}} for name in "ab")
    more = {"id": "a", "function": {"arguments": "2"}}
    assert [call["function"]["arguments"] for call in calls(a, b, more)] == ["12", "1"]


def test_entries_stand_in_the_order_of_their_indices():
    found = deltas({"x": [{"index": 1, "text": "b"}]}, {"x": [{"index": 0, "text": "a"}]})
    assert [entry["text"] for entry in found["x"]] == ["a", "b"]


def test_a_refusal_is_kept():
    assert deltas({"refusal": "I "}, {"refusal": "won't"})["refusal"] == "I won't"


def test_an_empty_answer_stays_empty():
    assert deltas({"role": "assistant", "content": ""}) == {"role": "assistant", "content": ""}


# ---- messages --------------------------------------------------------------------------------------


def test_a_tools_input_is_the_models_own_writing():
    pieces = [
        {"type": "input_json_delta", "partial_json": text} for text in ("", '{"a": 1.0', "0, ", '"ä":"é"}')
    ]
    frames = events(
        START, *block({"type": "tool_use", "id": "t", "name": "f", "input": {}}, *pieces), ending(), LAST
    )
    assert '"input":{"a": 1.00, "ä":"é"}'.encode() in fold(Endpoint.MESSAGES, frames)


def test_a_tool_without_input_keeps_its_empty_object():
    (found,) = message(*block({"type": "tool_use", "id": "t", "name": "f", "input": {}}))["content"]
    assert found["input"] == {}


def test_input_that_the_limit_cut_is_empty_and_other_broken_input_an_error():
    piece = {"type": "input_json_delta", "partial_json": '{"a": '}
    cut = block({"type": "tool_use", "id": "t", "name": "f", "input": {}}, piece)
    assert message(*cut, end=ending("max_tokens"))["content"][0]["input"] == {}
    with pytest.raises(UpstreamBroken):
        message(*cut)


def test_input_that_is_no_object_is_an_error():
    piece = {"type": "input_json_delta", "partial_json": "[1]"}
    with pytest.raises(UpstreamBroken, match="no JSON object"):
        message(*block({"type": "tool_use", "id": "t", "name": "f", "input": {}}, piece))


def test_a_later_message_delta_takes_nothing_back():
    found = message(ending(), end=ending(None, context_management=None))
    assert (found["stop_reason"], found["context_management"]) == ("end_turn", None)


def test_all_kinds_of_blocks_are_kept():
    thought = block(
        {"type": "thinking", "thinking": "", "signature": ""},
        {"type": "thinking_delta", "thinking": "hm"},
        {"type": "signature_delta", "signature": "c2ln"},
    )
    hidden = block({"type": "redacted_thinking", "data": "xyz"}, index=1)
    said = block(
        {"type": "text", "text": "", "citations": None},
        {"type": "text_delta", "text": "a"},
        {"type": "citations_delta", "citation": {"cited_text": "a"}},
        {"type": "citations_delta", "citation": {"cited_text": "b"}},
        index=2,
    )
    result = block({"type": "web_search_tool_result", "tool_use_id": "s", "content": [{"url": "u"}]}, index=3)
    summed = block(
        {"type": "compaction", "content": None}, {"type": "compaction_delta", "content": "short"}, index=4
    )
    assert message({"type": "ping"}, *thought, *hidden, *said, *result, *summed)["content"] == [
        {"type": "thinking", "thinking": "hm", "signature": "c2ln"},
        {"type": "redacted_thinking", "data": "xyz"},
        {"type": "text", "text": "a", "citations": [{"cited_text": "a"}, {"cited_text": "b"}]},
        {"type": "web_search_tool_result", "tool_use_id": "s", "content": [{"url": "u"}]},
        {"type": "compaction", "content": "short"},
    ]


def test_what_stands_beside_the_last_delta_is_part_of_the_message():
    found = message(end=ending(context_management={"applied_edits": []}))
    assert found["context_management"] == {"applied_edits": []}
    assert found["stop_reason"] == "end_turn"
    assert "delta" not in found


@pytest.mark.parametrize(
    "inside",
    [
        [{"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "a"}}],
        block({"type": "text", "text": ""}) * 2,
        block({"type": "text", "text": ""}, index=10**9),
        block({"type": "text", "text": ""}, index=-1),
        block({"type": "text", "text": ""}, index="0"),
        [{"type": "content_block_start", "content_block": {"type": "text"}}],
        [{"type": "content_block_start", "index": 0}],
        [START],
    ],
)
def test_events_of_a_message_that_do_not_belong_together_are_an_error(inside):
    with pytest.raises(UpstreamBroken):
        message(*inside)


# ---- responses -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["completed", "incomplete", "failed", "cancelled"])
def test_a_response_is_that_of_the_closing_event_byte_for_byte(kind):
    response = b'{"id": "resp_1",  "output": [1.0], "x_unknown": 1e2}'
    closing = b'{"type":"response.%b","response":%b,"sequence_number":1}' % (kind.encode(), response)
    assert fold(Endpoint.RESPONSES, [sse.encode(closing, f"response.{kind}")]) == response


def test_items_that_the_closing_event_leaves_out_are_those_that_came_before():
    items = [
        {"type": "response.output_item.done", "output_index": index, "item": {"id": f"i{index}"}}
        for index in (1, 0)
    ]
    closing = {"type": "response.completed", "response": {"id": "r", "output": []}}
    body = json.loads(fold(Endpoint.RESPONSES, events(*items, closing)))
    assert body["output"] == [{"id": "i0"}, {"id": "i1"}]


def test_a_closing_event_without_a_response_is_an_error():
    with pytest.raises(UpstreamBroken):
        fold(Endpoint.RESPONSES, events({"type": "response.completed"}))


# ---- what is no whole answer -----------------------------------------------------------------------


@pytest.mark.parametrize("endpoint", STREAMING)
def test_a_stream_that_breaks_off_is_no_answer_wherever_it_is_cut(endpoint):
    _, frames = simulated(endpoint, "tokens=5", stream=True)
    for length in range(len(frames)):
        with pytest.raises(UpstreamBroken):
            fold(endpoint, frames[:length])


def test_a_choice_without_a_finish_reason_makes_the_answer_incomplete():
    other = {"choices": [{"index": 1, "delta": {"content": "a"}}]}
    with pytest.raises(UpstreamBroken, match="finish reason"):
        fold(Endpoint.CHAT, chunks(other, STOP))


def test_an_error_event_is_raised():
    error = {"error": {"message": "no more", "type": "server_error"}}
    with pytest.raises(PenstockError, match="no more"):
        fold(Endpoint.CHAT, chunks(STOP, error))


@pytest.mark.parametrize("endpoint", [Endpoint.EMBEDDINGS, Endpoint.COUNT_TOKENS])
def test_an_endpoint_that_does_not_stream_is_a_mistake(endpoint):
    with pytest.raises(ValueError, match="does not stream"):
        fold(endpoint, [])


@pytest.mark.parametrize(
    "delta",
    [
        "text",
        [],
        {"tool_calls": {"index": 0}},
        {"tool_calls": [1]},
        {"tool_calls": [{"index": 10**9}]},
        {"tool_calls": [{"index": -1}]},
        {"tool_calls": [{"index": "0"}]},
        {"x": [{"index": 10**9}]},
    ],
)
def test_a_delta_that_makes_no_sense_is_an_error(delta):
    if delta == []:
        delta = [1]
    with pytest.raises(UpstreamBroken):
        deltas(delta)


@pytest.mark.parametrize("index", [10**9, -1, 10**30, "0"])
def test_a_choice_with_an_index_that_makes_no_sense_is_an_error(index):
    with pytest.raises(UpstreamBroken):
        fold(Endpoint.CHAT, chunks({"choices": [{"index": index, "delta": {}}]}, STOP))


@pytest.mark.parametrize("endpoint", STREAMING)
def test_an_event_that_is_no_json_is_an_error(endpoint):
    _, frames = simulated(endpoint, stream=True)
    for broken in (b"{", b"1", b"null", b'"\xff"', b'{"a":"\xff"}'):
        with pytest.raises(UpstreamBroken):
            fold(endpoint, [sse.encode(broken), *frames])


@pytest.mark.parametrize("depth", [500, 5_000, 200_000])
def test_deep_nesting_is_an_answer_or_an_error_but_no_crash(depth):
    deep = b'{"x":' * depth + b"1" + b"}" * depth
    chunk = sse.encode(b'{"choices":[{"index":0,"delta":{"a":%b}}]}' % deep)
    start = events(START, *block({"type": "text", "text": ""}))
    beside = sse.encode(
        b'{"type":"message_delta","delta":{"stop_reason":"end_turn"},"a":%b}' % deep, "message_delta"
    )
    closing = sse.encode(b'{"type":"response.completed","response":{"a":%b}}' % deep, "response.completed")
    for endpoint, frames in (
        (Endpoint.CHAT, [chunk, chunk, *chunks(STOP)]),
        (Endpoint.MESSAGES, [*start, beside, *events(LAST)]),
        (Endpoint.RESPONSES, [closing]),
    ):
        try:
            assert deep in fold(endpoint, frames)
        except UpstreamBroken:
            assert depth > 500 or endpoint is Endpoint.CHAT


@settings(max_examples=500, deadline=None)
@given(st.lists(json_values, max_size=4), st.booleans())
def test_whatever_an_upstream_makes_up_is_an_answer_or_a_clear_error(values, inside):
    found = [{"choices": [{"index": 0, "delta": value} if inside else value]} for value in values]
    frames = chunks(*found, STOP)
    inner = [{"type": "content_block_delta", "index": 0, "delta": value} for value in values]
    start = {"type": "content_block_start", "index": 0, "content_block": values[0] if values else {}}
    written = events(START, start, *inner, ending(), LAST)
    for endpoint, sent in (
        (Endpoint.CHAT, frames),
        (Endpoint.COMPLETIONS, frames),
        (Endpoint.MESSAGES, written),
    ):
        try:
            json.loads(fold(endpoint, sent))
        except PenstockError:
            pass


def test_memory_stays_in_proportion_to_the_stream():
    frames = chunks(
        *({"choices": [{"index": 0, "delta": {"content": "word " * 4}}]} for _ in range(20_000)), STOP
    )
    size = sum(map(len, frames))
    tracemalloc.start()
    try:
        body = fold(Endpoint.CHAT, frames)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(body) > 400_000
    assert peak < 4 * size


# ---- in steps -------------------------------------------------------------------------------------


def a_long_stream(endpoint, middle):
    """With so many events between its first and its last."""
    if endpoint is Endpoint.MESSAGES:
        block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
        piece = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "a"}}
        return events(START, block, *[piece] * middle, ending(), LAST)
    if endpoint is Endpoint.RESPONSES:
        closing = {"type": "response.completed", "response": {"id": "r", "output": [{"type": "message"}]}}
        return events(*[{"type": "response.output_text.delta", "delta": "a"}] * middle, closing)
    piece = {"choices": [{"index": 0, "delta": {"content": "a"}, "text": "a"}]}
    return chunks(*[piece] * middle, STOP)


@pytest.mark.parametrize("endpoint", STREAMING)
def test_a_long_stream_is_folded_in_steps_to_the_same_answer(endpoint):
    frames = a_long_stream(endpoint, 20 * STEP_EVENTS)
    found = []

    def followed():
        found.append((yield from folding(endpoint, frames)))

    count = sum(1 for _ in followed())
    assert found == [fold(endpoint, frames)]
    assert 40 <= count <= 42  # it is read twice: whether it is whole, and what it tells


@pytest.mark.parametrize("endpoint", STREAMING)
def test_a_short_stream_is_folded_at_once(endpoint):
    frames = a_long_stream(endpoint, STEP_EVENTS - 5)
    with pytest.raises(StopIteration) as whole:
        next(folding(endpoint, frames))
    assert whole.value.value == fold(endpoint, frames)


def test_steps_are_short_where_events_are_long():
    piece = {"choices": [{"index": 0, "delta": {"content": "a" * (STEP_BYTES // 2)}}]}
    steps = folding(Endpoint.CHAT, chunks(*[piece] * 10, STOP))
    assert sum(1 for _ in steps) >= 18
