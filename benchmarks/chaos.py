"""Chaos: production traffic, clients that hang up, upstreams that fail and workers that are killed.

A real gateway (supervisor and two workers, ledger and generations on disk; or several machines) stands before a real
simulated upstream.
Calls come as in a trace.  One in ten of their callers hangs up for good; one in twenty attempts meets an upstream that
breaks, refuses or fails; and every now and then a worker is killed with ``kill -9``.  The other callers come back as
``docs/topics/resumable-generations.md`` tells, and at the end

* **no generation may be lost**: every caller who did not hang up has its whole answer, letter for letter,
* **the ledger must equal the simulator's bill**, attempt by attempt (each call asks for a model of its own, so that
  the two can be laid side by side), with what a kill takes along told apart:

  ``exact``      input and output tokens equal to the token
  ``estimated``  plain answers that broke: half a body of JSON tells no tokens, which the row says of itself
  ``taken over`` calls whose attempt died with its process: whoever took them over has booked what was stored.  What
                 the upstream sent beyond that was seen by nobody who lives, and is missing: at most what was under way
  ``unknown``    calls whose attempt died with its process before its answer's head had come, or anything of it was
                 stored: each has its row, which was written down before a byte left, and says that it is an estimate
  ``unwritten``  billed attempts without a row, which must not be

Where only an estimate is known the simulator is asked afterwards (``--no-asks``: it is not), as OpenRouter can be; then
all are exact but those whose process died before the answer's head had come, for nobody knows by which id to ask.

With ``--machines 2`` whole machines are killed, and come back: each has a ledger of its own, they share a Redis server,
and the bill is laid beside all ledgers together.

    python -m benchmarks.chaos [--trace TRACE]     writes chaos.json, chaos.txt, gateway.log; 1: it is wrong
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import random
import resource
import sqlite3
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import uvloop
from benchmarks.chaos_sites import Machines, Workers

from penstock.lab import prompts
from penstock.lab.trace import TraceCall, read_trace
from penstock.testing import SimulatorProcess, expected_text

RESULTS = Path(__file__).parent / "results"
TRACE = Path(__file__).parents[1] / "tests" / "lab" / "data" / "azure_small.csv"  # one of our own making
PATH = "/v1/chat/completions"
TPS = 200  # tokens per second of an answer
PACE = f"sim:tokens=max,ttft=50,tps={TPS}"
FAULTS = (  # each hits the first attempt that meets it, of one call
    "cut-after=5",
    "close-after=7",
    "no-done",
    "error-event=6",
    "reset-before-headers",
    "500",
    "429,retry-after=0",
)
LEASE = 2.0  # seconds after which a killed worker's generations are taken over
PATIENCE = 120.0  # seconds in which a caller must have its answer
SETTLING = 60.0  # seconds that everything has to end
# What a kill takes along, in seconds of work: of an answer under way what was sent and not stored, and of which nothing
# had come by then.  Each is some tens of milliseconds on a machine that does nothing else, and this is for
# one that is busy.
TAKEN_ALONG = 0.5


def configuration(simulator: SimulatorProcess, faults: float, *, asks: bool) -> dict[str, Any]:
    sick = [
        {"upstream": "own", "model": f"{PACE},{fault},once,key=*", "weight": faults / len(FAULTS)}
        for fault in FAULTS
    ]
    return {
        "upstreams": {
            "own": {
                "kind": "sim",
                "base_url": simulator.base_url,
                "cancel_grace": 10,
                "capabilities": {"usage_lookup": "generation" if asks else "none"},
            }
        },
        "models": {
            "chaos-*": {
                "candidates": [{"upstream": "own", "model": f"{PACE},key=*", "weight": 1 - faults}, *sick]
            }
        },
        "retry": {"attempts": 3, "first_delay": 0.05, "max_delay": 0.2, "budget_floor": 100_000},
        "timeouts": {"first_token": 30, "between_tokens": 20, "total": 120},
    }


# ---- callers ------------------------------------------------------------------------------------------


@dataclass
class Caller:
    """One call, and what its caller has of the answer."""

    index: int
    call: TraceCall
    stream: bool
    leaves_after: int  # tokens; -1: never
    key: str = field(default_factory=lambda: uuid.uuid4().hex)
    generation: str = ""
    last: int = -1  # id of the last whole event
    text: str = ""
    pieces: int = 0
    connections: int = 0
    anew: int = 0  # how often it had to be asked anew, because nobody knew it any more
    whole: bool = False
    fault: str = ""

    @property
    def body(self) -> dict[str, Any]:
        text = prompts.prompt(self.call, self.index).decode()
        return {
            "model": f"chaos-{self.index}",
            "stream": self.stream,
            "max_tokens": max(1, self.call.output_tokens),
            "messages": [{"role": "user", "content": text}],
        }

    def request(self) -> bytes:
        """The next request, in HTTP/1.0: its answer ends with the connection."""
        if self.stream and self.last >= 0:
            head = f"GET /v1/generations/{self.generation}/events HTTP/1.0\r\nlast-event-id: {self.last}\r\n"
            return head.encode() + b"host: chaos\r\n\r\n"
        body = msgspec.json.encode(self.body)
        head = f"POST {PATH} HTTP/1.0\r\nhost: chaos\r\ncontent-length: {len(body)}\r\n"
        if self.leaves_after < 0:  # who means to come back says how
            head += f"idempotency-key: {self.key}\r\n"
        return head.encode() + b"\r\n" + body

    async def run(self, addresses: Sequence[tuple[str, int]]) -> None:
        """Ask, and come back, each time to the next of these addresses."""
        deadline = time.monotonic() + PATIENCE
        pause = 0.05
        while time.monotonic() < deadline:
            self.connections += 1
            had = self.last
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                if await self._ask(*addresses[(self.index + self.connections) % len(addresses)]):
                    return
            if self.leaves_after >= 0:
                return
            pause = 0.05 if self.last > had else min(1.0, pause * 2)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
        self.fault = f"no whole answer within {PATIENCE:g} s"

    async def _ask(self, host: str, port: int) -> bool:
        """One connection; whether there is no need for another."""
        reader, writer = await asyncio.open_connection(host, port)
        try:
            writer.write(self.request())
            if self.leaves_after == 0 or (self.leaves_after > 0 and not self.stream):
                await asyncio.sleep(0.1)
                return True
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            status = int(head.split(" ", 2)[1])
            if status == 204:
                self.whole = True
                return True
            if status in {404, 409} and self.last >= 0:  # not there, or not as far as it was shown
                self._begin_anew()
                return False
            if status != 200:
                body = (await reader.read()).decode()
                self.fault = f"status {status} {body[:200]}" if status in {400, 404, 410, 422} else ""
                return bool(self.fault)
            self.generation = head.partition("penstock-generation: ")[2].split("\r\n")[0]
            if not self.stream:
                length = int(head.partition("content-length: ")[2].split("\r\n")[0])
                answer = json.loads(await reader.readexactly(length))
                self.text = answer["choices"][0]["message"]["content"]
                self.pieces = answer["usage"]["completion_tokens"]
                self.whole = True
                return True
            return await self._read(reader)
        finally:
            writer.transport.abort()

    def _begin_anew(self) -> None:
        """What was read is known to nobody any more."""
        self.anew += 1
        self.key = uuid.uuid4().hex
        self.generation, self.last, self.text, self.pieces = "", -1, "", 0

    async def _read(self, reader: asyncio.StreamReader) -> bool:
        rest = b""
        while data := await reader.read(65_536):
            *frames, rest = (rest + data).split(b"\n\n")
            for frame in (one.replace(b": hb\n", b"") if one[:1] == b":" else one for one in frames):
                number, _, event = frame.partition(b"\ndata: ")
                if b'"code":"draining"' in frame:  # another process goes on with it
                    return False
                if not number.startswith(b"id: "):
                    self.fault = f"error event {frame[:200].decode()}"
                    return True
                self.last = int(number[4:])
                if event == b"[DONE]":
                    self.whole = True
                    return True
                for choice in json.loads(event)["choices"]:
                    if piece := choice["delta"].get("content"):
                        self.text += piece
                        self.pieces += 1
            if 0 <= self.leaves_after <= self.pieces:
                return True
        return False

    def judge(self) -> None:
        """Compare what came with what the simulator must have said."""
        if self.fault:
            return
        length = max(1, self.call.output_tokens)
        wanted = expected_text({**self.body, "model": "sim"}, PATH, length)
        if self.leaves_after < 0 and self.text != wanted:
            same = next(
                (at for at, pair in enumerate(zip(self.text, wanted, strict=False)) if len(set(pair)) > 1), 0
            )
            self.fault = (
                f"another text: {self.pieces} of {length} pieces, {len(self.text)} of {len(wanted)} letters, "
                f"from {same} on {self.text[same : same + 60]!r} in place of {wanted[same : same + 60]!r}"
            )
        elif not wanted.startswith(self.text):
            self.fault = "a text that is not the beginning of the right one"


def callers_of(
    trace: Path, count: int, *, hang_up: float, plain: float, chance: random.Random
) -> list[Caller]:
    """The calls of a trace, from its beginning again where it is too short."""
    once = read_trace(trace, count)
    rounds = (
        msgspec.structs.replace(call, at=call.at + round_ * (once[-1].at + 1.0))
        for round_ in itertools.count()
        for call in once
    )
    return [
        Caller(
            index,
            call,
            stream=chance.random() >= plain,
            leaves_after=chance.randrange(max(1, call.output_tokens)) if chance.random() < hang_up else -1,
        )
        for index, call in enumerate(itertools.islice(rounds, count))
    ]


# ---- the simulator's side -----------------------------------------------------------------------------


class Bill:
    """Every request that the simulator was sent: it lists some, so they are fetched as they come."""

    def __init__(self, simulator: SimulatorProcess) -> None:
        self._simulator = simulator
        self.requests: dict[int, dict[str, Any]] = {}
        self.tokens = [0, 0]

    def fetch(self) -> int:
        """:returns: how many requests are in flight"""
        report = self._simulator.reset_bill()
        for request in report["by_request"]:
            self.requests[request["number"]] = request
        self.tokens[0] += report["input_tokens"]
        self.tokens[1] += report["output_tokens"]
        return report["in_flight"]

    async def keep_fetching(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            await asyncio.to_thread(self.fetch)


# ---- the load -----------------------------------------------------------------------------------------


async def keep_killing(site: Workers | Machines, every: float, killed: list[float]) -> None:
    began = time.monotonic()
    for turn in itertools.count():
        await asyncio.sleep(every)
        killed.append(round(time.monotonic() - began, 1))
        await site.kill(turn)


async def load(
    site: Workers | Machines, callers: list[Caller], bill: Bill, *, speed: float, kill_every: float
) -> list[float]:
    addresses = site.addresses
    killed: list[float] = []
    beside = [
        asyncio.create_task(keep_killing(site, kill_every, killed)),
        asyncio.create_task(bill.keep_fetching()),
    ]
    began = time.monotonic()
    tasks = []
    for caller in callers:
        await asyncio.sleep(max(0.0, began + caller.call.at / speed - time.monotonic()))
        tasks.append(asyncio.create_task(caller.run(addresses)))
    await asyncio.gather(*tasks)
    for task in beside:
        task.cancel()
    await asyncio.gather(*beside, return_exceptions=True)
    if isinstance(site, Machines):
        await site.wait_back()
    return killed


def wait_told(ledger: Path) -> None:
    """Until no attempt is an estimate that the simulator can still be asked for."""
    deadline = time.monotonic() + SETTLING
    open_questions = 1
    while open_questions and time.monotonic() < deadline:
        time.sleep(0.5)
        with contextlib.closing(sqlite3.connect(ledger, timeout=10)) as database:
            (open_questions,) = database.execute(
                "SELECT count(*) FROM attempts WHERE answer != '' AND estimated AND told = 0"
            ).fetchone()


def settle(site: Workers | Machines, bill: Bill) -> None:
    """Until nothing is under way any more."""
    deadline = time.monotonic() + SETTLING
    quiet = 0.0
    while time.monotonic() < deadline:
        busy = bill.fetch() or site.under_way()
        quiet = 0.0 if busy else quiet or time.monotonic()
        if quiet and time.monotonic() - quiet > 2 * LEASE:  # what was killed last has been taken over
            return
        time.sleep(0.2)
    raise TimeoutError(f"calls are still under way after {SETTLING:g} s")


# ---- the books ----------------------------------------------------------------------------------------


DIED = {"process_died", "died_elsewhere"}
KINDS = ("exact", "estimated", "taken over", "unknown", "unwritten", "wrong")


def books(ledgers: Sequence[Path], bill: Bill) -> dict[str, Any]:
    """All ledgers together against the bill, call by call."""
    told = unnamed = folded = 0
    rows: list[tuple[Any, ...]] = []
    for ledger in ledgers:
        with contextlib.closing(sqlite3.connect(ledger)) as database:
            told += database.execute("SELECT count(*) FROM attempts WHERE told = 1").fetchone()[0]
            unnamed += database.execute(
                "SELECT count(*) FROM attempts WHERE estimated AND answer = ''"
            ).fetchone()[0]
            rows += database.execute(
                "SELECT upstream_model, outcome, error, input_tokens, output_tokens, estimated FROM attempts"
                " WHERE outcome NOT IN ('joined', 'attached', 'cached')"
            ).fetchall()
            folded += database.execute("SELECT count(*) FROM folded").fetchone()[0]
    booked: dict[str, list[tuple[Any, ...]]] = {}
    for model, *row in rows:
        booked.setdefault(_call_of(model), []).append(tuple(row))
    charged: dict[str, list[tuple[int, int]]] = {}
    for request in bill.requests.values():
        tokens = request["input_tokens"], request["output_tokens"]
        charged.setdefault(_call_of(request["model"]), []).append(tokens)
    kinds: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    for name in sorted({*booked, *charged}, key=int):
        own, due = booked.get(name, []), charged.get(name, [])
        dead = [row for row in own if row[1] in DIED]
        short = [sum(tokens[side] for tokens in due) - sum(row[2 + side] for row in own) for side in (0, 1)]
        if short == [0, 0]:
            kind = "exact"
        elif any(row[2] or row[3] for row in dead) and short[0] == 0 and 0 < short[1] <= TPS * TAKEN_ALONG:
            kind = "taken over"
        elif len(own) < sum(any(tokens) for tokens in due):
            kind = "unwritten"
        elif dead and min(short) >= 0:
            kind = "unknown"
        elif any(row[4] and row not in dead for row in own):
            kind = "estimated"
        else:
            kind = "wrong"
        kinds[kind].append({"call": int(name), "short": short, "rows": own, "billed": due})
    return {
        "attempts": len(rows),
        "outcomes": Counter(row[1] for row in rows),
        "folded": folded,
        "told": told,
        "unnamed": unnamed,
        "requests": len(bill.requests),
        "ledger": [sum(row[3] for row in rows), sum(row[4] for row in rows)],
        "bill": bill.tokens,
        "died": sum(row[2] in DIED for row in rows),
        **kinds,
        "exact": len(kinds["exact"]),
    }


def _call_of(model: str) -> str:
    return model.rpartition("key=")[2]


# ---- the whole ----------------------------------------------------------------------------------------


def chaos(
    trace: Path,
    *,
    calls: int,
    speed: float,
    kill_every: float,
    hang_up: float,
    faults: float,
    seed: int,
    asks: bool,
    machines: int = 1,
) -> dict[str, Any]:
    chance = random.Random(seed)
    callers = callers_of(trace, calls, hang_up=hang_up, plain=0.15, chance=chance)
    with tempfile.TemporaryDirectory() as name, SimulatorProcess() as simulator:
        folder = Path(name)
        bill = Bill(simulator)
        began = time.monotonic()
        config = configuration(simulator, faults, asks=asks)
        several = machines > 1
        with Machines(config, folder, LEASE, machines) if several else Workers(config, folder, LEASE) as site:
            killed = uvloop.run(load(site, callers, bill, speed=speed, kill_every=kill_every))
            seconds = time.monotonic() - began
            settle(site, bill)
            for ledger in site.ledgers if asks else ():
                wait_told(ledger)
            log = site.log
        account = books(site.ledgers, bill)
    for caller in callers:
        caller.judge()
    patient = [caller for caller in callers if caller.leaves_after < 0]
    faults_seen = [caller for caller in callers if caller.fault]
    return {
        "calls": len(callers),
        "machines": machines,
        "trace": trace.name,
        "seconds": round(seconds, 1),
        "killed_at": killed,
        "whole": sum(caller.whole and not caller.fault for caller in patient),
        "patient": len(patient),
        "hung_up": len(callers) - len(patient),
        "anew": sum(caller.anew for caller in callers),
        "store_was_slow": log.count("readers do not wait for it") + log.count("are not durable now"),
        "came_back": sum(caller.connections > 1 for caller in patient),
        "taken_over": log.count('"taking over gen_'),
        "log": log,
        "faults": Counter(caller.fault.partition(":")[0][:60] for caller in faults_seen),
        "fault_examples": [
            f"call {one.index}, {'stream' if one.stream else 'plain'}, {one.generation}, event {one.last}, "
            f"{one.connections} connections: {one.fault}"
            for one in faults_seen[:20]
        ],
        "books": account,
    }


def told(result: dict[str, Any]) -> str:
    account = result["books"]
    what = f"times one of {result['machines']} machines" if result["machines"] > 1 else "workers"
    lines = [
        f"{result['calls']} calls of {result['trace']} in {result['seconds']} s, {len(result['killed_at'])} {what} killed, at "
        + ", ".join(f"{at:g} s" for at in result["killed_at"]),
        (
            f"{result['whole']} of {result['patient']} callers who stayed have their whole answer, "
            f"{result['came_back']} of them over several connections; {result['hung_up']} hung up; "
            f"{result['taken_over']} answers were taken over from the dead"
        ),
        (
            f"{result['store_was_slow']} times the store was not waited for, because it was slow; "
            f"{result['anew']} answers were unknown after a kill, and asked for anew"
        ),
        *result["fault_examples"],
        "",
        f"bill   {account['requests']:7} requests  {account['bill'][0]:10} in {account['bill'][1]:10} out",
        (
            f"ledger {account['attempts']:7} rows      {account['ledger'][0]:10} in {account['ledger'][1]:10} out, "
            f"of which {account['died']} say that their process died"
        ),
        (
            f"{account['told']} rows were estimates, and have had their figures from the provider since; "
            f"of {account['unnamed']} estimates nobody knew by which id to ask"
        ),
        f"  exact       {account['exact']} calls",
    ]
    for kind in KINDS[1:]:
        ones = account[kind]
        short = [sum(one["short"][side] for one in ones) for side in (0, 1)]
        most = max((one["short"][1] for one in ones), default=0)
        lines.append(
            f"  {kind:11} {len(ones)} calls, short by {short[0]} in {short[1]} out, {most} out at most for one"
        )
    return "\n".join(lines)


def verdict(result: dict[str, Any]) -> list[str]:
    """What is wrong."""
    account = result["books"]
    wrong = [f"{count} callers: {fault}" for fault, count in result["faults"].items()]
    if result["anew"] and not result["store_was_slow"]:  # then nobody has promised that they outlive a kill
        wrong.append(f"{result['anew']} answers were unknown after a kill, although the store was well")
    if result["whole"] != result["patient"]:
        wrong.append(f"{result['patient'] - result['whole']} answers were lost")
    rate = result["calls"] / result["seconds"]
    if len(account["unknown"]) > 1 + len(result["killed_at"]) * rate * TAKEN_ALONG:
        wrong.append(f"what {len(account['unknown'])} calls had cost is unknown: {account['unknown'][:5]}")
    if account["unwritten"]:
        wrong.append(
            f"{len(account['unwritten'])} calls are missing in the ledger: {account['unwritten'][:5]}"
        )
    if account["wrong"]:
        wrong.append(f"{len(account['wrong'])} calls are booked wrong: {account['wrong'][:5]}")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__.splitlines()[0])
    parser.add_argument("--trace", type=Path, default=TRACE, help="an Azure CSV or a Mooncake JSONL trace")
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--speed", type=float, default=5.0, help="times faster than it was recorded")
    parser.add_argument("--machines", type=int, default=1, help="of several, each has a ledger of its own")
    parser.add_argument("--kill-every", type=float, default=60.0, help="seconds")
    parser.add_argument("--hang-up", type=float, default=0.1, help="share of callers")
    parser.add_argument("--faults", type=float, default=0.05, help="share of attempts")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--asks",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="ask the simulator afterwards what it has charged, where only an estimate is known",
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for what it writes")
    arguments = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    result = chaos(
        arguments.trace,
        calls=arguments.calls,
        speed=arguments.speed,
        kill_every=arguments.kill_every,
        hang_up=arguments.hang_up,
        faults=arguments.faults,
        seed=arguments.seed,
        asks=arguments.asks,
        machines=arguments.machines,
    )
    wrong = verdict(result)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "gateway.log").write_text(result.pop("log"))
    (arguments.out / "chaos.json").write_text(json.dumps({**result, "wrong": wrong}) + "\n")
    text = "\n".join([told(result), *(f"WRONG: {one}" for one in wrong)])
    (arguments.out / "chaos.txt").write_text(text + "\n")
    print(text)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
