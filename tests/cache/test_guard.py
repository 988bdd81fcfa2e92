import asyncio

from entries import a_key, got

from penstock.cache import guard as guards
from penstock.cache.guard import Guard
from penstock.testing import FakeClock


class Tier:
    """Answers when it is told to."""

    name = "scripted"

    def __init__(self):
        self.answered = 0
        self.asked = []
        self.resets = 0
        self.answer = None  # None: not yet

    def get(self, key, then):
        self.asked.append(then)
        if self.answer is not None:
            self.answered += not isinstance(self.answer, Exception)
            then(self.answer)

    def reset(self):
        self.resets += 1


def made(budget=0.005):
    clock, tier = FakeClock(), Tier()
    return clock, tier, Guard(tier, budget, clock.now)


async def test_an_answer_in_time_is_the_answer():
    _, tier, guard = made()
    tier.answer = b"x"
    assert await got(guard, a_key(1)) == b"x"
    assert not guard.is_open


async def test_a_tier_that_does_not_answer_is_a_miss_after_its_budget():
    _, _, guard = made()
    before = asyncio.get_running_loop().time()
    assert await got(guard, a_key(1)) is None
    assert guard.late == 1
    assert asyncio.get_running_loop().time() - before >= 0.004  # timers are exact to a millisecond


async def test_a_tier_that_is_silent_is_left_alone_and_begins_anew():
    _, tier, guard = made(0.001)
    await asyncio.gather(*(got(guard, a_key(n)) for n in range(5)))
    while not guard.is_open:  # four budgets later
        await asyncio.sleep(0)
    assert tier.resets == 1
    asked = len(tier.asked)
    assert await got(guard, a_key(1)) is None
    assert len(tier.asked) == asked
    assert guard.skipped == 1


async def test_one_late_answer_is_no_failure():
    _, tier, guard = made(0.001)
    assert await got(guard, a_key(1)) is None
    tier.answered += 1  # it came, a little later
    deadline = asyncio.get_running_loop().time() + 0.02
    while asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.001)
    assert not guard.is_open


async def test_a_tier_that_is_late_every_time_is_left_alone():
    _, tier, guard = made(0.001)
    for _ in range(guards.LATE):
        assert not guard.is_open
        tier.answered += 1
        await got(guard, a_key(1))
    assert guard.is_open


async def test_a_tier_that_fails_is_left_alone_for_longer_each_time_until_a_probe_is_answered():
    clock, tier, guard = made()
    tier.answer = ConnectionError("gone")
    for _ in range(guards.FAILED):
        assert not guard.is_open
        assert await got(guard, a_key(1)) is None
    assert guard.is_open
    pause = guards.FIRST_PAUSE
    for _ in range(8):
        asked = len(tier.asked)
        clock.advance(pause - 0.01)
        assert await got(guard, a_key(1)) is None
        assert len(tier.asked) == asked
        clock.advance(0.02)
        assert await got(guard, a_key(1)) is None
        assert len(tier.asked) == asked + 1
        pause = min(pause * 2, guards.LONGEST_PAUSE)
    clock.advance(pause)
    tier.answer = b"x"
    assert await got(guard, a_key(1)) == b"x"
    assert not guard.is_open
    tier.answer = ConnectionError("gone")
    for _ in range(guards.FAILED):
        await got(guard, a_key(1))
    clock.advance(guards.FIRST_PAUSE)
    assert await got(guard, a_key(1)) is None
    assert len(tier.asked) > 0


async def test_only_one_look_up_is_the_probe():
    clock, tier, guard = made()
    tier.answer = ConnectionError("gone")
    for _ in range(guards.FAILED):
        await got(guard, a_key(1))
    clock.advance(guards.FIRST_PAUSE)
    tier.answer = None
    asked = len(tier.asked)
    await asyncio.gather(*(got(guard, a_key(n)) for n in range(10)))
    assert len(tier.asked) == asked + 1


async def test_a_probe_that_nobody_waits_for_any_more_is_one_all_the_same():
    clock, tier, guard = made()
    tier.answer = ConnectionError("gone")
    for _ in range(guards.FAILED):
        await got(guard, a_key(1))
    clock.advance(guards.FIRST_PAUSE)
    tier.answer = None
    got(guard, a_key(1)).cancel()
    tier.asked[-1](b"x")
    assert not guard.is_open


async def test_an_answer_that_comes_late_is_told_nobody():
    _, tier, guard = made(0.001)
    told = []
    guard.get(a_key(1), told.append)
    while not told:
        await asyncio.sleep(0)
    tier.asked[0](b"x")
    assert told == [None]


async def test_each_look_up_has_its_own_budget():
    _, tier, guard = made(0.02)
    told = []
    loop = asyncio.get_running_loop()
    begun = loop.time()
    guard.get(a_key(1), lambda _: told.append("first"))
    guard.get(a_key(2), lambda _: told.append("second"))
    while loop.time() < begun + 0.01:
        await asyncio.sleep(0.001)
    later = loop.time()
    guard.get(a_key(3), lambda _: told.append("third"))
    tier.asked[1](b"x")
    while len(told) < 3:
        await asyncio.sleep(0)
    assert told == ["second", "first", "third"]
    assert loop.time() - later >= 0.018
    assert guard.late == 2
