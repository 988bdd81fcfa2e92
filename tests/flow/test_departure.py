from math import inf

import pytest

from penstock.flow.departure import LEAD, Departure, Departures, heard, seconds_in


def announced(departures, seconds, now):
    departure = Departure.within(seconds, now)
    departures.announce("a", departure)
    return departure


@pytest.mark.parametrize(("notice", "moved_after"), [(30.0, 30.0 - LEAD), (4.0, 2.0), (0.0, 0.0)])
def test_answers_are_moved_shortly_before_and_no_sooner_than_after_half_of_the_notice(notice, moved_after):
    departures = Departures()
    announced(departures, notice, 100.0)
    assert departures.moving(100.0 + moved_after - 0.1) == set()
    assert departures.moving(100.0 + moved_after) == {"a"}
    assert departures.gone(100.0 + notice - 0.1) == set()
    assert departures.gone(100.0 + notice) == {"a"}


def test_without_a_moment_nothing_is_ever_moved():
    departures = Departures()
    departure = announced(departures, None, 100.0)
    assert departure.at == inf
    assert departures.moving(1e12) == departures.gone(1e12) == set()
    assert departure.told(100.0) == "it is going away"


def test_the_last_announcement_counts_until_it_is_taken_back():
    departures = Departures()
    announced(departures, 5.0, 100.0)
    announced(departures, 50.0, 100.0)
    assert departures.of("a").told(120.0) == "it goes away in 30.0 s"
    assert departures.of("a").told(160.0) == "it has gone away"
    departures.take_back("a")
    departures.take_back("a")
    assert departures.of("a") is None
    assert not departures


def test_who_is_refused_may_come_back_soon():
    refusal = Departure.within(5.0, 0.0).refusal("a", 1.0)
    assert (refusal.status, refusal.code, refusal.retry_after) == (503, "upstream_leaving", 1.0)


def test_what_an_upstream_says_of_itself_lapses_and_what_is_announced_does_not():
    departures = Departures()
    departures.announce("a", Departure.within(30.0, 100.0, 60.0))
    departures.announce("b", Departure.within(None, 100.0, 60.0))
    departures.announce("c", Departure.within(30.0, 100.0))
    assert departures.lapsed(159.9) == set()
    assert departures.lapsed(160.0) == {"b"}
    assert departures.lapsed(190.0) == {"a", "b"}
    assert departures.lapsed(1e12) == {"a", "b"}


def test_of_moments_the_first_counts_so_that_a_constant_cannot_put_it_off():
    first = heard(None, 30.0, 100.0, 60.0)
    assert (first.at, first.until) == (130.0, 190.0)
    assert heard(first, 30.0, 120.0, 60.0) is None
    assert heard(first, 30.0, 500.0, 60.0) is None
    sooner = heard(first, 5.0, 110.0, 60.0)
    assert (sooner.announced, sooner.at, sooner.until) == (100.0, 115.0, 175.0)


def test_a_moment_is_news_where_none_was_known():
    first = heard(None, None, 100.0, 60.0)
    assert first.at == inf
    assert heard(first, 20.0, 110.0, 60.0).at == 130.0


def test_who_goes_on_saying_so_is_remembered_for_longer_but_not_told_of_each_time():
    first = heard(None, None, 100.0, 60.0)
    assert heard(first, None, 129.0, 60.0) is None
    again = heard(first, None, 130.0, 60.0)
    assert (again.announced, again.until) == (100.0, 190.0)


def test_an_announcement_counts_more_than_what_the_upstream_says():
    assert heard(Departure.within(50.0, 100.0), 5.0, 100.0, 60.0) is None
    assert heard(Departure.within(None, 100.0), 5.0, 100.0, 60.0) is None


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        (b"30", (True, 30.0)),
        (b" 1.5 ", (True, 1.5)),
        (b"0", (True, 0.0)),
        (b"-7", (True, 0.0)),
        (b"1e9", (True, 86_400.0)),
        (b"inf", (True, None)),
        (b"nan", (True, None)),
        (b"true", (True, None)),
        (b"", (True, None)),
        (b"\xff soon", (True, None)),
        (b"False", (False, None)),
        (b"no", (False, None)),
    ],
)
def test_a_header_says_in_how_many_seconds_or_only_that(value, meant):
    assert seconds_in(value) == meant
