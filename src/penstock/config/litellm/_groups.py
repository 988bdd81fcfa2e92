"""What the deployments of one model have together: the shares that they are drawn by, and their clocks."""

from __future__ import annotations

from collections import Counter

from penstock.config.litellm._draft import Deployment, Draft
from penstock.config.model import TimeoutConfig

# What simple-shuffle draws by, the first of them that a model's first deployment has.
SHARES = ("weight", "rpm", "tpm")


def clocks(found: dict[str, float]) -> dict[str, float]:
    """LiteLLM's timeout is how long it waits for bytes; ours of that kind are the first two clocks.

    Without a stream_timeout of its own a stream waits as long for each further token as for the first.
    """
    if "first_token" in found:
        found = {"between_tokens": found["first_token"], **found}
        if found["first_token"] > TimeoutConfig().total:
            found["total"] = found["first_token"]
    return found


def put_in_order(draft: Draft) -> None:
    """Those that are asked when others fail stand behind them, as they are asked one after the other."""
    for name, deployments in draft.models.items():
        deployments.sort(key=lambda deployment: deployment.order)
        later = Counter(each.order for each in deployments if each.order > deployments[0].order)
        if any(count > 1 for count in later.values()):
            reason = "those of a later order are asked one after the other, and none of them is drawn"
            draft.leave("model_list[].litellm_params.order", reason, name)


def check_clocks(draft: Draft) -> None:
    for name, deployments in draft.models.items():
        if any(deployment.clocks != deployments[0].clocks for deployment in deployments):
            reason = "a model's candidates have the same clocks; the longest were taken"
            draft.leave("model_list[].litellm_params.timeout", reason, name)


def check_shares(draft: Draft, chosen_by: str) -> None:
    """:param chosen_by: LiteLLM's name for a way of choosing that draws by nothing; or nothing"""
    for name, deployments in draft.models.items():
        if draft.strategy:
            if any("weight" in deployment.shares for deployment in deployments):
                draft.leave(
                    "model_list[].litellm_params.weight", f"LiteLLM's {chosen_by} does not look at it", name
                )
            continue
        measure = _measure(deployments)
        if measure != "weight" and any("weight" in deployment.shares for deployment in deployments):
            reason = f"LiteLLM looks at the {measure or 'shares'} of the first of them, which has no weight"
            draft.leave("model_list[].litellm_params.weight", reason, name)


def model_clocks(draft: Draft, deployments: list[Deployment]) -> dict[str, float]:
    """One set for all of a model's candidates: of different ones the longest."""
    own = {clock for deployment in deployments for clock in deployment.clocks}
    if not own:
        return {}
    defaults = {
        "first_token": TimeoutConfig().first_token,
        "between_tokens": TimeoutConfig().between_tokens,
    }
    defaults |= draft.timeouts
    longest = {clock: max(d.clocks.get(clock, defaults[clock]) for d in deployments) for clock in sorted(own)}
    return clocks({**{c: s for c, s in draft.timeouts.items() if c != "total"}, **longest})


def weights(draft: Draft, deployments: list[Deployment]) -> list[float | None]:
    """As simple-shuffle does it, and it alone, among those of the least order; none where all have the same."""
    first = deployments[0].order
    drawn = [deployment for deployment in deployments if deployment.order == first]
    measure = _measure(drawn)
    shares: list[float | None] = [d.shares.get(measure, 0.0) for d in drawn]
    if draft.strategy or len(set(shares)) == 1:
        shares = [None] * len(drawn)
    return [*shares, *[0.0] * (len(deployments) - len(drawn))]


def _measure(deployments: list[Deployment]) -> str:
    return next((key for key in SHARES if key in deployments[0].shares), "")
