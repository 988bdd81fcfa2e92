from math import inf

import pytest

from penstock.flow.departure import LEAD, Departures


@pytest.mark.parametrize(("notice", "moved_after"), [(30.0, 30.0 - LEAD), (4.0, 2.0), (0.0, 0.0)])
def test_answers_are_moved_shortly_before_and_no_sooner_than_after_half_of_the_notice(notice, moved_after):
    departures = Departures()
    departures.announce("a", notice, 100.0)
    assert departures.moving(100.0 + moved_after - 0.1) == set()
    assert departures.moving(100.0 + moved_after) == {"a"}
    assert departures.gone(100.0 + notice - 0.1) == set()
    assert departures.gone(100.0 + notice) == {"a"}


def test_without_a_moment_nothing_is_ever_moved():
    departures = Departures()
    departure = departures.announce("a", None, 100.0)
    assert departure.at == inf
    assert departures.moving(1e12) == departures.gone(1e12) == set()
    assert departure.told(100.0) == "it is going away"


def test_the_last_announcement_counts_until_it_is_taken_back():
    departures = Departures()
    departures.announce("a", 5.0, 100.0)
    departures.announce("a", 50.0, 100.0)
    assert departures.of("a").told(120.0) == "it goes away in 30.0 s"
    assert departures.of("a").told(160.0) == "it has gone away"
    departures.take_back("a")
    departures.take_back("a")
    assert departures.of("a") is None
    assert not departures


def test_who_is_refused_may_come_back_soon():
    refusal = Departures().announce("a", 5.0, 0.0).refusal("a", 1.0)
    assert (refusal.status, refusal.code, refusal.retry_after) == (503, "upstream_leaving", 1.0)
