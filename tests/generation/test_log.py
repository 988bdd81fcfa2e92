import itertools

import pytest
from test_registry import a_call

from penstock.errors import UpstreamBroken
from penstock.generation.log import AHEAD_BYTES, EVENT_OVERHEAD, Account, Generation, State, new_id
from penstock.messages import Endpoint


class Follower:
    """A reader that keeps what it read."""

    def __init__(self, generation, position=0):
        self.generation = generation
        self.position = position
        self.taken = []
        self.ended = 0
        self.leaves_at_end = False

    @property
    def read_bytes(self):
        return sum(len(event) + EVENT_OVERHEAD for event in self.taken)

    def advance(self):
        self.taken += self.generation.events[self.position : self.generation.readable]
        self.position = self.generation.readable
        if self.generation.state is not State.RUNNING:
            self.ended += 1
            if self.leaves_at_end:
                self.generation.leave(self)


class Tap:
    """A producer that only remembers what it was told."""

    complete = False

    def __init__(self):
        self.abandoned = 0
        self.woken = 0

    def abandon(self):
        self.abandoned += 1

    def drained(self):
        self.woken += 1


class Keeper:
    """An owner that only remembers what it was told."""

    def __init__(self):
        self.told = []

    def deserted(self, generation):
        self.told.append("deserted")

    def rejoined(self, generation):
        self.told.append("rejoined")

    def released(self, generation):
        self.told.append("released")


class Scribe:
    """A journal that only remembers what it was told."""

    def __init__(self):
        self.told = []

    def appended(self):
        self.told.append("appended")

    def end(self):
        self.told.append("end")


def generation(max_bytes=1 << 24, **more):
    return Generation(
        new_id(),
        endpoint=Endpoint.CHAT,
        tenant="t",
        model="m",
        stream=True,
        started=0.0,
        max_bytes=max_bytes,
        **more,
    )


def test_a_late_reader_gets_everything_from_the_first_event_and_then_the_tail():
    log = generation()
    early, late = Follower(log), Follower(log)
    log.join(early)
    log.append([b"a", b"b"], 1.0)
    log.join(late)
    assert late.taken == [b"a", b"b"]
    log.append([b"c"], 2.0)
    assert early.taken == late.taken == [b"a", b"b", b"c"]
    assert log.first_event == 1.0


def test_a_reader_may_start_at_an_offset():
    log = generation()
    log.append([b"a", b"b", b"c"], 1.0)
    reader = Follower(log, position=2)
    log.join(reader)
    assert reader.taken == [b"c"]


def test_a_reader_of_an_ended_log_is_advanced_at_once():
    log = generation()
    log.append([b"a"], 1.0)
    log.finish()
    reader = Follower(log)
    log.join(reader)
    assert (reader.taken, reader.ended) == ([b"a"], 1)


def test_only_the_first_ending_counts_and_nothing_is_appended_after_it():
    log = generation()
    log.fail(UpstreamBroken("cut"))
    log.finish()
    log.append([b"late"], 1.0)
    assert log.state is State.FAILED
    assert log.events == []
    assert log.error.code == "upstream_broken"


def test_what_was_received_stays_readable_after_a_failure():
    log = generation()
    log.append([b"a"], 1.0)
    log.fail(UpstreamBroken("cut"))
    reader = Follower(log)
    log.join(reader)
    assert reader.taken == [b"a"]


def test_only_the_last_reader_to_leave_abandons_the_producer():
    log = generation()
    log.producer = tap = Tap()
    one, two = Follower(log), Follower(log)
    log.join(one)
    log.join(two)
    log.leave(one)
    assert tap.abandoned == 0
    log.leave(two)
    log.leave(two)
    assert tap.abandoned == 1


def test_an_answer_over_its_bound_is_refused_whole():
    log = generation(max_bytes=1000)
    log.append([b"x" * 500], 1.0)
    with pytest.raises(UpstreamBroken):
        log.append([b"y" * 500], 1.0)
    assert log.events == [b"x" * 500]


def test_many_tiny_events_count_with_their_overhead():
    log = generation(max_bytes=1000)
    with pytest.raises(UpstreamBroken):
        log.append([b""] * 20, 1.0)


def test_the_account_is_charged_while_the_log_is_held_and_freed_exactly_once():
    account = Account(10_000)
    log = generation(account=account, owner=(keeper := Keeper()))
    reader = Follower(log)
    reader.leaves_at_end = True
    log.join(reader)
    log.append([b"x" * 100], 1.0)
    assert account.held == 100 + EVENT_OVERHEAD
    log.finish()
    log.leave(reader)
    assert account.held == 0
    assert keeper.told == ["rejoined", "released"]


def test_a_log_runs_ahead_when_even_its_fastest_reader_is_behind():
    log = generation()
    log.producer = tap = Tap()
    slow = Follower(log)
    slow.advance = lambda: None
    log.join(slow)
    log.append([b"x" * (AHEAD_BYTES + 1)], 1.0)
    assert log.ahead
    log.caught_up()
    assert tap.woken == 0
    fast = Follower(log)
    log.join(fast)
    assert not log.ahead
    assert tap.woken == 1


def test_ids_do_not_repeat_and_cannot_be_guessed():
    ids = {new_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(len(name) == 36 for name in ids)


def test_each_of_an_ids_80_bits_is_set_or_not_by_chance_and_whatever_it_was_before():
    """Behind the time.  By chance a bit is off by 190 of 2,000 not once in 10^14 runs; a counter's high bits always are."""
    bits = [int(new_id()[-20:], 16) for _ in range(2001)]
    changes = [one ^ other for one, other in itertools.pairwise(bits)]
    for numbers in (bits[1:], changes):
        ones = [sum(number >> bit & 1 for number in numbers) for bit in range(80)]
        assert all(abs(count - 1000) < 190 for count in ones)


def test_an_answer_that_is_all_there_is_not_given_up_when_its_last_reader_leaves_before_its_end():
    log = generation()
    tap = log.producer = Tap()
    tap.complete = True
    reader = Follower(log)
    log.join(reader)
    log.append([b"a"], 1.0)
    assert log.complete
    log.leave(reader)
    assert (tap.abandoned, log.abandoned) == (0, False)
    log.finish()
    assert log.complete


def test_an_answer_that_fails_is_not_complete_whatever_its_producer_says():
    log = generation()
    log.producer = Tap()
    log.producer.complete = True
    log.fail(UpstreamBroken("gone"))
    assert not log.complete


def test_an_answer_whose_last_reader_left_while_it_ran_is_marked_as_abandoned():
    log = generation()
    log.producer = Tap()
    reader = Follower(log)
    log.join(reader)
    assert not log.abandoned
    log.leave(reader)
    assert log.abandoned


def test_an_answer_that_was_read_to_its_end_is_not():
    log = generation()
    log.producer = Tap()
    reader = Follower(log)
    log.join(reader)
    log.finish()
    log.leave(reader)
    assert not log.abandoned


def test_the_request_and_what_waits_outside_the_log_are_on_the_account_too():
    account = Account(10_000)
    log = generation(account=account, call=a_call(body=b"x" * 300))
    assert account.held == 300
    log.hold(50)
    assert account.held == 350
    log.hold(-50)
    log.append([b"x" * 10], 1.0)
    log.fail(UpstreamBroken("cut"))
    assert account.held == 0


def test_an_owner_decides_what_becomes_of_a_log_without_readers():
    log = generation(owner=(keeper := Keeper()))
    log.producer = tap = Tap()
    reader = Follower(log)
    log.join(reader)
    log.leave(reader)
    assert (keeper.told, tap.abandoned, log.abandoned) == (["rejoined", "deserted"], 0, False)
    log.join(reader)
    log.leave(reader)
    log.abandon()
    log.abandon()
    assert (keeper.told[2:], tap.abandoned, log.abandoned) == (["rejoined", "deserted"], 1, True)


def test_an_event_may_be_read_when_the_journal_has_it():
    log = generation()
    log.journal = scribe = Scribe()
    reader = Follower(log)
    log.join(reader)
    log.append([b"a", b"b"], 1.0)
    log.append([b"c"], 1.0)
    assert (scribe.told, reader.taken) == (["appended", "appended"], [])
    log.on_stored(2, ended=False)
    assert reader.taken == [b"a", b"b"]
    late = Follower(log)
    log.join(late)
    assert late.taken == [b"a", b"b"]
    log.on_stored(1, ended=False)  # an older figure changes nothing
    log.on_stored(3, ended=False)
    assert reader.taken == late.taken == [b"a", b"b", b"c"]


def test_the_end_is_seen_when_the_journal_has_it_and_nothing_comes_after_it():
    log = generation()
    log.journal = scribe = Scribe()
    reader = Follower(log)
    log.join(reader)
    log.append([b"a"], 1.0)
    log.finish()
    log.append([b"late"], 1.0)
    log.fail(UpstreamBroken("cut"))
    assert scribe.told == ["appended", "end"]
    assert (log.state, log.ending, reader.ended) == (State.RUNNING, State.FINISHED, 0)
    log.on_stored(1, ended=False)
    assert (reader.taken, reader.ended) == ([b"a"], 0)
    log.on_stored(1, ended=True)
    log.on_stored(1, ended=True)
    assert (log.state, log.error, reader.ended) == (State.FINISHED, None, 1)


@pytest.mark.parametrize("ended", [False, True])
def test_a_log_that_another_process_has_taken_over_shows_no_more_than_was_stored(ended):
    log = generation()
    log.journal = Scribe()
    log.producer = tap = Tap()
    reader = Follower(log)
    log.join(reader)
    log.append([b"a", b"b"], 1.0)
    log.on_stored(1, ended=False)
    if ended:
        log.finish()
    log.lost()
    assert (reader.taken, reader.ended) == ([b"a"], 1)
    assert (log.state, log.error.code) == (State.FAILED, "draining")
    assert tap.abandoned == (not ended)
