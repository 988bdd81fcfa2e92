"""Processor instructions of a call, by how much of it is traced.

    python -m benchmarks.traces [--python PATH] [--calls 520] [HOW ...]

The gateway of ``benchmarks.ledger_rows``, without a ledger's file: plain calls of 1 KB.  ``off``: no collector, and
callers without a trace; ``passed-on``: the same with a ``traceparent`` each; ``tenth`` and ``all`` of the calls are
recorded.  Every hundred calls what has ended is made spans and encoded, which the sender's thread does otherwise, and
is counted, too; it is not sent.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import threading
from typing import Any

from benchmarks import cachegrind
from benchmarks.flow.instructions import AT_ONCE
from benchmarks.gateway.load import Requests, Target
from benchmarks.gateway.upstream import _PLAIN
from benchmarks.ledger_rows import BATCH, Rows, configuration

from penstock.net.dial import Direct

SAMPLES = {"tenth": 0.1, "all": 1.0}
HOWS = ("off", "passed-on", "tenth", "all")
PARENT = b"\r\ntraceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-%016x-01\r\n"


class Traced(Rows):
    """The gateway, whose callers may tell of a trace."""

    tells = False
    sender: Any = None

    async def run(self, calls: int) -> None:
        requests = Requests(Target(1), "plain", 1_000)
        for number in range(calls // AT_ONCE):
            before = self.answered
            for at, caller in enumerate(self.callers):
                asked = requests.make()
                if self.tells:
                    asked = asked.replace(b"\r\n", PARENT % (number * AT_ONCE + at + 1), 1)
                caller.data_received(asked)
            while self.answered < before + AT_ONCE:
                waiting, self.asked = self.asked, []
                for connection in waiting:
                    connection.data_received(_PLAIN)
                await asyncio.sleep(0)
            if self.sender is not None and number % (BATCH // AT_ONCE) == 0:
                self.sender._send(self.sender._take())  # noqa: SLF001


def without_a_thread(sender: Any) -> Any:
    """The sender, whose spans are encoded when they are taken."""
    from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

    from penstock.traces.otlp import OTLP

    class Encoded(OTLP):
        def export(self, spans: Any) -> bool:
            return bool(encode_spans([self._said(span) for span in spans]).SerializePartialToString())

    sender._thread = threading.current_thread()  # noqa: SLF001
    sender._exporter = Encoded(sender._config, 1.0)  # noqa: SLF001
    return sender


async def serve(how: str, calls: int) -> None:
    config = configuration("plain", "")
    if how in SAMPLES:
        config["traces"] = {"endpoint": "http://127.0.0.1:9", "sample": SAMPLES[how]}
    bench = Traced(config)
    bench.tells = how == "passed-on"
    if how in SAMPLES:
        bench.gateway.recorder.tracer._random.seed(1)  # noqa: SLF001
        bench.sender = without_a_thread(bench.gateway._tracing._sender)  # noqa: SLF001
    Direct.connect = lambda _, *what: bench.connect(*what)  # type: ignore[method-assign]
    await bench.run(calls)
    sys.stdout.flush()
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("hows", nargs="*", metavar="HOW", default=HOWS)
    parser.add_argument("--python", default=sys.executable, help="the interpreter that is measured")
    parser.add_argument("--calls", type=int, default=520)
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.serve is not None:
        asyncio.run(serve(told.hows[0], told.serve))
        return
    print("| traced | instructions per call |")
    print("|---|--:|")
    for how in told.hows:
        command = (told.python, "-m", "benchmarks.traces", how, "--serve")
        more = cachegrind.instructions(*command, str(2 * told.calls))
        print(
            f"| {how} | {(more - cachegrind.instructions(*command, str(told.calls))) / told.calls:,.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
