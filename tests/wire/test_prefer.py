"""What a caller prefers (RFC 7240)."""

import pytest

from penstock.wire import prefer
from penstock.wire.prefer import LONGEST_WAIT, MOST_BYTES, Preferred, applied, read


@pytest.mark.parametrize(
    ("field", "asynchronous", "wait"),
    [
        (b"respond-async", True, 0.0),
        (b"Respond-Async", True, 0.0),
        (b"respond-async, wait=10", True, 10.0),
        (b"wait=10, respond-async", True, 10.0),
        (b'respond-async;x="a, wait=7" , wait = "5"', True, 5.0),
        (b"wait=10", False, 10.0),
        (b"wait=1, wait=30, respond-async", True, 1.0),
        (b"respond-async=1", True, 0.0),
        (b"wait=86400, respond-async", True, LONGEST_WAIT),
        (b"handling=lenient", False, 0.0),
        (b'note="respond-async"', False, 0.0),
        (b'note="x, respond-async, wait=9"', False, 0.0),
        (b"not-respond-async", False, 0.0),
        (b"", False, 0.0),
        (b",,;=", False, 0.0),
        (b"respond-async, wait=-1", True, 0.0),
        (b"respond-async, wait=inf", True, 0.0),
        (b"respond-async, wait=1e3", True, 0.0),
        (b"respond-async, wait=" + b"9" * 200, True, 0.0),
        (b"respond-async, wait=\xb2", True, 0.0),
    ],
)
def test_preferences_are_read(field, asynchronous, wait):
    preferred = read(field)
    assert (preferred.responds_async, preferred.wait) == (asynchronous, wait)


def test_what_was_applied_is_told():
    assert applied(0.0, promised=True) == b"respond-async"
    assert applied(10.0, promised=True) == b"respond-async, wait=10"
    assert applied(10.0, promised=False) == b"wait=10"
    assert applied(0.0, promised=False) == b""


def test_a_field_that_is_too_long_means_nothing():
    assert read(b"respond-async" + b" " * (MOST_BYTES - 13)).responds_async
    assert not read(b"respond-async" + b" " * (MOST_BYTES - 12)).responds_async


@pytest.mark.parametrize("piece", [b'"', b'a="', b",", b"a,", b"\\", b'a="\\', b'\\"', b" "])
def test_a_field_of_nonsense_says_nothing(piece):
    assert read((piece * MOST_BYTES)[:MOST_BYTES]) == Preferred(responds_async=False, wait=0.0)


@pytest.mark.parametrize(
    "field",
    [b"a" + b" " * 300_000 + b"x", b'"' + b'\\"' * 150_000, b'a="' * 100_000, b"a=" + b" " * 300_000 + b"x"],
)
def test_a_field_is_read_in_a_time_that_grows_no_faster_than_it_does(monkeypatch, field):
    monkeypatch.setattr(prefer, "MOST_BYTES", len(field))
    assert read(field) == Preferred(responds_async=False, wait=0.0)  # else this takes minutes
