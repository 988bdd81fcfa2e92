"""CPU time of the decisions, per call, on one core."""

from __future__ import annotations

import time
from collections.abc import Callable

from penstock.config.model import BreakerConfig, ConcurrencyConfig, LimitConfig, LimitsConfig, TierConfig
from penstock.flow.gate import Asked, Gate, Outcome, Turn
from penstock.flow.lessee import Lessee
from penstock.flow.limits import Limiter
from penstock.messages import Call, Endpoint, Tenant, Usage
from penstock.metrics import Counter
from penstock.wire import request

CALLS = 20_000
ROUNDS = 7


def per_call(work: Callable[[], None]) -> float:
    """µs: the least of the rounds, for noise only ever adds."""
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.process_time()
        work()
        best = min(best, time.process_time() - began)
    return best / CALLS * 1e6


def limits(*, shared: bool = False) -> float:
    """:param shared: with other processes, and nobody answers"""
    each = LimitConfig(requests_per_minute=10**9, tokens_per_minute=10**12, concurrent=10, usd_per_day=10**6)
    limiter = Limiter(
        LimitsConfig(keys={"*": each}, tenants={"*": each}),
        time.monotonic,
        lambda *_: 1000,
        lambda *_: None,
        lessee=Lessee(4, time.monotonic, lambda _: None) if shared else None,
    )
    body = b'{"model":"m","messages":[]}' + b" " * 1000
    opening = request.read(Endpoint.CHAT, body)
    call = Call("gen_0", Endpoint.CHAT, "m", False, opening.fields, body, {}, 0.0, Tenant())
    usage = Usage(200, 50)

    def work() -> None:
        for _ in range(CALLS):
            reservation = limiter.reserve(call)
            assert reservation is not None
            reservation.hold()
            reservation.settle(usage, 900)
            reservation.release()
            reservation.release()

    return per_call(work)


def gate(concurrency: ConcurrencyConfig | None, breaker: BreakerConfig | None) -> float:
    door = Gate("up", concurrency, breaker, {"standard": TierConfig()}, lambda *_: Counter())
    asked = Asked("m", "t", "standard", stream=True, tokens=300)
    fine = Outcome("", 0.1, 50.0, 50)
    now = time.monotonic

    def work() -> None:
        for _ in range(CALLS):
            turn = door.ask(asked, now(), lambda _: None)
            assert isinstance(turn, Turn)
            turn.settle(fine, now())

    return per_call(work)


def main() -> None:
    print("| | µs of CPU per call |")
    print("|---|--:|")
    print(f"| limits of key and tenant: requests, tokens, concurrent, budget | {limits():.1f} |")
    print(f"| the same, shared by several processes | {limits(shared=True):.1f} |")
    print(f"| breaker | {gate(None, BreakerConfig()):.1f} |")
    print(f"| concurrency, nobody waits | {gate(ConcurrencyConfig(), None):.1f} |")
    print(f"| both | {gate(ConcurrencyConfig(), BreakerConfig()):.1f} |")
