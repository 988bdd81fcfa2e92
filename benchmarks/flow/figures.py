"""What a run comes to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.flow.workload import PLACES, TIERS, Arrival


@dataclass(frozen=True)
class Figures:
    """Of the calls that arrived after the warm-up."""

    goodput: float  # place-seconds of calls in time ÷ place-seconds that there were
    p50: Mapping[str, float]  # seconds to the first token, by tier, of those that got one
    p99: Mapping[str, float]
    in_time: Mapping[str, float]  # share of the calls, by tier
    jain: float  # of what each tenant got ÷ its fair share
    least_share: float  # the smallest of these
    cost: float  # place-seconds of all calls that were worked on, for one of a call in time

    def row(self) -> str:
        """These as :data:`HEAD` has them."""
        p50, p99 = (" / ".join(f"{each[tier]:.2f}" for tier in TIERS) for each in (self.p50, self.p99))
        in_time = " / ".join(f"{100 * self.in_time[tier]:.1f}" for tier in TIERS)
        return (
            f"{100 * self.goodput:.1f} % | {p50} | {p99} | {in_time} | {self.jain:.3f} "
            f"| {100 * self.least_share:.0f} % | {self.cost:.2f}"
        )


_TIERS = " / ".join(TIERS)
HEAD = (
    f"| load | system | goodput | p50 TTFT, s: {_TIERS} | p99 TTFT, s | in time, % | Jain | least share | cost |",
    "|---|---|--:|--:|--:|--:|--:|--:|--:|",
)
"""Of a table, of which :meth:`Figures.row` is a line after its load and system; tiers are in one order throughout."""


def figures(arrivals: Sequence[Arrival], warm_up: float) -> Figures:
    calls = [call for call in arrivals if call.at >= warm_up]
    seconds = arrivals[-1].at - warm_up
    in_time = [call for call in calls if call.in_time]
    p50, p99, shares = {}, {}, {}
    for tier in TIERS:
        of_tier = [call for call in calls if call.tier == tier]
        waits = sorted(call.first_token - call.at for call in of_tier if call.first_token is not None)
        p50[tier], p99[tier] = (
            waits[int(quantile * (len(waits) - 1))] if waits else float("nan") for quantile in (0.5, 0.99)
        )
        shares[tier] = sum(call.in_time for call in of_tier) / len(of_tier)
    ratios = _of_fair_share(calls)
    useful = sum(call.work for call in in_time)
    return Figures(
        goodput=useful / (PLACES * seconds),
        p50=p50,
        p99=p99,
        in_time=shares,
        jain=sum(ratios) ** 2 / (len(ratios) * sum(ratio**2 for ratio in ratios)),
        least_share=min(ratios),
        cost=sum(call.work for call in calls if call.first_token is not None) / useful,
    )


def _of_fair_share(calls: Sequence[Arrival]) -> list[float]:
    """What each tenant got, of its max-min fair share of what its tier got."""
    asked: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    got: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for call in calls:
        asked[call.tier][call.tenant] += call.work
        got[call.tier][call.tenant] += call.work if call.in_time else 0.0
    ratios = []
    for tier, tenants in asked.items():
        fair = max_min(tenants, sum(got[tier].values()))
        ratios += [got[tier][tenant] / fair[tenant] for tenant in tenants if fair[tenant]]
    return ratios


def max_min(asked: Mapping[str, float], there_is: float) -> dict[str, float]:
    """Everybody gets the same, but nobody more than was asked for."""
    fair: dict[str, float] = {}
    left = there_is
    for number, (tenant, wanted) in enumerate(sorted(asked.items(), key=lambda item: item[1])):
        fair[tenant] = min(wanted, left / (len(asked) - number))
        left -= fair[tenant]
    return fair
