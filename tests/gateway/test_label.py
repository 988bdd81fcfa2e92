"""What callers say a call is for stands in the rows of the ledger, whoever answers, and does not change the answer."""

from collections import Counter

import pytest
from keeping import ASKED, answering, gateway_of
from serving import call, on_uvloop, rows

from penstock.gateway.stages.label import MAX_LABEL, label_of
from penstock.messages import Outcome


def test_a_calls_label_is_in_the_row_of_its_attempt_and_of_what_it_saved():
    async def main():
        async with gateway_of([answering()]) as (gateway, port, upstream, _):
            said = (["penstock-label: search"], ["penstock-label: chat"], ["penstock-label: chat"], [])
            for headers in said:  # the third is answered without being read
                await call(port, ASKED, headers=headers)
            assert Counter((row.label, row.outcome) for row in rows(gateway)) == {
                ("search", Outcome.COMPLETED): 1,
                ("chat", Outcome.CACHED): 2,
                ("", Outcome.CACHED): 1,
            }
            assert b"penstock-label" not in upstream.received[0].lower()

    on_uvloop(main)


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (b" search ", "search"),
        ("s\u00fcche".encode(), "s\u00fcche"),
        (b"\xff", "\ufffd"),
        (b"x" * 1000, "x" * MAX_LABEL),
    ],
)
def test_a_label_is_text_of_some_length(value, label):
    assert label_of({b"penstock-label": value}) == label


def test_no_label_is_an_empty_one():
    assert label_of({}) == ""
