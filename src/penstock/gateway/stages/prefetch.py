"""What will be asked next?  Ask it now, if that is likely, cheap and allowed.

The contract: per caller's scope it is learned which question follows which (``cache.successors``).  When one is asked whose
follower is likely to come and is not kept, the follower is asked for, in the tier ``batch``, which goes behind all
others, within a budget of calls and of money.  So is what lies beside a question (``cache.neighbours``), where the
configuration says how that is found.  Each model of the configuration has a budget of its own.  An answer so fetched is *used* when a caller gets it, and *wasted* when
it goes stale first.  Where too few of a tenant's of one model are used, fetching
these stops for a while: it does not pay.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

import msgspec

from penstock.batches.batch import TIER
from penstock.cache.cache import Cache
from penstock.cache.neighbours import Neighbours
from penstock.cache.successors import Successors
from penstock.config.model import PrefetchConfig
from penstock.flow.allowance import Allowance
from penstock.generation.log import new_id
from penstock.messages import Call
from penstock.metrics import Registry

MAX_QUESTIONS = 20_000
MAX_TEMPLATES_BYTES = 16 << 20  # bodies that are remembered, so that they can be asked again
LEAST_SEEN = 2  # how often a follower must have followed
LEAST_JUDGED = 20  # fetched answers before it is judged whether they pay
MAX_JUDGED = 1_000  # tenants' models that are judged apart; those that were judged longest ago are forgotten
PAUSE = 600.0  # seconds without fetching where it does not pay


class _Fetched(msgspec.Struct, frozen=True):
    """An answer that nobody has asked for yet."""

    until: float  # seconds since 1970: then it is stale
    took: float  # seconds that a caller need not wait now
    whose: tuple[str, str]  # tenant and model
    min_used: float  # share that must be used, or it does not pay


class _Judgement(msgspec.Struct):
    """Whether it pays."""

    judged: float = 0.0
    useful: float = 0.0
    paused_until: float = 0.0  # seconds since 1970


class Prefetch:
    """Decides what to fetch, and whether it pays.

    :param now: seconds since 1970
    """

    def __init__(
        self,
        cache: Cache,
        metrics: Registry,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._cache = cache
        self._now = now
        self._successors = Successors(MAX_QUESTIONS)
        self.neighbours = Neighbours()
        self._templates: OrderedDict[bytes, Call] = OrderedDict()
        self._template_bytes = 0
        self._outstanding: OrderedDict[bytes, _Fetched] = OrderedDict()
        self._allowances: dict[str, Allowance] = {}  # by the configuration's name of the model
        self._judgements: OrderedDict[tuple[str, str], _Judgement] = OrderedDict()  # by tenant and model
        outcomes = metrics.counter(
            "penstock_prefetch_total", "Answers fetched before anybody asked.", labels=("outcome",)
        )
        names = ("fetched", "used", "wasted", "failed", "budget")
        self._outcomes = {name: outcomes.labels(name) for name in names}
        self._saved = metrics.counter(
            "penstock_prefetch_saved_seconds_total", "What fetching the used ones had taken."
        ).labels()
        paused = metrics.gauge(
            "penstock_prefetch_paused", "Tenants' models for which fetching does not pay, and rests."
        ).labels()

        def collect() -> None:
            self._expire()
            now = self._now()
            paused.set(sum(each.paused_until > now for each in self._judgements.values()))

        metrics.before_collecting(collect)

    def __repr__(self) -> str:
        return f"<Prefetch by {self._successors!r}, {len(self._outstanding)} not used yet>"

    def asked(self, call: Call, key: bytes, scope: str, policy: PrefetchConfig, route: str) -> list[Call]:
        """A caller asked this: what is to be fetched now.

        :param scope: within which it is learned
        :param route: the configuration's name of the model, whose budget it is
        """
        self._expire()
        fetched = self._outstanding.pop(key, None)
        if fetched is not None:
            self._outcomes["used"].add()
            self._saved.add(fetched.took)
            self._judge(fetched, 1.0)
        self._remember(key, call)
        self._successors.saw(f"{scope} {call.tenant.key_name}", key)
        if self.rests(call):
            return []
        wanted = []
        for follower, _ in self._successors.likely(key, policy.min_probability, LEAST_SEEN):
            template = self._templates.get(follower)
            if template is None or template.model != call.model or self._is_there(follower):
                continue
            if not self.permits(policy, route):
                break
            tenant = msgspec.structs.replace(call.tenant, tier=TIER)
            wanted.append(
                msgspec.structs.replace(
                    template, id=new_id(), received=call.received, tenant=tenant, reservation=None
                )
            )
        return wanted

    def beside(self, call: Call, scope: str, policy: PrefetchConfig) -> list[bytes]:
        """The bodies of the calls that lie beside this one; each is fetched only if it :meth:`is_wanted`."""
        if not policy.neighbours:
            return []
        found = self.neighbours.of(f"{scope} {call.tenant.key_name}", call.body, policy.neighbours)
        return [] if self.rests(call) else found

    def rests(self, call: Call) -> bool:
        """Whether fetching what this call's tenant asks of its model does not pay now."""
        found = self._judgements.get((call.tenant.name, call.model))
        return found is not None and found.paused_until > self._now()

    def is_wanted(self, key: bytes, policy: PrefetchConfig, route: str) -> bool:
        """Whether an answer is to be fetched: it is not there, and the budget permits it."""
        return not self._is_there(key) and self.permits(policy, route)

    def permits(self, policy: PrefetchConfig, route: str) -> bool:
        """Take one call out of the model's budget, if it has one."""
        if self._allowance(route).take(policy.calls_per_minute, policy.usd_per_day):
            return True
        self._outcomes["budget"].add()
        return False

    def _allowance(self, route: str) -> Allowance:
        found = self._allowances.get(route)
        if found is None:
            found = self._allowances[route] = Allowance(self._now)
        return found

    def fetched(
        self,
        call: Call,
        key: bytes,
        route: str,
        policy: PrefetchConfig | None,
        cost: int,
        took: float,
        until: float,
    ) -> None:
        """An answer is there.

        :param route: see :meth:`asked`
        :param cost: in 1e-12 US dollars
        :param took: seconds
        :param until: seconds since 1970, when it is stale; 0: there is none after all
        """
        self._allowance(route).spend(cost)
        if not until:
            self._outcomes["failed"].add()
            return
        self._outcomes["fetched"].add()
        self._outstanding[key] = _Fetched(
            until, took, (call.tenant.name, call.model), 0.0 if policy is None else policy.min_used
        )

    def _is_there(self, key: bytes) -> bool:
        if key in self._outstanding:
            return True
        entry = self._cache.memory.peek(key)
        return entry is not None and entry.fresh_until > self._now()

    def _judge(self, fetched: _Fetched, useful: float) -> None:
        found = self._judgements.pop(fetched.whose, None) or _Judgement()
        self._judgements[fetched.whose] = found
        if len(self._judgements) > MAX_JUDGED:
            self._judgements.popitem(last=False)
        found.judged = found.judged * 0.98 + 1
        found.useful = found.useful * 0.98 + useful
        if found.judged >= LEAST_JUDGED and found.useful < fetched.min_used * found.judged:
            found.paused_until = self._now() + PAUSE
            found.judged = found.useful = 0.0

    def _expire(self) -> None:
        now = self._now()
        while self._outstanding:
            key, fetched = next(iter(self._outstanding.items()))
            if fetched.until > now:
                break
            del self._outstanding[key]
            self._outcomes["wasted"].add()
            self._judge(fetched, 0.0)

    def _remember(self, key: bytes, call: Call) -> None:
        old = self._templates.pop(key, None)
        if old is not None:
            self._template_bytes -= len(old.body)
        if len(call.body) * 4 > MAX_TEMPLATES_BYTES:
            return
        self._templates[key] = call
        self._template_bytes += len(call.body)
        while self._template_bytes > MAX_TEMPLATES_BYTES:
            _, gone = self._templates.popitem(last=False)
            self._template_bytes -= len(gone.body)
