"""An answer that broke: whether it lacks more than its end."""

import json

import pytest
from gateway_doubles import a_call, a_generation

from penstock.gateway.stages.unfinished import close, point_of, stop_at_limit
from penstock.messages import Usage

NOW = 1_000.0
DONE = b"data: [DONE]\n\n"


def chunk(text="", finish=None):
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    told = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return b"data: " + json.dumps(told).encode() + b"\n\n"


def broken(*frames, used=None, **asked):
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}], **asked}
    call = a_call(body=json.dumps(body).encode())
    generation = a_generation(call)
    generation.append(list(frames), NOW)
    generation.usage = used
    return call, generation


def test_a_log_that_has_its_finish_reason_gets_its_end_and_no_other_does():
    call, generation = broken(chunk("all of it"), chunk(finish="stop"))
    assert close(call, generation, NOW)
    assert generation.events[-1] == DONE
    call, generation = broken(chunk("a part of"))
    assert not close(call, generation, NOW)
    assert len(generation.events) == 1


@pytest.mark.parametrize(
    ("limit", "used", "ends"),
    [
        (None, Usage(5, 100), False),
        (100, Usage(5, 100), True),
        (101, Usage(5, 100), False),
        (100, Usage(5, 100, estimated=True), False),  # it may be too high
    ],
)
def test_a_log_that_has_all_the_tokens_that_were_allowed_ends_there(limit, used, ends):
    call, generation = broken(chunk("as many as"), used=used, max_tokens=limit)
    point = point_of(call, generation, None)
    assert stop_at_limit(call, generation, point, NOW) == ends
    last = generation.events[-1]
    assert (last == DONE and b'"finish_reason":"length"' in b"".join(generation.events)) == ends


def test_where_one_token_is_left_to_ask_for_a_figure_of_ours_will_do():
    call, generation = broken(chunk("a b c d"), used=Usage(5, 4, estimated=True), max_tokens=1)
    assert not stop_at_limit(call, generation, point_of(call, generation, None), NOW)
    assert stop_at_limit(call, generation, point_of(call, generation, None), NOW, ours=True)


def test_nothing_can_be_added_to_what_cannot_be_read():
    call, generation = broken(b"data: {no JSON\n\n", max_tokens=1)
    assert point_of(call, generation, None) is None
    assert not close(call, generation, NOW)
