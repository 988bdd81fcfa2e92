"""How much a model shall think before it answers: in words, in tokens, or as it sees fit.

OpenAI says it with a word (``reasoning_effort``).  Anthropic's models up to 4.5 take a number of tokens
(``thinking: {"type": "enabled", "budget_tokens": n}``), those since 4.6 decide themselves
(``{"type": "adaptive"}``) under a word (``output_config.effort``), and the newest refuse the number.
"""

from __future__ import annotations

import re

from penstock.errors import BadRequest, Untranslatable
from penstock.messages import JSON
from penstock.wire.members import Members

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")

LEAST_BUDGET = 1_024  # Anthropic's own lower bound

_BUDGET_OF_EFFORT = {
    "minimal": 1_024,
    "low": 2_048,
    "medium": 8_192,
    "high": 16_384,
    "xhigh": 24_576,
    "max": 32_768,
}

# Claude 3 to 4.5, whichever way the name is written: claude-3-7-sonnet-20250219, claude-sonnet-4-20250514,
# claude-opus-4-1, anthropic/claude-haiku-4.5.  Names that are not Claude's count as new.
_TAKES_BUDGET = re.compile(
    r"claude-(?:[123]\b|instant|(?:opus|sonnet|haiku)-4(?:[-.][0-5])?(?![-.]?\d(?!\d{5})))"
)


def takes_budget(model: str) -> bool:
    """Whether this Anthropic model wants its thinking as a number of tokens."""
    return _TAKES_BUDGET.search(model) is not None


def budget_of(effort: str, max_tokens: int | None) -> int:
    """Tokens for thinking; at most half of what the whole answer may have, as OpenAI's limit counts both.

    :raises Untranslatable: the limit leaves no room for the least that Anthropic allows
    """
    budget = _BUDGET_OF_EFFORT[effort]
    if max_tokens is None:
        return budget
    if max_tokens <= LEAST_BUDGET:
        raise Untranslatable(
            f"this model thinks with at least {LEAST_BUDGET} tokens, and max_tokens leaves no room for that",
            param="reasoning_effort",
        )
    return min(budget, max(LEAST_BUDGET, max_tokens // 2))


def effort_of(budget: int) -> str:
    """The word nearest to a number of tokens; those three that every reasoning model knows."""
    if budget < 4_096:
        return "low"
    return "medium" if budget < 12_288 else "high"


def effort(value: str, where: str) -> str:
    """Check the word."""
    if value and value not in EFFORTS:
        raise BadRequest(f"{where} must be one of {', '.join(EFFORTS)}", param=where)
    return value


def read(thinking: Members | None) -> tuple[int | None, bool]:
    """Anthropic's ``thinking`` object: (budget in tokens, 0 for none, None for unsaid; adaptive)."""
    if thinking is None:
        return None, False
    kind = thinking.required_string("type")
    thinking.only("display", "summarized", why="the upstream decides itself what it shows of its thinking")
    budget: int | None = None
    if kind == "enabled":
        budget = thinking.integer("budget_tokens")
        if budget is not None and budget < 1:
            raise BadRequest("thinking.budget_tokens must be positive", param="thinking.budget_tokens")
    elif kind == "disabled":
        budget = 0
    elif kind != "adaptive":
        raise thinking.refuse("type", f"the upstream has nothing like {kind}")
    thinking.done()
    return budget, kind == "adaptive" or (kind == "enabled" and budget is None)


def write(budget: int | None, *, adaptive: bool) -> JSON | None:
    """Anthropic's ``thinking`` object, or None where nothing was said."""
    if budget == 0:
        return {"type": "disabled"}
    if budget is not None:
        return {"type": "enabled", "budget_tokens": budget}
    return {"type": "adaptive"} if adaptive else None
