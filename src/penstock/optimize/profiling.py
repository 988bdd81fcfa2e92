"""What a profile says, and what to change first."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec


class Row(msgspec.Struct, frozen=True):
    """One operation, added up."""

    name: str
    calls: int
    ms: float  # of its own, without what it calls


class Share(msgspec.Struct, frozen=True):
    """What a kind of work takes of the whole."""

    name: str
    share: float


class Advice(msgspec.Struct, frozen=True):
    """Something to change, and how much quicker the whole would be."""

    what: str
    why: str
    gain: float  # 2.0: twice as quick


PROMPT = 128  # tokens


class Profile(msgspec.Struct, frozen=True):
    """Of a prefill and some steps of decode, on one thread.

    ``layers``: the same time as that of ``rows``, by the layers of the model that operations belong to.
    """

    model: str
    batch: int
    prompt: int
    tokens: int
    ms: float
    rows: tuple[Row, ...]
    shares: tuple[Share, ...]
    advice: tuple[Advice, ...]
    runtime: str = "transformers"
    layers: tuple[Row, ...] = ()

    def markdown(self) -> str:
        lines = [
            f"# {self.model} ({self.runtime}): where the time goes",
            "",
            (
                f"{self.prompt} tokens read and {self.tokens} written, batch {self.batch}, one thread: "
                f"{self.ms:.1f} milliseconds, by the clock: what else runs on the machine counts with it. The whole of it, moment by moment: `trace.json`, for "
                "`chrome://tracing` or Perfetto."
            ),
            "",
            "## Change first",
            "",
        ]
        lines += [
            f"{number}. {each.what} (about {each.gain:.1f} × as quick): {each.why}"
            for number, each in enumerate(self.advice, 1)
        ]
        lines += ["", "## By kind of work", "", "| | share |", "|---|--:|"]
        lines += [f"| {each.name} | {100 * each.share:.1f} % |" for each in self.shares]
        for title, rows in (("operation", self.rows), ("layer", self.layers)):
            if rows:
                lines += ["", f"## By {title}", "", "| | calls | ms | share |", "|---|--:|--:|--:|"]
            lines += [
                f"| `{row.name}` | {row.calls} | {row.ms:.1f} | {100 * row.ms / (self.ms or 1):.1f} % |"
                for row in rows
            ]
        return "\n".join(lines) + "\n"


# What a remedy leaves of the time that its kind of work takes.
_LEFT_BY_INT8 = 0.45  # measured: int8 decodes 2.2 times as fast where memory is the limit
_LEFT_BY_RUNTIME = 0.15  # of the interpreter's time: a graph that is run as one
_LEFT_BY_FUSION = 0.4  # of small operations, in the same graph
_LEFT_BY_BATCH = 0.25  # of reading the weights, for each of 16 sequences
_LEFT_BY_SDPA = 0.6
_LEFT_BY_HALF_DEPTH = 0.5
_LEFT_BY_WIDTH = 0.8  # of matrices, two thirds of which are inner channels, with a quarter of these left out
_LEFT_BY_SECOND_THREAD = 0.6


def advise(shares: Sequence[Share], *, stored: str, batch: int, exported: bool = False) -> list[Advice]:
    """The three changes from which most is to be had, the best one first.

    :param stored: the type of the weights, as torch calls it
    :param exported: a runtime has the whole graph; steps are then taken of the model that was exported
    """
    of = {each.name: each.share for each in shares}
    matrices = of.get("matrices", 0.0) + of.get("head", 0.0)
    overhead = of.get("python", 0.0) + of.get("between operations", 0.0)
    small = of.get("rest of operations", 0.0) + of.get("copies", 0.0)
    found = [
        Advice(
            "Leave out layers, and distil what that costs (`penstock optimize shrink`, then `distill`)",
            f"{1 - of.get('head', 0.0):.0%} of the time is spent in layers, and grows with their number",
            _gain((1 - of.get("head", 0.0), _LEFT_BY_HALF_DEPTH)),
        )
    ]
    if exported:
        found += [
            Advice(
                "Leave out inner channels (`penstock optimize prune --method width`)",
                f"{matrices:.0%} of the time is multiplying, most of it in the feed-forward blocks",
                _gain((matrices, _LEFT_BY_WIDTH)),
            ),
            Advice(
                "Let two threads compute it (`threads`), where a core is idle",
                f"{matrices:.0%} of the time is multiplying, which threads share",
                _gain((matrices, _LEFT_BY_SECOND_THREAD)),
            ),
        ]
    else:
        found += [
            Advice(
                "Export it to a runtime that runs a whole graph (`penstock optimize export`)",
                f"{overhead:.0%} of the time is the interpreter between operations, {small:.0%} operations so small "
                "that a graph fuses them",
                _gain((overhead, _LEFT_BY_RUNTIME), (small, _LEFT_BY_FUSION)),
            ),
            Advice(
                "Let attention be one operation (`attn_implementation=sdpa`)",
                f"attention takes {of.get('attention', 0.0):.0%}",
                _gain((of.get("attention", 0.0), _LEFT_BY_SDPA)),
            ),
        ]
    if "int" not in stored:
        found.append(
            Advice(
                "Keep the weights in 8 or 4 bits (`penstock optimize quantize`)",
                f"{matrices:.0%} of the time is multiplying with weights in {stored.removeprefix('torch.')}",
                _gain((matrices, _LEFT_BY_INT8)),
            )
        )
    if batch == 1:
        found.append(
            Advice(
                "Serve several calls at once (an engine with continuous batching)",
                "one sequence alone reads every weight for every token",
                _gain((matrices + overhead + small, _LEFT_BY_BATCH)),
            )
        )
    return sorted(found, key=lambda each: -each.gain)[:3]


def _gain(*parts: tuple[float, float]) -> float:
    """Amdahl's law: of each part, a share is left."""
    return 1 / (1 - sum(share * (1 - left) for share, left in parts))
