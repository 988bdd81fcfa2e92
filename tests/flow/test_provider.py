import pytest

from penstock.flow.provider import Provider
from penstock.wire.ratelimits import Told


def test_nothing_is_limited_before_it_has_told():
    provider = Provider()
    for number in range(1_000):
        assert provider.wait(1e9, 0.0) == 0
        provider.sent(number, 1e9, 0.0)


def test_what_was_sent_before_its_first_word_is_taken_off_what_is_left():
    provider = Provider()
    for number in range(5):
        provider.sent(number, 100.0, 0.0)
    provider.answered(0, None, None, 0.0)  # as yet it says nothing
    # Three are not in these figures.
    provider.answered(1, Told(100, 50, None), Told(10_000, 1_300, None), 0.0)
    assert provider.wait(900.0, 0.0) == 0
    assert provider.wait(901.0, 0.0) > 0
    for number in range(5, 50):
        provider.sent(number, 0.0, 0.0)
    assert provider.wait(0.0, 0.0) == 0
    provider.sent(50, 0.0, 0.0)
    # Of the 50 requests 47 were left, and one is not used.
    assert provider.wait(0.0, 0.0) == pytest.approx(0.6)


def test_answers_out_of_their_order_take_off_only_what_was_sent_later():
    provider = Provider()
    provider.answered(0, Told(100, 100, None), None, 0.0)
    for number in range(1, 5):
        provider.sent(number, 10.0, 0.0)
    provider.answered(3, None, Told(1_000, 500, None), 0.0)
    assert provider.wait(480.0, 0.0) == 0  # call 4 is not in this figure; 1 and 2 are
    assert provider.wait(481.0, 0.0) > 0


def test_a_429_stops_all_though_it_never_told():
    provider = Provider()
    provider.sent(1, 10.0, 0.0)
    provider.refused(7.0, 0.0)
    assert provider.wait(10.0, 0.0) == 7.0
    assert provider.wait(10.0, 7.0) == 0


def test_a_rate_is_guessed_from_what_it_answered_within_a_moment_too():
    provider = Provider()
    for hundredth in range(3_000):
        provider.accepted(10.0, hundredth / 100)  # a hundred a second
    provider.refused(1.0, 30.0)
    for number in range(100):
        provider.sent(number, 10.0, 31.0)
    assert provider.wait(10.0, 31.0) == pytest.approx(1.0, abs=0.25)


def test_room_is_only_known_where_it_was_told():
    provider = Provider()
    assert not provider.has(1.0, 0.0)
    provider.sent(1, 1.0, 0.0)
    provider.answered(1, Told(60, 60, None), Told(600, 300, None), 0.0)
    assert provider.has(300.0, 0.0)
    assert not provider.has(301.0, 0.0)


def test_who_shares_a_provider_with_others_spends_its_part_of_what_is_left():
    provider = Provider()
    provider.sent(1, 0.0, 0.0)
    provider.answered(1, Told(600.0, 40.0, None), None, 0.0, share=0.25)
    sent = 0
    while not provider.wait(0.0, 0.0):
        sent += 1
        provider.sent(1 + sent, 0.0, 0.0)
    assert sent == 8  # of ten, less what is kept for differences of clocks
    assert provider.wait(0.0, 0.0) < 0.5
