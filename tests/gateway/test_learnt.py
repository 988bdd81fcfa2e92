"""What the end of an attempt says of the replica that it was made at."""

import asyncio
from types import SimpleNamespace

import pytest

from penstock.errors import (
    DeadlinePassed,
    Overloaded,
    UpstreamBroken,
    UpstreamFailed,
    UpstreamLeaving,
    UpstreamRefused,
)
from penstock.flow.choose import Standing
from penstock.flow.prefix import Replica, Sent
from penstock.flow.prefix_blocks import BLOCK_BYTES, cut
from penstock.gateway.stages.learnt import count_out
from penstock.messages import Usage

PROMPT = cut([b"a question ".ljust(10 * BLOCK_BYTES, b".")], b"")


def ended(failure=None, *, seen=0.0, cancelled=False, lost=False, own=False):
    """The replica that an attempt was made at, a moment after it began, and blocks that it is taken to have."""
    replica, standing = Replica(lambda: 10.0), Standing()
    Sent(standing, replica, cut([b"another"], b""))
    sent = Sent(standing, replica, PROMPT)
    transfer = SimpleNamespace(
        now=lambda: 10.0,
        sent=10.0,
        seen=seen,
        cancelled=cancelled,
        lost=lost,
        job=SimpleNamespace(call=SimpleNamespace(stream=True)),
        is_callers_own=lambda failure: own and failure is not None,
    )
    count_out(sent, transfer, SimpleNamespace(usage=Usage(10, 10)), failure)
    assert standing.in_progress == 1
    return replica, replica.record.known(PROMPT, 10.0)


@pytest.mark.parametrize(
    ("failure", "more"),
    [
        (Overloaded("the line is full"), {}),
        (DeadlinePassed("too late", retry_after=1.0), {}),
        (UpstreamLeaving("it leaves"), {}),
        (UpstreamRefused("no such parameter"), {}),
        (UpstreamFailed("this key has no credit"), {"own": True}),
        (asyncio.CancelledError(), {}),
        (None, {"cancelled": True}),
        (UpstreamBroken("hung up"), {"cancelled": True}),
        (ValueError("a defect"), {}),
    ],
)
def test_who_has_not_begun_to_answer_is_not_taken_to_have_the_prompt_nor_to_have_it_before_it(failure, more):
    replica, known = ended(failure, **more)
    assert known == 0
    assert replica.ahead(1, 10.0) < 10
    assert replica.wait(0, 10.0) == 0.0


@pytest.mark.parametrize(
    ("failure", "more"),
    [
        (None, {"seen": 10.0}),
        (None, {}),
        (None, {"seen": 10.0, "cancelled": True}),
        (asyncio.CancelledError(), {"seen": 10.0}),
        (asyncio.CancelledError(), {"lost": True}),
    ],
)
def test_who_has_answered_or_is_outrun_has_it(failure, more):
    replica, known = ended(failure, **more)
    assert known == 10
    assert replica.wait(0, 10.0) == 0.0


def test_who_failed_has_nothing_and_is_left_alone():
    replica, known = ended(UpstreamBroken("cut off"))
    assert known == 0
    assert replica.ahead(1, 10.0) < 10
    assert replica.wait(0, 10.0) > 0.0
