"""Which trace a request belongs to, as its header fields say."""

import pytest

from penstock.wire.trace_context import Parent, parent_in, passed_on, sampled, without

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01".encode()


def test_a_parent_has_ids_a_decision_and_a_state():
    headers = {b"traceparent": PARENT, b"tracestate": b"a=1,b=2"}
    assert parent_in(headers) == Parent(TRACE, SPAN, sampled=True, state=b"a=1,b=2")
    assert parent_in({b"traceparent": PARENT[:-2] + b"00"}) == Parent(TRACE, SPAN, sampled=False, state=b"")


def test_of_the_flags_only_the_last_decides():
    assert parent_in({b"traceparent": PARENT[:-2] + b"03"}).sampled
    assert not parent_in({b"traceparent": PARENT[:-2] + b"02"}).sampled


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"00",
        PARENT.upper(),
        PARENT + b"-",
        PARENT + b", " + PARENT,  # two fields
        b"ff" + PARENT[2:],
        PARENT.replace(TRACE.encode(), b"0" * 32),
        PARENT.replace(SPAN.encode(), b"0" * 16),
        PARENT[:-1],
        PARENT + b"\n",
    ],
)
def test_what_is_none_is_not_passed_on(value):
    headers = {b"traceparent": value, b"tracestate": b"a=1"}
    assert parent_in(headers) is None
    assert passed_on(headers) == b""


def test_a_later_version_may_have_more():
    headers = {b"traceparent": b"01" + PARENT[2:] + b"-more"}
    assert parent_in(headers).trace_id == TRACE
    assert passed_on(headers) == b"traceparent: 01" + PARENT[2:] + b"-more\r\n"


def test_a_state_without_a_parent_is_nothing():
    assert passed_on({b"tracestate": b"a=1"}) == b""


def test_it_is_passed_on_as_it_came_or_with_a_span_of_ones_own():
    headers = {b"traceparent": PARENT, b"tracestate": b"a=1"}
    assert passed_on(headers) == b"traceparent: " + PARENT + b"\r\ntracestate: a=1\r\n"
    assert sampled(TRACE, "1" * 16, b"") == f"traceparent: 00-{TRACE}-{'1' * 16}-01\r\n".encode()


def test_what_is_asked_on_the_gateways_own_account_belongs_to_no_trace():
    headers = {b"traceparent": PARENT, b"tracestate": b"a=1", b"accept": b"*/*"}
    assert without(headers) == {b"accept": b"*/*"}
    assert without({b"accept": b"*/*"}) == {b"accept": b"*/*"}
