"""Care for the providers' own prompt caches: what of a prompt will be asked for again, and is that worth marking?

Anthropic takes 1.25 times the price of input for what it writes to its cache, and 0.1 times for what it reads from it
within five minutes; to keep it for an hour takes twice the price.  So a mark pays where more than a share of
(1.25 - 1) / (1.25 - 0.1) = 22 % of the prompts that carry it come in time after one with the same beginning, and the
longer one where so many come after more than five minutes, and within the hour, that it is the cheapest of the three.
These shares are measured, for each caller and each of some places: after the tools, after each block of the system
prompt (what changes from call to call, such as the time, is often a block of its own), after the last turn (for a
conversation that goes on).  A provider looks for what it has kept no more than twenty blocks before a mark: where an
agent's turn has more, the end of the prompt before is marked, too.  A beginning that has been seen just now is marked at once; another one
where experience says so.  What a cache takes, and the shortest beginning that it keeps, is in the price table.

What of a prompt had been sent before within five minutes, and was long enough to be kept, is counted beside what the
provider then says that it read from its cache: the difference is money left on the table.

Only for models whose configuration says so; a prompt with marks of its own, or with a key of its own, is left as it is.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable

import msgspec
from blake3 import blake3

from penstock.config.model import PromptCacheConfig
from penstock.ledger.prices import CacheTerms
from penstock.messages import Call, Endpoint
from penstock.wire.breakpoints import Lifetime, Marks, Parts, blocks_of, marked, parts_of
from penstock.wire.converse import cache_points
from penstock.wire.usage import estimate_tokens

LIFETIME, LONG_LIFETIME = 300.0, 3_600.0  # seconds that a provider keeps a beginning after its last use
MIN_TOKENS = 1_024  # of a beginning, where the price table knows no model's own
_STRICT = ("mistral.ai", "groq.com")  # hosts that speak OpenAI's API and refuse members that they do not know
MAX_BEGINNINGS = 20_000  # that are remembered, 150 bytes each
MAX_CALLERS = 1_000
MAX_CALLS = 1_000  # whose advice is remembered for a second attempt
_LEAST = 20.0  # prompts before experience counts
_HALF_AFTER = 200.0  # prompts after which older ones count half
_LOOK_BACK = 60  # turns that are compared with earlier prompts' ends
_SEEN_FROM_A_MARK = 20  # blocks: so far back Anthropic looks for what it has kept
_BLOCKS = 8  # of the system prompt that are looked at one by one
_KEY_CHARACTERS = 32


def takes_key(host: str) -> bool:
    """Whether an upstream there that speaks OpenAI's API takes a ``prompt_cache_key``, or at least leaves it be."""
    return not any(host == strict or host.endswith("." + strict) for strict in _STRICT)


class Advice(msgspec.Struct, frozen=True):
    """What to do with one prompt.

    ``repeated`` is the share of its bytes that were sent before, just now, as its beginning; ``least``: tokens of the
    shortest beginning that the provider keeps.
    """

    marks: Marks = Marks()
    repeated: float = 0.0
    least: int = 0
    key: str = ""


class _Place:
    """How often what was sent up to here had been sent before, within minutes and within the hour."""

    __slots__ = ("hour", "minutes", "seen")

    def __init__(self) -> None:
        self.seen = self.minutes = self.hour = 0.0

    def count(self, age: float) -> None:
        """:param age: seconds since it was sent before"""
        decay = 0.5 ** (1 / _HALF_AFTER)
        self.seen = self.seen * decay + 1
        self.minutes = self.minutes * decay + (age <= LIFETIME)
        self.hour = self.hour * decay + (age <= LONG_LIFETIME)

    def cheapest(self, terms: CacheTerms) -> Lifetime | None:
        """The mark that costs least for all that comes here; None: none does."""
        if self.seen < _LEAST:
            return None
        minutes, hour = self.minutes / self.seen, self.hour / self.seen
        cost, best = 1.0, None
        marked = minutes * terms.read + (1 - minutes) * terms.write
        if marked < cost:
            cost, best = marked, Lifetime.MINUTES
        if terms.write_1h is not None and hour * terms.read + (1 - hour) * terms.write_1h < cost:
            best = Lifetime.HOUR
        return best


class PromptCare:
    """What is known of the prompts of one model's callers.

    :param terms: of the cache of an upstream's model
    :param now: monotonic seconds
    """

    def __init__(
        self,
        config: PromptCacheConfig,
        terms: Callable[[str, str], CacheTerms],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config
        self._terms = terms
        self._now = now
        self._seen: OrderedDict[bytes, float] = OrderedDict()
        self._places: OrderedDict[tuple[str, str], _Place] = OrderedDict()
        self._given: OrderedDict[str, Advice] = OrderedDict()

    def __repr__(self) -> str:
        return f"<PromptCare, {len(self._seen)} beginnings>"

    def changes(
        self,
        call: Call,
        endpoint: Endpoint,
        fields: dict[str, msgspec.Raw],
        upstream: str,
        model: str,
        *,
        keyed: bool,
    ) -> dict[str, bytes]:
        """The members of a body to set, as JSON text.

        :param endpoint: at which the upstream is asked, and in whose form ``fields`` are
        :param model: the upstream's own name for it
        :param keyed: whether it takes a ``prompt_cache_key``
        """
        if endpoint not in {Endpoint.MESSAGES, Endpoint.CHAT, Endpoint.RESPONSES}:
            return {}
        parts = parts_of(endpoint, fields)
        if parts is None:
            return {}
        advice = self.advice(call, parts, self._terms(upstream, model))
        if endpoint is Endpoint.MESSAGES:
            if "cache_control" in fields or _has(b'"cache_control"', parts):
                return {}
            return marked(parts, advice.marks)
        if keyed and advice.key and "prompt_cache_key" not in fields:
            return {"prompt_cache_key": msgspec.json.encode(advice.key)}
        return {}

    def points(
        self, call: Call, fields: dict[str, msgspec.Raw], upstream: str, model: str
    ) -> dict[str, bytes]:
        """As :meth:`changes`, for a request to Converse."""
        parts = cache_points.parts_of(fields)
        if parts is None:
            return {}
        advice = self.advice(call, parts, self._terms(upstream, model))
        if _has(b'"cachePoint"', parts):
            return {}
        return cache_points.marked(fields, parts, advice.marks, keeps_tools=cache_points.keeps_tools(model))

    def repeated(self, call_id: str, input_tokens: int) -> int:
        """Tokens of a call's beginning that had been sent before, just in time, and could have been kept; about.

        :param input_tokens: of the whole prompt, as its provider counts
        """
        advice = self._given.get(call_id)
        if advice is None:
            return 0
        tokens = int(input_tokens * advice.repeated)
        return tokens if tokens >= advice.least else 0

    def advice(self, call: Call, parts: Parts, terms: CacheTerms) -> Advice:
        """What to do with a prompt; a second attempt at the same call gets the same."""
        known = self._given.get(call.id)
        if known is not None:
            return known
        now = self._now()
        least = self.config.min_tokens or terms.minimum or MIN_TOKENS
        caller = f"{call.tenant.name} {call.model}"
        hasher = blake3(caller.encode())
        length = 0
        ends: list[tuple[str, bytes, int]] = []
        places = [("tools", parts.tools), *zip(_names(len(parts.system)), parts.system, strict=True)]
        for name, part in places:
            if part:
                hasher.update(name.encode() + len(part).to_bytes(8, "big") + part)
                length += len(part)
                ends.append((name, hasher.digest(16), length))
        turns: list[tuple[bytes, int]] = []
        for turn in parts.messages:
            hasher.update(b"turn" + len(turn).to_bytes(8, "big") + turn)
            length += len(turn)
            turns.append((hasher.digest(16), length))
        repeated = 0
        marks: dict[str, Lifetime | None] = {}
        for name, digest, end in ends:
            if not name:
                continue
            age = self._age(digest, now)
            if age <= LIFETIME:
                repeated = end
            mark = self._mark(caller, name, age, terms)
            marks[name] = mark if estimate_tokens(end) >= least else None
            self._saw(digest, now)
        age = math.inf
        before = 0  # the last turn of the prompt that this one goes on from
        for position, (digest, end) in enumerate(turns[-_LOOK_BACK:], max(len(turns) - _LOOK_BACK, 0)):
            since = self._age(digest, now)
            age = min(age, since)
            if since <= LIFETIME:
                repeated = end
                before = position - len(turns)
        last = self._mark(caller, "last", age, terms)
        if turns:
            self._saw(turns[-1][0], now)
        if estimate_tokens(length) < least:
            last = None
        key = ""
        if ends or len(turns) > 1:
            start = ends[-1][1] if ends else turns[0][0]
            key = blake3(start).hexdigest()[:_KEY_CHARACTERS]
            if estimate_tokens(length) < least:
                key = ""
        advice = Advice(_marks(marks, last, before, parts), repeated / length if length else 0.0, least, key)
        self._given[call.id] = advice
        if len(self._given) > MAX_CALLS:
            self._given.popitem(last=False)
        return advice

    def _mark(self, caller: str, name: str, age: float, terms: CacheTerms) -> Lifetime | None:
        place = self._place(caller, name)
        place.count(age)
        best = place.cheapest(terms)
        return Lifetime.MINUTES if best is None and age <= LIFETIME else best

    def _age(self, digest: bytes, now: float) -> float:
        """Seconds since a beginning was sent."""
        return now - self._seen.get(digest, -math.inf)

    def _saw(self, digest: bytes, now: float) -> None:
        self._seen[digest] = now
        self._seen.move_to_end(digest)
        if len(self._seen) > MAX_BEGINNINGS:
            self._seen.popitem(last=False)

    def _place(self, caller: str, name: str) -> _Place:
        place = self._places.get((caller, name))
        if place is None:
            place = self._places[caller, name] = _Place()
            if len(self._places) > (2 + _BLOCKS) * MAX_CALLERS:
                self._places.popitem(last=False)
        return place


def _has(member: bytes, parts: Parts) -> bool:
    return any(member in part for part in (parts.tools, *parts.system, *parts.messages))


def _names(count: int) -> list[str]:
    """Of the places after each block of a system prompt; empty for those that are not looked at."""
    names = [f"system {number}" if number < _BLOCKS else "" for number in range(count)]
    return [*names[:-1], "system"] if names else []


def _marks(marks: dict[str, Lifetime | None], last: Lifetime | None, before: int, parts: Parts) -> Marks:
    """Each mark where it keeps most: what a later one keeps, an earlier one need not.

    :param before: the turn up to which it was sent before, from the end; 0: none was
    """
    system = next(
        (
            (number, mark)
            for number, name in reversed(list(enumerate(_names(len(parts.system)))))
            if (mark := marks.get(name)) is not None
        ),
        None,
    )
    tools = marks.get("tools") if system is None else None
    if last is Lifetime.HOUR:  # what comes before it may not be kept for less
        tools, system = tools and last, system and (system[0], last)
    turns: tuple[tuple[int, Lifetime], ...] = ()
    if last is not None:
        turns = ((-1, last),)
        if before < -1 and sum(map(blocks_of, parts.messages[before + 1 :])) >= _SEEN_FROM_A_MARK:
            turns = ((before, last), (-1, last))
    return Marks(tools, system, turns)
