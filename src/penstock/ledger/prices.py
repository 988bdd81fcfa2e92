"""What tokens cost: a versioned table, and exact arithmetic on it.

Money is counted in whole units of 1e-12 US dollars.  A price is stated in dollars per million tokens; a
price with six decimals, finer than any that is charged, is a whole number of units per token.  So every
cost, and every sum of costs, is exact.

A model that the table does not know costs 0 and is counted as unpriced: a wrong price that looks right
is worse than a missing one.  So a name matches an entry only if it is that name, that name with a
version behind it (``gpt-4o-2024-08-06``, ``claude-sonnet-4-5@20250929``), or if the entry is a pattern.
"""

from __future__ import annotations

import datetime as dt
import functools
import logging
import re
import tomllib
from collections.abc import Iterable, Mapping
from decimal import Decimal
from fnmatch import fnmatchcase
from importlib import resources
from pathlib import Path

import msgspec

from penstock.errors import ConfigError
from penstock.messages import Usage

log = logging.getLogger(__name__)

UNITS_PER_DOLLAR = 10**12
_UNITS = UNITS_PER_DOLLAR // 10**6  # of a price of 1 dollar per million tokens, per token
_DEAREST = 10**9  # dollars; what is more is a slip, and past 10**22 there is no exact arithmetic on it
_REMEMBERED = 4_096  # names whose price is remembered; callers may invent more
_NAMED = 10  # names without a price that the log tells; callers may invent more

# What is not counted in tokens, and of how many units (``Usage.units``) its price is.
_UNIT_PRICES = {"image": 1, "minute": 60_000, "characters": 1_000_000, "search": 1}

# What providers append to a model's name to say which build of it: a date, a number of three or four
# digits, or the word for the newest one.
_VERSION = re.compile(r"[-@:](?:\d{4}-\d{2}-\d{2}|\d{8}|\d{3,4}|latest)\Z")

_BUILD = re.compile(r"-v\d+(?::\d+)?\Z")  # what Bedrock puts behind a name, and behind its date


class Tier(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Prices of a call whose prompt is longer than ``above`` tokens; they hold for all of its tokens."""

    above: int
    input: Decimal
    output: Decimal
    cached_input: Decimal | None = None
    cache_write: Decimal | None = None
    cache_write_1h: Decimal | None = None


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One entry: US dollars per million tokens, or per what is not counted in tokens.

    What is not said costs what the thing costs that it is a part of: cached, cache-writing and audio
    and image input as input, reasoning and audio output as output.

    :param models: names, or patterns with ``*``
    :param upstream: holds only for the upstream of this name
    :param kind: holds only for upstreams of this kind
    :param image: per image; ``minute``: of sound that is transcribed or translated; ``characters``: per million of
        them, spoken; ``search``: of rerank.  An entry has one of these at most: a model does one of these things
    :param cache_minimum: tokens of the shortest beginning that the provider's prompt cache keeps; 0: not known
    :param batch: what a call costs in a batch of the provider's own, as a share of all this; None: as the provider's
        other models have it (:class:`Batch`)
    """

    models: tuple[str, ...]
    input: Decimal
    output: Decimal = Decimal(0)
    cached_input: Decimal | None = None
    cache_write: Decimal | None = None
    cache_write_1h: Decimal | None = None
    cache_minimum: int = 0
    reasoning: Decimal | None = None
    audio_input: Decimal | None = None
    audio_output: Decimal | None = None
    image_input: Decimal | None = None
    image: Decimal | None = None
    minute: Decimal | None = None
    characters: Decimal | None = None
    search: Decimal | None = None
    tiers: tuple[Tier, ...] = ()
    batch: Decimal | None = None
    provider: str = ""
    upstream: str = ""
    kind: str = ""
    as_of: dt.date | None = None
    source: str = ""


class Batch(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What calls cost in a provider's own batches, as a share of what they cost by themselves."""

    provider: str
    share: Decimal
    as_of: dt.date | None = None
    source: str = ""


class CacheTerms(msgspec.Struct, frozen=True):
    """What a provider's prompt cache takes, each as a multiple of the price of fresh input.

    ``write_1h`` None: it keeps nothing for an hour, as far as is known; ``minimum``: tokens, 0: not known.
    """

    read: float = 0.1
    write: float = 1.25
    write_1h: float | None = None
    minimum: int = 0


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    version: str = ""
    price: tuple[Price, ...] = ()
    batch: tuple[Batch, ...] = ()


class _Rate:
    """A price in units per token, the parts as what they cost more (or less) than the whole."""

    __slots__ = (
        "audio_in",
        "audio_out",
        "cached",
        "image_in",
        "input",
        "output",
        "plain",
        "reasoning",
        "tiers",
        "unit",
        "unit_of",
        "written",
        "written_1h",
    )

    def __init__(self, price: Price | Tier, tiers: Iterable[Tier] = ()) -> None:
        self.input = _units(price.input)
        self.output = _units(price.output)
        self.cached = _extra(price.cached_input, self.input)
        self.written = _extra(price.cache_write, self.input)
        written = price.cache_write if price.cache_write_1h is None else price.cache_write_1h
        self.written_1h = _extra(written, self.input) - self.written
        self.reasoning = self.audio_in = self.audio_out = self.image_in = 0
        self.unit: int | None = None  # of so many units, in 1e-12 dollars
        self.unit_of = 1
        if isinstance(price, Price):
            self.image_in = _extra(price.image_input, self.input)
            for name, of in _UNIT_PRICES.items():
                dollars = getattr(price, name)
                if dollars is not None:
                    self.unit, self.unit_of = int(dollars * UNITS_PER_DOLLAR), of
            self.reasoning = _extra(price.reasoning, self.output)
            self.audio_in = _extra(price.audio_input, self.input)
            self.audio_out = _extra(price.audio_output, self.output)
        self.tiers = tuple(
            (tier.above, _Rate(tier)) for tier in sorted(tiers, key=lambda tier: tier.above, reverse=True)
        )

    def cost(self, usage: Usage) -> int:
        tokens = usage.input_tokens
        if self.tiers:
            for above, rate in self.tiers:
                if tokens > above:
                    return rate.cost(usage)
        cost = tokens * self.input + usage.output_tokens * self.output
        if usage.cached_input_tokens:
            cost += usage.cached_input_tokens * self.cached
        if usage.cache_write_tokens:
            cost += usage.cache_write_tokens * self.written
            cost += usage.cache_write_1h_tokens * self.written_1h
        if usage.reasoning_tokens:
            cost += usage.reasoning_tokens * self.reasoning
        if usage.audio_input_tokens:
            cost += usage.audio_input_tokens * self.audio_in
        if usage.audio_output_tokens:
            cost += usage.audio_output_tokens * self.audio_out
        if usage.image_input_tokens:
            cost += usage.image_input_tokens * self.image_in
        if usage.units and self.unit:
            cost += usage.units * self.unit // self.unit_of
        # An upstream that reports more cached tokens than tokens does not pay us.
        return cost if cost > 0 else 0  # noqa: FURB136 - max() costs three times as much


class PriceTable:
    """Prices by model name, and where one upstream has its own, by upstream.

    :param prices: the first that fits best wins: put what shall prevail in front
    :param kinds: the kind of each upstream, by its name
    :param batches: the first of a provider counts
    """

    def __init__(
        self,
        prices: Iterable[Price] = (),
        *,
        version: str = "",
        kinds: Mapping[str, str] | None = None,
        batches: Iterable[Batch] = (),
    ) -> None:
        self.version = version
        self._batches = {each.provider: each.share for each in reversed(tuple(batches))}
        self.prices = tuple(prices)
        self.unpriced = 0  # usages that were costed at 0 because nobody knows the price
        self.unpriced_models: set[str] = set()
        self._kinds = dict(kinds or {})
        self._rates: dict[tuple[str, str], _Rate | None] = {}
        self._entries: dict[tuple[str, str], Price | None] = {}

    @classmethod
    def load(cls, path: str = "", *, kinds: Mapping[str, str] | None = None) -> PriceTable:
        """The package's table, with the user's file at ``path`` laid over it.

        :raises ConfigError: the user's file cannot be read or used
        """
        packaged = _packaged()
        if not path:
            return cls(packaged.price, version=packaged.version, kinds=kinds, batches=packaged.batch)
        try:
            text = Path(path).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"the price table {path} cannot be read: {error}") from error
        own = _parse(text, path)
        version = f"{packaged.version}+{own.version or path}"
        batches = (*own.batch, *packaged.batch)
        return cls((*own.price, *packaged.price), version=version, kinds=kinds, batches=batches)

    def cost(self, upstream: str, model: str, usage: Usage) -> int:
        """What ``usage`` costs at ``upstream``, in 1e-12 US dollars; 0 and counted if no price is known."""
        try:
            rate = self._rates[upstream, model]
        except KeyError:
            rate = self._look_up(upstream, model)
        if rate is None:
            self.unpriced += 1
            return 0
        cost = rate.cost(usage)
        # What it was is known, and what of it costs is not.
        if not cost and usage.units and rate.unit is None:
            self.unpriced += 1
            self._name_unpriced(upstream, model)
        return cost

    def estimate(self, upstream: str, model: str, usage: Usage) -> int:
        """What ``usage`` would cost; 0 if no price is known, which is not counted."""
        try:
            rate = self._rates[upstream, model]
        except KeyError:
            rate = self._look_up(upstream, model)
        return 0 if rate is None else rate.cost(usage)

    def in_batch(self, upstream: str, model: str, cost: int) -> int:
        """What comes to ``cost`` by itself, as a part of a batch of the provider's own; the same if no price is known."""
        price = self.price(upstream, model)
        if price is None:
            return cost
        share = price.batch if price.batch is not None else self._batches.get(price.provider)
        if share is None:
            return cost
        above, below = share.as_integer_ratio()
        return cost * above // below

    def saved_by_cache(self, upstream: str, model: str, usage: Usage) -> int:
        """What the provider's prompt cache has saved, less what it took to write; below nought: it has cost more."""
        without = msgspec.structs.replace(
            usage, cached_input_tokens=0, cache_write_tokens=0, cache_write_1h_tokens=0
        )
        return self.estimate(upstream, model, without) - self.estimate(upstream, model, usage)

    def missed_by_cache(self, upstream: str, model: str, usage: Usage, missed: int) -> int:
        """What it would have saved besides, had it kept so many tokens more."""
        kept = msgspec.structs.replace(usage, cached_input_tokens=usage.cached_input_tokens + missed)
        return max(self.estimate(upstream, model, usage) - self.estimate(upstream, model, kept), 0)

    def knows(self, upstream: str, model: str) -> bool:
        """Whether there is a price for this model at this upstream."""
        try:
            return self._rates[upstream, model] is not None
        except KeyError:
            return self._look_up(upstream, model) is not None

    def cache_terms(self, upstream: str, model: str) -> CacheTerms:
        """What this model's prompt cache takes; Anthropic's usual terms where the table says nothing."""
        price = self.price(upstream, model)
        if price is None:
            return CacheTerms()
        if not price.input or price.cached_input is None or price.cache_write is None:
            return CacheTerms(minimum=price.cache_minimum)
        hour = price.cache_write_1h
        return CacheTerms(
            float(price.cached_input / price.input),
            float(price.cache_write / price.input),
            None if hour is None else float(hour / price.input),
            price.cache_minimum,
        )

    def price(self, upstream: str, model: str) -> Price | None:
        """The entry that holds for this model at this upstream."""
        try:
            return self._entries[upstream, model]
        except KeyError:
            if len(self._entries) >= _REMEMBERED:
                self._entries.clear()
            best = self._entries[upstream, model] = self._best_fit(upstream, model)
            return best

    def _best_fit(self, upstream: str, model: str) -> Price | None:
        best: Price | None = None
        best_rank: tuple[bool, int] = (False, 0)
        for price in self.prices:
            if price.upstream and price.upstream != upstream:
                continue
            if price.kind and price.kind != self._kinds.get(upstream, upstream):
                continue
            fit = max((_fit(name, model, price.provider) for name in price.models), default=0)
            rank = (bool(price.upstream or price.kind), fit)
            if fit and rank > best_rank:
                best, best_rank = price, rank
        return best

    def _look_up(self, upstream: str, model: str) -> _Rate | None:
        price = self.price(upstream, model)
        if price is None:
            self._name_unpriced(upstream, model)
        rate = None if price is None else _Rate(price, price.tiers)
        if len(self._rates) >= _REMEMBERED:
            self._rates.clear()
        self._rates[upstream, model] = rate
        return rate

    def _name_unpriced(self, upstream: str, model: str) -> None:
        if len(self.unpriced_models) < _NAMED and model not in self.unpriced_models:
            self.unpriced_models.add(model)
            rest = "; further models are only counted" if len(self.unpriced_models) == _NAMED else ""
            log.warning(
                "no price is known for model %.200r at upstream %s: it is recorded at 0%s",
                *(model, upstream, rest),
            )

    def __repr__(self) -> str:
        return f"<PriceTable {self.version}, {len(self.prices)} entries, {self.unpriced} unpriced>"


def _fit(name: str, model: str, provider: str) -> int:
    """How well an entry's name fits a model: 0 not at all, else more the longer the literal part is."""
    if "*" in name:
        return 1 + len(name.replace("*", "")) * 4 if fnmatchcase(model, name) else 0
    if provider and model.startswith((provider + "/", "models/")):
        model = model.partition("/")[2]  # as resellers and Google's own API write it
    if provider == "anthropic" and "anthropic." in model:  # as Bedrock does; a region may stand before that
        model = _BUILD.sub("", model.rpartition("anthropic.")[2])
    if model == name:
        return 4 + len(name) * 4
    if model.startswith(name) and _VERSION.match(model, len(name)):
        return 3 + len(name) * 4
    return 0


def _units(price: Decimal) -> int:
    return int(price * _UNITS)


def _extra(price: Decimal | None, whole: int) -> int:
    return 0 if price is None else _units(price) - whole


@functools.cache
def _packaged() -> _File:
    return _parse(
        resources.files("penstock.ledger").joinpath("prices.toml").read_text("utf-8"), "prices.toml"
    )


def _parse(text: str, path: str) -> _File:
    try:
        file = msgspec.convert(tomllib.loads(text, parse_float=Decimal), _File)
    except (ValueError, ArithmeticError, RecursionError, msgspec.ValidationError) as error:
        raise ConfigError(f"the price table {path} cannot be used: {error}", (f"{path}: {error}",)) from error
    mistakes = [f"{path}: {mistake}" for price in file.price for mistake in _mistakes(price)]
    for name, share in [(", ".join(price.models), price.batch) for price in file.price] + [
        (batch.provider, batch.share) for batch in file.batch
    ]:
        if share is not None and not (share.is_finite() and 0 <= share <= 1):
            mistakes.append(f"{path}: {name}: {share} is no share of a price, which is between 0 and 1")
    if mistakes:
        raise ConfigError(f"the price table {path} cannot be used", tuple(mistakes))
    return file


def _mistakes(price: Price) -> Iterable[str]:
    entry = ", ".join(price.models) or "an entry without models"
    if not price.models:
        yield f"{entry}: name at least one"
    if price.cache_minimum < 0:
        yield f"{entry}: cache_minimum = {price.cache_minimum} is no count of tokens"
    if sum(getattr(price, name) is not None for name in _UNIT_PRICES) > 1:
        yield f"{entry}: only one of {', '.join(_UNIT_PRICES)}"
    for part in (price, *price.tiers):
        for field in part.__struct_fields__:
            value = getattr(part, field)
            if not isinstance(value, Decimal):
                continue
            if not value.is_finite() or not 0 <= value <= _DEAREST:
                yield f"{entry}: {field} = {value} is not a price"
            elif value * _UNITS % 1:
                yield f"{entry}: {field} = {value} has more than six decimals"
