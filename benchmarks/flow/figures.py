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
    p99: Mapping[str, float]  # seconds to the first token, by tier, of those that got one
    in_time: Mapping[str, float]  # share of the calls, by tier
    jain: float  # of what each tenant got ÷ its fair share
    least_share: float  # the smallest of these


def figures(arrivals: Sequence[Arrival], warm_up: float) -> Figures:
    calls = [call for call in arrivals if call.at >= warm_up]
    seconds = arrivals[-1].at - warm_up
    in_time = [call for call in calls if call.in_time]
    p99, shares = {}, {}
    for tier in TIERS:
        of_tier = [call for call in calls if call.tier == tier]
        waits = sorted(call.first_token - call.at for call in of_tier if call.first_token is not None)
        p99[tier] = waits[int(0.99 * (len(waits) - 1))] if waits else float("nan")
        shares[tier] = sum(call.in_time for call in of_tier) / len(of_tier)
    ratios = _of_fair_share(calls)
    return Figures(
        goodput=sum(call.work for call in in_time) / (PLACES * seconds),
        p99=p99,
        in_time=shares,
        jain=sum(ratios) ** 2 / (len(ratios) * sum(ratio**2 for ratio in ratios)),
        least_share=min(ratios),
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
