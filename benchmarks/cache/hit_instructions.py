"""Processor instructions that a hit in memory takes: where the request has come before byte for byte, and where the same
question is written differently each time, so that it has to be read, and its key to be computed.

    python -m benchmarks.cache.hit_instructions [--python PATH] [--without-row]

The gateway in one process, over transports without sockets, with a ledger on disk and a log line for each request; 200
questions of 1 KB in turn, on eight connections, 2,000 answers after 2,000 that are not counted (the difference of two
counts of ``valgrind --tool=cachegrind``, the ledger's own thread among them).  The kernel is not.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import sys
import tempfile
from ssl import SSLContext

from benchmarks import cachegrind
from benchmarks.cache.asking import differently
from benchmarks.flow.instructions import AT_ONCE, TICK, Wire
from benchmarks.gateway.load import KEY, Requests, Target
from benchmarks.gateway.upstream import _PLAIN, ANSWER, MODEL

from penstock.config.keys import hash_key
from penstock.config.load import parse
from penstock.gateway.compose import build
from penstock.ledger.sqlite import SQLiteStore
from penstock.net.clock import Clock
from penstock.net.dial import Direct
from penstock.net.listener import Listener
from penstock.net.origin import Origin

QUESTIONS, CALLS = 200, 2_000
_TEMPERATURE = b'"temperature":0,'


def configuration(ledger: str) -> str:
    upstream = {"kind": "openai", "base_url": "http://127.0.0.1:1/v1", "api_key": "sk-upstream"}
    return json.dumps(  # JSON is YAML
        {
            "upstreams": {"mock": upstream},
            "models": {
                MODEL: {
                    "candidates": [{"upstream": "mock", "model": MODEL}],
                    "cache": {"ttl": 3600, "usage": "original"},
                }
            },
            "keys": [{"name": "bench", "hash": hash_key(KEY)}],
            "ledger": {"path": ledger},
        }
    )


def questions() -> list[bytes]:
    """Whole requests whose answers are kept."""
    requests = Requests(Target(1), "plain", 1_000)
    length = 1_000 + len(_TEMPERATURE)
    made = (requests.make() for _ in range(QUESTIONS))
    return [
        raw.replace(b'"messages"', _TEMPERATURE + b'"messages"').replace(
            b"Content-Length: 1000", b"Content-Length: %d" % length
        )
        for raw in made
    ]


async def serve(calls: int, ledger: str, *, anew: bool) -> None:
    """Answer each question once by the upstream, and so many from memory."""
    config = parse(configuration(ledger))
    clock = Clock(itertools.count(1e6, TICK).__next__)
    gateway = build(config, clock=clock)
    await gateway.start()
    listener = Listener(gateway.reception, config.listener, clock, repeats=gateway.repeats)
    asked: list[asyncio.Protocol] = []
    answered = 0

    def hear(data: bytes) -> None:
        nonlocal answered
        assert data.startswith(b"HTTP/1.1 200"), data
        answered += data.endswith(ANSWER)

    async def connect(
        _: Direct, origin: Origin, connection: asyncio.Protocol, ssl: SSLContext | None
    ) -> None:
        del origin, ssl
        connection.connection_made(Wire(lambda _: asked.append(connection)))

    Direct.connect = connect  # type: ignore[method-assign]
    callers = [listener.protocol_factory() for _ in range(AT_ONCE)]
    for caller in callers:
        caller.connection_made(Wire(hear))
    kept = questions()
    for raw in kept:
        callers[0].data_received(raw)
        while not asked:  # noqa: ASYNC110 - the first one connects
            await asyncio.sleep(0)
        asked.pop().data_received(_PLAIN)
        await asyncio.sleep(0)
    for number, raw, caller in zip(
        range(calls), itertools.cycle(kept), itertools.cycle(callers), strict=False
    ):
        caller.data_received(differently(raw, 1 + number // QUESTIONS) if anew else raw)
    assert answered == QUESTIONS + calls, answered
    if isinstance(store := gateway.recorder.ledger.store, SQLiteStore):
        await asyncio.get_running_loop().run_in_executor(None, store.close)  # what is written is counted


def count(python: str, calls: int, *, row: bool, anew: bool) -> int:
    """Instructions of a process that gives so many answers from memory."""
    with tempfile.TemporaryDirectory() as folder:
        ledger = f"{folder}/ledger.db" if row else ""
        ourselves = ["-m", "benchmarks.cache.hit_instructions", "--serve", str(calls), "--ledger", ledger]
        return cachegrind.instructions(python, *ourselves, *["--anew"] * anew)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", default=sys.executable, help="the interpreter that is measured")
    parser.add_argument("--without-row", action="store_true", help="the ledger is in memory only")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--ledger", help=argparse.SUPPRESS)
    parser.add_argument("--anew", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve is not None:
        asyncio.run(serve(arguments.serve, arguments.ledger, anew=arguments.anew))
        return
    for anew, written in ((False, "in the same bytes"), (True, "written differently each time")):
        before, after = (
            count(arguments.python, calls, row=not arguments.without_row, anew=anew)
            for calls in (CALLS, 2 * CALLS)
        )
        print(f"{(after - before) / CALLS:,.0f} instructions for a hit in memory, {written}")


if __name__ == "__main__":
    main()
