from __future__ import annotations

import asyncio

from penstock.net.wheel import RESOLUTION, Wheel


class Sleeper:
    def __init__(self, wheel, again=None):
        self.woken = []
        self.wheel = wheel
        self.again = again

    def wake(self, now):
        self.woken.append(now)
        if self.again is not None:
            self.wheel.at(now + self.again, self)


def test_nobody_is_woken_before_the_time_and_everybody_soon_after():
    async def main():
        time = 50.0
        wheel = Wheel(lambda: time)
        sleepers = {due: Sleeper(wheel) for due in (50.001, 50.5, 50.5 + RESOLUTION / 2, 51.0, 60.0)}
        for due, sleeper in sleepers.items():
            wheel.at(due, sleeper)
        for step in range(1, 2_000):
            time = 50.0 + step * 0.001
            wheel.turn()
        for due, sleeper in sleepers.items():
            if due < 52:
                assert len(sleeper.woken) == 1
                assert due <= sleeper.woken[0] <= due + RESOLUTION + 0.0011
            else:
                assert sleeper.woken == []
        wheel.close()

    asyncio.run(main())


def test_a_late_turn_wakes_all_that_are_due_in_order():
    async def main():
        time = 50.0
        order = []
        wheel = Wheel(lambda: time)

        class Named:
            def __init__(self, name):
                self.name = name

            def wake(self, now):
                order.append(self.name)

        for name in ("c", "a", "b"):
            wheel.at({"a": 50.1, "b": 50.2, "c": 50.3}[name], Named(name))
        time = 55.0
        wheel.turn()
        assert order == ["a", "b", "c"]
        wheel.close()

    asyncio.run(main())


def test_whoever_fails_does_not_still_the_others():
    async def main():
        time = 50.0
        wheel = Wheel(lambda: time)
        told = []
        asyncio.get_running_loop().set_exception_handler(
            lambda loop, context: told.append(context["exception"])
        )

        class Broken:
            def wake(self, now):
                raise ValueError("broken")

        good = Sleeper(wheel)
        wheel.at(50.1, Broken())
        wheel.at(50.1, good)
        time = 51.0
        wheel.turn()
        assert len(good.woken) == 1
        assert [str(error) for error in told] == ["broken"]
        wheel.close()

    asyncio.run(main())


def test_the_timer_of_the_loop_drives_it_and_rests_when_nobody_sleeps():
    async def main():
        wheel = Wheel()
        woken = asyncio.get_running_loop().create_future()

        class Last:
            def wake(self, now):
                woken.set_result(None)  # whichever future is awaited by then

        ticking = Sleeper(wheel, again=0.005)
        wheel.at(wheel.now() + 0.001, ticking)
        wheel.at(wheel.now() + 0.03, Last())
        await woken
        assert len(ticking.woken) >= 2
        woken = asyncio.get_running_loop().create_future()
        ticking.again = None
        wheel.at(wheel.now() + 0.03, Last())
        await woken
        assert wheel._armed is None

    asyncio.run(main())
