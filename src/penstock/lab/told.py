"""What the simulator tells afterwards of an answer: tokens and cost, in OpenRouter's form.

``GET /v1/generation?id=ID`` with the id that the answer's head has in ``X-Generation-Id``.  It tells what is on the
bill, also of answers that were cut, once they have ended; 404 before, and for ids that it does not know.  A script
can have it tell nothing (``told=never``), nonsense (``told=nonsense``), or some time after the request only
(``told-after=MS``).
"""

from __future__ import annotations

from collections import OrderedDict

import msgspec

from penstock.lab.bill import Item
from penstock.lab.scenario import Script

_REMEMBERED = 20_000  # answers that can be asked for
DOLLARS_PER_INPUT_TOKEN = 1e-6
DOLLARS_PER_OUTPUT_TOKEN = 2e-6
_NONSENSE = b'{"data":{"id":"x","native_tokens_prompt":"many","native_tokens_completion":-1}}'


def generation_id(number: int) -> bytes:
    return b"gen-%024x" % number


class Told:
    """The answers that can be asked for."""

    def __init__(self) -> None:
        self._items: OrderedDict[str, tuple[Item, Script, float]] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Told of {len(self._items)} answers>"

    def remember(self, item: Item, script: Script, now: float) -> None:
        self._items[generation_id(item.number).decode()] = (item, script, now)
        if len(self._items) > _REMEMBERED:
            self._items.popitem(last=False)

    def tell(self, name: str, now: float) -> bytes | None:
        """The body that tells; None: 404."""
        found = self._items.get(name)
        if found is None:
            return None
        item, script, began = found
        if item.state == "running" or script.told == "never" or now - began < script.told_after:
            return None
        if script.told == "nonsense":
            return _NONSENSE
        cost = item.input_tokens * DOLLARS_PER_INPUT_TOKEN + item.output_tokens * DOLLARS_PER_OUTPUT_TOKEN
        return msgspec.json.encode(
            {
                "data": {
                    "id": name,
                    "model": item.model,
                    "cancelled": item.state == "cancelled",
                    "total_cost": cost,
                    "usage": cost,
                    "tokens_prompt": item.input_tokens,
                    "tokens_completion": item.output_tokens,
                    "native_tokens_prompt": item.input_tokens,
                    "native_tokens_completion": item.output_tokens,
                    "native_tokens_cached": item.cached_input_tokens,
                    "native_tokens_reasoning": 0,
                }
            }
        )
