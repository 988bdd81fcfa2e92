"""What does this call get, if its model's upstreams are busy?

The contract: what a tier's ladder (``flow.degrade``) says at the present load of the call's model.  A kept answer
that is too old otherwise, a smaller model, a shorter answer, or 503 at once: in this order, and each told to the
caller in ``Penstock-Degraded``.  Between a shorter answer and 503 lies the upstream's queue, and that is told, too.
A smaller model's failure is not the caller's: the model that he asked for is asked then.

A background call can wait, so it is never given less, unless its caller waits for it; lines of a batch are, if their
tier's ladder says so.  What is not generated (embeddings, counts of tokens) has no smaller form.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from penstock.errors import REFUSED, CallerError, DeadlinePassed, Overloaded, RateLimited, UpstreamError
from penstock.flow.degrade import Ladders, Steps
from penstock.flow.gate import Asked
from penstock.gateway.stages.call import Production
from penstock.gateway.stages.candidate import Candidate, quoted
from penstock.gateway.stages.route import Router
from penstock.gateway.stages.substitute import Substitutes
from penstock.generation.log import TOO_LARGE
from penstock.messages import Call, Reduction
from penstock.metrics import Registry
from penstock.wire import request

_LONGEST = 60.0  # seconds to come back in


class Degradation:
    """Reduces calls as their tiers' ladders say.

    :param ladders: of the present configuration
    """

    def __init__(self, ladders: Ladders, metrics: Registry) -> None:
        self._reduced = metrics.counter(
            "penstock_degraded_total",
            "Calls that got less than they asked for because of the load, by what they got.",
            labels=("tier", "step"),
        )
        self._on_wait = self._waited  # made once, and not for each call
        self.use(ladders)

    def __repr__(self) -> str:
        return f"<Degradation {self.ladders}>"

    def use(self, ladders: Ladders) -> None:
        """Go on by these."""
        self.ladders = ladders
        for tier, step in ladders.all_steps():
            self._reduced.labels(tier, step)
            self._reduced.labels(tier, "queue")
            if step == "smaller":
                self._reduced.labels(tier, "larger")

    def look(self, call: Call, router: Router) -> None:
        """Decide how the call may be answered; :attr:`Call.reduction` says it from then on.

        :raises Overloaded: not at all
        """
        ladders, tier = self.ladders, call.tenant.tier
        quiet_below = ladders.quiet_below.get(tier)
        if quiet_below is None or (call.background and _can_wait(call)):
            return
        call.on_wait = self._on_wait
        now, model = call.received, call.model
        load = router.load(model, now)
        if load < quiet_below and not ladders.in_use:  # as a rule
            return
        route = router.route_name(model)
        if route is None:
            return
        steps = ladders.look(tier, route, load, now)
        if not steps:
            return
        if steps.refuse:
            self._reduced.labels(tier, "refuse").add()
            raise refusal(call, router)
        call.reduction = self.reduction(call, steps, router)

    def seen(self, call: Call, router: Router) -> Steps | None:
        """What :meth:`look` would say, without any change by the question; None: the tier has no ladder."""
        tier, route = call.tenant.tier, router.route_name(call.model)
        if self.ladders.config(tier) is None or route is None or _can_wait(call):
            return None
        return self.ladders.seen(tier, route, router.load(call.model, call.received), call.received)

    def reduction(self, call: Call, steps: Steps, router: Router) -> Reduction:
        """What these steps mean for this call."""
        config = self.ladders.config(call.tenant.tier)
        assert config is not None, "who has no ladder takes no steps"
        smaller = ""
        max_tokens: int | None = None
        if call.endpoint.streams:
            if steps.smaller and not call.version:
                smaller = router.smaller(call.model, below=config.smaller or 0.0, now=call.received)
            if steps.shorter and (
                call.max_output_tokens is None or call.max_output_tokens > config.max_tokens
            ):
                max_tokens = config.max_tokens
        return Reduction(steps.stale, smaller, max_tokens)

    async def run(
        self,
        production: Production,
        candidates: Sequence[Candidate],
        substitutes: Substitutes | None,
        first: Candidate,
        router: Router,
    ) -> None:
        """:meth:`Production.run` for a call that was given less: where a smaller model fails before it has said anything, the
        one that the caller asked for is asked after all, if the retry budget has something left.
        """
        try:
            await production.run(candidates, substitutes, first)
            return
        except (CallerError, Overloaded, RateLimited, UpstreamError) as error:
            if production.generation.events or isinstance(error, DeadlinePassed) or error.code == TOO_LARGE:
                raise
            others = self._larger(production, candidates, router)
            if not others:
                raise
        await production.run(others, None, first)

    def _larger(
        self, production: Production, asked: Sequence[Candidate], router: Router
    ) -> Sequence[Candidate]:
        """Who answers the model that the caller has named, and has not been asked yet; nobody, if that is a retry too many."""
        call = production.call
        if production.abandoned or call.named == call.model:
            return ()
        before = {(each.upstream.name, each.model) for each in asked}
        wanted = msgspec.structs.replace(call, model=call.named)
        others = [each for each in router.route(wanted) if (each.upstream.name, each.model) not in before]
        if not others or not production.may_retry():
            return ()
        self._reduced.labels(call.tenant.tier, "larger").add()
        return others

    def stale(self, call: Call) -> None:
        """The call gets a kept answer that is too old otherwise."""
        call.degraded = b"stale"
        self._reduced.labels(call.tenant.tier, "stale").add()

    def _waited(self, call: Call) -> None:
        """The call had to wait for its turn; it is told once, however often it waits."""
        call.on_wait = None
        call.degraded = b", ".join([*[call.degraded] * bool(call.degraded), b"queue"])
        self._reduced.labels(call.tenant.tier, "queue").add()

    def reduced(self, call: Call, reduction: Reduction) -> Call:
        """The call that is asked in the place of this one."""
        less = lessened(call, reduction)
        if reduction.smaller:
            self._reduced.labels(call.tenant.tier, "smaller").add()
        if reduction.max_tokens is not None:
            self._reduced.labels(call.tenant.tier, "shorter").add()
        return less


def _can_wait(call: Call) -> bool:
    """A background call, but for one whose caller waits for its answer all the same (``Prefer: wait=N``)."""
    return call.background and not call.wait


def lessened(call: Call, reduction: Reduction) -> Call:
    """The same call for less, which says so."""
    fields, told = call.fields, []
    model, limit = reduction.smaller or call.model, call.max_output_tokens
    if reduction.smaller:
        told.append(b"smaller; model=%b" % quoted(model))
    if reduction.max_tokens is not None:
        limit = reduction.max_tokens
        fields = request.limited(call.endpoint, fields, limit)
        told.append(b"shorter; max_tokens=%d" % limit)
    return msgspec.structs.replace(
        call,
        model=model,
        fields=fields,
        body=request.rewritten(fields, model),
        max_output_tokens=limit,
        reduction=None,
        degraded=b", ".join(told),
        named=call.named or call.model,
    )


def refusal(call: Call, router: Router) -> Overloaded:
    """503, and when it may be worth to come back."""
    return Overloaded(
        f"too much is asked of {call.model!r} now, and calls of the tier {call.tenant.tier!r} come last",
        code=REFUSED,
        retry_after=retry_after(call, router),
    )


def retry_after(call: Call, router: Router) -> float:
    """Seconds after which those that wait now will have gone, at the least busy of the model's upstreams."""
    waits = [
        candidate.upstream.gate.predicted_wait(
            Asked(candidate.model, call.tenant.name, call.tenant.tier, call.stream), call.received
        )
        for candidate in router.regular(call.model)
        if candidate.upstream.gate is not None
    ]
    return min(max(min(waits, default=1.0), 1.0), _LONGEST)
