"""What other processes have spent, look by look."""

import contextlib
import random
import sqlite3

import pytest
from ledger_attempts import attempt, ended

from penstock.errors import ConfigError
from penstock.ledger._file import LedgerFile
from penstock.ledger.spending import AFRESH, LAG, OthersSpending
from penstock.messages import Outcome
from penstock.testing import FakeClock
from penstock.turns import Turns

DAY, MONTH = 2_000_000.0, 1_000_000.0
OWN = "0" * 16


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def process(path):
    """``process(token)``: the ledger's file as one process has it."""
    with contextlib.ExitStack() as stack:

        def start(token):
            file = LedgerFile(path, token, Turns(), busy_timeout=1.0)
            stack.callback(file.close, ended=False)
            return file

        yield start


def look(others, token=OWN):
    spent = others.read(token, day_began=DAY, month_began=MONTH)
    return {(each.key, each.model): (each.day, each.month) for each in spent if each.month}


def paid(cost, started=DAY, outcome=Outcome.COMPLETED, **names):
    return ended(attempt(started=started, **names), outcome, cost=cost)


def test_ones_own_rows_and_answers_that_cost_nobody_anything_are_left_out(path, process):
    mine, other = process(OWN), process("1" * 16)
    mine.write([], [paid(5, row=1)])
    other.write([], [paid(7, row=1), paid(11, started=MONTH, row=2), paid(13, started=0.0, row=3)])
    other.write([], [paid(17, outcome=Outcome.CACHED, row=4), paid(10**13 + 1, key_name="k", row=5)])
    assert look(OthersSpending(path)) == {
        ("prod", "fast"): (7, 18),
        ("k", "fast"): (10**13 + 1, 10**13 + 1),
    }


def test_without_a_file_nobody_has_spent_anything_and_one_that_is_none_is_told(path):
    others = OthersSpending(path)
    assert look(others) == {}
    path.write_bytes(b"no ledger" * 1_000)
    with pytest.raises(ConfigError, match="ledger"):
        look(others)


@pytest.mark.parametrize("seed", range(20))
def test_look_by_look_it_comes_to_what_one_look_at_everything_does(path, process, seed):
    dice = random.Random(seed)
    clock = FakeClock(dice.uniform(0, 1e5))
    others = OthersSpending(path, clock.now)
    tokens = [OWN, *(f"{number:016x}" for number in range(1, 4))]
    files = {}
    last = dict.fromkeys(tokens, 0)
    under_way = {token: {} for token in tokens}
    for _ in range(80):
        token = dice.choice(tokens)
        if token not in files:
            files[token] = process(token)
        for _ in range(dice.randrange(4)):
            last[token] += 1
            under_way[token][last[token]] = attempt(
                started=dice.choice((0.0, MONTH, DAY)), model=dice.choice("abc")
            )
        over = [row for row in under_way[token] if dice.random() < 0.4]
        settled = [ended(under_way[token].pop(row), row=row, cost=dice.randrange(1, 10**9)) for row in over]
        files[token].write(list(under_way[token].items()), settled)
        if dice.random() < 0.1:
            files.pop(token).close(ended=not under_way.pop(token))
            if token != OWN:  # whose successor has another name
                tokens[tokens.index(token)] = token = f"{dice.randrange(1 << 60):016x}"
            last.setdefault(token, 0)
            under_way[token] = {}
        clock.advance(dice.choice((0.0, 0.5, LAG / 2, LAG)))
        assert look(others) == look(OthersSpending(path))
    assert look(others)


def test_a_row_that_comes_later_than_younger_ones_is_counted(path, process):
    other, clock = process("1" * 16), FakeClock()
    others = OthersSpending(path, clock.now)
    look(others)
    other.write([], [paid(1, row=2), paid(1, row=3)])
    assert look(others) == {("prod", "fast"): (2, 2)}
    clock.advance(LAG - 1)
    other.write([], [paid(100, row=1)])
    assert look(others) == {("prod", "fast"): (102, 102)}
    for _ in range(3):
        clock.advance(LAG)
        assert look(others) == {("prod", "fast"): (102, 102)}


def test_only_what_is_new_is_read_until_a_day_begins_or_half_an_hour_is_over(path, process):
    other, clock = process("1" * 16), FakeClock()
    others = OthersSpending(path, clock.now)
    other.write([], [paid(1, row=1)])
    look(others)
    with contextlib.closing(sqlite3.connect(path)) as database:  # as a correction does
        database.execute("UPDATE attempts SET cost = 1000")
        database.commit()
    clock.advance(LAG)
    assert look(others) == {("prod", "fast"): (1, 1)}
    assert [each.day for each in others.read(OWN, day_began=DAY + 1, month_began=MONTH)] == [0]
    assert look(others) == {("prod", "fast"): (1_000, 1_000)}
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("UPDATE attempts SET cost = 2000")
        database.commit()
    clock.advance(AFRESH)
    assert look(others) == {("prod", "fast"): (2_000, 2_000)}


def test_what_is_found_in_a_dead_processs_queue_is_counted(path, process):
    other, clock = process("1" * 16), FakeClock()
    others = OthersSpending(path, clock.now)
    other.write([], [paid(1, row=1)])
    for _ in range(3):
        assert look(others) == {("prod", "fast"): (1, 1)}
        clock.advance(LAG)
    with contextlib.closing(sqlite3.connect(path)) as database:  # in one transaction, as recovery does
        other.write([], [paid(10, row=2)])
        database.execute("UPDATE boots SET ended = 1 WHERE boot = ?", (other.boot,))
        database.commit()
    for _ in range(3):
        assert look(others) == {("prod", "fast"): (11, 11)}
        clock.advance(LAG)


def test_a_ledger_that_is_begun_anew_is_read_anew(path, process):
    process("1" * 16).write([], [paid(1, row=1)])
    others = OthersSpending(path)
    assert look(others) == {("prod", "fast"): (1, 1)}
    path.rename(path.with_name("old"))
    for rest in ("-wal", "-shm"):
        path.with_name(path.name + rest).unlink(missing_ok=True)
    process("2" * 16).write([], [paid(7, row=1)])
    assert look(others) == {("prod", "fast"): (7, 7)}


def test_what_a_wrong_clock_has_dated_to_come_counts_on_its_day_and_not_on_each_until_then(path, process):
    other = process("1" * 16)
    other.write([], [paid(7, row=1), paid(11, started=DAY + 30 * 86_400.0, row=2)])
    other.write([], [paid(13, started=DAY + 86_400.0 + 60.0, row=3)])
    others = OthersSpending(path)
    assert look(others) == {("prod", "fast"): (20, 20)}, "a clock may be a little ahead"
    other.write([], [paid(17, started=DAY + 30 * 86_400.0, row=4)])
    assert look(others) == {("prod", "fast"): (20, 20)}
    spent = others.read(OWN, day_began=DAY + 30 * 86_400.0, month_began=DAY + 29 * 86_400.0)
    assert [(each.day, each.month) for each in spent] == [(28, 28)]
