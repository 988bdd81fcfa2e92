"""Care for the providers' own prompt caches: what of a prompt will be asked for again, and is that worth marking?

Anthropic takes 1.25 times the price of input for what it writes to its cache, and 0.1 times for what it reads from it
within five minutes.  So a mark pays where more than a share of (1.25 - 1) / (1.25 - 0.1) = 22 % of the prompts that
carry it are followed in time by one with the same beginning.  That share is measured, for each caller and each of
three places: after the tools, after the system prompt, after the last turn (for a conversation that goes on).
A beginning that has been seen just now is marked at once; another one where experience says so.

What of a prompt had been sent before within five minutes is counted beside what the provider then says that it read
from its cache: the difference is money left on the table.

Only for models whose configuration says so; a prompt with marks of its own, or with a key of its own, is left as it is.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from decimal import Decimal

import msgspec
from blake3 import blake3

from penstock.config.model import PromptCacheConfig
from penstock.messages import Call, Endpoint
from penstock.wire.breakpoints import Parts, marked, parts_of
from penstock.wire.usage import estimate_tokens

LIFETIME = 300.0  # seconds that a provider keeps a beginning after its last use
WRITE, READ = Decimal("1.25"), Decimal("0.1")
PAYS = float((WRITE - 1) / (WRITE - READ))
MAX_BEGINNINGS = 20_000  # that are remembered, 150 bytes each
MAX_CALLERS = 1_000
MAX_CALLS = 1_000  # whose advice is remembered for a second attempt
_LEAST = 20.0  # prompts before experience counts
_HALF_AFTER = 200.0  # prompts after which older ones count half
_LOOK_BACK = 20  # turns that are compared with earlier prompts' ends: so far back Anthropic looks, too
_KEY_CHARACTERS = 32


class Advice(msgspec.Struct, frozen=True):
    """What to do with one prompt; ``repeated`` are the bytes of its beginning that were sent before, just now."""

    tools: bool = False
    system: bool = False
    last: bool = False
    repeated: int = 0
    key: str = ""


class _Place:
    """How often what was sent up to here was sent again in time."""

    __slots__ = ("again", "seen")

    def __init__(self) -> None:
        self.seen = self.again = 0.0

    def count(self, *, again: bool) -> None:
        decay = 0.5 ** (1 / _HALF_AFTER)
        self.seen = self.seen * decay + 1
        self.again = self.again * decay + again

    @property
    def pays(self) -> bool:
        return self.seen >= _LEAST and self.again / self.seen > PAYS


class PromptCare:
    """What is known of the prompts of one model's callers.

    :param now: monotonic seconds
    """

    def __init__(self, config: PromptCacheConfig, now: Callable[[], float] = time.monotonic) -> None:
        self.config = config
        self._now = now
        self._seen: OrderedDict[bytes, float] = OrderedDict()
        self._places: OrderedDict[tuple[str, str], _Place] = OrderedDict()
        self._given: OrderedDict[str, Advice] = OrderedDict()

    def __repr__(self) -> str:
        return f"<PromptCare, {len(self._seen)} beginnings>"

    def changes(
        self, call: Call, endpoint: Endpoint, fields: dict[str, msgspec.Raw], *, keyed: bool
    ) -> dict[str, bytes]:
        """The members of a body to set, as JSON text.

        :param endpoint: at which the upstream is asked, and in whose form ``fields`` are
        :param keyed: whether it takes a ``prompt_cache_key``
        """
        if endpoint not in {Endpoint.MESSAGES, Endpoint.CHAT, Endpoint.RESPONSES}:
            return {}
        parts = parts_of(endpoint, fields)
        if parts is None:
            return {}
        advice = self.advice(call, parts)
        if endpoint is Endpoint.MESSAGES:
            if b'"cache_control"' in b"".join((parts.tools, parts.system, *parts.messages)):
                return {}
            if "cache_control" in fields:
                return {}
            return marked(parts, tools=advice.tools, system=advice.system, last=advice.last)
        if keyed and advice.key and "prompt_cache_key" not in fields:
            return {"prompt_cache_key": msgspec.json.encode(advice.key)}
        return {}

    def repeated(self, call_id: str) -> int:
        """Tokens of a call's beginning that had been sent before, just in time; about."""
        advice = self._given.get(call_id)
        return 0 if advice is None else estimate_tokens(advice.repeated)

    def advice(self, call: Call, parts: Parts) -> Advice:
        """What to do with a prompt; a second attempt at the same call gets the same."""
        known = self._given.get(call.id)
        if known is not None:
            return known
        now = self._now()
        caller = f"{call.tenant.name} {call.model}"
        hasher = blake3(caller.encode())
        length = 0
        ends: list[tuple[str, bytes, int]] = []
        for name, part in (("tools", parts.tools), ("system", parts.system)):
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
        marks: dict[str, bool] = {}
        for name, digest, end in ends:
            again = self._was_seen(digest, now)
            place = self._place(caller, name)
            place.count(again=again)
            if again:
                repeated = end
            long = estimate_tokens(end) >= self.config.min_tokens
            marks[name] = long and (again or place.pays)
            self._saw(digest, now)
        goes_on = False
        for digest, end in turns[-_LOOK_BACK - 1 :]:
            if self._was_seen(digest, now):
                repeated = end
                goes_on = True
        place = self._place(caller, "last")
        place.count(again=goes_on)
        if turns:
            self._saw(turns[-1][0], now)
        last = estimate_tokens(length) >= self.config.min_tokens and (goes_on or place.pays)
        # The tools are a part of what the system prompt's mark keeps; their own pays where the system prompt differs.
        tools = marks.get("tools", False) and not marks.get("system", False)
        key = ""
        if ends or len(turns) > 1:
            start = ends[-1][1] if ends else turns[0][0]
            key = blake3(start).hexdigest()[:_KEY_CHARACTERS]
            if estimate_tokens(length) < self.config.min_tokens:
                key = ""
        advice = Advice(tools, marks.get("system", False), last, repeated, key)
        self._given[call.id] = advice
        if len(self._given) > MAX_CALLS:
            self._given.popitem(last=False)
        return advice

    def _was_seen(self, digest: bytes, now: float) -> bool:
        at = self._seen.get(digest)
        return at is not None and now - at <= LIFETIME

    def _saw(self, digest: bytes, now: float) -> None:
        self._seen[digest] = now
        self._seen.move_to_end(digest)
        if len(self._seen) > MAX_BEGINNINGS:
            self._seen.popitem(last=False)

    def _place(self, caller: str, name: str) -> _Place:
        place = self._places.get((caller, name))
        if place is None:
            place = self._places[caller, name] = _Place()
            if len(self._places) > 3 * MAX_CALLERS:
                self._places.popitem(last=False)
        return place
