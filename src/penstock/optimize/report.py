"""What has become of a model: for people (Markdown, a plot), and for programs (JSON)."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import msgspec

from penstock import __version__
from penstock.optimize import plot
from penstock.optimize.accuracy import Accuracy, drop
from penstock.optimize.figures import Figures, loss
from penstock.optimize.resources import shown_bytes


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


class Stage(msgspec.Struct, frozen=True):
    """One model directory on the way, with what made it."""

    name: str
    options: dict[str, Any]
    notes: dict[str, Any]
    figures: Figures


class Report(msgspec.Struct, frozen=True):
    """All of them; the first is what it began with."""

    stages: tuple[Stage, ...]
    machine: str = msgspec.field(default_factory=_processor)
    made_by: str = f"penstock {__version__}"


def write_report(report: Report, folder: Path) -> None:
    """``report.md``, ``report.json`` and ``report.svg``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    (folder / "report.svg").write_text(plot.bars(_panels(report)), encoding="utf-8")
    (folder / "report.md").write_text(markdown(report), encoding="utf-8")


def markdown(report: Report) -> str:
    """The table, and beneath it what each step did."""
    first = report.stages[0].figures
    batches = [speed.batch for speed in first.speeds]
    heads = ["", "runtime", "size", "÷", "perplexity", "loss"]
    if first.accuracy is not None:
        heads += ["right answers", "drop"]
    heads += [f"{kind}, batch {batch}" for batch in batches for kind in ("prefill", "decode", "×")]
    heads += ["memory"]
    lines = [
        f"# {first.name}: before and after",
        "",
        _row(heads),
        "|---|---|" + "--:|" * (len(heads) - 2),
    ]
    for stage in report.stages:
        figures = stage.figures
        cells = [
            stage.name,
            figures.runtime,
            shown_bytes(figures.weight_bytes),
            f"{first.weight_bytes / figures.weight_bytes:.1f}",
            f"{figures.perplexity:.2f}",
            f"{100 * loss(figures, first):+.2f} %",
        ]
        if first.accuracy is not None:
            cells += _answers(figures.accuracy, first.accuracy)
        for batch in batches:
            speed = figures.speed(batch)
            cells += [
                f"{speed.prefill:.0f}",
                f"{speed.decode:.0f}",
                _times(speed.decode, first.speed(batch).decode),
            ]
        lines.append(_row([*cells, shown_bytes(figures.model_bytes)]))
    lines += [
        "",
        "![sizes, perplexities and speeds](report.svg)",
        "",
        (
            "Speeds are tokens per CPU-second on one thread. The perplexity is of "
            f"{first.tokens} tokens that no step has seen. Memory is what loading and running the model took. "
            f"{_asked(first)}{_spread(report)}{report.machine}, {report.made_by}."
        ),
        "",
    ]
    for stage in report.stages[1:]:
        told = {**stage.options, **stage.notes}
        lines += [f"## {stage.name}", ""]
        lines += [f"- {key}: {_shown(value)}" for key, value in told.items() if value not in (None, "")]
        lines += [""]
    return "\n".join(lines).rstrip("\n") + "\n"


def _spread(report: Report) -> str:
    widest = max(speed.spread for stage in report.stages for speed in stage.figures.speeds)
    return f"Repetitions of a decode lay within {100 * widest:.0f} % of each other. "


def _answers(accuracy: Accuracy | None, before: Accuracy) -> list[str]:
    if accuracy is None:
        return ["–", "–"]
    least, most = accuracy.interval
    fewer = drop(accuracy, before)
    return [
        f"{100 * accuracy.share:.1f} % ({100 * least:.1f} to {100 * most:.1f})",
        f"{100 * fewer.share:+.1f} % ({100 * fewer.interval[0]:+.1f} to {100 * fewer.interval[1]:+.1f})",
    ]


def _asked(first: Figures) -> str:
    if first.accuracy is None:
        return ""
    return (
        f"Answers are to {len(first.accuracy.marks)} questions; in brackets is where the share lies for all questions "
        "of their kind, with a confidence of 95 %, and a drop is of the same questions, one by one. "
    )


def _times(after: float, before: float) -> str:
    return f"{after / before:.1f}" if before else "–"


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(_shown(each) for each in value)
    if isinstance(value, dict):
        return "; ".join(f"{key} {_shown(each)}" for key, each in value.items())
    return str(value)


def _panels(report: Report) -> list[plot.Panel]:
    names = [stage.name for stage in report.stages]
    figures = [stage.figures for stage in report.stages]
    panels = [
        plot.Panel("weights, MB", names, [each.weight_bytes / 1e6 for each in figures]),
        plot.Panel("perplexity", names, [each.perplexity for each in figures]),
    ]
    counted = [each.accuracy for each in figures if each.accuracy is not None]
    if len(counted) == len(figures):
        panels.append(plot.Panel("right answers, %", names, [100 * each.share for each in counted]))
    panels += [
        plot.Panel(
            f"decode, tokens/CPU-s, batch {speed.batch}",
            names,
            [each.speed(speed.batch).decode for each in figures],
        )
        for speed in figures[0].speeds
    ]
    return panels
