"""When a stream is too slow, or silent for too long: what counts as a token, and whose slowness it is."""

from types import SimpleNamespace

import pytest
from transferring import SSE, Answer, Reader, Wire, chunk, make, timed_out

from penstock.config.model import TimeoutConfig
from penstock.generation.log import AHEAD_BYTES
from penstock.messages import Endpoint
from penstock.upstream.run import of_generation
from penstock.wire import usage

ROLE = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n'
# What an upstream sends that is alive and says nothing, by the API.
EMPTY = {
    Endpoint.CHAT: [b": processing\n\n", ROLE, b'data: {"choices":[],"usage":{"prompt_tokens":3}}\n\n'],
    Endpoint.MESSAGES: [
        b'event: ping\ndata: {"type":"ping"}\n\n',
        b'data: {"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"x"}}\n\n',
        b'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":""}}\n\n',
    ],
    Endpoint.RESPONSES: [
        b'event: response.in_progress\ndata: {"type":"response.in_progress","response":{}}\n\n',
        b'event: keepalive\ndata: {"type":"keepalive","sequence_number":3}\n\n',
    ],
}
WORDS = {
    Endpoint.CHAT: chunk,
    Endpoint.MESSAGES: lambda text: (
        b'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"%b"}}\n\n'
        % text.encode()
    ),
    Endpoint.RESPONSES: lambda text: (
        b'data: {"type":"response.output_text.delta","delta":"%b"}\n\n' % text.encode()
    ),
}
SAYING_NOTHING = [(endpoint, frame) for endpoint, frames in EMPTY.items() for frame in frames]


def paced(least, endpoint=Endpoint.CHAT, **clocks):
    """A stream whose least pace is so many tokens per second."""
    body = b'{"model":"m","input":"x","stream":true}' if endpoint is Endpoint.RESPONSES else None
    transfer = make(endpoint, stream=True, body=body)
    silences = {"first_token": 0, "between_tokens": 0, "total": 0, **clocks}
    transfer.job.timeouts = TimeoutConfig(connect=5, min_token_rate=least, **silences)
    transfer.on_head(200, SSE)
    return transfer


def pass_by(transfer, seconds, *frames):
    """So many seconds, in each of which these come."""
    for _ in range(seconds):
        transfer.now.now += 1.0
        for frame in frames:
            transfer.on_data(frame)
        transfer.check_clocks(transfer.now.now)


@pytest.mark.parametrize("endpoint", WORDS)
def test_a_stream_that_trickles_below_its_least_pace_is_given_up(endpoint):
    transfer = paced(2, endpoint)
    pass_by(transfer, 60, WORDS[endpoint]("a"), WORDS[endpoint]("b"))
    assert transfer.failure is None
    pass_by(transfer, 20, WORDS[endpoint]("a"))
    assert timed_out(transfer) == "min_token_rate"


@pytest.mark.parametrize("endpoint", WORDS)
def test_events_of_several_tokens_are_as_many_tokens(endpoint):
    transfer = paced(5, endpoint)
    pass_by(transfer, 60, WORDS[endpoint]("eight tokens, as words have it.."))
    assert transfer.failure is None


@pytest.mark.parametrize(("endpoint", "frame"), SAYING_NOTHING)
def test_what_says_nothing_is_no_pace(endpoint, frame):
    transfer = paced(2, endpoint)
    pass_by(transfer, 1, WORDS[endpoint]("a"))
    pass_by(transfer, 11, *[frame] * 9)
    assert timed_out(transfer) == "min_token_rate"


@pytest.mark.parametrize(("endpoint", "frame"), SAYING_NOTHING)
def test_before_its_first_token_a_model_may_think_whatever_its_least_pace(endpoint, frame):
    transfer = paced(2, endpoint, first_token=600, between_tokens=4)
    pass_by(transfer, 3, frame)
    pass_by(transfer, 590)
    assert transfer.failure is None
    pass_by(transfer, 1, WORDS[endpoint]("a"))
    pass_by(transfer, 5)
    assert timed_out(transfer) == "between_tokens"


def test_but_no_longer_than_until_the_first_tokens_time_is_over():
    transfer = paced(0, Endpoint.MESSAGES, first_token=10, between_tokens=4)
    transfer.on_data(EMPTY[Endpoint.MESSAGES][0])
    pass_by(transfer, 10)
    assert transfer.failure is None
    pass_by(transfer, 1)
    assert timed_out(transfer) == "between_tokens"


def test_without_a_clock_for_the_first_token_the_one_between_tokens_holds():
    transfer = paced(0, Endpoint.MESSAGES, between_tokens=4)
    pass_by(transfer, 3, EMPTY[Endpoint.MESSAGES][0])
    pass_by(transfer, 4)
    assert transfer.failure is None
    pass_by(transfer, 1)
    assert timed_out(transfer) == "between_tokens"


def test_however_long_a_stream_is_silent_its_events_are_looked_at_once(monkeypatch):
    looked = []
    count = usage.output_tokens_in
    monkeypatch.setattr(
        usage,
        "output_tokens_in",
        lambda endpoint, frames: looked.append(len(frames)) or count(endpoint, frames),
    )
    transfer = paced(0, first_token=600, between_tokens=4)
    pass_by(transfer, 1, *[ROLE] * 50)
    pass_by(transfer, 100)
    assert sum(looked) == 50
    pass_by(transfer, 1, chunk("a"))
    pass_by(transfer, 5)
    assert timed_out(transfer) == "between_tokens"
    assert sum(looked) == 51


def test_a_slow_reader_is_no_slow_upstream():
    transfer = paced(2)
    transfer.generation.readers.append(Reader())
    pass_by(transfer, 5, chunk("a"), chunk("b"))
    transfer.on_data(chunk("x" * (AHEAD_BYTES + 100)))
    assert transfer.connection.log == ["pause"]
    pass_by(transfer, 600)
    assert transfer.failure is None
    transfer.resume()
    pass_by(transfer, 9)
    assert transfer.failure is None
    pass_by(transfer, 2)
    assert timed_out(transfer) == "min_token_rate"


def test_what_an_answer_says_again_that_goes_on_with_another_is_pace():
    transfer = paced(2)
    transfer.job.splice = SimpleNamespace(received=0, mismatch=None)
    transfer.seen = transfer.now.now
    for _ in range(60):
        transfer.job.splice.received += 3
        pass_by(transfer, 1)
    assert transfer.failure is None
    pass_by(transfer, 20)
    assert timed_out(transfer) == "min_token_rate"


def test_who_reads_on_is_silent_since_it_was_asked_and_not_before():
    transfer = paced(0, between_tokens=4)
    transfer.on_data(chunk("a"))
    pass_by(transfer, 3)
    run = of_generation(b"gen_1")
    run.note([b"id: 0\n" + chunk("a")])
    transfer.now.now += 100.0
    other = transfer.successor(run)
    other.connection, other.answer = Wire(), Answer()
    pass_by(other, 4)
    assert other.failure is None
    pass_by(other, 1)
    assert timed_out(other) == "between_tokens"
