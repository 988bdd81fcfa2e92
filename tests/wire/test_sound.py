"""Which answers may be given again: in both forms, for each endpoint."""

import json

import pytest

from penstock.messages import Endpoint
from penstock.wire.sound import is_sound


def plain(endpoint, body):
    return is_sound(endpoint, [body if isinstance(body, bytes) else json.dumps(body).encode()], stream=False)


def streamed(endpoint, *values):
    frames = [b"data: " + (v if isinstance(v, bytes) else json.dumps(v).encode()) + b"\n\n" for v in values]
    return is_sound(endpoint, frames, stream=True)


def choice(reason, index=0, **said):
    return {"index": index, "finish_reason": reason, **said}


@pytest.mark.parametrize(
    ("choices", "sound"),
    [
        ([choice("stop")], True),
        ([choice("length")], True),
        ([choice("tool_calls"), choice("stop", 1)], True),
        ([choice("content_filter")], False),
        ([choice("stop"), choice("content_filter", 1)], False),
        ([choice("stop"), choice(None, 1)], False),
        ([choice("stop", message={"content": None, "refusal": "I will not"})], False),
        ([choice("stop", message={"content": "x", "refusal": None})], True),
        ([choice("insufficient_system_resource")], False),
        ([choice("error")], False),
        ([choice(None)], False),
        ([], False),
    ],
)
def test_chat(choices, sound):
    assert plain(Endpoint.CHAT, {"choices": choices}) is sound
    as_stream = [
        {"choices": [{**each, "finish_reason": None, "delta": each.get("message", {})}]} for each in choices
    ]
    ends = [{"choices": [choice(each["finish_reason"], each["index"])]} for each in choices]
    assert streamed(Endpoint.CHAT, *as_stream, *ends, {"choices": [], "usage": {}}, b"[DONE]") is sound


def test_an_error_among_chunks_is_no_answer():
    assert not streamed(Endpoint.CHAT, {"choices": [choice("stop")]}, {"error": {"message": "x"}}, b"[DONE]")
    assert streamed(Endpoint.CHAT, {"choices": [choice("stop")], "error": None}, b"[DONE]")


@pytest.mark.parametrize(
    ("reason", "sound"),
    [
        ("end_turn", True),
        ("max_tokens", True),
        ("stop_sequence", True),
        ("tool_use", True),
        ("refusal", False),
        ("pause_turn", False),
        ("model_context_window_exceeded", False),
        (None, False),
    ],
)
def test_messages(reason, sound):
    assert plain(Endpoint.MESSAGES, {"stop_reason": reason}) is sound
    events = [
        {"type": "message_start", "message": {"stop_reason": None}},
        {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "x"}},
        {"type": "message_delta", "delta": {"stop_reason": reason}},
        {"type": "message_stop"},
    ]
    assert streamed(Endpoint.MESSAGES, *events) is sound


@pytest.mark.parametrize(
    ("response", "sound"),
    [
        ({"status": "completed", "output": [{"content": [{"type": "output_text"}]}]}, True),
        ({"status": "completed", "output": [{"type": "function_call"}]}, True),
        ({"status": "completed", "output": [{"content": [{"type": "refusal"}]}]}, False),
        ({"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}, True),
        ({"status": "incomplete", "incomplete_details": {"reason": "content_filter"}}, False),
        ({"status": "incomplete"}, False),
        ({"status": "failed"}, False),
        ({"status": "cancelled"}, False),
        ({"status": "in_progress"}, False),
        ({}, False),
    ],
)
def test_responses(response, sound):
    assert plain(Endpoint.RESPONSES, response) is sound
    end = {"type": f"response.{response.get('status')}", "response": response}
    assert streamed(Endpoint.RESPONSES, {"type": "response.created", "response": {}}, end) is sound


def test_embeddings_and_counts():
    assert plain(Endpoint.EMBEDDINGS, {"data": [{"embedding": [0.1]}]})
    assert not plain(Endpoint.EMBEDDINGS, {"data": []})
    assert plain(Endpoint.COUNT_TOKENS, {"input_tokens": 7})
    assert not plain(Endpoint.COUNT_TOKENS, {})


@pytest.mark.parametrize("endpoint", Endpoint)
@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_answer_is_not_sound(endpoint, body):
    assert not plain(endpoint, body)
    assert not streamed(endpoint, body)
