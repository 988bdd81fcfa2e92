"""Machines that judge together come to what one would come to with all the calls; alone, they go on."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket

import pytest
from trial_boards import ListedBoard

from penstock.config.model import CanaryConfig
from penstock.flow.canary import Trials
from penstock.flow.redis_trials import TrialBoard
from penstock.flow.shared_trials import INTERVAL, SharedTrials
from penstock.flow.verdict import Figures
from penstock.testing import FakeClock, RedisServer

CONFIG = CanaryConfig(version="new", steps=[0.1, 0.5], least_calls=20, most_calls=50)
NOBODY = (Figures(), Figures())


def figures(answered=0, failed=0, first_token=0.1, cost=None):
    made = Figures()
    for _ in range(answered):
        made.answer(first_token, None, None, cost)
    for _ in range(failed):
        made.fail()
    return made


class Machine:
    """One machine's trials, and the stamp that its calls are drawn under."""

    def __init__(self, board, time, path=None):
        self.trials = SharedTrials(Trials(path, time.now), board, time.now)
        self.time = time
        self.trial = None
        self.decided = []

    async def count(self, new=NOBODY[0], old=NOBODY[1]):
        stamp = self.trial.stamp if self.trial is not None else (-1, False, 0, False, 0)
        self.trial, action = await self.trials.count("m", "i", CONFIG, stamp, new, old)
        if action is not None:
            self.decided.append(action)
        return self.trial

    async def hear(self):
        self.time.advance(INTERVAL)
        return await self.count()

    async def decide(self, action, *, wholly=False):
        self.trial = await self.trials.decide("m", "i", CONFIG, action, "by hand", wholly=wholly)


@contextlib.asynccontextmanager
async def machines(board, number=2, *paths):
    time = FakeClock(1_000.0)
    made = [Machine(board, time, paths[at] if paths else None) for at in range(number)]
    try:
        for one in made:
            await one.count()
        yield made
    finally:
        for one in made:
            await one.trials.close()


@pytest.fixture(scope="module")
def redis():
    if not RedisServer.available():
        pytest.skip("needs redis-server")
    with RedisServer() as server:
        yield server


def emptied(server):
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(b"FLUSHALL\r\n")
        assert sock.recv(5) == b"+OK\r\n"


@pytest.fixture(params=["listed", "redis"])
def board(request):
    """A function that makes one, in the test's own loop, and one that makes it forget."""
    if request.param == "listed":
        listed = ListedBoard()
        return lambda: listed, listed.forget
    server = request.getfixturevalue("redis")
    emptied(server)
    return lambda: TrialBoard(server.url), lambda: emptied(server)


def essence(trial):
    return (trial.decision, trial.new, trial.old)


@pytest.mark.parametrize("seed", range(12))
def test_two_with_a_part_of_the_calls_each_come_to_what_one_comes_to_with_all(board, seed):
    """After every exchange: the same looks, at the same figures, with the same end."""
    chance = random.Random(seed)
    failing, slowness = chance.choice([(0.0, 1.0), (0.02, 1.0), (0.3, 1.0), (0.02, 2.0)])

    def drawn():
        new, old = Figures(), Figures()
        for _ in range(chance.randrange(30)):
            version, share, factor = (new, failing, slowness) if chance.random() < 0.3 else (old, 0.02, 1.0)
            if chance.random() < share:
                version.fail()
            else:
                version.answer(factor * chance.uniform(0.1, 0.4), None, None, chance.choice([None, 0.25]))
        return new, old

    async def main():
        async with machines(board[0]()) as pair:
            time = pair[0].time
            whole = Trials(None, time.now)
            for _ in range(40):
                one = chance.choice(pair)
                time.advance(INTERVAL)
                new, old = drawn()
                expected, _ = await whole.count("m", "i", CONFIG, one.trial.stamp, new, old)
                found = await one.count(new, old)
                if found.phase == "trial":  # of a trial that is over, each keeps what it knew
                    assert essence(found) == essence(expected)
                assert found.decision == expected.decision
            await whole.close()
            assert {(await each.hear()).phase for each in pair} == {expected.phase}
            assert sum(len(each.decided) for each in pair) == expected.epoch

    asyncio.run(main())


def test_neither_has_seen_enough_but_both_together(board):
    async def main():
        async with machines(board[0]()) as (one, other):
            for each in (one, other):
                assert (await each.count(figures(failed=6), figures(50))).phase == "trial"
            assert (await one.hear()).new.calls == 6  # the other has not told yet
            trial = await other.hear()
            assert (trial.phase, trial.new.calls) == ("rolled_back", 12)
            assert trial.reason == "failed calls: 100 % instead of 0 %"
            assert (await one.hear()).decision == trial.decision
            return one.decided, other.decided

    assert asyncio.run(main()) == ([], ["rollback"])


def test_a_decision_by_hand_reaches_the_others(board):
    async def main():
        async with machines(board[0]()) as (one, other):
            found = []
            for action in ("promote", "rollback", "promote", "restart"):
                await one.decide(action)
                trial = await other.hear()
                found.append((trial.phase, trial.share(CONFIG)))
            await other.decide("promote", wholly=True)
            return [*found, (await one.hear()).phase]

    assert asyncio.run(main()) == [
        ("trial", 0.5),
        ("rolled_back", 0.0),
        ("trial", 0.5),
        ("trial", 0.1),
        "promoted",
    ]


def test_a_restart_forgets_nothing_and_tells_nothing_twice(board, tmp_path):
    async def main():
        path = tmp_path / "versions.sqlite"
        async with machines(board[0](), 1, path) as (one,):
            await one.count(figures(6), figures(50))
            await one.hear()
        async with machines(board[0](), 1, path) as (one,):
            assert one.trial.new.calls == 6
            await one.hear()
        async with machines(board[0]()) as (fresh, _):  # two with files of their own
            return (await fresh.hear()).new.calls

    assert asyncio.run(main()) == 6


def test_a_server_that_has_lost_its_memory_is_told_again(board):
    make, forget = board

    async def main():
        async with machines(make(), 3) as group:
            for each in group:
                await each.count(figures(2), figures(10))
            for each in (*group, *group):
                await each.hear()
            forget()
            for each in (*group, *group):
                trial = await each.hear()
            assert (trial.new.calls, trial.old.calls) == (6, 30)
            await group[0].decide("rollback")
            forget()
            for each in (*group, *group):
                trial = await each.hear()
                assert each.trial is trial
            return {each.trial.phase for each in group}

    assert asyncio.run(main()) == {"rolled_back"}


def test_what_was_counted_before_machines_shared_counts(board, tmp_path):
    async def main():
        path = tmp_path / "versions.sqlite"
        before = Trials(path)
        trial = await before.read("m", "i")
        await before.count("m", "i", CONFIG, trial.stamp, figures(7), figures(70))
        await before.close()
        async with machines(board[0](), 2, path, tmp_path / "other.sqlite") as (_, other):
            return (await other.hear()).new.calls

    assert asyncio.run(main()) == 7


def test_between_two_exchanges_nobody_is_asked_unless_it_is_time_to_look():
    async def main():
        board = ListedBoard()
        async with machines(board, 1) as (one,):
            before = board.asked
            for _ in range(9):
                await one.count(figures(1), figures(1))
            quiet = board.asked - before
            await one.count(figures(1), figures(1))
            return quiet, board.asked - before

    assert asyncio.run(main()) == (0, 2)  # one to hear the others, one to enter the look


def test_alone_it_is_judged_by_what_is_known_and_the_figures_add_up_afterwards():
    async def main():
        board = ListedBoard()
        async with machines(board) as (one, other):
            await one.count(figures(failed=2), figures(50))
            await one.hear()
            await other.hear()
            board.gone = True
            assert (await other.count(figures(failed=7), figures(5))).phase == "trial"
            assert (await other.hear()).alone
            assert other.trial.new.calls == 9  # two of them were heard of before
            await one.count(figures(failed=3), figures(1))
            await one.hear()
            board.gone = False
            trial = await one.hear()
            assert (trial.alone, trial.new.calls) == (False, 5)
            trial = await other.hear()
            return trial.phase, trial.new.calls, trial.alone

    assert asyncio.run(main()) == ("rolled_back", 12, False)


def test_alone_it_is_rolled_back_without_the_others():
    async def main():
        board = ListedBoard()
        async with machines(board, 1) as (one,):
            board.gone = True
            trial = await one.count(figures(failed=10), figures(90))
            return trial.phase, trial.alone, one.decided

    assert asyncio.run(main()) == ("rolled_back", True, ["rollback"])


@pytest.mark.parametrize("first", [0, 1])
def test_of_what_was_decided_on_both_sides_of_a_break_the_roll_back_holds(first):
    """Though the other side took two steps meanwhile."""

    async def main():
        board = ListedBoard()
        async with machines(board) as pair:
            board.gone = True
            bad, good = pair
            await bad.count(figures(failed=10), figures(90))
            for _ in range(2):
                await good.count(figures(1_000), figures(1_000))
            assert (bad.trial.phase, good.trial.phase) == ("rolled_back", "promoted")
            board.gone = False
            for each in (pair[first], pair[1 - first], pair[first]):
                await each.hear()
            return {each.trial.phase for each in pair}

    assert asyncio.run(main()) == {"rolled_back"}


@pytest.mark.parametrize("first", [0, 1])
def test_a_persons_word_holds_over_what_was_concluded_elsewhere(first):
    async def main():
        board = ListedBoard()
        async with machines(board) as pair:
            board.gone = True
            await pair[0].decide("promote")
            await pair[1].count(figures(failed=10), figures(90))
            board.gone = False
            for each in (pair[first], pair[1 - first], pair[first]):
                await each.hear()
            return {(each.trial.phase, each.trial.share(CONFIG)) for each in pair}

    assert asyncio.run(main()) == {("trial", 0.5)}


def test_an_answer_that_is_lost_makes_nothing_count_twice():
    async def main():
        board = ListedBoard()
        async with machines(board) as (one, other):
            board.deaf = True
            await one.count(figures(3), figures(30))
            await one.hear()
            await one.hear()
            board.deaf = False
            await one.hear()
            return (await other.hear()).new.calls, one.trial.new.calls

    assert asyncio.run(main()) == (3, 3)


def test_two_that_look_at_once_make_one_decision(board):
    async def main():
        async with machines(board[0]()) as pair:
            for each in pair:
                await each.count(figures(failed=9), figures(90))
            for each in pair:
                each.time.advance(INTERVAL)
            await asyncio.gather(*(each.count(figures(failed=1)) for each in pair))
            for each in (*pair, *pair):
                await each.hear()
            assert pair[0].trial.decision == pair[1].trial.decision
            return pair[0].trial.phase, pair[0].trial.epoch, pair[0].decided + pair[1].decided

    assert asyncio.run(main()) == ("rolled_back", 1, ["rollback"])


def test_what_makes_no_sense_in_redis_is_as_nothing(redis):
    emptied(redis)

    async def main():
        board = TrialBoard(redis.url)
        async with machines(board, 1) as (one,):
            with socket.create_connection(("127.0.0.1", redis.port)) as sock:
                sock.sendall(b"KEYS *\r\n")
                key = sock.recv(1_000).split(b"\r\n")[2]
                for text in (b"nonsense", b"\x99\xff\xa5trial\x00"):
                    command = (b"HSET", key, b"decision", text)
                    words = b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in command)
                    sock.sendall(b"*4\r\n" + words)
                    assert sock.recv(4) == b":0\r\n"
                    assert (await one.hear()).alone
            return (await one.count(figures(failed=10), figures(90))).phase

    assert asyncio.run(main()) == "rolled_back"
