from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from lab_doubles import settled

from penstock.lab.replay import Plan, Replay
from penstock.lab.trace import TraceCall, read_trace
from penstock.messages import Dialect
from penstock.testing import ScriptedUpstream, SimulatorProcess, Step

DATA = Path(__file__).parent / "data"
TRACES = [DATA / "azure_small.csv", DATA / "mooncake_small.jsonl.gz"]
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def replayed(url, calls, **options):
    replay = Replay(Plan(url=url, **{"speed": 1_000.0, **options}), calls)
    asyncio.run(replay.run())
    return replay


def calls(count, tokens=10):
    return [TraceCall(i / 1_000, 5, tokens) for i in range(count)]


@pytest.mark.parametrize("dialect", list(Dialect))
@pytest.mark.parametrize("trace", TRACES, ids=["azure", "mooncake"])
def test_a_whole_trace_comes_back_complete_and_the_bill_agrees(fresh_bill, trace, dialect):
    recorded = read_trace(trace)
    replay = replayed(fresh_bill.url, recorded, dialect=dialect, check=True, plain=0.25)
    report = replay.report()
    assert report["errors"] == {}
    assert (report["completed"], report["hung_up"]) == (60, 0)
    assert report["input_tokens"] == sum(call.input_tokens for call in recorded)
    assert (
        report["output_tokens"] == report["received_tokens"] == sum(call.output_tokens for call in recorded)
    )
    bill = fresh_bill.bill()
    assert (bill["requests"], bill["input_tokens"]) == (60, report["input_tokens"])
    assert bill["output_tokens"] == report["output_tokens"]
    assert 30 <= report["ttft"]["count"] <= 55  # those that streamed
    assert report["total"]["count"] == 60


def test_mooncakes_prefixes_are_sent_again(fresh_bill):
    replayed(fresh_bill.url, read_trace(TRACES[1]))
    bodies = [
        json.loads(request["body"])["messages"][0]["content"]
        for request in fresh_bill.requests()[-30:]
        if len(request["body"]) < 65_000
    ]
    assert len({body[:2_048] for body in bodies}) == 1  # all conversations of this trace begin alike
    assert len({body[2_048:2_100] for body in bodies}) > 3


def test_clients_that_leave_are_counted_apart_and_stop_the_generation():
    with SimulatorProcess("--tokens-per-second", "200") as simulator:
        replay = replayed(simulator.url, calls(60, tokens=400), hang_up=0.5, check=True)
        assert not replay.errors
        assert 15 <= replay.hung_up <= 45
        assert replay.completed + replay.hung_up == 60
        assert replay.received_tokens < 60 * 400
        bill = settled(simulator)
    # Whoever leaves just before the end may find that the end was under way already.
    assert 0.7 * replay.hung_up <= bill["cancelled"] <= replay.hung_up
    assert replay.received_tokens <= bill["output_tokens"] <= replay.received_tokens + 60 * 80


@pytest.mark.parametrize(
    ("scenario", "error"),
    [
        ("429", "status 429 rate_limit_exceeded"),
        ("reset-before-headers", "closed before an answer"),
        ("garbage", "broken off"),
        ("cut-after=3", "broken off"),
        ("close-after=3", "broken off"),
        ("malformed-event", "malformed event"),
        ("error-event", "error event"),
        ("no-terminator", "no finish reason"),
        ("no-done", "no terminator"),
        ("html", "no finish reason"),
        ("stall-after=3", "no complete answer within the timeout"),
        ("no-answer", "no complete answer within the timeout"),
    ],
)
def test_every_failure_is_counted_by_its_kind(simulator, scenario, error):
    patience = 0.2 if scenario in {"stall-after=3", "no-answer"} else 30.0
    replay = replayed(simulator.url, calls(4), model=f"sim:tokens=max,{scenario}", timeout=patience)
    assert dict(replay.errors) == {error: 4}
    assert replay.completed == 0
    assert replay.examples[0].startswith("call ")


def test_a_server_that_is_not_there():
    with SimulatorProcess() as simulator:
        url = simulator.url
    replay = replayed(url, calls(3))
    assert dict(replay.errors) == {"no connection": 3}


def scripted(*frames):
    body = b"".join(b"data: " + frame + b"\n\n" for frame in frames)
    return HEAD + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


def test_a_wrong_word_and_a_missing_word_are_found():
    async def main():
        finish = b'{"choices":[{"delta":{},"finish_reason":"stop"}]}'
        usage = b'{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":1}}'
        wrong = scripted(b'{"choices":[{"delta":{"content":"wrong"}}]}', finish, usage, b"[DONE]")
        missing = scripted(finish, usage, b"[DONE]")
        async with ScriptedUpstream([[Step.REQUEST, wrong, Step.REQUEST, missing]]) as upstream:
            replay = Replay(Plan(url=upstream.url, check=True, concurrency=1), calls(2, tokens=1))
            await replay.run()
        assert dict(replay.errors) == {"wrong text": 1, "wrong length": 1}

    asyncio.run(main())


def test_a_connection_that_went_stale_is_no_error():
    async def main():
        good = scripted(b'{"choices":[{"delta":{"content":"a"},"finish_reason":"stop"}]}', b"[DONE]")
        first = [Step.REQUEST, good, Step.REQUEST, Step.CLOSE]
        async with ScriptedUpstream([first, [Step.REQUEST, good]]) as upstream:
            replay = Replay(Plan(url=upstream.url, concurrency=1), calls(2, tokens=1))
            await replay.run()
            assert upstream.connections == 2
        assert (replay.completed, dict(replay.errors)) == (2, {})

    asyncio.run(main())


def test_arrivals_keep_the_traces_times_and_nobody_waits_for_answers():
    async def main():
        async with ScriptedUpstream([[Step.REQUEST]]) as upstream:
            trace = [TraceCall(0.0, 1, 1), TraceCall(1.0, 1, 1), TraceCall(3.0, 1, 1)]
            replay = Replay(Plan(url=upstream.url, speed=20.0, timeout=60.0), trace)
            began = asyncio.get_running_loop().time()
            running = asyncio.ensure_future(replay.run())
            times = []
            for count in (1, 2, 3):
                await upstream.wait_received(b"POST", connection=count - 1)
                times.append(asyncio.get_running_loop().time() - began)
            replay.stop()
            await running
        assert times[1] >= 0.049
        assert times[2] >= 0.149
        assert (replay.most_in_flight, replay.hung_up) == (3, 3)

    asyncio.run(main())


def test_calls_beyond_the_cap_wait_and_are_reported_as_late():
    async def main():
        go = asyncio.Event()
        good = scripted(b'{"choices":[{"delta":{"content":"a"},"finish_reason":"stop"}]}', b"[DONE]")
        async with ScriptedUpstream([[Step.REQUEST, go, good, Step.REQUEST, good]]) as upstream:
            replay = Replay(Plan(url=upstream.url, concurrency=1), calls(2, tokens=1))
            running = asyncio.ensure_future(replay.run())
            await upstream.wait_received(b"POST")
            asyncio.get_running_loop().call_later(0.5, go.set)
            await running
            assert upstream.connections == 1
        assert replay.completed == 2
        assert replay.late.largest >= 0.49
        assert replay.ttft.quantile(0.01) < replay.late.largest  # measured from when it was sent, and said so

    asyncio.run(main())


def test_a_cost_that_is_told_is_added_up():
    async def main():
        head = HEAD.replace(b"\r\n\r\n", b"\r\npenstock-cost: 0.25\r\n\r\n")
        good = scripted(b'{"choices":[{"delta":{"content":"a"},"finish_reason":"stop"}]}', b"[DONE]")
        answer = head + good[len(HEAD) :]
        async with ScriptedUpstream([[Step.REQUEST, answer, Step.REQUEST, answer]]) as upstream:
            replay = Replay(Plan(url=upstream.url, concurrency=1), calls(2, tokens=1))
            await replay.run()
        assert (replay.report()["cost_usd"], replay.report()["cost_told"]) == (0.5, 2)

    asyncio.run(main())


def test_what_another_call_has_paid_for_is_not_added():
    async def main():
        head = HEAD.replace(b"\r\n\r\n", b"\r\npenstock-cost: 0.25\r\npenstock-status: attached\r\n\r\n")
        good = scripted(b'{"choices":[{"delta":{"content":"a"},"finish_reason":"stop"}]}', b"[DONE]")
        async with ScriptedUpstream([[Step.REQUEST, head + good[len(HEAD) :]]]) as upstream:
            replay = Replay(Plan(url=upstream.url), calls(1, tokens=1))
            await replay.run()
        assert (replay.report()["cost_usd"], replay.report()["cost_told"]) == (None, 0)

    asyncio.run(main())


def test_stopping_ends_a_replay_soon():
    async def main():
        async with ScriptedUpstream([[Step.REQUEST]]) as upstream:
            replay = Replay(Plan(url=upstream.url, speed=1.0), [*calls(1), TraceCall(3_600.0, 1, 1)])
            running = asyncio.ensure_future(replay.run())
            await upstream.wait_received(b"POST")
            replay.stop()
            await running
        assert (replay.done, replay.hung_up) == (1, 1)

    asyncio.run(main())


# ---- the command ----


def command(*arguments, timeout=60):
    line = [sys.executable, "-m", "penstock.cli.replay", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=timeout, check=False)


def test_the_command_prints_a_table_and_writes_json(fresh_bill, tmp_path):
    ended = command(
        TRACES[0], "--url", fresh_bill.url, "--speed", 500, "--check", "--json", tmp_path / "out.json"
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    assert "60 of 60 calls of azure_small.csv" in ended.stdout
    for label in ("time to first token", "between tokens", "whole answer", "lateness", "tokens out", "p99"):
        assert label in ended.stdout
    report = json.loads((tmp_path / "out.json").read_text())
    assert (report["trace"], report["completed"], report["errors"]) == ("azure_small.csv", 60, {})
    assert report["output_tokens"] == fresh_bill.bill()["output_tokens"]


def test_the_command_takes_the_base_url_of_an_sdk_too_and_limits(fresh_bill):
    ended = command(
        TRACES[0],
        "--url",
        fresh_bill.base_url,
        "--speed",
        500,
        "--limit",
        5,
        "--dialect",
        "anthropic",
        "--key",
        "k",
    )
    assert ended.returncode == 0, ended.stdout
    request = fresh_bill.requests()[-1]
    assert (request["path"], request["headers"]["x-api-key"]) == ("/v1/messages", "k")
    assert fresh_bill.bill()["requests"] == 5


def test_the_command_fails_when_a_call_did(simulator):
    ended = command(TRACES[0], "--url", simulator.url, "--speed", 500, "--limit", 5, "--model", "sim:500")
    assert ended.returncode == 1
    assert "status 500" in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["/nowhere.csv"], "/nowhere.csv: No such file"),
        ([DATA / "make_traces.py"], "line 1: neither JSON nor a header"),
        ([TRACES[0], "--url", "ftp://x"], "must begin with http"),
    ],
)
def test_the_command_says_what_is_wrong_in_a_line(arguments, said):
    ended = command(*arguments)
    assert ended.returncode == 1
    assert said in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_an_interrupted_command_shows_what_it_has(fresh_bill):
    line = [
        sys.executable,
        "-m",
        "penstock.cli.replay",
        str(TRACES[0]),
        "--url",
        fresh_bill.url,
        "--speed",
        "0.01",
    ]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while not fresh_bill.bill()["requests"]:
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "1 of 60 calls" in out
    assert err == ""
