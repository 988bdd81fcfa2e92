import asyncio

from entries import a_key

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

    def get(self, key):
        found = asyncio.get_running_loop().create_future()
        self.asked.append(found)
        if isinstance(self.answer, Exception):
            found.set_exception(self.answer)
        elif self.answer is not None:
            self.answered += 1
            found.set_result(self.answer)
        return found

    def reset(self):
        self.resets += 1


def made(budget=0.005):
    clock, tier = FakeClock(), Tier()
    return clock, tier, Guard(tier, budget, clock.now)


async def test_an_answer_in_time_is_the_answer():
    _, tier, guard = made()
    tier.answer = b"x"
    assert await guard.get(a_key(1)) == b"x"
    assert not guard.is_open


async def test_a_tier_that_does_not_answer_is_a_miss_after_its_budget():
    _, _, guard = made()
    before = asyncio.get_running_loop().time()
    assert await guard.get(a_key(1)) is None
    assert guard.late == 1
    assert asyncio.get_running_loop().time() - before >= 0.004  # timers are exact to a millisecond


async def test_a_tier_that_is_silent_is_left_alone_and_begins_anew():
    _, tier, guard = made(0.001)
    await asyncio.gather(*(guard.get(a_key(n)) for n in range(5)))
    while not guard.is_open:  # four budgets later
        await asyncio.sleep(0)
    assert tier.resets == 1
    asked = len(tier.asked)
    assert await guard.get(a_key(1)) is None
    assert len(tier.asked) == asked
    assert guard.skipped == 1


async def test_one_late_answer_is_no_failure():
    _, tier, guard = made(0.001)
    assert await guard.get(a_key(1)) is None
    tier.answered += 1  # it came, a little later
    deadline = asyncio.get_running_loop().time() + 0.02
    while asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.001)
    assert not guard.is_open


async def test_a_tier_that_is_late_every_time_is_left_alone():
    _, tier, guard = made(0.0001)
    for _ in range(guards.LATE):
        assert not guard.is_open
        tier.answered += 1
        await guard.get(a_key(1))
    assert guard.is_open


async def test_a_tier_that_fails_is_left_alone_for_longer_each_time_until_a_probe_is_answered():
    clock, tier, guard = made()
    tier.answer = ConnectionError("gone")
    for _ in range(guards.FAILED):
        assert not guard.is_open
        assert await guard.get(a_key(1)) is None
    assert guard.is_open
    pause = guards.FIRST_PAUSE
    for _ in range(8):
        asked = len(tier.asked)
        clock.advance(pause - 0.01)
        assert await guard.get(a_key(1)) is None
        assert len(tier.asked) == asked
        clock.advance(0.02)
        assert await guard.get(a_key(1)) is None
        assert len(tier.asked) == asked + 1
        pause = min(pause * 2, guards.LONGEST_PAUSE)
    clock.advance(pause)
    tier.answer = b"x"
    assert await guard.get(a_key(1)) == b"x"
    assert not guard.is_open
    tier.answer = ConnectionError("gone")
    for _ in range(guards.FAILED):
        await guard.get(a_key(1))
    clock.advance(guards.FIRST_PAUSE)
    assert await guard.get(a_key(1)) is None
    assert len(tier.asked) > 0


async def test_only_one_look_up_is_the_probe():
    clock, tier, guard = made()
    tier.answer = ConnectionError("gone")
    for _ in range(guards.FAILED):
        await guard.get(a_key(1))
    clock.advance(guards.FIRST_PAUSE)
    tier.answer = None
    asked = len(tier.asked)
    await asyncio.gather(*(guard.get(a_key(n)) for n in range(10)))
    assert len(tier.asked) == asked + 1


async def test_whoever_stops_waiting_leaves_the_guard_as_it_was():
    clock, tier, guard = made()
    tier.answer = ConnectionError("gone")
    for _ in range(guards.FAILED):
        await guard.get(a_key(1))
    clock.advance(guards.FIRST_PAUSE)
    tier.answer = None
    probe = asyncio.ensure_future(guard.get(a_key(1)))
    await asyncio.sleep(0)
    probe.cancel()
    await asyncio.wait([probe])
    tier.answer = b"x"
    assert await guard.get(a_key(1)) == b"x"
