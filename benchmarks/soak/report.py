"""The result for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.soak.growth import processes


def told(result: dict[str, Any]) -> str:
    """The result for people."""
    lines = [
        f"{sum(result['wishes'].values())} wishes in {result['minutes']:g} minutes: "
        + ", ".join(f"{count} {name}" for name, count in sorted(result["wishes"].items())),
        f"{result['requests']} requests, at most "
        + ", ".join(f"{count} {name}" for name, count in result["most"].items()),
        "",
        f"{'resident memory, MiB':22}{'start':>8}{'half':>8}{'end':>8}{'after':>8}   per minute in the second half",
    ]
    for name, each in result["memory"].items():
        figures = "".join(f"{each[key]:8.2f}" for key in ("start_mib", "half_mib", "end_mib", "after_mib"))
        lines.append(f"{name:22}{figures}   {each['mib_per_minute']:+.3f} ± {each['confidence_95']:.3f}")
    account = result["books"]
    lines += [
        "",
        f"ledger {account['ledger']}, bill {account['bill']} tokens (in, out), {account['attempts']} attempts: "
        + ", ".join(f"{count} {name}" for name, count in sorted(account["outcomes"].items())),
        "output tokens of models without an estimated row: {output_tokens_of_exact_models}, "
        "of the others: {output_tokens_of_models_with_estimates}".format_map(account),
    ]
    lines += [
        f"  estimated otherwise than billed: {model}: {each}"
        for model, each in account["estimates_that_differ"].items()
    ]
    times = [each["at"] for each in result["samples"]]
    if len(times) > 1:
        for name, process in processes(result["before"])[:-1]:
            lines += [
                "",
                plot(f"{name}: resident MiB", times, [process(each)["rss"] for each in result["samples"]]),
            ]
        fds = [sum(worker["fds"] for worker in each["workers"]) for each in result["samples"]]
        lines += ["", plot("workers: open descriptors", times, fds)]
    lines += ["", *result["fault_examples"]]
    lines += [f"LEAK: {leak}" for leak in result["leaks"]] or ["nothing leaks"]
    return "\n".join(lines)


def plot(
    title: str, times: Sequence[float], values: Sequence[float], *, width: int = 72, height: int = 12
) -> str:
    """A curve in characters: each column is the mean of its samples."""
    low, high = min(values), max(values)
    step = (high - low) / (height - 1) or 1.0
    columns: list[list[float]] = [[] for _ in range(width)]
    for t, v in zip(times, values, strict=True):
        columns[min(width - 1, int(t / (times[-1] or 1) * width))].append(v)
    rows = [[" "] * width for _ in range(height)]
    for x, column in enumerate(columns):
        if column:
            rows[round((sum(column) / len(column) - low) / step)][x] = "*"
    levels = range(height - 1, -1, -1)
    lines = [title, *(f"{low + y * step:9.2f} |{''.join(rows[y]).rstrip()}" for y in levels)]
    lines.append(" " * 10 + "+" + "-" * width)
    lines.append(f"{'':10} 0 s{times[-1]:>{width - 4}.0f} s")
    return "\n".join(lines)
