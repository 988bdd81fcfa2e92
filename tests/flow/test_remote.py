import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.flow.gcra import Bucket
from penstock.flow.remote import RemoteBucket
from penstock.wire.ratelimits import Told


def test_nothing_is_limited_before_the_provider_has_told():
    bucket = RemoteBucket()
    for number in range(1_000):
        assert bucket.wait(1, 0.0) == 0
        bucket.sent(number, 1, 0.0)


def test_what_was_sent_since_is_taken_off_what_is_left():
    bucket = RemoteBucket()
    for number in range(5):
        bucket.sent(number, 1, 0.0)
    bucket.answered(1, Told(100, 3, None), 0.0)  # calls 2, 3 and 4 are not in this figure
    assert bucket.wait(1, 0.0) > 0
    bucket.answered(4, Told(100, 50, None), 0.0)
    assert bucket.wait(1, 0.0) == 0
    assert bucket.wait(50, 0.0) == pytest.approx(0.6)  # a margin of one is kept


def test_it_fills_at_the_pace_that_the_provider_tells():
    bucket = RemoteBucket()
    for number in range(60):
        bucket.sent(number, 1, 0.0)
        bucket.answered(number, Told(600, 0, 6.0), 0.0)  # full in six seconds: 100 a second
    assert bucket.wait(94, 0.0) == pytest.approx(1.0, rel=0.01)


@pytest.mark.parametrize("reset", [None, 0.0, 1e-6, 1e8])
def test_a_pace_that_cannot_be_is_not_believed(reset):
    bucket = RemoteBucket()
    bucket.sent(1, 1, 0.0)
    bucket.answered(1, Told(600, 0, reset), 0.0)
    assert bucket.wait(4, 0.0) == pytest.approx(1.0)  # 10 a second, and the margin of 6


def test_a_429_stops_all_for_as_long_as_the_provider_says_but_not_for_a_day():
    bucket = RemoteBucket()
    bucket.refused(7.0, 0.0)
    assert bucket.wait(1, 0.0) == 7.0
    assert bucket.wait(1, 7.0) == 0
    bucket.refused(86_400.0, 10.0)
    assert bucket.wait(1, 10.0) == 60.0


def test_429s_without_a_time_make_the_pauses_longer_and_an_answer_ends_that():
    bucket = RemoteBucket()
    pauses, now = [], 0.0
    for _ in range(8):
        bucket.refused(None, now)
        pauses.append(bucket.wait(1, now))
        now += pauses[-1]
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    bucket.sent(1, 1, now)
    bucket.answered(1, Told(10, 9, None), now)
    bucket.refused(None, now)
    assert bucket._pause == 2.0


def test_the_rate_of_one_that_tells_nothing_is_guessed_from_what_it_answered_and_spent_evenly():
    bucket = RemoteBucket()
    for tenth in range(300):
        bucket.accepted(1, tenth / 10)  # ten a second
    bucket.refused(1.0, 30.0)
    assert bucket._rate == pytest.approx(10, rel=0.1)
    assert bucket.wait(1, 31.0) == pytest.approx(0.1, abs=0.02), "nothing was saved up in the pause"
    for number in range(20):
        bucket.sent(number, 1, 31.0)
    assert bucket.wait(1, 31.0) == pytest.approx(2.1, abs=0.2)


def test_a_guessed_rate_grows_slowly_and_falls_with_each_429():
    bucket = RemoteBucket()
    for tenth in range(300):
        bucket.accepted(1, tenth / 10)
    bucket.refused(1.0, 30.0)
    first = bucket._rate
    bucket.refused(1.0, 32.0)
    assert bucket._rate < first
    number = 0
    for tenth in range(330, 730):
        while not bucket.wait(1, tenth / 10):
            number += 1
            bucket.sent(number, 1, tenth / 10)
    assert first < bucket._rate < first * 1.1


class Silent:
    """A provider that tells nothing: its bucket, empty at first, and what it does with those who want more than it has."""

    def __init__(self, per_second, processes):
        self.bucket = Bucket(60 * per_second)
        self.bucket.take(60 * per_second, 0.0)
        self.guesses = [RemoteBucket() for _ in range(processes)]
        self.numbers = 0
        self.answers = []
        self.answered = self.refused = 0

    def run(self, seconds, began=0.0):
        """Everybody sends whenever he may, and looks fifty times a second; answers take a second and a half."""
        self.answered = self.refused = 0
        for step in range(round(50 * seconds)):
            now = began + step / 50
            while self.answers and self.answers[0][0] <= now:
                _, guess, number = self.answers.pop(0)
                guess.answered(number, None, now)
                guess.accepted(1, now)
            for guess in self.guesses:
                for _ in range(3):
                    if guess.wait(1, now):
                        break
                    self.send(guess, now)
        return self.answered, self.refused

    def send(self, guess, now):
        self.numbers += 1
        guess.sent(self.numbers, 1, now)
        if wait := self.bucket.wait(1, now):
            self.refused += 1
            guess.answered(self.numbers, None, now)
            guess.refused(max(1.0, wait), now, 1 / len(self.guesses))
        else:
            self.answered += 1
            self.bucket.take(1, now)
            self.answers.append((now + 1.5, guess, self.numbers))


@pytest.mark.parametrize(("processes", "at_most"), [(1, 0.005), (4, 0.03)])
def test_a_rate_that_was_first_guessed_from_a_few_answers_is_used_whole_soon(processes, at_most):
    provider = Silent(20, processes)
    provider.run(45.0)
    answered, refused = provider.run(60.0, 45.0)
    assert answered >= 0.95 * 20 * 60
    assert refused <= at_most * answered


def test_a_guess_that_may_be_far_too_high_sends_no_burst_after_each_pause():
    """Nobody knows of a 429 before all of it is under way."""
    bucket, number, at_once = RemoteBucket(), 0, []

    def sent(now):
        nonlocal number
        before = number
        while not bucket.wait(1, now):
            number += 1
            bucket.sent(number, 1, now)
        return number - before

    for _ in range(100):
        bucket.accepted(1, 0.0)  # of a bucket that was full
    for refused_at in (3.0, 4.5, 6.0, 30.0):
        bucket.refused(1.0, refused_at)
        at_once.append(sent(refused_at + 1.001))
    assert at_once[:3] == [0, 0, 0]
    assert at_once[3] > 5, "once it is about right, what came in meanwhile is used"


def test_a_guess_does_not_grow_while_it_is_not_used():
    bucket = RemoteBucket()
    for tenth in range(300):
        bucket.accepted(1, tenth / 10)
    bucket.refused(1.0, 30.0)
    for minute in range(1, 100_000):
        bucket.wait(1, 30.0 + 60.0 * minute)
    assert bucket._rate < 12


def test_a_guess_that_is_far_from_what_was_answered_falls_fast():
    bucket = RemoteBucket()
    for tenth in range(300):
        bucket.accepted(1, tenth / 10)
    bucket.refused(1.0, 30.0)
    for second in range(32, 62, 2):
        bucket.accepted(1, float(second))  # one in two seconds
        bucket.refused(1.0, float(second))
    assert bucket._rate < 2


@pytest.mark.parametrize("refusals", [1, 100])
def test_however_little_was_answered_one_call_finds_out_after_a_minute(refusals):
    bucket = RemoteBucket()
    bucket.accepted(0.001, 0.0)
    for number in range(refusals):
        bucket.refused(1.0, 100.0 + 10.0 * number)
    last = 90.0 + 10.0 * refusals
    bucket.sent(1, 1, last)
    bucket.answered(1, None, last)
    assert bucket.wait(1, last + 125.0) == 0


def test_many_429s_of_calls_that_were_under_way_are_one_piece_of_news():
    bucket = RemoteBucket()
    for _ in range(50):
        bucket.refused(None, 0.0)
    assert bucket.wait(1, 0.0) == 1.0


def test_a_provider_that_says_429_where_there_should_be_room_is_not_believed_for_a_while():
    bucket = RemoteBucket()
    bucket.sent(1, 1, 0.0)
    bucket.answered(1, Told(60, 60, None), 0.0)
    bucket.refused(1.0, 0.0)
    bucket.sent(2, 1, 1.0)
    bucket.answered(2, Told(60, 60, None), 1.0)
    assert bucket.wait(30, 1.0) > 10
    bucket.sent(3, 1, 601.0)
    bucket.answered(3, Told(60, 60, None), 601.0)
    assert bucket.wait(30, 601.0) == 0


def test_who_goes_on_lying_is_not_believed_again_and_who_was_wrong_once_is():
    bucket, number, now = RemoteBucket(), 0, 0.0

    def told(left, passed):
        nonlocal number, now
        number, now = number + 1, now + passed
        bucket.sent(number, 1, now)
        bucket.answered(number, Told(60, left, None), now)
        bucket.accepted(1, now)

    told(60, 0.0)
    bucket.refused(1.0, now)
    told(60, 500.0)
    bucket.refused(1.0, now)
    told(60, 600.0)
    assert bucket.wait(30, now) > 0, "it was said again that there was room"
    told(0, 100.0)
    bucket.refused(1.0, now)  # as anybody does whose rate is guessed: it had told the truth
    told(30, 600.0)
    assert bucket.wait(29, now) == 0


def test_what_was_sent_after_a_liar_told_of_room_may_have_used_that_up():
    bucket = RemoteBucket()
    bucket.sent(1, 1, 0.0)
    bucket.answered(1, Told(60, 60, None), 0.0)
    bucket.refused(1.0, 0.0)
    bucket.sent(2, 1, 400.0)
    bucket.sent(3, 10, 400.0)
    bucket.answered(2, Told(60, 25, None), 400.0)
    bucket.sent(4, 15, 400.0)
    bucket.refused(1.0, 400.0)
    bucket.sent(5, 1, 601.0)
    bucket.answered(5, Told(60, 60, None), 601.0)
    assert bucket.wait(30, 601.0) == 0


def test_a_provider_that_always_says_nothing_is_left_is_asked_all_the_same():
    bucket = RemoteBucket()
    now = 0.0
    for number in range(10):
        bucket.sent(number, 1, now)
        bucket.answered(number, Told(60, 0, None), now)
        wait = bucket.wait(1, now)
        assert 0 < wait <= 2
        now += wait
        assert bucket.wait(1, now) == pytest.approx(0, abs=1e-6)


@given(
    st.lists(
        st.tuples(
            st.floats(0, 100), st.integers(1, 10**6), st.floats(0, 1), st.one_of(st.none(), st.floats(0, 1e6))
        ),
        max_size=40,
    ),
    st.floats(0, 1e9),
)
def test_whatever_it_is_told_nobody_waits_longer_than_a_minute(told, units):
    bucket = RemoteBucket()
    now = 0.0
    for number, (pause, limit, left, reset) in enumerate(told):
        now += pause
        bucket.sent(number, units, now)
        bucket.answered(number, Told(limit, limit * left, reset), now)
        if number % 3 == 0:
            bucket.refused(reset, now)
        assert 0 <= bucket.wait(units, now) <= 60
    assert not bucket._sent
