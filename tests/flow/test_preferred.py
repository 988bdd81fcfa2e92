import random

from penstock.flow.preferred import Choice, by_preference


def order(*choices, rand=lambda: 0.0):
    return by_preference([Choice(1.0, *choice) for choice in choices], rand)


def test_who_is_preferred_comes_first():
    assert order((False, True), (True, True), (False, True)) == [1, 0, 2]


def test_a_call_spills_over_to_who_has_room():
    assert order((True, False), (False, True)) == [1, 0]


def test_where_nobody_has_room_it_waits_where_it_would_have_gone():
    assert order((False, False), (True, False)) == [1, 0]


def test_of_those_alike_the_cheapest_comes_first_and_who_names_no_price_last():
    assert order((True, True, 5.0), (True, True, None), (True, True, 2.0), (False, True, 1.0)) == [2, 0, 1, 3]


def test_those_alike_in_everything_share_by_weight():
    rng = random.Random(1)
    choices = [Choice(3.0, preferred=True, has_room=True), Choice(1.0, preferred=True, has_room=True)]
    first = [by_preference(choices, rng.random)[0] for _ in range(4_000)]
    assert 0.72 < first.count(0) / len(first) < 0.78
