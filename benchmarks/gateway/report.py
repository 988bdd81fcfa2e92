"""What a run says: one JSON object for the quick form; a file of results and the page for the full one."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.gateway.measure import Plan
from benchmarks.gateway.results import Results, versus
from benchmarks.gateway.systems import ROOT

PAGE = ROOT / "docs" / "benchmarks.md"
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- written by `make bench` -->\n", "<!-- end -->\n"

OURS, FLOOR, USUAL = "penstock", "nginx", "fastapi-httpx"
CPU = (
    "cpu_us_per_request",
    "cpu_us_per_large_request",
    "cpu_us_per_chunk",
    "cpu_us_per_paced_chunk",
    "cpu_us_per_chunk_at_once",
    "cpu_us_per_request_at_rate",
)


def machine() -> dict[str, Any]:
    """Where it was measured, and how busy that was."""
    cpu = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    memory = int(Path("/proc/meminfo").read_text().split()[1]) / 2**20
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory, 1),
        "kernel": platform.release(),
        "python": f"{platform.python_version()}, {_build()}",
        "penstock_commit": _commit(),
        "load_average": [round(value, 2) for value in os.getloadavg()],
    }


def _build() -> str:
    """How the interpreter was made: figures of different builds are not to be compared."""
    if sys.base_prefix == "/usr":
        return "the distribution's build"
    options = sysconfig.get_config_var("CONFIG_ARGS") or ""
    if "--enable-optimizations" in options:
        return "an optimised build"
    return "built without profile-guided optimisation"


def _commit() -> str:
    words = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(words, capture_output=True, text=True, check=False, timeout=10).stdout.strip()
    except OSError:
        return ""


# ---- the quick form ----------------------------------------------------------------------------------------

QUICK_MEASURES = {
    "cpu_us_per_request": "cpu_us_per_request",
    "cpu_us_per_chunk": "cpu_us_per_chunk",
    "cpu_us_per_chunk_paced": "cpu_us_per_paced_chunk",
    "rss_mib": "rss_mib",
    "rss_mib_tree": "rss_tree_mib",
}


def quick(results: Mapping[str, Results], where: Mapping[str, Any]) -> dict[str, Any]:
    """``{measure: {system: median}}``, the ratios, and what went wrong if anything did."""
    told: dict[str, Any] = {}
    for name, measure in QUICK_MEASURES.items():
        told[name] = {
            system: round(value, 2)
            for system, result in results.items()
            if (value := result.median(measure)) is not None
        }
    told["ratios"] = {
        f"{one}/{other}": {
            name: ratio[measure] for name, measure in QUICK_MEASURES.items() if measure in ratio
        }
        for one, other in ((OURS, FLOOR), (USUAL, OURS))
        if (ratio := versus(results, one, other, CPU))
    }
    told["rounds"] = _rounds(results)
    told["machine"] = where
    problems = {name: told_of for name, result in results.items() if (told_of := _problems(result))}
    if problems:
        told["problems"] = problems
    return told


def _rounds(results: Mapping[str, Results]) -> int:
    return max((len(result.rounds.get(CPU[0], ())) for result in results.values()), default=0)


def _problems(result: Results) -> list[str]:
    told = [result.failure] if result.failure else []
    told += result.notes
    told += [f"{measure}: {what}" for measure, whats in result.errors.items() for what in whats]
    return told


# ---- the full form -----------------------------------------------------------------------------------------


def write(results: Mapping[str, Results], plan: Plan, where: Mapping[str, Any], page: Path = PAGE) -> Path:
    """The file of results, every round in it, and the page's tables made from it."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    file = RESULTS / f"gateway-{time.strftime('%Y%m%d-%H%M', time.gmtime())}.json"
    everything = {
        "machine": where,
        "load": dataclasses.asdict(plan),
        "systems": {
            name: {
                **dataclasses.asdict(result),
                "medians": {measure: result.median(measure) for measure in result.rounds},
            }
            for name, result in results.items()
        },
    }
    file.write_text(json.dumps(everything, indent=1) + "\n")
    text = page.read_text(encoding="utf-8")
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{page} has lost its marks; the figures are in {file}")
    page.write_text(f"{head}{BEGIN}\n{tables(results, plan, where)}\n{END}{tail}", encoding="utf-8")
    return file


def tables(results: Mapping[str, Results], plan: Plan, where: Mapping[str, Any]) -> str:
    """The part of the page that is measured."""
    parts = [
        _when(results, where),
        "### CPU time, in µs\n",
        _table(results, _CPU_COLUMNS, plan),
        "### Latency and memory\n",
        _table(results, _OTHER_COLUMNS, plan),
        "### What Penstock set out for\n",
        _goals(results),
        "### Who was measured\n",
        "| system | version | does, besides forwarding |\n|---|---|---|\n"
        + "".join(f"| {name} | {r.version or '–'} | {r.does} |\n" for name, r in results.items()),
    ]
    problems = "".join(
        f"* **{name}**: {_cell_text(what)}\n" for name, r in results.items() for what in _problems(r)
    )
    if problems:
        parts += ["### What went wrong\n", problems]
    return "\n".join(parts)


def _when(results: Mapping[str, Results], where: Mapping[str, Any]) -> str:
    before, after = where["load_average"][0], where.get("load_average_after", where["load_average"])[0]
    return (
        f"Measured on {where['date']}: {where['cpu']}, {where['cores']} cores, {where['memory_gib']} GiB, "
        f"Linux {where['kernel']}, Python {where['python']}, Penstock at commit {where['penstock_commit']}. "
        f"Medians of {_rounds(results)} rounds. Load average before {before}, after {after} (two processes "
        "of the benchmark itself are busy at any time).\n"
    )


def _number(value: float) -> str:
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _value(measure: str) -> Callable[[Results, Mapping[str, Results]], str]:
    def cell(result: Results, results: Mapping[str, Results]) -> str:
        value = result.median(measure)
        mark = "*" if measure in result.errors else ""
        return "–" + mark if value is None else _number(value) + mark

    return cell


def _against_floor(measure: str) -> Callable[[Results, Mapping[str, Results]], str]:
    def cell(result: Results, results: Mapping[str, Results]) -> str:
        ratio = versus(results, result.name, FLOOR, [measure]).get(measure)
        shown = _value(measure)(result, results)
        return shown if ratio is None or result.name == FLOOR else f"{shown} ({_number(ratio)}×)"

    return cell


def _paced(result: Results, results: Mapping[str, Results]) -> str:
    shown = _against_floor("cpu_us_per_paced_chunk")(result, results)
    slowness = result.median("paced_slowness")
    return f"{shown}, overloaded" if slowness is not None and slowness > 1.25 else shown


def _ttft(result: Results, results: Mapping[str, Results]) -> str:
    values = [result.median(f"added_ttft_ms_{name}") for name in ("p50", "p99", "rate")]
    if values[0] is None or values[1] is None:
        return _value("added_ttft_ms")(result, results)
    rate = result.median("ttft_rate") or 0.0
    mark = "*" if "added_ttft_ms" in result.errors else ""
    return f"{values[0]:.2f} / {values[1]:.2f}{mark} at {rate:,.0f}/s"


_CPU_COLUMNS: dict[str, Callable[[Results, Mapping[str, Results]], str]] = {
    "1 KB request": _against_floor("cpu_us_per_request"),
    "the same at {rate:,.0f}/s": _against_floor("cpu_us_per_request_at_rate"),
    "{large} KB request": _against_floor("cpu_us_per_large_request"),
    "chunk, in bursts": _against_floor("cpu_us_per_chunk"),
    "chunk, all at once": _against_floor("cpu_us_per_chunk_at_once"),
    "chunk, {streams} paced streams": _paced,
}
_OTHER_COLUMNS: dict[str, Callable[[Results, Mapping[str, Results]], str]] = {
    "requests/s, one core": _value("rate_per_request"),
    "added TTFT, ms, p50 / p99": _ttft,
    "idle RSS of the worker, MiB": _value("rss_mib"),
    "of the tree": _value("rss_tree_mib"),
    "{open:,} open streams, MiB more": _value("open_streams_mib"),
}


def _table(
    results: Mapping[str, Results],
    columns: Mapping[str, Callable[[Results, Mapping[str, Results]], str]],
    plan: Plan,
) -> str:
    titles = [
        name.format(
            large=plan.large_size // 1000,
            streams=plan.paced_streams,
            open=plan.open_streams,
            rate=plan.same_rate,
        )
        for name in columns
    ]
    lines = ["| system | " + " | ".join(titles) + " |", "|---|" + "--:|" * len(titles)]
    for name, result in results.items():
        cells = ["not measured"] if result.failure else [cell(result, results) for cell in columns.values()]
        cells += [""] * (len(titles) - len(cells))
        shown = f"**{name}**" if name == OURS else name
        lines.append(f"| {shown} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _goals(results: Mapping[str, Results]) -> str:
    """Each goal with what was measured, met or not."""
    rows = []

    def row(goal: str, measured: float | None, most: float, unit: str, *, at_least: bool = False) -> None:
        if measured is None:
            rows.append(f"| {goal} | not measured | – |")
            return
        met = measured >= most if at_least else measured <= most
        rows.append(f"| {goal} | {_number(measured)}{unit} | {'yes' if met else '**no**'} |")

    floor = versus(results, OURS, FLOOR, CPU)
    row("1 KB request ≤ 3.5× nginx", floor.get(CPU[0]), 3.5, "×")
    row("the same at the same rate ≤ 3.5× nginx", floor.get(CPU[5]), 3.5, "×")
    row("100 KB request ≤ 5× nginx", floor.get(CPU[1]), 5.0, "×")
    row("chunk in bursts ≤ 2.5× nginx", floor.get(CPU[2]), 2.5, "×")
    row("chunk, all at once ≤ 2.5× nginx", floor.get(CPU[4]), 2.5, "×")
    row("paced chunk ≤ 2.5× nginx", floor.get(CPU[3]), 2.5, "×")
    usual = versus(results, USUAL, OURS, CPU)
    row("≥ 30× cheaper than FastAPI + httpx, 1 KB request", usual.get(CPU[0]), 30.0, "×", at_least=True)
    for router in ("vllm-router", "sglang-router"):
        ratio = versus(results, OURS, router, CPU)
        row(f"1 KB request cheaper than {router}", ratio.get(CPU[0]), 1.0, "× its cost")
        row(f"chunk in bursts cheaper than {router}", ratio.get(CPU[2]), 1.0, "× its cost")
    stored = versus(results, "penstock-disk", OURS, CPU)
    row("`disk`: chunk in bursts ≤ 1.5× Penstock without", stored.get(CPU[2]), 1.5, "×")
    row("`disk`: paced chunk ≤ 1.5× Penstock without", stored.get(CPU[3]), 1.5, "×")
    decided = versus(results, "penstock-flow", FLOOR, CPU)
    row("everything on that decides: 1 KB request ≤ 4× nginx", decided.get(CPU[0]), 4.0, "×")
    row("the same at the same rate ≤ 4× nginx", decided.get(CPU[5]), 4.0, "×")
    ours = results.get(OURS, Results(OURS))
    row("idle worker ≤ 60 MiB", ours.median("rss_mib"), 60.0, " MiB")
    row("1,000 open streams ≤ +20 MiB", ours.median("open_streams_mib"), 20.0, " MiB")
    return "| goal | measured | met |\n|---|--:|---|\n" + "\n".join(rows) + "\n"


def _cell_text(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")[:500]
