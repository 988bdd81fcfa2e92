"""When a worker that is silent counts as one that hangs."""

import pytest

from penstock.admin.channel_messages import Draining, Pong, Ready
from penstock.admin.process import WorkerProcess
from penstock.admin.watchdog import Watchdog

LIMIT = 8.0


class Scene:
    """A watchdog, its clock, and one worker that is ready."""

    def __init__(self):
        self.time = 0.0
        self.watchdog = Watchdog(lambda: self.time)
        self.worker = WorkerProcess(0, lambda: None)
        self.worker._on_message(Ready())

    def look(self, after, limit=LIMIT):
        self.time += after
        return self.watchdog.hanging([self.worker], limit) == [self.worker]


@pytest.fixture
def scene():
    return Scene()


def test_one_that_says_nothing_for_the_limit_hangs(scene):
    assert [scene.look(2) for _ in range(5)] == [False, False, False, False, True]


def test_one_that_answers_late_does_not(scene):
    for _ in range(5):
        for _ in range(4):
            assert not scene.look(2)
        scene.worker._on_message(Pong())


def test_one_that_is_draining_may_not_hang_either(scene):
    scene.worker._on_message(Draining())
    assert [scene.look(2) for _ in range(5)][-1]


def test_one_that_is_starting_owes_no_sign(scene):
    scene.worker.state = "starting"
    assert not any(scene.look(2) for _ in range(20))


def test_without_a_limit_nobody_hangs(scene):
    assert not any(scene.look(2, 0.0) for _ in range(20))


def test_nobody_is_blamed_for_a_time_in_which_the_supervisor_stood_still_as_well(scene):
    assert not scene.look(2)  # asked
    assert not scene.look(3_600)
    scene.worker._on_message(Pong())
    assert not scene.look(2)


@pytest.mark.parametrize(("limit", "interval"), [(1, 0.25), (30, 5), (0, 5)])
def test_it_looks_often_enough(limit, interval):
    assert Watchdog.interval(limit) == interval
