"""A kept answer is told in the form that the next caller wants."""

import json

import msgspec
import pytest
from entries import an_entry

from penstock.cache.retold import retold
from penstock.messages import Endpoint, Usage

CHAT = Endpoint.CHAT
BODY = json.dumps(
    {
        "id": "c",
        "object": "chat.completion",
        "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }
).encode()
USAGE = Usage(input_tokens=3, output_tokens=2)


def told(entry, **wanted):
    return retold(entry, CHAT, **{"stream": False, "include_usage": False, "running_usage": False, **wanted})


@pytest.fixture
def plain():
    return msgspec.structs.replace(an_entry(), stream=False, events=(BODY,), usage=USAGE)


@pytest.fixture
def streamed(plain):
    return msgspec.structs.replace(plain, stream=True, events=tuple(told(plain, stream=True)))


def test_who_wants_it_as_it_is_gets_its_events(plain, streamed):
    assert told(plain) == [BODY]
    assert told(streamed, stream=True) == list(streamed.events)


def test_a_plain_answer_becomes_a_stream_and_a_stream_a_plain_answer(plain, streamed):
    assert streamed.events[-1] == b"data: [DONE]\n\n"
    (body,) = told(streamed)
    (choice,) = json.loads(body)["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("hi", "stop")


def test_a_stream_tells_its_usage_to_those_who_asked_for_it(plain, streamed):
    asked = told(streamed, stream=True, include_usage=True)
    closing, done = asked[-1].removesuffix(b"\n\n").split(b"\n\n")
    assert json.loads(closing.removeprefix(b"data: "))["usage"]["total_tokens"] == 5
    frames = (*asked[:-1], closing + b"\n\n", done + b"\n\n")
    tells = msgspec.structs.replace(streamed, events=frames, include_usage=True)
    assert told(tells, stream=True) == list(streamed.events)


@pytest.mark.parametrize("says_cached", [False, True])
def test_a_usage_that_no_event_tells_is_the_one_that_the_entry_tells(streamed, says_cached):
    entry = msgspec.structs.replace(streamed, says_cached=says_cached)
    (body,) = told(entry)
    asked = told(entry, stream=True, include_usage=True)
    closing = asked[-1].split(b"\n\n")[0].removeprefix(b"data: ")
    for shown in (body, closing):
        assert json.loads(shown)["usage"]["prompt_tokens_details"]["cached_tokens"] == 3 * says_cached
