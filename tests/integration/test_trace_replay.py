"""A trace of traffic through a real gateway before a real upstream: the ledger must equal the bill, to the token."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from gateway_books import billed, billed_by_model, by_model, ledger_rows, settled_bill, tokens

from penstock.lab.replay import Plan, Replay
from penstock.lab.trace import read_trace
from penstock.messages import Dialect
from penstock.testing import GatewayProcess, SimulatorProcess

DATA = Path(__file__).parents[1] / "lab" / "data"
AZURE = DATA / "azure_small.csv"
MOONCAKE = DATA / "mooncake_small.jsonl.gz"
SPEED = 20.0
PACED = "sim:tokens=max,ttft=20,tps=400"
PATIENT = {"attempts": 4, "first_delay": 0.01, "max_delay": 0.05, "budget_floor": 1_000}


@pytest.fixture(scope="module")
def running_simulator():
    with SimulatorProcess() as process:
        yield process


@pytest.fixture
def simulator(running_simulator):
    running_simulator.reset_bill()
    return running_simulator


def upstream(simulator, kind):
    """The simulator as an upstream that is asked in one of the ways; whichever that is, it bills alike."""
    base_url = simulator.url if kind == "anthropic" else simulator.base_url
    running = {"running_usage": True} if kind == "openai" else {}
    # The grace is long enough for a machine that is busy with other tests.
    return {"kind": kind, "base_url": base_url, "api_key": "any", "cancel_grace": 10, **running}


def configured(simulator, tmp_path, *, kind="sim", **sections):
    return {
        "workers": 2,
        "upstreams": {"upstream": upstream(simulator, kind)},
        "models": {"*": {"candidates": [{"upstream": "upstream"}]}},
        "ledger": {"path": str(tmp_path / "ledger.sqlite")},
        "retry": PATIENT,
        **sections,
    }


def replayed(gateway, trace=AZURE, **options):
    plan = Plan(url=gateway.url, **{"speed": SPEED, "check": True, "timeout": 30.0, **options})
    replay = Replay(plan, read_trace(trace))
    asyncio.run(replay.run())
    return replay


def audited(simulator, tmp_path, trace=AZURE, *, config=None, **options):
    """Replay, drain, and open both books: the replay, the ledger's rows and the bill."""
    with GatewayProcess(config or configured(simulator, tmp_path), tmp_path) as gateway:
        replay = replayed(gateway, trace, **options)
        bill = settled_bill(simulator)
    rows = ledger_rows(tmp_path / "ledger.sqlite")
    assert not [row for row in rows if row.outcome == "reserved"]
    return replay, rows, bill


def asked_for(trace):
    calls = read_trace(trace)
    return sum(call.input_tokens for call in calls), sum(call.output_tokens for call in calls)


# ---- nothing goes wrong ----


@pytest.mark.parametrize(
    ("dialect", "kind"),
    [
        (Dialect.OPENAI, "sim"),
        (Dialect.ANTHROPIC, "sim"),
        (Dialect.OPENAI, "anthropic"),
        (Dialect.ANTHROPIC, "openai"),
    ],
    ids=["openai-sim", "anthropic-sim", "openai-anthropic", "anthropic-openai"],
)
def test_a_whole_trace_is_answered_right_and_booked_to_the_token(simulator, tmp_path, dialect, kind):
    config = configured(simulator, tmp_path, kind=kind)
    trace = MOONCAKE if kind == "anthropic" else AZURE
    replay, rows, bill = audited(
        simulator, tmp_path, trace, config=config, dialect=dialect, speed=200.0, plain=0.25
    )
    assert dict(replay.errors) == {}
    assert (replay.completed, replay.hung_up) == (60, 0)
    assert tokens(rows) == billed(bill) == asked_for(trace)
    assert Counter((row.outcome, row.estimated) for row in rows) == {("completed", False): 60}


def test_the_command_line_tells_the_same_three_times(simulator, tmp_path):
    def command(*words):
        line = [sys.executable, "-m", "penstock", *map(str, words)]
        return subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)

    path = tmp_path / "ledger.sqlite"
    with GatewayProcess(configured(simulator, tmp_path), tmp_path) as gateway:
        ended = command(
            "replay", AZURE, "--url", gateway.url, "--speed", SPEED, "--json", tmp_path / "report.json"
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    listed = command("ledger", "--path", path, "--json")
    assert listed.returncode == 0, listed.stderr
    (line,) = map(json.loads, listed.stdout.splitlines())
    assert (report["completed"], report["errors"]) == (60, {})
    assert (line["attempts"], line["open"], line["estimated"]) == (60, 0, 0)
    booked = line["input_tokens"], line["output_tokens"]
    assert booked == (report["input_tokens"], report["output_tokens"]) == billed(simulator.bill())


# ---- clients leave ----


@pytest.mark.parametrize("dialect", list(Dialect), ids=lambda dialect: dialect.value)
def test_what_clients_who_hang_up_have_cost_is_booked_to_the_token(simulator, tmp_path, dialect):
    replay, rows, bill = audited(
        simulator, tmp_path, dialect=dialect, model=PACED, hang_up=0.3, plain=0.1, seed=3
    )
    assert dict(replay.errors) == {}
    assert replay.hung_up >= 10
    assert replay.completed == 60 - replay.hung_up
    assert bill["cancelled"] > 0
    assert bill["output_tokens"] < asked_for(AZURE)[1]
    assert tokens(rows) == billed(bill)
    left = [row for row in rows if row.outcome == "cancelled"]
    # Who leaves at the last token may find that the upstream was through.
    assert bill["cancelled"] <= len(left) <= replay.hung_up
    # A chat upstream tells as it goes what was used.  A message's prompt is told at its beginning and
    # its output only at its end: what was received is counted, and the row says so.
    counted = dialect is Dialect.ANTHROPIC
    assert any(row.estimated for row in left if row.output_tokens) is counted
    assert not any(row.estimated for row in rows if row.outcome == "completed")


def test_clients_who_hang_up_on_a_translated_answer_cost_no_more(simulator, tmp_path):
    config = configured(simulator, tmp_path, kind="anthropic")
    replay, rows, bill = audited(simulator, tmp_path, config=config, model=PACED, hang_up=0.3, seed=3)
    assert dict(replay.errors) == {}
    assert replay.hung_up >= 10
    assert tokens(rows) == billed(bill)
    assert any(row.estimated for row in rows if row.outcome == "cancelled" and row.output_tokens)


# ---- upstreams fail ----

HARMLESS = {  # a caller sees nothing of these
    "fine": "sim:tokens=max",
    "500 once": "sim:tokens=max,500-once",
    "429 once": "sim:tokens=max,429,once,retry-after=0",
    "503 twice": "sim:tokens=max,503-for=2",
    "reset once": "sim:tokens=max,reset-before-headers,once",
    "garbage once": "sim:tokens=max,garbage,once",
}
# Paced, so that the answer has begun when it breaks: nobody can take it back.
BROKEN = {  # by the upstream, which has told what it was until then
    "cut": "sim:tokens=max,tps=400,cut-after=5",
    "closed": "sim:tokens=max,tps=400,close-after=7",
    "unfinished": "sim:tokens=max,tps=400,no-terminator",
    "not done": "sim:tokens=max,tps=400,no-done",
}
LEFT = {  # by the gateway, which has had enough of it
    "stalled": "sim:tokens=max,tps=400,stall-after=3",
    "error": "sim:tokens=max,tps=400,error-event=6",
}
NONSENSE = {  # the same, while the upstream goes on and bills more than anybody takes
    "malformed": "sim:tokens=max,tps=400,malformed-event=4",
    # All of it comes in one piece: the fault is known before the caller has anything, who gets another answer.
    "malformed at once": "sim:tokens=max,malformed-event=4",
}


def mixed(simulator, tmp_path, scripts, *, kind="sim", **sections):
    """Each call draws one of the scripts; the model that the upstream is asked for tells which.

    Only the one that stalls is asked with a short clock: the others may be slow, on a busy machine.
    """
    patient = upstream(simulator, kind)
    clocks = {"first_token": 20, "between_tokens": 0.4, "total": 60}
    candidates = [
        {"upstream": "hasty" if script == LEFT["stalled"] else "patient", "model": script}
        for script in scripts
    ]
    return configured(
        simulator,
        tmp_path,
        upstreams={"patient": patient, "hasty": {**patient, "timeouts": clocks}},
        models={"mixed:tokens=max": {"candidates": candidates}},
        **sections,
    )


def test_failures_before_an_answer_begins_are_repeated_unseen_and_cost_nothing(simulator, tmp_path):
    config = mixed(simulator, tmp_path, HARMLESS.values())
    replay, rows, bill = audited(
        simulator, tmp_path, config=config, model="mixed:tokens=max", speed=60.0, plain=0.25
    )
    assert dict(replay.errors) == {}
    assert tokens(rows) == billed(bill) == asked_for(AZURE)
    assert by_model(rows) == billed_by_model(bill)
    outcomes = Counter(row.outcome for row in rows)
    assert outcomes["completed"] == 60
    assert outcomes["failed"] == len(rows) - 60 > 10
    assert {tokens([row]) for row in rows if row.outcome == "failed"} == {(0, 0)}


@pytest.mark.parametrize("dialect", list(Dialect), ids=lambda dialect: dialect.value)
def test_streams_that_break_are_reported_and_what_they_cost_is_booked(simulator, tmp_path, dialect):
    scripts = [*HARMLESS.values(), *BROKEN.values(), *LEFT.values(), *NONSENSE.values()]
    config = mixed(simulator, tmp_path, scripts, continuation={"attempts": 0})
    replay, rows, bill = audited(
        simulator, tmp_path, config=config, model="mixed:tokens=max", dialect=dialect, speed=60.0
    )
    broken = [row for row in rows if row.outcome == "partial"]
    whole = {row.generation for row in rows if row.outcome == "completed"}
    # An error for each answer that did not become whole, and none for any other call.
    assert set(replay.errors) == {"error event"}
    assert replay.errors.total() == len({row.generation for row in broken} - whole) > 10
    assert replay.completed == len(whole) == 60 - replay.errors.total()
    # What was begun is not begun anew.
    begun = {row.upstream_model for row in broken if row.generation in whole}
    assert begun <= {NONSENSE["malformed at once"]}
    # The books agree wherever the upstream told; where it could not, because it was left, the rows say so.
    assert {row.outcome for row in rows} == {"completed", "failed", "partial"}
    booked, charged = by_model(rows), billed_by_model(bill)
    for script in set(NONSENSE.values()) & set(charged):  # the draw may leave one out
        prompt, output = booked.pop(script)
        assert prompt == charged[script][0]
        assert 0 < output <= charged.pop(script)[1]
    assert booked == charged
    left = {*LEFT.values(), *NONSENSE.values()}
    if dialect is Dialect.ANTHROPIC:  # it tells its output at the end only: of what broke, all is counted
        left |= set(BROKEN.values())
    assert all(row.estimated == (row.upstream_model in left) for row in broken)
    assert not any(row.estimated for row in rows if row.outcome == "completed")


def test_plain_answers_that_break_are_repeated_and_both_are_booked(simulator, tmp_path):
    scripts = [
        "sim:tokens=max",
        "sim:tokens=max,cut-after=5,once",
        "sim:tokens=max,close-after=20,once",
        "sim:tokens=max,malformed-event,once",
    ]
    config = mixed(simulator, tmp_path, scripts)
    replay, rows, bill = audited(
        simulator, tmp_path, config=config, model="mixed:tokens=max", speed=60.0, plain=1.0
    )
    assert dict(replay.errors) == {}
    whole = [row for row in rows if row.outcome == "completed"]
    broken = [row for row in rows if row.outcome == "partial"]
    assert len(whole) == 60
    assert len(rows) == 60 + len(broken)
    assert len(broken) == bill["failed"] > 10
    # Half an answer in JSON does not tell its usage: it is estimated, which the row says, and it is not free.
    assert not any(row.estimated for row in whole)
    assert all(row.estimated and row.input_tokens and row.output_tokens for row in broken)
    charged = [one for one in bill["by_request"] if one["state"] == "completed"]
    assert tokens(whole) == (
        sum(one["input_tokens"] for one in charged),
        sum(one["output_tokens"] for one in charged),
    )


@pytest.mark.parametrize("dialect", list(Dialect), ids=lambda dialect: dialect.value)
def test_streams_that_break_are_gone_on_with_and_every_attempt_is_booked(simulator, tmp_path, dialect):
    scripts = ["sim:tokens=max", "sim:tokens=max,cut-after=5,once", "sim:tokens=max,close-after=7,once"]
    replay, rows, bill = audited(
        simulator,
        tmp_path,
        config=mixed(simulator, tmp_path, scripts),
        model="mixed:tokens=max",
        dialect=dialect,
        speed=60.0,
    )
    assert dict(replay.errors) == {}
    assert replay.completed == 60
    outcomes = Counter(row.outcome for row in rows)
    # One that broke at the very limit of its caller needs no other attempt.
    assert 10 < outcomes["continued"] <= outcomes["partial"] == 60 - outcomes["completed"]
    assert tokens(rows)[1] == billed(bill)[1] == asked_for(AZURE)[1], "no token twice, none lost"
    assert tokens(rows)[0] == billed(bill)[0] > asked_for(AZURE)[0]
