"""Transfers over a link that is far and breaks: the SDK with our client beside the SDK alone and ``requests``.

::

    python -m benchmarks.network                      real packets, in namespaces (root, Linux)
    python -m benchmarks.network --articles           what the articles measure, in a quarter of an hour, into the docs
    python -m benchmarks.network --relay              the same over a relay in user space, by anybody
    python -m benchmarks.network --hazard 0           a link that never breaks
    python -m benchmarks.network --hazard 0.1         one on which 86 % of transfers of 20 MB break

Breaks have a constant hazard per MB, P(break) = 1 − exp(−h·MB); the usual 0.0198 breaks 18 % of transfers of 10 MB.
They are made, not found: how often a real link breaks, only that link can tell.

``--minutes 15`` makes as many rounds of everything as fit, and one at least; each has other breaks, the same for all
systems.  ``--articles`` is that, with the bare SDK beside the others, for transfers of 5 and 20 MB, 5 MB of generated
text, and 100 calls at once; it writes its figures, and what they were measured with, into ``docs/transfer-figures.md``,
unless ``--page`` names another one.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.gateway.report import machine
from benchmarks.network.caller import SYSTEMS, WORKLOADS
from benchmarks.network.tunnel import ADDRESSES, namespaces
from benchmarks.wire.coded import CODINGS

CALLER = (sys.executable, "-m", "benchmarks.network.caller")
KINDS = ("reset", "close", "black-hole")
USUAL = (
    "5 MB of text up",
    "20 MB of text up",
    "5 MB up",
    "20 MB up",
    "5 MB down",
    "100 at once",
    "100 of text at once",
)
ARTICLES = {
    "workloads": [each for each in USUAL if each != "100 of text at once"],
    "systems": ["requests", "sdk", "sdk-zstd", "penstock"],
    "minutes": 15.0,
    "page": str(Path(__file__).resolve().parents[2] / "docs" / "transfer-figures.md"),
}
BEGIN, END = "<!-- written by `python -m benchmarks.network --articles` -->\n", "<!-- end -->\n"
INPUT_PRICE, OUTPUT_PRICE = 2.5, 10.0  # dollars for a million tokens
# What we set out for: than requests, and than the fair one at most.
LESS_TIME, LESS_COST, SLOWER = (
    0.75,
    0.60,
    0.03,
)
FAIR = "sdk-zstd"


class Server:
    """The far side, as a process."""

    def __init__(self, prefix, host):
        self.host = host
        self._process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "benchmarks.network.server", host],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def tell(self, **told):
        self._process.stdin.write(json.dumps(told) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self):
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()


@contextmanager
def sides(options):
    """The server, and what to put before a caller's command."""
    with ExitStack() as stack:
        if options.relay:
            server, prefix = Server([], "127.0.0.1"), []
        else:
            name = f"penstock-{os.getpid()}"
            prefixes = stack.enter_context(
                namespaces(
                    name,
                    delay=options.rtt / 2,
                    rate=options.rate,
                    loss=options.loss,
                    congestion=options.congestion,
                )
            )
            server, prefix = Server(prefixes["server"], ADDRESSES["server"]), prefixes["client"]
        stack.callback(server.close)
        yield server, prefix


def measure(server, prefix, system, workload, options, seed):
    """One run of a system: so many calls, with the same breaks for all systems."""
    conditions = {"hazard": options.hazard, "seed": seed, "kinds": KINDS}
    if options.relay:
        conditions |= {"delay": options.rtt / 2, "rate": options.rate}
    port = server.tell(**conditions)["port"]
    calls = 1 if workload.startswith("100") else options.calls
    done = subprocess.run(
        [*prefix, *CALLER, system, workload, f"http://{server.host}:{port}", str(calls), str(seed)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return {**json.loads(done.stdout), **server.tell()}


def interval(values, seed=1):
    """The mean, and 95 % of its bootstrap."""
    rand = random.Random(seed)
    means = sorted(statistics.fmean(rand.choices(values, k=len(values))) for _ in range(2_000))
    return statistics.fmean(values), means[50], means[1_949]


def dollars(run):
    """What a provider would charge for one run, at prices of a usual model."""
    return (run["input_tokens"] * INPUT_PRICE + run["output_tokens"] * OUTPUT_PRICE) / 1e6


def row(system, runs):
    seconds = [each for run in runs for each in run["seconds"]]
    failed = sum(len(run["failures"]) for run in runs)
    calls = len(seconds)
    mean, low, high = interval(seconds)
    return {
        "system": system,
        "calls": calls,
        "failed": failed,
        "mean": mean,
        "low": low,
        "high": high,
        "p90": sorted(seconds)[math.ceil(0.9 * calls) - 1],
        "mb": sum(run["bytes"] for run in runs) / calls / 1e6,
        "upstream_calls": sum(run["upstream_calls"] for run in runs) / calls,
        "dollars": sum(map(dollars, runs)) / max(calls - failed, 1),
        "broken": sum(run["broken"] for run in runs),
    }


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--relay", action="store_true", help="no namespaces: a relay in user space")
    parser.add_argument("--rtt", type=float, default=0.08, help="seconds")
    parser.add_argument("--rate", type=float, default=6.25e6, help="bytes per second; 6.25e6 are 50 Mbit/s")
    parser.add_argument("--loss", type=float, default=0.0, help="share of the packets")
    parser.add_argument(
        "--congestion", default="", help="how TCP answers to losses, as cubic; this machine's own"
    )
    parser.add_argument("--hazard", type=float, default=0.0198, help="breaks per MB")
    parser.add_argument("--calls", type=int, default=4, help="in one run, on the same connections")
    parser.add_argument("--runs", type=int, help="each with breaks of its own, the same for all; 3")
    parser.add_argument("--minutes", type=float, help="as many runs as fit, if it is not said how many")
    parser.add_argument("--articles", action="store_true", help="what the articles measure, in 15 minutes")
    parser.add_argument("--workloads", nargs="+", default=USUAL, choices=WORKLOADS)
    parser.add_argument("--systems", nargs="+", default=SYSTEMS, choices=SYSTEMS)
    parser.add_argument("--json", help="write the figures to this file")
    parser.add_argument("--page", help="write them into this page, between its marks")
    if "--articles" in (sys.argv[1:] if arguments is None else arguments):
        parser.set_defaults(**ARTICLES)
    options = parser.parse_args(arguments)
    runs = {(workload, system): [] for workload in options.workloads for system in options.systems}
    with sides(options) as (server, prefix):
        for seed in rounds(options):
            for (workload, system), made in runs.items():  # in turn, so that the machine's moods meet all
                made.append(measure(server, prefix, system, workload, options, seed))
    tables = {
        workload: [row(system, runs[workload, system]) for system in options.systems]
        for workload in options.workloads
    }
    told = [
        *(shown(workload, rows) for workload, rows in tables.items()),
        judged(
            tables, {each: at_best(each, tables[each], options) for each in tables}, clean=options.hazard == 0
        ),
    ]
    print("\n\n".join(told), f"\n\nload average {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")
    if options.page:
        write(Path(options.page), "\n\n".join([conditions(options, tables), *told]))
    if options.json:
        told = {"options": vars(options), "load": os.getloadavg(), "cores": os.cpu_count(), "tables": tables}
        with open(options.json, "w") as file:
            json.dump(told, file, indent=1)
    return tables


def rounds(options, now=time.monotonic):
    """The seeds of the rounds: as many as were asked for, or as fit in the time."""
    if options.runs or not options.minutes:
        yield from range(1, (options.runs or 3) + 1)
        return
    began, longest, seed = now(), 0.0, 0
    while not seed or now() - began + longest <= options.minutes * 60:
        round_began, seed = now(), seed + 1
        yield seed
        longest = max(longest, now() - round_began)


def shown(workload, rows):
    """One workload's table."""
    lines = [
        f"**{workload}**\n",
        "| system | calls | failed | broken | s, mean (95 %) | s, p90 | MB each | upstream calls each | $ for each that came |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {each['system']} | {each['calls']} | {each['failed']} | {each['broken']} "
        f"| {each['mean']:.1f} ({each['low']:.1f}–{each['high']:.1f}) | {each['p90']:.1f} "
        f"| {each['mb']:.1f} | {each['upstream_calls']:.2f} | {each['dollars']:.4f} |"
        for each in rows
    ]
    return "\n".join(lines)


def conditions(options, tables):
    """Under which the figures were measured."""
    where = machine()
    rows = next(iter(tables.values()))
    link = "a relay in user space" if options.relay else "real packets between two network namespaces"
    return (
        f"{where['date']}, {where['cpu']}, {where['cores']} cores, Python {where['python']}, load average "
        f"{where['load_average'][0]}; {link}, round trip {options.rtt * 1e3:.0f} ms, {options.rate * 8e-6:.0f} Mbit/s, "
        f"{options.loss:.1%} of the packets lost; {1 - math.exp(-10 * options.hazard):.0%} of transfers of 10 MB break, by "
        f"{', '.join(KINDS)}, seeds from 1 on; {rows[0]['calls']} calls in each cell of the first table."
    )


def write(page, told):
    """Put the figures between the page's marks.

    :raises SystemExit: it has none
    """
    head, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{page} has lost its marks")
    page.write_text(f"{head}{BEGIN}\n{told}\n\n{END}{tail}", encoding="utf-8")


def at_best(workload, rows, options):
    """Seconds that a call takes where nothing breaks, and the link carries it as fast as it can.

    Each byte crosses once, in the shortest form (a body in zstd; of an answer what the system moved that moved least),
    and where many go at once, in turn: so half of them wait for half of the time.
    """
    make, at_once = WORKLOADS[workload]
    told = at_once == 1 and make(1).get("stream")
    size = (
        min(each["mb"] for each in rows) * 1e6 if told else len(CODINGS["zstd"](json.dumps(make(1)).encode()))
    )
    return options.rtt + size / options.rate * (at_once + 1) / 2


def judged(tables, best, *, clean):
    """What was set out for, and what came of it.

    :param best: seconds of a call of each workload that nobody can do without
    """
    lines = [
        f"| workload | time, than requests | at best, s | of what can be saved | cost, than requests | time, than {FAIR} |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for workload, rows in tables.items():
        found = {each["system"]: each for each in rows}
        ours, theirs = found.get("penstock"), found.get("requests")
        if ours is None:
            continue
        saved = ""
        if theirs is not None and theirs["mean"] > best[workload]:
            saved = f"{(theirs['mean'] - ours['mean']) / (theirs['mean'] - best[workload]):.0%}"
        cells = [
            compared(ours, theirs, "mean", 1 - LESS_TIME),
            f"{best[workload]:.1f}",
            saved,
            compared(ours, theirs, "dollars", 1 - LESS_COST),
            compared(ours, found.get(FAIR), "mean", 1 + SLOWER if clean else None),
        ]
        lines.append(f"| {workload} | {' | '.join(cells)} |")
    words = "at least {:.0%} less time and {:.0%} less cost than requests, {:.0%} slower than {} at most on a clean link"
    return "\n".join(lines) + "\n\nSet out for: " + words.format(LESS_TIME, LESS_COST, SLOWER, FAIR) + "."


def compared(ours, theirs, figure, most):
    """By how much a figure of ours is another, and whether that is what was set out for; empty: there is no other."""
    if theirs is None or not theirs[figure]:
        return ""
    ratio = ours[figure] / theirs[figure]
    verdict = "" if most is None else ", met" if ratio <= most else ", **not met**"
    return f"{ratio - 1:+.0%}{verdict}"


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the namespaces go
    main()
