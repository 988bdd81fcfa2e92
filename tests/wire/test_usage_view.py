"""One stream, several readers: each sees the usage that it asked for."""

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streams import simulated

from penstock.messages import Endpoint, Usage
from penstock.wire import sse
from penstock.wire.fold import fold
from penstock.wire.progress import progress
from penstock.wire.usage_view import adapt

USAGE = Usage(input_tokens=2, output_tokens=64, cached_input_tokens=1)
CHUNKED = [Endpoint.CHAT, Endpoint.COMPLETIONS]


def log(endpoint, *, usage, running=False):
    options = {"include_usage": usage, "continuous_usage_stats": running}
    return simulated(endpoint, "tokens=5", stream=True, stream_options=options)[1]


def seen(events, **how):
    return [adapt(event, first=events[0], usage=USAGE, **how) for event in events]


def payloads(frames):
    return [sse.fields(frame).data for frame in sse.Splitter().feed(b"".join(frames))]


def chunks(frames):
    return [json.loads(data) for data in payloads(frames) if data != b"[DONE]"]


@pytest.mark.parametrize("endpoint", CHUNKED)
@pytest.mark.parametrize("usage", [False, True])
def test_who_asked_as_the_first_one_did_gets_the_log_byte_for_byte(endpoint, usage):
    events = log(endpoint, usage=usage)
    assert seen(events, has_usage=usage, wants_usage=usage) == events


@pytest.mark.parametrize("endpoint", CHUNKED)
def test_the_closing_chunk_is_left_out_for_who_did_not_ask(endpoint):
    events = log(endpoint, usage=True)
    adapted = seen(events, has_usage=True, wants_usage=False)
    assert adapted == [*events[:-2], b"", events[-1]]


@pytest.mark.parametrize("endpoint", CHUNKED)
def test_a_closing_chunk_comes_before_the_terminator_for_who_asked(endpoint):
    events = log(endpoint, usage=False)
    adapted = seen(events, has_usage=False, wants_usage=True)
    assert adapted[:-1] == events[:-1]
    closing, done = sse.Splitter().feed(adapted[-1])
    assert done == events[-1]
    told, first = chunks([closing])[0], chunks(events)[0]
    assert told["choices"] == []
    assert [told[name] for name in ("id", "object", "created", "model")] == [
        first[name] for name in ("id", "object", "created", "model")
    ]
    watch = progress(endpoint)
    watch.take(sse.Splitter().feed(b"".join(adapted)), [])
    assert (watch.complete, watch.usage) == (True, USAGE)


@pytest.mark.parametrize("endpoint", CHUNKED)
@pytest.mark.parametrize("wants", [False, True])
def test_running_usage_is_taken_out_for_who_did_not_ask(endpoint, wants):
    events = log(endpoint, usage=True, running=True)
    assert all(chunk["usage"] for chunk in chunks(events))
    adapted = seen(events, has_usage=True, wants_usage=wants, drop_running=True)
    found = chunks(adapted)
    assert [bool(chunk.get("usage")) for chunk in found] == [False] * (len(events) - 2) + [True] * wants
    for chunk, original in itertools.islice(zip(found, chunks(events), strict=False), len(events) - 2):
        del original["usage"]
        assert chunk == original


def test_without_figures_nothing_is_made_up():
    events = log(Endpoint.CHAT, usage=False)
    assert [adapt(event, has_usage=False, wants_usage=True) for event in events] == events


def test_a_first_event_that_tells_nothing_does_no_harm():
    done = sse.encode(b"[DONE]")
    for first in (b"", b": hi\n\n", done, b'data: {"id":7}\n\n', b"data: [1]\n\n"):
        found = chunks([adapt(done, has_usage=False, wants_usage=True, usage=USAGE, first=first)])
        assert found[0]["usage"]["completion_tokens"] == 64
        assert found[0]["object"] == "chat.completion.chunk"


@pytest.mark.parametrize(
    "event",
    [
        b": hb\n\n",
        b'data: {"usage"\n\n',
        b'data: {"choices":1,"usage":{}}\n\n',
        b'data: {"choices":[],"usage":1}\n\n',
        sse.encode(b'{"choices":[{"delta":{"content":"\\"usage\\""}}],"usage":null}'),
        sse.encode(b'{"choices":[{"delta":{"content":"[DONE]"}}]}'),
        sse.encode(b'{"error":{"message":"\\"usage\\""}}'),
    ],
)
def test_events_that_are_not_about_usage_pass_unchanged(event):
    for has, wants, running in itertools.product([False, True], repeat=3):
        assert adapt(event, has_usage=has, wants_usage=wants, usage=USAGE, drop_running=running) == event


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(CHUNKED), st.booleans(), st.booleans(), st.booleans())
def test_the_answer_itself_is_the_same_for_all_readers(endpoint, has, wants, running):
    events = log(endpoint, usage=has, running=running and has)
    adapted = seen(events, has_usage=has, wants_usage=wants, drop_running=running and has)
    folded, expected = (
        json.loads(fold(endpoint, frames)) for frames in (sse.Splitter().feed(b"".join(adapted)), events)
    )
    assert folded["choices"] == expected["choices"]
    assert (folded["usage"] is not None) == wants
