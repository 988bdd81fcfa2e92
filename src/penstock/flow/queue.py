"""Who goes next: between tiers, between the tenants of a tier, between the calls of a tenant.

Between tiers: the highest priority first.  A lower tier that waits gets its *floor*, a share of all turns,
all the same, so that nobody starves.  Tiers of equal priority share by weight (stride scheduling; Waldspurger
and Weihl, 1995).

Between tenants: whoever has used least.  Each tenant has a counter of the time for which its calls have held
the upstream; a turn is charged with an estimate, and with the truth once it has ended.  That is deficit round
robin (Shreedhar and Varghese, 1995) with a quantum that goes to nothing, as in the virtual token counter
(Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024), which it also takes the rule from
for who comes back: its counter is lifted to the least of those that wait, so idleness earns no credit.

Within a tenant: the earliest deadline first.

When there is no place left, one of the lowest tier makes room; within a tier, one of the tenant that has most
places, if it has more than its share: else whoever comes most often would have the queue to himself.

No clock, no tasks: the caller says what time it is and is told whose turn it is.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from math import inf

from penstock.config.model import TierConfig

DEFAULT_TIER = TierConfig()
BATCH = "batch"  # the tier of a batch's calls: unless the configuration says otherwise, below all others
BATCH_TIER = TierConfig(priority=-1, floor=0.02, queue_share=0.5)
MAX_COUNTERS = 4_096  # tenants remembered by one tier
_WHOLE = 1.0 - 1e-9  # turn, of credits that are sums of fractions
_OFTEN = 64  # entries that have left, after which a heap is cleaned


def config_of(tiers: Mapping[str, TierConfig], name: str) -> TierConfig:
    """The rules of a tier, whether it is in the configuration or not."""
    return tiers.get(name) or (BATCH_TIER if name == BATCH else DEFAULT_TIER)


class Entry:
    """A call that waits.  ``deadline``: when its turn is of no use any more; ``inf``: never."""

    __slots__ = ("arrived", "deadline", "tenant", "tier", "waiting")

    def __init__(self, tier: str, tenant: str, arrived: float, deadline: float = inf) -> None:
        self.tier = tier
        self.tenant = tenant
        self.arrived = arrived
        self.deadline = deadline
        self.waiting = False

    def __repr__(self) -> str:
        return f"<Entry of {self.tenant} in {self.tier}, deadline {self.deadline:g}>"


class Full(Exception):
    """There is no place, and nobody who would have to make room."""


class _Line:
    """The calls of one tenant in one tier."""

    __slots__ = ("_gone", "_heap", "_numbers", "length")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Entry]] = []
        self._numbers = 0
        self._gone = 0
        self.length = 0

    def push(self, entry: Entry) -> None:
        self._numbers += 1  # of equal deadlines the first come goes first
        heapq.heappush(self._heap, (entry.deadline, self._numbers, entry))
        self.length += 1

    def first(self) -> Entry:
        heap = self._heap
        while not heap[0][2].waiting:
            heapq.heappop(heap)
            self._gone -= 1
        return heap[0][2]

    def last(self) -> Entry:
        """The one that can wait longest, and of these the last come."""
        return max((item for item in self._heap if item[2].waiting), key=lambda item: item[:2])[2]

    def waiting(self) -> list[Entry]:
        """Those who do, in no order."""
        return [entry for _, _, entry in self._heap if entry.waiting]

    def left(self) -> None:
        """One of them does not wait any more."""
        self.length -= 1
        self._gone += 1
        if self._gone > _OFTEN and self._gone > self.length:
            self._heap = [item for item in self._heap if item[2].waiting]
            heapq.heapify(self._heap)
            self._gone = 0


class _Tier:
    """What waits in one tier."""

    __slots__ = ("config", "counters", "credit", "length", "lines", "passed", "usual")

    def __init__(self, config: TierConfig) -> None:
        self.config = config
        self.lines: dict[str, _Line] = {}  # tenants that wait
        self.counters: dict[str, float] = {}
        self.usual = 0.0  # the counter of the tenant that went last
        self.length = 0
        self.credit = 0.0  # turns that the floor has earned
        self.passed = 0.0  # stride: turns ÷ weight

    def next_tenant(self) -> str:
        counters = self.counters
        return min(self.lines, key=lambda tenant: counters[tenant])

    def join(self, entry: Entry) -> None:
        line = self.lines.get(entry.tenant)
        if line is None:
            least = min((self.counters[name] for name in self.lines), default=self.usual)
            line = self.lines[entry.tenant] = _Line()
            if len(self.counters) >= MAX_COUNTERS:
                self.counters = {name: self.counters[name] for name in self.lines if name in self.counters}
            self.counters[entry.tenant] = max(self.counters.get(entry.tenant, 0.0), least)
        line.push(entry)
        self.length += 1

    def greediest(self, tenant: str) -> Entry | None:
        """Who makes room for a call of this tenant: the tenant with most places, if that is more than fair."""
        if not self.length:
            return None
        longest = max(self.lines.values(), key=lambda line: line.length)
        mine = self.lines[tenant].length if tenant in self.lines else 0
        return longest.last() if longest.length > mine + 1 else None

    def leave(self, entry: Entry) -> None:
        line = self.lines[entry.tenant]
        line.left()
        self.length -= 1
        if not line.length:
            del self.lines[entry.tenant]


class Queue:
    """The calls that wait for one upstream.

    :param tiers: by name; a call of a tier that is not there is treated as :func:`config_of` says
    :param max_waiting: calls, of all tiers together
    :ivar length: calls that wait
    :ivar has_waited: whether anybody ever had to: until then nobody is charged for anything
    """

    def __init__(self, tiers: Mapping[str, TierConfig], max_waiting: int) -> None:
        self.max_waiting = max_waiting
        self._configs = tiers
        self._tiers: dict[str, _Tier] = {}
        self.length = 0
        self.has_waited = False

    def __len__(self) -> int:
        return self.length

    def use_tiers(self, tiers: Mapping[str, TierConfig]) -> None:
        """Go on by these rules."""
        self._configs = tiers
        for name, tier in self._tiers.items():
            tier.config = config_of(tiers, name)

    def has_place(self, tier: str, tenant: str) -> bool:
        """Whether a call would be let in, be it for another that has to make room."""
        own = self._tier(tier)
        if own.length >= self.max_waiting * own.config.queue_share:
            return own.greediest(tenant) is not None
        if self.length < self.max_waiting:
            return True
        return (self._lowest(own.config.priority) or own.greediest(tenant)) is not None

    def push(self, entry: Entry) -> Entry | None:
        """Wait.

        :returns: who had to make room for it
        :raises Full: it cannot wait here
        """
        tier = self._tier(entry.tier)
        evicted = None
        if tier.length >= self.max_waiting * tier.config.queue_share:
            evicted = tier.greediest(entry.tenant)
        elif self.length >= self.max_waiting:
            evicted = self._lowest(tier.config.priority) or tier.greediest(entry.tenant)
        else:
            self._place(entry, tier)
            return None
        if evicted is None:
            raise Full
        self.remove(evicted)
        self._place(entry, tier)
        return evicted

    def _place(self, entry: Entry, tier: _Tier) -> None:
        if not tier.length:
            tier.credit = 0.0
            alike = [
                other.passed
                for other in self._tiers.values()
                if other.length and other.config.priority == tier.config.priority
            ]
            tier.passed = max(tier.passed, min(alike, default=tier.passed))
        entry.waiting = self.has_waited = True
        tier.join(entry)
        self.length += 1

    def pop(self, estimate: float = 1.0, fits: Callable[[Entry], bool] | None = None) -> Entry | None:
        """Whose turn it is; None: nobody waits.

        :param estimate: seconds that its call is expected to hold the upstream
        :param fits: whether it can go now; if not, None, and everybody waits for it: nobody overtakes
        """
        waiting = [tier for tier in self._tiers.values() if tier.length]
        if not waiting:
            return None
        top = max(tier.config.priority for tier in waiting)
        first = [tier for tier in waiting if tier.config.priority == top]
        lower = [tier for tier in waiting if tier.config.priority < top]
        chosen = max(lower, key=lambda tier: tier.credit + tier.config.floor, default=first[0])
        by_floor = bool(lower) and chosen.credit + chosen.config.floor >= _WHOLE
        if not by_floor:
            chosen = min(first, key=lambda tier: tier.passed)
        tenant = chosen.next_tenant()
        entry = chosen.lines[tenant].first()
        if fits is not None and not fits(entry):
            return None
        for tier in lower:
            tier.credit += tier.config.floor
        if by_floor:
            chosen.credit -= 1.0
        else:
            chosen.passed += 1.0 / chosen.config.weight
        self.remove(entry)
        chosen.usual = chosen.counters[tenant]
        chosen.counters[tenant] += estimate
        return entry

    def charge(self, tier: str, tenant: str, seconds: float) -> None:
        """A turn held the upstream for so much longer (negative: shorter) than it was estimated."""
        found = self._tiers.get(tier)
        if found is not None and tenant in found.counters:
            found.counters[tenant] += seconds

    def remove(self, entry: Entry) -> None:
        """It does not wait any more."""
        if entry.waiting:
            entry.waiting = False
            self._tiers[entry.tier].leave(entry)
            self.length -= 1

    def expired(self, now: float) -> list[Entry]:
        """Those whose deadline is before ``now``; they do not wait any more."""
        found = []
        for tier in self._tiers.values():
            for line in list(tier.lines.values()):
                while line.length and (entry := line.first()).deadline < now:
                    self.remove(entry)
                    found.append(entry)
        return found

    def without_deadline(self) -> list[Entry]:
        """Those who would wait for any time, in no order; they do not wait any more."""
        found = [
            entry
            for tier in self._tiers.values()
            for line in tier.lines.values()
            for entry in line.waiting()
            if entry.deadline == inf
        ]
        for entry in found:
            self.remove(entry)
        return found

    def clear(self) -> list[Entry]:
        """All who wait, in no order; they do not wait any more."""
        found = []
        for tier in self._tiers.values():
            for line in list(tier.lines.values()):
                while line.length:
                    entry = line.first()
                    self.remove(entry)
                    found.append(entry)
        return found

    def ahead(self, tier: str, tenant: str) -> tuple[int, int]:
        """How many of those that wait would go before a new call of this tenant: of higher tiers, of its own."""
        config = config_of(self._configs, tier)
        higher = alike = 0
        for name, other in self._tiers.items():
            if name == tier or not other.length:
                continue
            if other.config.priority > config.priority:
                higher += other.length
            elif other.config.priority == config.priority:
                alike += other.length
        own = self._tiers.get(tier)
        if own is None or not own.length:
            return higher, alike and 1
        mine = own.lines[tenant].length if tenant in own.lines else 0
        before = mine + sum(min(line.length, mine + 1) for name, line in own.lines.items() if name != tenant)
        return higher, before + min(alike, before + 1)

    def lengths(self) -> dict[str, int]:
        """How many wait, by tier."""
        return {name: tier.length for name, tier in self._tiers.items()}

    def _tier(self, name: str) -> _Tier:
        tier = self._tiers.get(name)
        if tier is None:
            tier = self._tiers[name] = _Tier(config_of(self._configs, name))
        return tier

    def _lowest(self, priority: int) -> Entry | None:
        """Who is evicted for a call of this priority: of the lowest tier below it, and there of the tenant
        that has most calls waiting, the one that could wait longest.
        """
        lower = [tier for tier in self._tiers.values() if tier.length and tier.config.priority < priority]
        if not lower:
            return None
        tier = min(lower, key=lambda each: each.config.priority)
        return max(tier.lines.values(), key=lambda line: line.length).last()

    def __repr__(self) -> str:
        lengths = ", ".join(f"{name} {length}" for name, length in self.lengths().items())
        return f"<Queue {self.length} of {self.max_waiting} waiting: {lengths}>"
