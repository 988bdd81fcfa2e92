"""Processor instructions that a call takes, with each feature that decides about calls switched on by itself.

    python -m benchmarks.flow.instructions [--python PATH] [--after CALLS] [--stream CHUNKS] [FEATURE ...]

The gateway of ``benchmarks.gateway`` in one process, over transports without sockets and with a clock that counts; a
thousand calls of 1 KB, eight at a time, after a thousand that are not counted, or ``--after`` more: with 10,000, all
are remembered that there is room for (the difference of two counts of ``valgrind --tool=cachegrind``).  With
``--stream``, each is a stream of a hundred chunks, of which so many come in one piece.  So the figures are the same
whatever else the machine does.  The kernel and the ledger's file are not among them.
The features are those of :data:`FEATURES`; none named: all.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from ssl import SSLContext
from typing import Any

from benchmarks import cachegrind
from benchmarks.gateway.load import KEY, Requests, Target
from benchmarks.gateway.systems import PenstockFlow
from benchmarks.gateway.upstream import _PLAIN, ANSWER, MODEL, Upstream

from penstock.config.keys import hash_key
from penstock.config.load import parse
from penstock.gateway.compose import build
from penstock.net.clock import Clock
from penstock.net.dial import Direct
from penstock.net.listener import Listener
from penstock.net.origin import Origin

CALLS = 1_000
AT_ONCE = 8
CHUNKS = 100  # of a stream
TICK = 1e-5  # seconds that go by from one look at the clock to the next
OURSELVES = ("-m", "benchmarks.flow.instructions", "--serve")

_everything = PenstockFlow(Path(), 0, 0)
_limits = _everything.more()["limits"]["keys"]["*"]
# Less than comes in a minute: the buckets never fill up, and are so large that this lasts for longer than we measure.
_busy = {**_limits, "requests_per_minute": 200_000, "tokens_per_minute": 60_000_000}
_tiers = _everything.more()["tiers"]
_standard = {name: value for name, value in _tiers["standard"].items() if name != "degradation"}
_upstream = dict(_everything.of_upstream())
_fixed = {**_upstream["concurrency"], "adaptive": False, "follow_headers": False}


def _key(*kinds: str) -> dict[str, Any]:
    return {"limits": {"keys": {"*": {kind: _limits[kind] for kind in kinds}}}}


def _way(**settings: object) -> dict[str, Any]:
    return {"of_upstream": settings}


FEATURES: dict[str, dict[str, Any]] = {
    "none": {},
    "requests a minute, of the key": _key("requests_per_minute"),
    "tokens a minute": _key("tokens_per_minute"),
    "calls at once": _key("concurrent"),
    "a budget": _key("usd_per_day"),
    "these four": _key(*_limits),
    "these four, of key and tenant": {"limits": _everything.more()["limits"]},
    "the same, from buckets that are not full": {"limits": {"keys": {"*": _busy}, "tenants": {"*": _busy}}},
    "breaker": _way(breaker={}),
    "concurrency, not adaptive": _way(concurrency=_fixed),
    "concurrency, adaptive, the provider's limits followed": _way(concurrency=_upstream["concurrency"]),
    "the same with breaker": _way(**_upstream),
    "tiers without a ladder, with both": {
        **_way(**_upstream),
        "tiers": {"realtime": _tiers["realtime"], "standard": _standard},
    },
    "a ladder, with both": {**_way(**_upstream), "tiers": _tiers},
    "two candidates by weight": {"candidates": 2},
    "all of `penstock-flow`": {**_everything.more(), **_way(**_upstream)},
}


def configuration(feature: str) -> dict[str, Any]:
    """The gateway's, as YAML has it."""
    more = dict(FEATURES[feature])
    way, candidates = more.pop("of_upstream", {}), more.pop("candidates", 1)
    names = [f"mock{number}" for number in range(candidates)]
    upstream = {"kind": "openai", "base_url": "http://127.0.0.1:1/v1", "api_key": "sk-upstream", **way}
    return {
        "upstreams": dict.fromkeys(names, upstream),
        "models": {MODEL: {"candidates": [{"upstream": name, "model": MODEL} for name in names]}},
        "keys": [{"name": "bench", "hash": hash_key(KEY)}],
        "log": {"requests": False},
        **more,
    }


class Wire(asyncio.Transport):
    """A connection whose other end is told what is written."""

    def __init__(self, told: Callable[[bytes], None]) -> None:
        super().__init__({"peername": ("127.0.0.1", 1)})
        self.write = told

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def abort(self) -> None: ...

    def close(self) -> None: ...


class Bench:
    """The gateway, its callers and its upstream, in turn.

    :param described: the gateway's configuration, as YAML has it
    :param together: chunks that come in one piece; 0: answers are plain
    """

    def __init__(self, described: dict[str, Any], together: int = 0) -> None:
        config = parse(json.dumps(described))  # JSON is YAML
        self.clock = Clock(itertools.count(1e6, TICK).__next__)
        self.gateway = build(config, clock=self.clock)
        listener = Listener(self.gateway.reception, config.listener, self.clock, repeats=self.gateway.repeats)
        self.callers = [listener.protocol_factory() for _ in range(AT_ONCE)]
        self.answered = 0
        self.ask = f"burst:{CHUNKS}:{together}" if together else "plain"
        self.pieces = Upstream().burst(CHUNKS, together, include_usage=True) if together else [_PLAIN]
        self.ends = b"0\r\n\r\n" if together else ANSWER
        for caller in self.callers:
            caller.connection_made(Wire(self._hear))
        self.asked: list[asyncio.Protocol] = []  # connections to the upstream that wait for an answer

    def _hear(self, data: bytes) -> None:
        assert self.ask != "plain" or data.startswith(b"HTTP/1.1 200") or data == ANSWER, data
        self.answered += data.endswith(self.ends)

    async def connect(self, origin: Origin, connection: asyncio.Protocol, ssl: SSLContext | None) -> None:
        """In the place of a pool's own way to its upstream."""
        del origin, ssl
        connection.connection_made(Wire(lambda _: self.asked.append(connection)))

    async def run(self, calls: int) -> None:
        """Make so many calls."""
        requests = Requests(Target(1), self.ask, 1_000)
        for _ in range(calls // AT_ONCE):
            for caller in self.callers:
                caller.data_received(requests.make())
            while len(self.asked) < AT_ONCE:  # noqa: ASYNC110 - the first of them connect
                await asyncio.sleep(0)
            asked, self.asked = self.asked, []
            for piece in self.pieces:
                for connection in asked:
                    connection.data_received(piece)
            await asyncio.sleep(0)
        assert self.answered == calls, (self.answered, calls)


async def serve(feature: str, calls: int, together: int) -> None:
    """Make so many calls with a feature switched on, in this process."""
    bench = Bench(configuration(feature), together)
    Direct.connect = lambda _, *what: bench.connect(*what)  # type: ignore[method-assign]
    await bench.run(calls)


def count(python: str, feature: str, calls: int, together: int) -> int:
    """Instructions of a process that makes so many calls."""
    return cachegrind.instructions(python, *OURSELVES, str(calls), "--stream", str(together), feature)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("features", nargs="*", metavar="FEATURE")
    parser.add_argument("--python", default=sys.executable, help="the interpreter that is measured")
    parser.add_argument("--after", type=int, default=CALLS, help="calls that are not counted")
    parser.add_argument("--stream", type=int, default=0, help="chunks that come in one piece")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve is not None:
        asyncio.run(serve(arguments.features[0], arguments.serve, arguments.stream))
        return
    base = 0
    print("| | instructions | more than none |")
    print("|---|--:|--:|")
    for feature in dict.fromkeys(["none", *(arguments.features or FEATURES)]):
        before, after = (
            count(arguments.python, feature, calls, arguments.stream)
            for calls in (arguments.after, arguments.after + CALLS)
        )
        each = (after - before) / CALLS
        base = base or each
        print(f"| {feature} | {each:,.0f} | {each - base:+,.0f} |", flush=True)


if __name__ == "__main__":
    main()
