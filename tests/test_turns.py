"""Work in turns: the clock and the pauses are ours."""

import threading

import pytest

from penstock.turns import LONG_PAUSE, PAUSE, STEP, TURN, Turns


class Work:
    """A clock that goes on by what is done."""

    def __init__(self):
        self.now = 0.0
        self.pauses = []

    def clock(self):
        return self.now

    def sleep(self, seconds):
        self.pauses.append((self.now, seconds))
        self.now += seconds


@pytest.fixture
def work():
    return Work()


@pytest.fixture
def turns(work):
    return Turns(work.clock, work.sleep)


def test_short_work_is_not_interrupted(work, turns):
    for _ in range(100):
        turns.give_way()
    work.now += 0.9 * TURN
    turns.give_way()
    assert work.pauses == []


def test_long_work_pauses_once_a_turn(work, turns):
    for _ in range(100):
        work.now += 0.3 * TURN
        turns.give_way()
    assert [seconds for _, seconds in work.pauses] == [PAUSE] * 25


def test_a_pause_ends_the_turn(work, turns):
    work.now += 10 * TURN
    turns.give_way()
    turns.give_way()
    assert len(work.pauses) == 1


def test_items_come_whole_and_in_order_with_pauses_between_them(work, turns):
    seen = []
    for item in turns.over(range(1_000)):
        work.now += TURN / STEP
        seen.append(item)
    assert seen == list(range(1_000))
    assert 25 <= len(work.pauses) <= 1_000 // STEP


def test_pauses_grow_while_there_is_time_and_shrink_where_there_is_none(work, turns):
    for _ in range(20):
        turns.pace(took=0.01, passed=0.05)
    work.now += TURN
    turns.give_way()
    turns.pace(took=0.02, passed=0.05)  # neither
    assert [seconds for _, seconds in work.pauses] == [turns.pause] == [LONG_PAUSE]
    turns.pace(took=0.03, passed=0.05)
    assert turns.pause == LONG_PAUSE / 2
    for _ in range(20):
        turns.pace(took=0.06, passed=0.05)
    assert turns.pause == PAUSE


def test_who_waits_for_the_work_waits_for_no_long_pauses(turns):
    for _ in range(20):
        turns.pace(took=0.0, passed=0.2)
    turns.hurry()
    assert turns.pause == PAUSE


def test_a_pause_is_long_enough_for_others_to_run():
    """With the real clock: another thread gets the interpreter while this one goes through its items."""
    ran = threading.Event()

    def items():
        while not ran.is_set():
            yield None

    other = threading.Thread(target=ran.set)
    other.start()
    for _ in Turns().over(items()):
        pass
    other.join()
