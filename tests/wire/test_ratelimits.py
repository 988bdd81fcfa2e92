import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.messages import Dialect
from penstock.wire.ratelimits import Told, read, render, tells

NOW = dt.datetime(2026, 11, 21, 12, 0, 0, tzinfo=dt.UTC).timestamp()


def test_openais_form():
    assert dict(render(Dialect.OPENAI, (60, 59, 1.0), (150_000, 149_984, 360.0), NOW)) == {
        b"x-ratelimit-limit-requests": b"60",
        b"x-ratelimit-remaining-requests": b"59",
        b"x-ratelimit-reset-requests": b"1s",
        b"x-ratelimit-limit-tokens": b"150000",
        b"x-ratelimit-remaining-tokens": b"149984",
        b"x-ratelimit-reset-tokens": b"6m0s",
    }


def test_anthropics_form():
    assert dict(render(Dialect.ANTHROPIC, (50, 49, 1.2), None, NOW)) == {
        b"anthropic-ratelimit-requests-limit": b"50",
        b"anthropic-ratelimit-requests-remaining": b"49",
        b"anthropic-ratelimit-requests-reset": b"2026-11-21T12:00:02Z",
    }


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, b"0ms"), (0.0201, b"21ms"), (1.5, b"1.5s"), (59.9999, b"1m0s"), (3723.25, b"1h2m3.25s")],
)
def test_durations_are_written_as_go_writes_them(seconds, text):
    assert render(Dialect.OPENAI, (1, 0, seconds), None, NOW)[2][1] == text


def test_it_is_seen_at_once_whether_anything_is_told():
    for dialect in Dialect:
        for windows in (((1, 1, 0.0), None), (None, (1, 0, 1.0))):
            assert tells(dict(render(dialect, *windows, NOW)))
    assert not tells({b"content-type": b"application/json", b"x-ratelimit-reset-requests": b"1s"})


@given(st.sampled_from(Dialect), st.integers(1, 10**9), st.data(), st.floats(0, 80_000))
def test_what_is_written_can_be_read(dialect, limit, data, reset):
    left = data.draw(st.integers(0, limit))
    told = read(dict(render(dialect, (limit, left, reset), None, NOW)), b"requests", NOW)
    assert (told.limit, told.left) == (limit, left)
    assert reset - 1e-3 <= told.reset <= reset + 1.001


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {b"x-ratelimit-limit-requests": b"60"},
        {b"x-ratelimit-limit-requests": b"0", b"x-ratelimit-remaining-requests": b"0"},
        {b"x-ratelimit-limit-requests": b"60", b"x-ratelimit-remaining-requests": b"61"},
        {b"x-ratelimit-limit-requests": b"-60", b"x-ratelimit-remaining-requests": b"-61"},
        {b"x-ratelimit-limit-requests": b"many", b"x-ratelimit-remaining-requests": b"few"},
        {b"x-ratelimit-limit-requests": b"9" * 400, b"x-ratelimit-remaining-requests": b"1"},
        {b"x-ratelimit-limit-requests": "٣".encode(), b"x-ratelimit-remaining-requests": b"1"},
    ],
)
def test_what_cannot_be_so_is_not_believed(fields):
    assert read(fields, b"requests", NOW) is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (b"12", 12.0),
        (b"7.66s", 7.66),
        (b"2m59.56s", 179.56),
        (b"1h", 3600.0),
        (b"250ms", 0.25),
        (b"nan", None),
        (b"-1s", None),
        (b"1s, 2s", None),
        (b"soon", None),
        (b"99999999999", None),
        (b"", None),
    ],
)
def test_a_reset_in_whatever_form(text, seconds):
    fields = {
        b"x-ratelimit-limit-tokens": b"9",
        b"x-ratelimit-remaining-tokens": b"3",
        b"x-ratelimit-reset-tokens": text,
    }
    assert read(fields, b"tokens", NOW) == Told(
        9.0, 3.0, pytest.approx(seconds) if seconds is not None else None
    )


@pytest.mark.parametrize(
    "text", [b"yesterday", b"2026-11-21T12:00:09", b"\xff", b"9" * 99, b"9999-01-01T00:00:00Z"]
)
def test_a_moment_that_makes_no_sense_is_none(text):
    fields = {
        b"anthropic-ratelimit-tokens-limit": b"9",
        b"anthropic-ratelimit-tokens-remaining": b"3",
        b"anthropic-ratelimit-tokens-reset": text,
    }
    assert read(fields, b"tokens", NOW).reset is None


def test_a_moment_that_is_past_is_now():
    fields = {
        b"anthropic-ratelimit-tokens-limit": b"9",
        b"anthropic-ratelimit-tokens-remaining": b"3",
        b"anthropic-ratelimit-tokens-reset": b"2026-11-21T11:00:00Z",
    }
    assert read(fields, b"tokens", NOW).reset == 0.0
