"""What other ledgers have of attempts whose rows are in this one."""

import contextlib
import sqlite3

import pytest
from ledger_attempts import attempt, ended

from penstock.ledger._file import LedgerFile
from penstock.ledger.deductions import Deduction, Deductions
from penstock.ledger.questions import Questions
from penstock.ledger.sqlite import SQLiteStore
from penstock.messages import Outcome, Usage
from penstock.turns import Turns

NEVER = 3600.0  # an interval that does not end: only a flush writes
THEIRS = Usage(input_tokens=9, output_tokens=4, estimated=True)


@pytest.fixture
def store(path):
    store = SQLiteStore(path, interval=NEVER).start()
    assert store.flush()
    yield store
    store.close()


@contextlib.contextmanager
def opened(path):
    file = LedgerFile(path, "other", Turns(), busy_timeout=1.0)
    try:
        yield file
    finally:
        file.close(ended=True)


def query(path, statement):
    with contextlib.closing(sqlite3.connect(path)) as database:
        return database.execute(statement).fetchall()


def row_of(path):
    return query(path, "SELECT input_tokens, output_tokens, cost FROM attempts")[0]


def broken(store, usage, cost=100, **how):
    one = attempt(**how)
    store.opened(one)
    store.settled(ended(one, Outcome.PARTIAL, usage, cost=cost))
    assert store.flush()
    return one


def wanted(store, one, usage=THEIRS, cost=40):
    return Deduction(store.token, one.row, usage, cost)


def test_a_ledger_is_called_the_same_by_all_who_have_it_and_after_a_restart(path, store):
    name = Deductions(path, store.token).ledger()
    assert name
    store.close()
    other = SQLiteStore(path, interval=NEVER).start()
    assert other.flush()
    assert Deductions(path, other.token).ledger() == name
    other.close()
    path.rename(path.with_name("elsewhere"))
    assert Deductions(path, "token").ledger() == ""


def test_what_another_ledger_has_is_taken_off_once(path, store):
    one = broken(store, Usage(input_tokens=9, output_tokens=7))
    deductions = Deductions(path, store.token)
    done, (changed,) = deductions.make([wanted(store, one)])
    assert done == [wanted(store, one)]
    assert (changed.row.usage.output_tokens, changed.row.mine, changed.row.cost) == (7, True, 100)
    assert (changed.usage.input_tokens, changed.usage.output_tokens, changed.cost) == (0, 3, 60)
    assert row_of(path) == (0, 3, 60)
    assert deductions.make([wanted(store, one)]) == ([wanted(store, one)], [])
    assert row_of(path) == (0, 3, 60)


def test_what_a_prompt_cache_has_saved_is_taken_off_with_what_it_was_saved_for(path, store):
    one = broken(store, Usage(90, 7, cached_input_tokens=40), cache_saved=-40_000)
    theirs = Usage(30, 2, cached_input_tokens=30)
    _, (changed,) = Deductions(path, store.token).make([wanted(store, one, theirs)])
    assert (changed.usage.cached_input_tokens, changed.row.cache_saved, changed.cache_saved) == (
        10,
        -40_000,
        -10_000,
    )
    kept = broken(store, Usage(90, 7), cost=9)
    _, (changed,) = Deductions(path, store.token).make([wanted(store, kept)])
    assert changed.cache_saved == 0


def test_a_row_never_owes_anything(path, store):
    one = broken(store, Usage(input_tokens=1, output_tokens=2), cost=3)
    Deductions(path, store.token).make([wanted(store, one)])
    assert row_of(path) == (0, 0, 0)


def test_a_row_that_is_open_waits_until_it_is_settled(path, store):
    one = attempt()
    store.opened(one)
    deductions = Deductions(path, store.token)
    assert deductions.make([wanted(store, one)]) == ([], [])  # it is not in the file yet
    assert store.flush()
    assert deductions.make([wanted(store, one)]) == ([], [])
    store.settled(ended(one, Outcome.PARTIAL, Usage(input_tokens=9, output_tokens=7), cost=100))
    assert store.flush()
    assert len(deductions.make([wanted(store, one)])[1]) == 1
    assert row_of(path) == (0, 3, 60)


def test_of_a_row_that_is_not_there_any_more_nothing_is_taken(path, store):
    one = broken(store, Usage(input_tokens=9, output_tokens=7))
    assert store.flush()
    store.close()
    with opened(path) as file:
        assert file.forget(one.started + 1, 10) == 1
        assert Deductions(path, "other").make([wanted(store, one)]) == ([wanted(store, one)], [])


def test_nobody_waits_for_a_row_of_a_living_process_that_is_not_kept_any_more(path, store):
    old, young = broken(store, Usage(9, 7)), broken(store, Usage(9, 7), started=1_750_000_500.0)
    with opened(path) as file:
        assert file.forget(old.started + 1, 10) == 1
    deductions = Deductions(path, store.token)
    assert deductions.make([wanted(store, old)]) == ([wanted(store, old)], [])
    to_come = Deduction(store.token, young.row + 1, THEIRS, 40)
    assert deductions.make([to_come]) == ([], [])


def test_of_a_process_that_this_file_does_not_know_nothing_is_taken(path, store):
    unknown = Deduction("never was", 1, THEIRS, 40)
    assert Deductions(path, store.token).make([unknown]) == ([unknown], [])


def test_what_a_provider_tells_afterwards_is_told_without_what_another_ledger_has(path, store):
    """The attempt died with its process: in its row is nothing until its provider is asked."""
    one = broken(store, Usage(estimated=True), cost=0, answer="gen-1")
    Deductions(path, store.token).make([wanted(store, one)])
    assert row_of(path) == (0, 0, 0)
    questions = Questions(path, store.token)
    (question,) = questions.take(1, one.started + 1)
    told = Usage(input_tokens=10, output_tokens=6)
    usage, cost, _ = questions.answer(question, told, 70, 0)
    assert (usage.input_tokens, usage.output_tokens, cost) == (1, 2, 30)
    assert row_of(path) == (1, 2, 30)
    assert questions.answer(question, told, 70, 0) is None


def test_no_more_is_told_to_be_cached_than_is_left(path, store):
    one = broken(store, Usage(estimated=True), cost=0, answer="gen-1")
    Deductions(path, store.token).make([wanted(store, one)])
    questions = Questions(path, store.token)
    (question,) = questions.take(1, one.started + 1)
    told = Usage(input_tokens=12, output_tokens=6, cached_input_tokens=6, reasoning_tokens=5)
    usage, _, saved = questions.answer(question, told, 70, -600)
    assert (usage.input_tokens, usage.cached_input_tokens, saved) == (3, 3, -300)
    assert (usage.output_tokens, usage.reasoning_tokens) == (2, 2)
    (row,) = query(path, "SELECT cached_input_tokens, reasoning_tokens, prompt_cache_saved FROM attempts")
    assert row == (3, 2, -300)


def test_what_was_taken_is_remembered_for_as_long_as_the_row_is(path, store):
    one = broken(store, Usage(input_tokens=9, output_tokens=7))
    Deductions(path, store.token).make([wanted(store, one)])
    store.close()
    with opened(path) as file:
        for moment, left in ((one.started, 1), (one.started + 1, 0)):
            file.forget(moment, 10)
            with contextlib.closing(sqlite3.connect(path)) as database:
                assert database.execute("SELECT count(*) FROM deducted").fetchone() == (left,)
