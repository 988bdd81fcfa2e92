"""When an answer is of no use any more, by what its call says, its tier, and its SDK."""

from math import inf

import pytest
from flow_calls import a_call

from penstock.errors import BadRequest
from penstock.flow.deadline import deadline_of, told_of

TIERS = {"standard": 20.0}
NOW = 1_790_000_000.0


def due(tiers=TIERS, *, deferred=False, **headers):
    call = a_call(headers={name.replace("_", "-").encode(): value for name, value in headers.items()})
    call.received, call.deferred = 100.0, deferred
    call.deadline = told_of(call, tiers, lambda: NOW)
    return deadline_of(call)


def test_what_says_nothing_has_that_of_its_tier_if_there_is_one():
    assert (due(), due({}), due({"batch": 5.0})) == (120.0, inf, inf)


def test_what_a_call_says_goes_before_its_tier():
    assert due(penstock_deadline=b"30") == 130.0
    assert due(penstock_deadline=b"inf") == inf
    assert due(penstock_deadline=b"%f" % (NOW + 7)) == pytest.approx(107.0)


def test_nobody_waits_for_longer_than_the_sdk():
    assert due(penstock_deadline=b"30", x_stainless_read_timeout=b"5") == 105.0
    assert due(penstock_deadline=b"3", x_stainless_read_timeout=b"5") == 103.0
    assert due({}, x_stainless_read_timeout=b"600") == 700.0


def test_the_sdk_does_not_wait_for_an_answer_that_is_asked_for_later():
    assert due({}, deferred=True, x_stainless_read_timeout=b"5") == inf
    assert due(deferred=True, penstock_deadline=b"30", x_stainless_read_timeout=b"5") == 130.0


@pytest.mark.parametrize("said", [b"soon", b"nan", b""])
def test_what_makes_no_sense_is_the_callers_mistake(said):
    with pytest.raises(BadRequest):
        due(penstock_deadline=said)
