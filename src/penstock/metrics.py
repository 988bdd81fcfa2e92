"""Counters, gauges and histograms with bounded label sets, rendered for Prometheus.

Whoever counts binds its labels once and keeps the cell::

    registry = Registry()
    attempts = registry.counter("penstock_attempts_total", "Upstream calls.", labels=("upstream",))
    cell = attempts.labels("openai")
    cell.add(1)

A cell is a plain object with a number in it: an increment costs a tenth of a microsecond and never takes
a lock.  So one registry belongs to one event loop.  Each worker process has its own; the one that
answers ``/metrics`` gathers their :meth:`Registry.collect` and adds them up with :func:`merge`.

The number of children of a metric is bounded: a label set that comes after the bound is full is counted
under ``other``, and that it was is itself counted.  No caller can make the exposition grow by inventing
model names.
"""

from __future__ import annotations

import os
import platform
import re
import sys
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from math import inf, isinf, isnan
from typing import Any, Generic, Literal, TypeAlias, TypeVar

import msgspec

Kind: TypeAlias = Literal["counter", "gauge", "histogram"]
Merge: TypeAlias = Literal["sum", "max"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OTHER = "other"
"""The value of every label of the child that takes what found no room."""

TTFT_BUCKETS: tuple[float, ...] = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0),
)
"""Seconds to the first token: a cache hit to a reasoning model on a bad day."""

INTER_TOKEN_BUCKETS: tuple[float, ...] = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1),
    *(0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 30.0, 60.0),
)
"""Seconds between two tokens: fine where people feel it (10 to 150 ms), coarse where it is a stall."""

DURATION_BUCKETS: tuple[float, ...] = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0),
)
"""Seconds of a whole request."""

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*\Z")
_LABEL = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*\Z")


# ---- what is collected ------------------------------------------------------------------------------


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """One child: the values of its labels; its number, or a histogram's sum; a histogram's counts.

    ``counts`` are per bucket, not cumulative; the last one is of what lies over every bound.
    """

    labels: tuple[str, ...]
    value: float
    counts: tuple[int, ...] = ()


class Family(msgspec.Struct, frozen=True):
    """One metric with all its children."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...]
    samples: tuple[Sample, ...]
    merge: Merge = "sum"
    buckets: tuple[float, ...] = ()


Families: TypeAlias = list[Family]
"""Everything that one process counted; ``msgspec.json`` and ``msgspec.msgpack`` carry it as it is."""


# ---- cells: what callers keep ----------------------------------------------------------------------


class Counter:
    """A number that only grows, and starts again at 0 with its process."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0

    def add(self, amount: float = 1) -> None:
        self.value += amount

    def __repr__(self) -> str:
        return f"<Counter {self.value}>"


class Gauge:
    """A number that goes up and down."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0

    def add(self, amount: float = 1) -> None:
        self.value += amount

    def set(self, value: float) -> None:
        self.value = value

    def __repr__(self) -> str:
        return f"<Gauge {self.value}>"


class Histogram:
    """How many observations fell into each bucket, and their sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum: float = 0.0

    def observe(self, value: float) -> None:
        # A bound belongs to its own bucket ("le"), hence bisect_left.
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def __repr__(self) -> str:
        return f"<Histogram of {sum(self.counts)}, sum {self.sum}>"


Cell = TypeVar("Cell", bound="Counter | Gauge | Histogram")


# ---- metrics ---------------------------------------------------------------------------------------


class Metric(Generic[Cell]):
    """A name with a bounded number of children, one for each set of label values."""

    __slots__ = (
        "_children",
        "_make",
        "_max_children",
        "_turned_away",
        "buckets",
        "help",
        "kind",
        "label_names",
        "merge",
        "name",
    )

    def __init__(
        self,
        name: str,
        kind: Kind,
        help: str,  # noqa: A002 - the exposition format's own word
        label_names: tuple[str, ...],
        make: Callable[[], Cell],
        *,
        merge: Merge,
        buckets: tuple[float, ...],
        max_children: int,
        turned_away: Callable[[str], None],
    ) -> None:
        self.name = name
        self.kind = kind
        self.help = help
        self.label_names = label_names
        self.merge = merge
        self.buckets = buckets
        self._make = make
        self._max_children = max_children
        self._turned_away = turned_away
        self._children: dict[tuple[str, ...], Cell] = {}
        if not label_names:
            self._children[()] = make()  # shown as 0 from the start, so that rates have a beginning

    def labels(self, *values: str) -> Cell:
        """The cell of these label values, in the order in which the labels were declared.

        :raises ValueError: not as many values as labels
        """
        cell = self._children.get(values)
        return self._admit(values) if cell is None else cell

    def _admit(self, values: tuple[str, ...]) -> Cell:
        if len(values) != len(self.label_names):
            msg = f"{self.name} has the labels {self.label_names}, got the values {values}"
            raise ValueError(msg)
        if len(self._children) >= self._max_children:
            self._turned_away(self.name)
            values = (OTHER,) * len(self.label_names)
            if values in self._children:
                return self._children[values]
        cell = self._children[values] = self._make()
        return cell

    def family(self) -> Family:
        samples = []
        for values, cell in self._children.items():
            if isinstance(cell, Histogram):
                samples.append(Sample(values, cell.sum, tuple(cell.counts)))
            else:
                samples.append(Sample(values, cell.value))
        return Family(
            self.name, self.kind, self.help, self.label_names, tuple(samples), self.merge, self.buckets
        )

    def __repr__(self) -> str:
        return f"<Metric {self.kind} {self.name}{list(self.label_names)}, {len(self._children)} children>"


class Registry:
    """All metrics of one process.

    :param max_children: label sets that one metric may have, unless it says otherwise
    """

    def __init__(self, max_children: int = 200) -> None:
        self._max_children = max_children
        self._metrics: dict[str, Metric[Any]] = {}
        self._collectors: list[Callable[[], None]] = []
        self._overflow = self.counter(
            "penstock_metric_overflow_total",
            "Label sets that found no room and were counted under 'other', by metric.",
            labels=("metric",),
            max_children=sys.maxsize,  # bounded by the number of metrics
        )

    def counter(
        self,
        name: str,
        help: str,  # noqa: A002
        labels: tuple[str, ...] = (),
        *,
        max_children: int | None = None,
    ) -> Metric[Counter]:
        """A metric of counters; the name ends in ``_total``."""
        if not name.endswith("_total"):
            msg = f"a counter's name ends in _total: {name}"
            raise ValueError(msg)
        return self._declare(name, "counter", help, labels, Counter, max_children=max_children)

    def gauge(
        self,
        name: str,
        help: str,  # noqa: A002
        labels: tuple[str, ...] = (),
        *,
        merge: Merge = "sum",
        max_children: int | None = None,
    ) -> Metric[Gauge]:
        """A metric of gauges.

        :param merge: what the processes' values make together: their sum (connections) or the greatest (lag)
        """
        return self._declare(name, "gauge", help, labels, Gauge, merge=merge, max_children=max_children)

    def histogram(
        self,
        name: str,
        help: str,  # noqa: A002
        labels: tuple[str, ...] = (),
        *,
        buckets: Sequence[float] = DURATION_BUCKETS,
        max_children: int | None = None,
    ) -> Metric[Histogram]:
        """A metric of histograms.

        :param buckets: upper bounds, ascending; the one of infinity is added
        """
        bounds = tuple(float(bound) for bound in buckets)
        if not bounds or list(bounds) != sorted(set(bounds)) or isinf(bounds[-1]) or "le" in labels:
            msg = f"{name}: finite ascending buckets are needed, and no label named 'le'"
            raise ValueError(msg)
        return self._declare(
            name,
            "histogram",
            help,
            labels,
            lambda: Histogram(bounds),
            buckets=bounds,
            max_children=max_children,
        )

    def before_collecting(self, collect: Callable[[], None]) -> None:
        """``collect`` sets the gauges that are cheaper to read when asked than to keep up to date."""
        self._collectors.append(collect)

    def collect(self) -> Families:
        """Everything as it stands now."""
        for collect in self._collectors:
            collect()
        return [metric.family() for metric in self._metrics.values()]

    def _declare(
        self,
        name: str,
        kind: Kind,
        help: str,  # noqa: A002
        labels: tuple[str, ...],
        make: Callable[[], Cell],
        *,
        merge: Merge = "sum",
        buckets: tuple[float, ...] = (),
        max_children: int | None,
    ) -> Metric[Cell]:
        if not _NAME.match(name) or not all(_LABEL.match(label) for label in labels):
            msg = f"not a name for a metric or its labels: {name} {labels}"
            raise ValueError(msg)
        metric = Metric(
            name,
            kind,
            help,
            tuple(labels),
            make,
            merge=merge,
            buckets=buckets,
            max_children=self._max_children if max_children is None else max_children,
            turned_away=self._turned_away,
        )
        if name in self._metrics:
            msg = f"declared already: {self._metrics[name]}"
            raise ValueError(msg)
        self._metrics[name] = metric
        return metric

    def _turned_away(self, name: str) -> None:
        self._overflow.labels(name).add(1)

    def __repr__(self) -> str:
        return f"<Registry of {len(self._metrics)} metrics>"


# ---- several processes -----------------------------------------------------------------------------


def merge(counted: Iterable[Families]) -> Families:
    """What several processes counted, as if it were one.

    Counters and histograms are added; gauges are added or the greatest is taken, as each was declared.

    :raises ValueError: two processes declare a metric differently, so they do not run the same version
    """
    families: dict[str, Family] = {}
    children: dict[str, dict[tuple[str, ...], Sample]] = {}
    for each in counted:
        for family in each:
            first = families.setdefault(family.name, family)
            if (family.kind, family.labels, family.buckets) != (first.kind, first.labels, first.buckets):
                msg = f"{family.name} is declared in two ways"
                raise ValueError(msg)
            merged = children.setdefault(family.name, {})
            for sample in family.samples:
                seen = merged.get(sample.labels)
                merged[sample.labels] = sample if seen is None else _join(family, seen, sample)
    return [
        msgspec.structs.replace(family, samples=tuple(children[name].values()))
        for name, family in families.items()
    ]


def _join(family: Family, one: Sample, other: Sample) -> Sample:
    if family.kind == "gauge" and family.merge == "max":
        return one if one.value >= other.value else other
    counts = tuple(a + b for a, b in zip(one.counts, other.counts, strict=True))
    return Sample(one.labels, one.value + other.value, counts)


# ---- exposition ------------------------------------------------------------------------------------


def render(families: Families) -> bytes:
    """The families in Prometheus' text format 0.0.4 (:data:`CONTENT_TYPE`)."""
    lines: list[str] = []
    for family in families:
        name = family.name
        lines.append(f"# HELP {name} {_escape_help(family.help)}")
        lines.append(f"# TYPE {name} {family.kind}")
        for sample in family.samples:
            pairs = [
                f'{label}="{_escape_value(value)}"'
                for label, value in zip(family.labels, sample.labels, strict=True)
            ]
            if family.kind != "histogram":
                lines.append(f"{name}{_braces(pairs)} {_number(sample.value)}")
                continue
            total = 0
            for bound, count in zip((*family.buckets, inf), sample.counts, strict=True):
                total += count
                limit = f'le="{_number(bound)}"'
                lines.append(f"{name}_bucket{_braces([*pairs, limit])} {total}")
            lines.append(f"{name}_sum{_braces(pairs)} {_number(sample.value)}")
            lines.append(f"{name}_count{_braces(pairs)} {total}")
    lines.append("")
    return "\n".join(lines).encode()


def _braces(pairs: list[str]) -> str:
    return "{" + ",".join(pairs) + "}" if pairs else ""


def _escape_help(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")


def _escape_value(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _number(value: float) -> str:
    if isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    if isnan(value):
        return "NaN"
    if isinstance(value, int) or (value.is_integer() and abs(value) < 1e15):
        return str(int(value))
    return repr(value)


# ---- this process ----------------------------------------------------------------------------------


class ProcessFigures(msgspec.Struct, frozen=True):
    resident_bytes: int
    cpu_seconds: float
    open_fds: int


def process_figures() -> ProcessFigures:
    """What this process uses now.  Where the system has no ``/proc``, memory and descriptors are 0."""
    try:
        with open("/proc/self/statm", "rb") as statm:  # noqa: PTH123
            resident = int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        descriptors = len(os.listdir("/proc/self/fd")) - 1  # without the one that lists # noqa: PTH208
    except OSError:
        resident = descriptors = 0
    return ProcessFigures(resident, time.process_time(), descriptors)


def process_metrics(registry: Registry) -> None:
    """Declare the customary ``process_*`` metrics; of several workers they are the sum."""
    memory = registry.gauge("process_resident_memory_bytes", "Resident memory, bytes.").labels()
    cpu = registry.counter("process_cpu_seconds_total", "User and system CPU time, seconds.").labels()
    descriptors = registry.gauge("process_open_fds", "Open file descriptors.").labels()
    processes = registry.gauge("penstock_processes", "Processes that these figures are the sum of.").labels()

    def collect() -> None:
        figures = process_figures()
        memory.set(figures.resident_bytes)
        cpu.value = figures.cpu_seconds
        descriptors.set(figures.open_fds)
        processes.set(1)

    registry.before_collecting(collect)


def identity_metrics(registry: Registry, version: str) -> None:
    """Declare what one process says for all: the version, and since when it has been running."""
    build = registry.gauge(
        "penstock_build_info", "1: this version is running, on this Python.", ("version", "python")
    )
    build.labels(version, platform.python_version()).set(1)
    start = registry.gauge(
        "process_start_time_seconds", "When the supervisor was started, seconds since 1970."
    )
    start.labels().set(time.time())
