"""Clients that read slowly, stall, vanish, come back or crowd: nothing is lost for the others, and nothing leaks."""

import asyncio
import json
import random
import socket
import struct

import pytest
from serving import (
    COMPLETION,
    DONE,
    NOTHING,
    PROMPT,
    STREAM_END,
    STREAM_HEAD,
    call,
    config,
    delta,
    held,
    on_uvloop,
    plain,
    read_answer,
    request,
    serving,
    until,
)

from penstock.config.model import CandidateConfig, ListenerConfig, ModelConfig, RetryConfig, TimeoutConfig
from penstock.generation.log import AHEAD_BYTES
from penstock.messages import SAVING, Outcome
from penstock.testing import FakeClock, ScriptedUpstream, SimulatorProcess, Step

STREAM = {**PROMPT, "stream": True}
KEY = ["idempotency-key: k1"]
WORD = delta("w" * 1_000)
MANY = 20_000


def rows(gateway):
    """Of the calls that upstreams got."""
    return [row for row in reversed(gateway.recorder.ledger.recent()) if row.outcome not in SAVING]


def paused(gateway):
    """Whether an upstream is not being read from."""
    transfers = [production._transfer for production in gateway.pipeline.productions]
    return any(transfer is not None and transfer._paused for transfer in transfers)


async def opened(port, body=STREAM, headers=()):
    """A request under way: its reader and writer; little is buffered on this side."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=4_096)
    writer.write(request(body, headers=headers))
    return reader, writer


def vanish(writer):
    """As a process that is killed: with a reset."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


# ---- slow -----------------------------------------------------------------------------------------


def test_a_stream_of_many_events_does_not_stand_still():
    async def main():
        events = [delta("w")] * 40_000
        script = [Step.REQUEST, STREAM_HEAD, *events, delta("", "stop") + DONE + STREAM_END]
        async with ScriptedUpstream([script]) as upstream:
            async with serving(config(upstream.url)) as (_, port):
                return await call(port, STREAM)

    answer = on_uvloop(main)
    assert answer.body.count(b"\n\n") == 40_002
    assert answer.body.endswith(b"id: 40001\ndata: [DONE]\n\n")


def test_a_slow_reader_pauses_the_upstream_and_gets_every_event_in_the_end():
    async def main():
        script = [Step.REQUEST, STREAM_HEAD, *[WORD] * MANY, delta("", "stop") + DONE + STREAM_END]
        async with ScriptedUpstream([script]) as upstream:
            async with serving(config(upstream.url)) as (gateway, port):
                reader, writer = await opened(port)
                await until(lambda: paused(gateway))
                generation = gateway.pipeline.in_flight()[0]
                reading = next(iter(gateway.pipeline.readings))
                ahead = generation.size - reading.read_bytes
                for _ in range(20):  # it stands still until the client reads
                    await asyncio.sleep(0)
                assert paused(gateway)
                stood = generation.size
                answer = await read_answer(reader)
                writer.close()
                return ahead, stood, answer

    ahead, stood, answer = on_uvloop(main)
    assert ahead < 2 * AHEAD_BYTES
    assert stood < 12_000_000  # of 21 MB: the kernel's buffers take some
    assert answer.body.count(b'"www') == MANY
    assert [line for line in answer.body.split(b"\n") if line.startswith(b"id: ")] == [
        b"id: %d" % number for number in range(MANY + 2)
    ]


def test_a_reader_that_stalls_is_cut_and_its_upstream_is_hung_up_on():
    async def main():
        clock = FakeClock()
        script = [Step.REQUEST, STREAM_HEAD, *[WORD] * MANY, Step.GONE]
        limits = ListenerConfig(write_timeout=5)
        clocks = TimeoutConfig(between_tokens=3, total=0)
        async with ScriptedUpstream([script]) as upstream:
            async with serving(config(upstream.url, listener=limits, timeouts=clocks), clock) as (
                gateway,
                port,
            ):
                _, writer = await opened(port)
                await until(lambda: paused(gateway))
                clock.advance(4)  # the upstream's clock stands still: it is we who do not read
                assert gateway.pipeline.readings
                clock.advance(6)
                assert not gateway.pipeline.readings
                await until(lambda: not gateway.pipeline.productions or clock.advance(0.5))
                writer.close()
                assert held(gateway) == NOTHING
                return rows(gateway)

    booked = on_uvloop(main)
    assert [row.outcome for row in booked] == [Outcome.CANCELLED]
    assert booked[0].usage.output_tokens > 0


def test_a_slow_reader_does_not_hold_up_a_fast_one_of_the_same_answer():
    async def main():
        script = [Step.REQUEST, STREAM_HEAD, *[WORD] * MANY, delta("", "stop") + DONE + STREAM_END]
        async with ScriptedUpstream([script]) as upstream:
            async with serving(config(upstream.url)) as (gateway, port):
                _, slow = await opened(port, headers=KEY)
                await until(lambda: paused(gateway))
                fast = await call(port, STREAM, headers=KEY)
                vanish(slow)
                return fast, upstream.connections

    fast, connections = on_uvloop(main)
    assert fast.headers["penstock-status"] == "attached"
    assert fast.body.count(b'"www') == MANY
    assert connections == 1


# ---- vanishing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("left_first", [0, 1])
def test_of_two_readers_of_one_answer_one_may_leave(left_first):
    async def main():
        go_on = asyncio.Event()
        rest = delta("b", "stop") + DONE + STREAM_END
        async with ScriptedUpstream([[Step.REQUEST, STREAM_HEAD + delta("a"), go_on, rest]]) as upstream:
            async with serving(config(upstream.url)) as (gateway, port):
                readers = [await opened(port, headers=KEY)]
                await readers[0][0].readuntil(b"\r\n\r\n")
                await readers[0][0].readuntil(b'"a"')
                readers.append(await opened(port, headers=KEY))
                await readers[1][0].readuntil(b'"a"')
                vanish(readers[left_first][1])
                await until(lambda: len(gateway.pipeline.readings) == 1)
                go_on.set()
                reader, writer = readers[1 - left_first]
                last = await reader.readuntil(b"0\r\n\r\n")
                writer.close()
                return last, rows(gateway)

    last, booked = on_uvloop(main)
    assert b"[DONE]" in last
    assert [row.outcome for row in booked] == [Outcome.COMPLETED]


def of_model(**more):
    """The model ``m`` with settings of its own."""
    return {"m": ModelConfig(candidates=[CandidateConfig(upstream="up0")], **more)}


@pytest.mark.parametrize("stream", [True, False])
def test_who_comes_back_with_the_same_key_reads_the_same_answer_from_its_beginning(stream):
    async def main():
        go_on = asyncio.Event()
        rest = delta("b", "stop") + DONE + STREAM_END
        script = [Step.REQUEST, STREAM_HEAD + delta("a"), go_on, rest]
        if not stream:
            script = [Step.REQUEST, go_on, plain(COMPLETION)]
        body = STREAM if stream else PROMPT
        async with ScriptedUpstream([script]) as upstream:
            async with serving(config(upstream.url)) as (gateway, port):
                reader, writer = await opened(port, body, headers=KEY)
                if stream:
                    await reader.readuntil(b'"a"')
                await until(lambda: gateway.pipeline.readings)
                vanish(writer)
                await until(lambda: not gateway.pipeline.readings)
                again = asyncio.create_task(call(port, body, headers=KEY))
                await until(lambda: gateway.pipeline.readings)
                go_on.set()
                answers = [await again, await call(port, body, headers=KEY)]
                return answers, rows(gateway)

    (attached, replayed), booked = on_uvloop(main)
    assert [one.headers["penstock-status"] for one in (attached, replayed)] == ["attached", "replayed"]
    assert attached.headers["penstock-generation"] == replayed.headers["penstock-generation"]
    assert attached.body == replayed.body
    assert (b"[DONE]" in attached.body) == stream
    assert [row.outcome for row in booked] == [Outcome.COMPLETED]


def test_a_caller_that_stays_away_is_not_waited_for_beyond_the_grace_time():
    async def main():
        script = [Step.REQUEST, STREAM_HEAD + delta("a"), Step.GONE, Step.CLOSE]
        async with ScriptedUpstream([script]) as upstream:
            clock = FakeClock()
            settings = config(upstream.url, models=of_model(grace=5.0))
            async with serving(settings, clock) as (gateway, port):
                reader, writer = await opened(port)
                await reader.readuntil(b'"a"')
                vanish(writer)
                await until(lambda: not gateway.pipeline.readings)
                clock.advance(4.9)
                still = bool(gateway.pipeline.productions)
                clock.advance(0.1)
                await until(lambda: not gateway.pipeline.productions)
                return still, rows(gateway)

    still, booked = on_uvloop(main)
    assert still
    assert [row.outcome for row in booked] == [Outcome.CANCELLED]


def test_who_comes_back_with_the_same_key_after_the_grace_time_gets_a_whole_answer():
    async def main():
        never = asyncio.Event()
        first = [Step.REQUEST, STREAM_HEAD + delta("a"), never]  # takes no notice of who hangs up
        async with ScriptedUpstream([first, [Step.REQUEST, plain(COMPLETION)]]) as upstream:
            settings = config(upstream.url, retry=RetryConfig(attempts=1), models=of_model(grace=0.0))
            async with serving(settings) as (gateway, port):
                reader, writer = await opened(port, headers=KEY)
                await reader.readuntil(b'"a"')
                vanish(writer)
                await until(lambda: not gateway.pipeline.readings)
                assert gateway.pipeline.productions, "the first call is still hanging up"
                return await call(port, PROMPT, headers=KEY)

    answer = on_uvloop(main)
    assert (answer.status, answer.headers["penstock-status"]) == (200, "created")


@pytest.mark.parametrize("sent", [b"", b"POST /v1/chat", None], ids=["nothing", "half a head", "half a body"])
def test_a_client_that_leaves_before_it_has_asked_leaves_nothing_behind(sent):
    async def main():
        async with ScriptedUpstream([[Step.REQUEST]]) as upstream:
            async with serving(config(upstream.url)) as (_, port):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(request(PROMPT)[:-5] if sent is None else sent)
                await writer.drain()
                vanish(writer)
                answer = await call(port, b"", "/v1/models", "GET")
                return answer.status, upstream.connections

    assert on_uvloop(main) == (200, 0)


def ended(gateway):
    """How many have been answered, or were to be."""
    (family,) = (one for one in gateway.metrics.collect() if one.name == "penstock_requests_total")
    return sum(sample.value for sample in family.samples)


@pytest.mark.parametrize(
    "loop", [asyncio.run, lambda main: on_uvloop(lambda: main)], ids=["asyncio", "uvloop"]
)
def test_a_client_that_asks_and_leaves_in_one_breath_leaves_nothing_behind(loop):
    async def main():
        async with ScriptedUpstream([[Step.REQUEST, Step.GONE]]) as upstream:
            async with serving(config(upstream.url)) as (gateway, port):
                for _ in range(30):
                    with socket.create_connection(("127.0.0.1", port)) as sock:
                        sock.sendall(request(STREAM))
                        sock.shutdown(socket.SHUT_WR)
                    await asyncio.sleep(0)
                await until(lambda: ended(gateway) == 30)
                await until(lambda: held(gateway) == NOTHING)
                return rows(gateway)

    assert {row.outcome for row in loop(main())} <= {Outcome.CANCELLED, Outcome.FAILED}


@pytest.mark.parametrize("seed", [1, 2])
def test_two_hundred_clients_that_vanish_at_random_points_leak_nothing(seed):
    """Some before they have asked, some in mid-answer, some after it; by a reset, or in order."""
    chance = random.Random(seed)

    async def client(port, number):
        stream = chance.random() < 0.6
        path = chance.choice(["/v1/chat/completions", "/v1/messages", "/v1/responses"])
        body = {"model": "m", "stream": stream}
        text = f"question {number}"
        if path == "/v1/responses":
            body["input"] = text
        else:
            body |= {"messages": [{"role": "user", "content": text}], "max_tokens": 40}
        headers = [
            f"x-sim-ttft-ms: {chance.choice([0, 20, 100])}",
            "x-sim-tokens-per-second: 400",
            "connection: close",
        ]
        if chance.random() < 0.3:
            headers.append(f"idempotency-key: {number % 7}-{stream}-{path}")
        data = request(body, path, headers=headers)
        point, reset = chance.random(), chance.random() < 0.5
        want = chance.choice([1, 150, 400, 1_500, 6_000])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            if point < 0.15:
                writer.write(data[: chance.randrange(len(data))])
                await writer.drain()
            else:
                writer.write(data)
                while want > 0 and point < 0.9:
                    piece = await reader.read(want)
                    if not piece:
                        break
                    want -= len(piece)
        except ConnectionError:
            pass
        vanish(writer) if reset else writer.close()

    async def main(url):
        settings = config(url, kind="sim", retry=RetryConfig(attempts=2, first_delay=0.0))
        async with serving(settings) as (gateway, port):
            await asyncio.gather(*(client(port, number) for number in range(200)))
            await until(lambda: held(gateway) == NOTHING)
            totals = gateway.recorder.ledger.totals()
            answer = await call(port, {**PROMPT, "max_tokens": 3})
            return sum(total.attempts for total in totals.values()), answer.status

    with SimulatorProcess() as simulator:
        attempts, status = on_uvloop(lambda: main(simulator.url))
    assert status == 200
    assert attempts > 50


# ---- crowding -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
def test_when_the_logs_hold_all_that_they_may_new_calls_are_told_when_to_come_back(path):
    async def main():
        go_on = asyncio.Event()
        whole = [STREAM_HEAD, *[WORD] * 20, go_on, delta("", "stop") + DONE + STREAM_END]
        script = [Step.REQUEST, *whole, Step.REQUEST, plain(COMPLETION)]
        async with ScriptedUpstream([script]) as upstream:
            async with serving(config(upstream.url, generations_bytes=20_000)) as (gateway, port):
                reader, writer = await opened(port)
                await until(lambda: gateway.pipeline.registry.account.held >= 20_000)
                refused = await call(port, {**PROMPT, "max_tokens": 3}, path)
                go_on.set()
                whole = await read_answer(reader)
                writer.close()
                again = await call(port, PROMPT)
                return refused, whole, again

    refused, whole, again = on_uvloop(main)
    assert refused.status == 503
    assert refused.headers["retry-after"] == "1"
    assert refused.json()["error"]["type"] == "overloaded_error"
    assert whole.body.endswith(b"data: [DONE]\n\n")
    assert again.status == 200


def test_a_large_request_counts_as_held_while_it_is_answered():
    async def main():
        go_on = asyncio.Event()
        async with ScriptedUpstream([[Step.REQUEST, go_on, plain(COMPLETION)]]) as upstream:
            async with serving(config(upstream.url, generations_bytes=50_000)) as (_, port):
                big = {**PROMPT, "messages": [{"role": "user", "content": "x" * 60_000}]}
                first = asyncio.ensure_future(call(port, big))
                await upstream.wait_received(b"xxx")
                second = await call(port, PROMPT)
                go_on.set()
                return (await first).status, second.status

    assert on_uvloop(main) == (200, 503)


def test_when_the_line_for_an_upstream_is_full_callers_are_told_when_to_come_back():
    from penstock.config.model import PoolConfig

    async def main():
        go_on = asyncio.Event()
        async with ScriptedUpstream([[Step.REQUEST, go_on, plain(COMPLETION)]]) as upstream:
            settings = config(upstream.url)
            up0 = settings.upstreams["up0"]
            import msgspec

            settings.upstreams["up0"] = msgspec.structs.replace(
                up0, pool=PoolConfig(max_open=1, max_waiting=0)
            )
            async with serving(settings) as (_, port):
                first = asyncio.ensure_future(call(port, PROMPT))
                await upstream.wait_received(b"hello")
                second = await call(port, PROMPT)
                go_on.set()
                return await first, second

    first, second = on_uvloop(main)
    assert first.status == 200
    assert (second.status, second.headers["retry-after"]) == (503, "1")
    assert "127.0.0.1" not in second.json()["error"]["message"]
    assert json.loads(second.body)["error"]["code"] == "overloaded"
