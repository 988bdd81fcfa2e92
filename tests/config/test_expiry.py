"""When a key ends, and who is told before."""

from __future__ import annotations

from math import inf

import pytest

from penstock.config.expiry import MOST_NAMED, ends_at, moment, said, warnings
from penstock.config.key_file import fault, read_keys, with_more
from penstock.config.load import parse
from penstock.config.model import Config, KeyConfig
from penstock.errors import ConfigError

HASH = "sha256:" + "0" * 64
NEW_YEAR = 1_798_761_600.0  # 2027-01-01, midnight UTC
DAY = 86_400.0


def written(expires, **environ):
    """The end of a key, as a configuration says it."""
    text = f"keys:\n  - name: alice\n    hash: {HASH}\n    expires: {expires}\n"
    (key,) = parse(text, environ=environ).keys
    return ends_at(key.expires)


@pytest.mark.parametrize(
    ("expires", "at"),
    [
        ("2027-01-01", NEW_YEAR),  # which YAML takes for a date
        ('"2027-01-01"', NEW_YEAR),
        ("2027-01-01T00:00:00Z", NEW_YEAR),
        ("2027-01-01 01:00:00+01:00", NEW_YEAR),
        ("2027-01-01T00:00:00.5Z", NEW_YEAR + 0.5),
        ("${END}", NEW_YEAR),
        ("${NOT_SET:-2027-01-01}", NEW_YEAR),
        ("${NOT_SET:-}", inf),
        ('""', inf),
    ],
)
def test_it_is_a_date_or_a_time_with_its_zone(expires, at):
    assert written(expires, END="2027-01-01") == at


@pytest.mark.parametrize(
    ("expires", "why"),
    [
        ("2027-01-01T00:00:00", "has no zone"),
        ("2027-13-01", "is no date"),
        ("1798761600", "is no date"),
        ("30d", "is no date"),  # of when?
        ("soon", "is no date"),
        ("${END}", "environment variable END is not set"),
    ],
)
def test_anything_else_is_a_mistake_with_its_place(expires, why):
    with pytest.raises(ConfigError) as told:
        written(expires)
    (mistake,) = told.value.mistakes
    assert mistake.startswith("<text>:4:14: keys[0].expires: ")
    assert why in mistake


def test_a_keys_file_has_it_as_well(tmp_path):
    path = tmp_path / "keys.jsonl"
    path.write_text(f'{{"name": "a", "hash": "{HASH}", "expires": "2027-01-01"}}\n')
    (key,) = with_more(Config(keys_file=str(path))).keys
    assert ends_at(key.expires) == NEW_YEAR
    path.write_text(f'{{"name": "a", "hash": "{HASH}", "expires": "soon"}}\n')
    assert read_keys(path)
    with pytest.raises(ConfigError) as told:
        with_more(Config(keys_file=str(path)))
    assert "when 'a' expires is no date" in told.value.mistakes[0]
    assert not fault(key, (), ())


@pytest.mark.parametrize(
    ("wanted", "becomes"),
    [
        ("90s", "2027-01-01T00:01:30Z"),
        ("30m", "2027-01-01T00:30:00Z"),
        ("12h", "2027-01-01T12:00:00Z"),
        ("1.5d", "2027-01-02T12:00:00Z"),
        ("2w", "2027-01-15T00:00:00Z"),
        ("2027-06-01", "2027-06-01"),
        ("2027-06-01T12:00:00+02:00", "2027-06-01T12:00:00+02:00"),
    ],
)
def test_who_makes_a_key_may_say_how_long_it_lasts(wanted, becomes):
    assert said(wanted, NEW_YEAR) == becomes
    assert ends_at(becomes) > NEW_YEAR


@pytest.mark.parametrize("wanted", ["2027-01-01", "2026-12-31T23:59:59Z", "30", "d", "999999999w", "1e9d"])
def test_no_key_is_made_that_has_ended_or_whose_end_is_none(wanted):
    with pytest.raises(ValueError, match=r"is past|is no date|is further ahead"):
        said(wanted, NEW_YEAR)


def key(name, expires=""):
    return KeyConfig(name=name, hash=HASH, expires=expires)


def test_nothing_is_said_of_keys_that_last():
    assert warnings([key("a"), key("b", "2027-01-09")], NEW_YEAR) == []


def test_a_key_is_warned_of_a_week_before_its_end():
    told = [warnings([key("a", "2027-01-08")], NEW_YEAR + passed) for passed in (-1, 0, 6 * DAY, 7 * DAY - 1)]
    assert told == [
        [],
        ["the key 'a' ends at 2027-01-08T00:00:00Z, in 7 days"],
        ["the key 'a' ends at 2027-01-08T00:00:00Z, in 24 hours"],
        ["the key 'a' ends at 2027-01-08T00:00:00Z, in less than 2 hours"],
    ]


def test_keys_that_have_ended_are_named_in_one_sentence():
    assert warnings([key("a", "2027-01-01")], NEW_YEAR) == [
        "the key 'a' has ended, and every call with it is refused: take it out"
    ]
    (two,) = warnings([key("a", "2026-01-01"), key("b", "2027-01-01")], NEW_YEAR)
    assert two.startswith("each of the keys 'a', 'b' has ended")


def test_thousands_of_keys_are_not_thousands_of_lines():
    names = [f"k{number}" for number in range(1_000)]
    soon = warnings([key(name, "2027-01-02") for name in names], NEW_YEAR)
    assert len(soon) == MOST_NAMED + 1
    assert soon[-1] == "995 more keys end within 7 days"
    (ended,) = warnings([key(name, "2026-12-01") for name in names], NEW_YEAR)
    assert "and 995 more has ended" in ended


def test_a_moment_is_told_in_utc():
    assert moment(NEW_YEAR + 0.9) == "2027-01-01T00:00:00Z"
