"""From cooldowns to breakers."""

from __future__ import annotations

from typing import Any

from penstock.config.litellm._draft import Draft
from penstock.config.litellm._values import Plain, number

# What LiteLLM does where only the time is said: more than half of a minute's calls, and as many at least.
_LEAST_CALLS = 5
_WINDOW = 60  # seconds in which LiteLLM counts

_DIFFERS = (
    "as `breaker` of each upstream: it opens when more than half of the calls of a minute fail, of as many at least; "
    "LiteLLM counts failures alone. See docs/flow.md"
)


def take_cooldowns(draft: Draft, library: Plain, router: Plain) -> None:
    """How soon, and for how long, an upstream that fails is left in peace."""
    if router.get("disable_cooldowns") is True:  # as it is here without a breaker
        for section in (router, library):
            for key in ("disable_cooldowns", "cooldown_time", "allowed_fails"):
                section.pop(key, None)
        return
    if router.get("disable_cooldowns") is False:
        del router["disable_cooldowns"]
    seconds = _taken(draft, library, router, "cooldown_time")
    fails = _taken(draft, library, router, "allowed_fails")
    if seconds == 0 or seconds is fails is None:
        return
    draft.breaker["least_calls"] = _LEAST_CALLS if fails is None else int(fails) + 1
    draft.breaker["window"] = _WINDOW
    if seconds is not None:
        draft.breaker |= {"open_for": seconds, "max_open_for": seconds}
    key = "cooldown_time" if fails is None else "allowed_fails"
    draft.leave(f"router_settings.{key}", _DIFFERS)


def _taken(draft: Draft, library: Plain, router: Plain, key: str) -> float | None:
    """A number, the router's own before the library's."""
    found: float | None = None
    for name, section in (("router_settings", router), ("litellm_settings", library)):
        if key not in section:
            continue
        value: Any = section.pop(key)
        amount = number(value)
        if amount is None:
            draft.leave(f"{name}.{key}", "is no number that is at least 0")
        elif found is not None:
            draft.leave(f"{name}.{key}", f"router_settings.{key} goes before it")
        else:
            found = amount
    return found
