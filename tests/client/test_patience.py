"""How long a stream is taken up again: as long as there is progress, and something came is none by itself."""

import pytest

from penstock.client._breaks import Break
from penstock.client._clocks import Clocks
from penstock.client._patience import HELD, Patience


class Stream:
    """One that breaks, by a clock of its own."""

    def __init__(self, resume_for=30.0):
        self.now = 1_000.0
        self.clocks = Clocks({"read": 600.0}, self.now, None)
        self.patience = Patience(self.clocks, resume_for, lambda: 1.0)

    def connection(self, last, *, held=0.0):
        """One that brings something for so long, and breaks after this event; how long to wait for the next one."""
        self.patience.asked(self.now)
        self.now += held
        self.clocks.progress = self.now
        self.patience.stream_broke(last, self.now)
        wait = self.patience.again(Break.BROKEN, self.now)
        self.now += wait or 0.0
        return wait


@pytest.fixture
def stream():
    return Stream()


def test_what_brings_nothing_new_is_asked_for_ever_more_rarely_and_not_for_ever(stream):
    waits = []
    while (wait := stream.connection(3)) is not None:
        waits.append(wait)
    assert waits[:7] == [0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0]
    assert 1_030 < stream.now <= 1_032


def test_an_event_that_had_not_come_before_is_progress(stream):
    assert [stream.connection(last) for last in range(100)] == [0.0] * 100


def test_a_connection_that_held_for_a_while_is_progress_though_nothing_new_was_said(stream):
    """A model that thinks for ten minutes, behind a proxy that lets no connection live for longer than one."""
    assert [stream.connection(3, held=60.0) for _ in range(10)] == [0.0] * 10


def test_the_time_between_two_connections_is_none_in_which_one_held(stream):
    stream.connection(3)
    stream.now += HELD * 2
    assert stream.connection(3) > 0


def test_what_never_came_is_no_progress(stream):
    """The break is followed by others of which the last byte is as old as before."""
    stream.connection(3, held=60.0)
    for expected in (0.1, 0.2):
        stream.patience.stream_broke(3, stream.now)
        assert stream.patience.again(Break.UNREACHED, stream.now) == expected
