"""From prices of deployments to a price table of our own (``prices``), which is a file beside the configuration.

LiteLLM's are US dollars for one token, second or character; ours for a million tokens or characters, or a minute.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from typing import Any

from penstock.config.litellm._draft import Draft
from penstock.config.litellm._reasons import PRICES, REASONS
from penstock.config.litellm._values import Plain

_DEAREST = Decimal(10**9)  # dollars; what is more is a slip
_CHEAPEST = Decimal("1e-9")
_MILLION = 10**6
_OF_ONE = frozenset({"image", "search"})  # prices of one thing, not of a million
_UNITS = frozenset({"image", "minute", "characters", "search"})  # a model does one of these things
# Prices of long prompts: LiteLLM's name, and from how many thousand tokens on.
_LONG = re.compile(
    r"(input_cost_per_token|output_cost_per_token|cache_read_input_token_cost|cache_creation_input_token_cost)"
    r"_above_(\d{1,5})k_tokens"
)

_NO_PRICE = "is no price in US dollars"
_TWICE = "another deployment has other prices for the same model there"
_ONE_OF = "a model costs tokens and one thing besides: an image, a minute, characters or a search"


def take_prices(draft: Draft, parameters: Plain, info: Any, at: tuple[str, str], name: str) -> None:
    """What is said of prices, taken out; what stands with the parameters goes before what is said of the model.

    :param at: upstream, and its model
    """
    prices: dict[str, Decimal] = {}
    tiers: dict[int, dict[str, Decimal]] = {}
    for section, where in (
        (parameters, "litellm_params"),
        (info if isinstance(info, dict) else {}, "model_info"),
    ):
        for key in [key for key in section if key in PRICES or _LONG.fullmatch(str(key))]:
            value = section.pop(key)
            if value is None:
                continue
            place = f"model_list[].{where}.{key}"
            if not draft.prices_path:
                long = _LONG.fullmatch(key)
                draft.leave(place, REASONS[long[1] if long else key], name)
                continue
            amount = _amount(key, value)
            if amount is None:
                draft.leave(place, _NO_PRICE, name)
            elif long := _LONG.fullmatch(key):
                tiers.setdefault(int(long[2]) * 1_000, {}).setdefault(PRICES[long[1]], amount)
            elif PRICES[key] in _UNITS and not _UNITS.isdisjoint(prices.keys() - {PRICES[key]}):
                draft.leave(place, _ONE_OF, name)
            else:
                prices.setdefault(PRICES[key], amount)
    if prices or tiers:
        _enter(draft, at, _whole(prices, tiers), name)


def _amount(key: str, value: Any) -> Decimal | None:
    """In our measure; None: it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        dollars = Decimal(str(value))
    except InvalidOperation:
        return None
    long = _LONG.fullmatch(key)
    ours = PRICES[long[1] if long else key]
    if not dollars.is_finite() or not 0 <= dollars < _DEAREST:
        return None
    amount = dollars * (60 if ours == "minute" else 1 if ours in _OF_ONE else _MILLION)
    return amount if amount < _DEAREST and (not amount or amount > _CHEAPEST) else None


def _whole(prices: dict[str, Decimal], tiers: dict[int, dict[str, Decimal]]) -> dict[str, Any]:
    """An entry; what is not said costs nothing, as there."""
    entry: dict[str, Any] = {"input": Decimal(0), "output": Decimal(0), **prices}
    if tiers:
        usual = {name: entry[name] for name in ("input", "output")}
        entry["tiers"] = [{"above": above, **usual, **tiers[above]} for above in sorted(tiers)]
    return entry


def _enter(draft: Draft, at: tuple[str, str], entry: dict[str, Any], name: str) -> None:
    known = draft.prices.setdefault(at, entry)
    if known != entry:
        draft.leave("model_list[].litellm_params.input_cost_per_token", _TWICE, name)


def price_lines(draft: Draft, name: str) -> Iterable[str]:
    """The price table as TOML; none: no deployment has a price."""
    if not draft.prices:
        return
    yield f"# Prices of {' '.join(name.split()) if name.isprintable() else repr(name)}, converted by `penstock import-litellm`."
    yield "# US dollars: per million tokens or characters, per image, minute or search."
    yield ""
    yield 'version = "litellm"'
    for (upstream, model), entry in draft.prices.items():
        yield ""
        yield "[[price]]"
        yield f"upstream = {_text(upstream)}"
        yield f"models = [{_text(model)}]"
        for key, value in entry.items():
            if key != "tiers":
                yield f"{key} = {_number(value)}"
        for tier in entry.get("tiers", ()):
            yield "[[price.tiers]]"
            yield from (f"{key} = {_number(value)}" for key, value in tier.items())


def _number(value: Decimal | int) -> str:
    """Never in the form of an exponent."""
    written = f"{Decimal(value):f}"
    return written.rstrip("0").rstrip(".") if "." in written else written


def _text(value: str) -> str:
    """A basic string: what JSON escapes, and what TOML has escaped besides."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
