import pytest
from gateway_doubles import a_call

from penstock.errors import Draining, Forbidden
from penstock.gateway.stages.admit import Admission
from penstock.messages import Tenant


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
