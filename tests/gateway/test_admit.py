import asyncio

import pytest
from gateway_doubles import a_call, a_generation

from penstock.errors import Draining, Forbidden, LeaseWanted, RateLimited
from penstock.gateway.stages.admit import LEASE_WAIT, Admission
from penstock.messages import Tenant, Usage
from penstock.testing import FakeClock


class Reservation:
    """Remembers what it was told."""

    def __init__(self):
        self.settled = False
        self.told = []

    def settle(self, usage, cost):
        self.settled = True
        self.told.append((usage, cost))

    def release(self):
        self.told.append("released")


class Leasing:
    """A limiter that has been leased what a call needs after so many seconds, and hears of others ten times a second."""

    def __init__(self, leased_after):
        self.clock = FakeClock()
        self.now = self.clock.now
        self.leased_at = self.now() + leased_after
        self.asked = []
        self.corrected = []

    def reserve(self, call, *, patient):
        self.asked.append(patient)
        if self.now() >= self.leased_at:
            return Reservation()
        raise (LeaseWanted if patient else RateLimited)("no place")

    async def wait_leased(self, call, seconds):
        assert 0 < seconds <= LEASE_WAIT
        self.clock.advance(min(0.1, seconds))

    def correct(self, names, cost):
        self.corrected.append((names, cost))


def test_what_is_acquired_is_settled():
    admission = Admission()
    call = a_call()
    admission.acquire(call)
    admission.acquire(a_call())
    admission.settle(call)
    assert admission.in_progress == 1


def test_who_is_refused_has_nothing_to_settle():
    admission = Admission()
    with pytest.raises(Forbidden):
        admission.acquire(a_call(tenant=Tenant(models=("other",))))
    assert admission.in_progress == 0


def test_a_gateway_that_goes_away_admits_nobody_and_says_when_to_come_back():
    admission = Admission()
    admission.acquire(a_call())
    admission.draining = True
    with pytest.raises(Draining) as caught:
        admission.acquire(a_call())
    assert (caught.value.status, caught.value.retry_after) == (503, 1.0)
    assert admission.in_progress == 1
    assert "draining" in repr(admission)


def test_what_others_have_to_spare_is_waited_for_and_no_longer_than_needed():
    admission, call = Admission(Leasing(0.15)), a_call()
    began = admission.limiter.now()
    with pytest.raises(LeaseWanted):
        admission.acquire(call, patient=True)
    assert admission.in_progress == 0
    asyncio.run(admission.acquire_late(call))
    assert call.reservation is not None
    assert admission.in_progress == 1
    assert admission.limiter.now() == pytest.approx(began + 0.2)
    assert admission.limiter.asked == [True, True, True]


def test_who_is_not_leased_it_in_time_is_refused_as_without_others():
    admission, call = Admission(Leasing(60.0)), a_call()
    began = admission.limiter.now()
    with pytest.raises(RateLimited) as refused:
        asyncio.run(admission.acquire_late(call))
    assert not isinstance(refused.value, LeaseWanted)
    assert admission.limiter.now() == pytest.approx(began + LEASE_WAIT)
    assert admission.limiter.asked[-1] is False
    assert (call.reservation, admission.in_progress) == (None, 0)


def test_what_an_answer_has_used_is_settled_once_and_its_reservation_let_go_of():
    admission, used = Admission(), Usage(3, 4)
    call = a_call()
    generation = a_generation(call)
    generation.usage, generation.cost = used, 5
    call.reservation = Reservation()
    admission.produced(call, generation)
    assert call.reservation.told == [(used, 5), "released"]
    call.reservation = Reservation()
    call.reservation.settled = True
    admission.produced(call, generation)
    assert call.reservation.told == ["released"]


def test_an_answer_without_usage_gives_back_what_was_reserved():
    call = a_call()
    call.reservation = Reservation()
    Admission().produced(call, a_generation(call))
    assert call.reservation.told == [(Usage(), 0), "released"]


def test_budgets_count_what_nobody_was_admitted_for():
    admission = Admission(Leasing(0.0))
    call = a_call(tenant=Tenant(name="t", key_name="k", tier="gold"))
    generation = a_generation(call)
    admission.produced(call, generation)
    assert admission.limiter.corrected == []
    generation.cost = 7
    admission.produced(call, generation)
    assert admission.limiter.corrected == [(("k", "t", "gold", "m"), 7)]
    Admission().produced(call, generation)  # nobody counts
