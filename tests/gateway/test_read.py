import asyncio
import json

import pytest
from gateway_doubles import BODY, FakeExchange, a_call, a_generation

from penstock.errors import BadRequest, RateLimited, UpstreamBroken
from penstock.gateway.stages import read
from penstock.gateway.stages.read import CLIENT_GONE, SLICE_BYTES, SLICE_EVENTS, Reading, refuse
from penstock.gateway.stages.read_adapted import open_reading
from penstock.generation.log import EVENT_OVERHEAD
from penstock.messages import Dialect, Endpoint
from penstock.wire import heartbeat
from penstock.wire.fold import STEP_EVENTS

PLAIN = (
    b'{"id":"c","choices":[{"index":0,"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}]}'
)
STREAMED = BODY.replace(b"}]", b'}],"stream":true', 1)


def make(endpoint=Endpoint.CHAT, *, stream=True, room=1_000_000, generation=None, **more):
    call = a_call(endpoint, STREAMED if stream else BODY, **more)
    generation = generation or a_generation(call)
    exchange = FakeExchange(endpoint.path, room=room)
    ended = []

    def on_done(one):
        ended.append(one)
        one.generation.leave(one)

    reader = Reading(call, generation, exchange, b"created", on_done)
    generation.join(reader)
    return reader, generation, exchange, ended


def event(number):
    return b"data: %d\n\n" % number


def frames(exchange):
    return [piece for piece in exchange.body.split(b"\n\n") if piece]


# ---- a stream -------------------------------------------------------------------------------------


def test_each_event_goes_out_at_once_with_its_number():
    _, generation, exchange, ended = make()
    generation.append([event(7)], 1.0)
    assert (exchange.status, exchange.body) == (200, b"id: 0\ndata: 7\n\n")
    generation.append([event(8)], 2.0)
    assert exchange.writes[1] == b"id: 1\ndata: 8\n\n"
    assert not exchange.ended
    generation.finish()
    assert exchange.ended
    assert len(ended) == 1


def test_nothing_is_said_before_there_is_something_to_say():
    _, generation, exchange, _ = make()
    assert not exchange.started
    generation.headers = [(b"x-request-id", b"r")]
    generation.append([event(0)], 1.0)
    assert exchange.sent[b"content-type"].startswith(b"text/event-stream")
    assert exchange.sent[b"x-accel-buffering"] == b"no"
    assert exchange.sent[b"penstock-status"] == b"created"
    assert exchange.sent[b"penstock-generation"] == generation.id.encode()
    assert exchange.sent[b"x-request-id"] == b"r"


@pytest.mark.parametrize(
    ("cost", "told"), [(123_000_000, b"0.000123"), (1, b"0.000000000001"), (2 * 10**12, b"2"), (0, None)]
)
def test_a_plain_answer_says_what_it_has_cost(cost, told):
    _, generation, exchange, _ = make(stream=False)
    generation.cost = cost
    generation.append([b"{}"], 1.0)
    generation.finish()
    assert exchange.sent.get(b"penstock-cost") == told


def test_a_stream_says_it_only_to_who_comes_when_it_is_known():
    _, generation, early, _ = make()
    generation.append([event(0)], 1.0)
    generation.cost = 10**9
    generation.finish()
    assert b"penstock-cost" not in early.sent
    _, _, late, _ = make(generation=generation)
    assert late.sent[b"penstock-cost"] == b"0.001"


@pytest.mark.parametrize("many", [1, 2, SLICE_EVENTS, SLICE_EVENTS + 1, 3 * SLICE_EVENTS + 5, 5_000])
def test_a_late_reader_gets_the_same_bytes_as_an_early_one(many):
    _, generation, early, _ = make()
    for number in range(many):
        generation.append([event(number)], 1.0)
    _, _, late, _ = make(generation=generation)
    assert late.body == early.body
    assert len(late.writes) <= many // SLICE_EVENTS + 2
    generation.finish()
    assert late.ended


def test_long_events_are_not_all_joined_into_one_write():
    _, generation, _, _ = make()
    generation.append([b"data: " + b"x" * 100_000 + b"\n\n"] * 20, 1.0)
    _, _, exchange, _ = make(generation=generation)
    assert max(map(len, exchange.writes)) < 2 * SLICE_BYTES
    assert exchange.body.count(b"id: ") == 20


def test_a_full_buffer_pauses_and_what_was_missed_follows_when_there_is_room():
    reader, generation, exchange, _ = make(room=2)
    for number in range(10):
        generation.append([event(number)], 1.0)
    assert len(exchange.writes) == 2
    exchange.room = 100
    reader.on_writable()
    assert exchange.body == b"".join(b"id: %d\ndata: %d\n\n" % (n, n) for n in range(10))


def test_the_end_waits_for_room_too():
    reader, generation, exchange, ended = make(room=1)
    generation.append([event(0)], 1.0)
    generation.append([event(1)], 1.0)
    generation.finish()
    assert not exchange.ended
    exchange.room = 100
    reader.on_writable()
    assert exchange.ended
    assert len(ended) == 1


def test_what_was_taken_is_measured_as_the_log_measures_it():
    reader, generation, _, _ = make()
    generation.append([event(0)], 1.0)
    generation.append([event(number) for number in range(600)], 1.0)
    assert reader.read_bytes == generation.size
    assert generation.size > 600 * EVENT_OVERHEAD


def test_a_failure_before_the_first_event_is_an_answer_with_its_own_status():
    reader, generation, exchange, _ = make()
    generation.fail(RateLimited("slow down", retry_after=3))
    assert (exchange.status, exchange.sent[b"retry-after"]) == (429, b"3")
    assert json.loads(exchange.body)["error"]["generation_id"] == generation.id
    assert (reader.status, reader.error) == (429, "rate_limit_exceeded")


@pytest.mark.parametrize("endpoint", [Endpoint.CHAT, Endpoint.MESSAGES, Endpoint.RESPONSES])
def test_a_failure_after_it_is_an_event_and_never_looks_like_an_end(endpoint):
    body = STREAMED.replace(b'"messages"', b'"input"') if endpoint is Endpoint.RESPONSES else STREAMED
    call = a_call(endpoint, body)
    generation = a_generation(call)
    exchange = FakeExchange()
    reader = Reading(call, generation, exchange, b"created", lambda _: None)
    generation.join(reader)
    generation.append([event(0)], 1.0)
    generation.fail(UpstreamBroken("cut"))
    last = frames(exchange)[-1]
    assert last.startswith(b"data: {" if endpoint is Endpoint.CHAT else b"event: error\ndata: {")
    assert b"upstream_broken" in last
    assert generation.id.encode() in last
    assert exchange.ended
    assert (reader.status, reader.error) == (200, "upstream_broken")


class Source:
    """A producer whose log is complete, though it has not said so."""

    complete = True

    def abandon(self):
        pass

    def drained(self):
        pass


def test_who_has_all_and_leaves_is_done_with_the_log_and_has_its_answer():
    reader, generation, exchange, ended = make()
    generation.producer = Source()
    generation.append([event(0)], 1.0)
    exchange.gone = True
    reader.on_gone()
    assert not ended
    generation.finish()
    assert (reader.status, reader.error, len(ended)) == (200, "", 1)


@pytest.mark.parametrize("missed", ["an event", "what is not sent", "the end", "room", "a stream"])
def test_who_may_have_missed_something_and_leaves_has_not(missed):
    reader, generation, exchange, _ = make(room=1 if missed == "room" else 99, stream=missed != "a stream")
    generation.producer = Source()
    generation.producer.complete = missed != "the end"
    generation.append([event(0)], 1.0)
    if missed == "an event":
        generation.events.append(event(1))  # not stored yet, where the log has a journal
    exchange.unsent = missed == "what is not sent"
    reader.on_gone()
    assert (reader.status, reader.error) == (CLIENT_GONE, "client_gone")


def test_a_client_that_leaves_is_done_at_once_and_once():
    reader, generation, exchange, ended = make()
    generation.append([event(0)], 1.0)
    reader.on_gone()
    reader.on_gone()
    generation.append([event(1)], 1.0)
    generation.finish()
    assert len(exchange.writes) == 1
    assert (reader.status, reader.error, len(ended)) == (CLIENT_GONE, "client_gone", 1)


# ---- a plain answer -------------------------------------------------------------------------------


def test_a_plain_answer_waits_for_the_end():
    reader, generation, exchange, _ = make(stream=False)
    generation.append([b'{"a":'], 1.0)
    assert not exchange.started
    generation.append([b"1}"], 1.0)
    generation.finish()
    assert (exchange.status, exchange.body, exchange.sent[b"content-type"]) == (
        200,
        b'{"a":1}',
        b"application/json",
    )
    assert reader.status == 200


def test_a_plain_answer_that_fails_midway_is_an_error_and_nothing_else():
    _, generation, exchange, _ = make(stream=False)
    generation.append([b'{"a":'], 1.0)
    generation.fail(UpstreamBroken("cut"))
    assert (exchange.status, json.loads(exchange.body)["error"]["code"]) == (502, "upstream_broken")


# ---- signs of life --------------------------------------------------------------------------------


def a_streamed_log(events):
    """Of which a plain caller wants the answer."""
    call = a_call(Endpoint.CHAT, STREAMED)
    generation = a_generation(call, max_bytes=1 << 30)
    piece = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
    stop = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    generation.append([*[piece] * events, stop, b"data: [DONE]\n\n"], 1.0)
    return generation


def test_others_have_their_turns_while_a_long_stream_is_folded_for_a_plain_caller():
    async def main():
        _, generation, exchange, ended = make(stream=False, generation=a_streamed_log(50 * STEP_EVENTS))
        generation.finish()
        turns = 0
        while not exchange.ended:
            turns += 1
            await asyncio.sleep(0)
        return turns, exchange, ended

    turns, exchange, ended = asyncio.run(main())
    assert turns >= 100
    assert exchange.status == 200
    assert json.loads(exchange.body)["choices"][0]["message"]["content"] == "a" * 50 * STEP_EVENTS
    assert len(ended) == 1


def test_a_long_stream_is_not_folded_on_for_a_caller_who_has_left():
    async def main():
        reader, generation, exchange, ended = make(stream=False, generation=a_streamed_log(50 * STEP_EVENTS))
        generation.finish()
        reader.advance()  # a second time, as a reader may be called
        await asyncio.sleep(0)
        reader.on_gone()
        for _ in range(200):
            await asyncio.sleep(0)
        return reader, exchange, ended

    reader, exchange, ended = asyncio.run(main())
    assert (reader.status, len(ended)) == (CLIENT_GONE, 1)
    assert not exchange.started


def test_a_stream_that_makes_no_sense_far_behind_its_beginning_is_an_error():
    async def main():
        generation = a_streamed_log(5 * STEP_EVENTS)
        generation.events[1_000] = b'data: {"choices":[{"index":-1}]}\n\n'
        _, generation, exchange, _ = make(stream=False, generation=generation)
        generation.finish()
        while not exchange.ended:
            await asyncio.sleep(0)
        return exchange

    exchange = asyncio.run(main())
    assert exchange.status == 502
    assert b"an index (-1)" in exchange.body


def test_a_defect_in_a_later_step_is_an_answer_too(monkeypatch):
    def breaks(*_, **__):
        yield
        raise RuntimeError("a defect")

    async def main():
        monkeypatch.setattr(read, "folding", breaks)
        _, generation, exchange, _ = make(stream=False, generation=a_streamed_log(1))
        generation.finish()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return exchange

    assert asyncio.run(main()).status == 500


@pytest.mark.parametrize(
    ("endpoint", "sign"),
    [(Endpoint.CHAT, b": hb\n"), (Endpoint.MESSAGES, b'event: ping\ndata: {"type":"ping"}\n\n')],
)
def test_a_silent_stream_is_kept_alive_every_fifteen_seconds(endpoint, sign):
    reader, generation, exchange, _ = make(endpoint, received=1_000.0)
    for now in (1_000.0, 1_014.9):
        reader.keep_alive(now)
    assert not exchange.started
    reader.keep_alive(1_015.0)
    assert exchange.body == sign
    reader.keep_alive(1_029.0)
    assert exchange.body == sign
    reader.keep_alive(1_030.0)
    assert exchange.body == 2 * sign
    generation.append([event(0)], 1_031.0)
    assert exchange.body == 2 * sign + b"id: 0\ndata: 0\n\n"
    reader.keep_alive(1_031.0)
    reader.keep_alive(1_045.9)
    assert exchange.body.count(sign) == 2
    reader.keep_alive(1_046.1)
    assert exchange.body.count(sign) == 3


def asks_for_heartbeats(reader, seconds=b"2"):
    reader.call.headers[b"penstock-heartbeat"] = seconds


def test_who_asks_for_it_gets_a_sign_of_life_sooner_from_the_first_event_on():
    reader, generation, exchange, _ = make(received=1_000.0)
    asks_for_heartbeats(reader)
    reader.keep_alive(1_014.9)
    assert not exchange.started  # until something has come the status is open
    generation.append([event(0)], 1_014.9)
    assert exchange.sent[b"penstock-heartbeat"] == b"2"
    for now in (1_014.9, 1_016.8, 1_016.9, 1_018.8, 1_018.9):
        reader.keep_alive(now)
    assert exchange.body == b"id: 0\ndata: 0\n\n: hb\n: hb\n"


def test_who_has_come_back_hears_soon_that_there_is_nothing_yet():
    reader, generation, _, _ = make(received=1_000.0)
    generation.append([event(0)], 1_000.0)
    back = FakeExchange("/v1/generations", room=1_000_000)
    again = Reading(reader.call, generation, back, b"resumed", lambda one: None, 1)
    asks_for_heartbeats(again)
    again.keep_alive(1_001.9)
    assert not back.started
    again.keep_alive(1_002.0)
    assert (back.status, back.body) == (200, b": hb\n")


def test_nothing_is_said_of_signs_of_life_to_who_does_not_ask_for_them():
    _, generation, exchange, _ = make()
    generation.append([event(0)], 1.0)
    assert b"penstock-heartbeat" not in exchange.sent


def test_an_error_after_a_sign_of_life_is_an_event():
    reader, generation, exchange, _ = make(received=1_000.0)
    reader.keep_alive(1_000.0 + heartbeat.USUAL)
    generation.fail(BadRequest("no"))
    assert exchange.status == 200
    assert json.loads(exchange.body.split(b"data: ")[1])["error"]["code"] == "invalid_request"
    assert exchange.ended


@pytest.mark.parametrize(
    ("body", "position", "code"),
    [(b"nonsense", 0, "upstream_broken"), (PLAIN, 1_000, "ahead_of_head")],
    ids=["senseless", "ahead of the head"],
)
def test_so_is_what_is_wrong_with_a_plain_answer_that_is_streamed(body, position, code):
    call = a_call(Endpoint.CHAT, STREAMED, received=1_000.0)
    generation = a_generation(a_call(Endpoint.CHAT, BODY))
    exchange = FakeExchange(Endpoint.CHAT.path, room=1_000_000)
    reader = open_reading(call, generation, exchange, b"resumed", generation.leave, position)
    generation.join(reader)
    reader.keep_alive(1_000.0 + heartbeat.USUAL)
    generation.append([body], 1_001.0)
    generation.finish()
    assert exchange.status == 200
    assert json.loads(exchange.body.split(b"data: ")[1])["error"]["code"] == code
    assert exchange.ended


@pytest.mark.parametrize("state", ["plain", "paused", "done"])
def test_nobody_else_is_kept_alive(state):
    reader, generation, exchange, _ = make(stream=state != "plain", room=1)
    if state != "plain":
        generation.append([event(0)], 1_000.0)
    if state == "done":
        reader.on_gone()
    said = exchange.body
    reader.keep_alive(9_999.0)
    assert exchange.body == said


# ---- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", Dialect)
def test_a_refusal_is_in_the_callers_dialect_and_names_the_generation(dialect):
    exchange = FakeExchange()
    assert refuse(exchange, BadRequest("no", param="stream"), dialect, "gen_1") == 400
    assert exchange.sent[b"penstock-generation"] == b"gen_1"
    assert ("type" in json.loads(exchange.body)) == (dialect is Dialect.ANTHROPIC)


def test_every_state_has_a_repr():
    reader, generation, _, _ = make(room=1)
    assert "following" in repr(reader)
    generation.append([event(0)], 1.0)
    assert "paused" in repr(reader)
    reader.on_gone()
    assert "done" in repr(reader)
