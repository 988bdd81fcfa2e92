import contextlib
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from ledger_attempts import attempt, ended

from penstock.ledger._file import LedgerFile
from penstock.ledger.questions import FIRST_PAUSE, GIVEN_UP, PATIENCE, Questions
from penstock.ledger.report import summarize, total
from penstock.ledger.sqlite import SQLiteStore
from penstock.messages import PROCESS_DIED, Outcome, Usage
from penstock.turns import Turns

NEVER = 3600.0  # an interval that does not end: only a flush writes
BEGAN = 1_750_000_000.0
GUESS = Usage(input_tokens=9, output_tokens=2, estimated=True)
BILLED = Usage(input_tokens=10, output_tokens=7, cached_input_tokens=4, reasoning_tokens=3)


@pytest.fixture
def open_ledger(path):
    stores = []

    def begin():
        store = SQLiteStore(path, interval=NEVER).start()
        stores.append(store)
        assert store.flush()
        return store

    yield begin
    for store in stores:
        store.close()


def guessed(answer="gen-1", **how):
    """An attempt whose upstream broke before it had told what it cost."""
    one = attempt(answer=answer)
    return ended(one, Outcome.PARTIAL, GUESS, **{"error": "upstream_broken", "cost": 13, **how})


def settle(store, *attempts):
    for one in attempts:
        store.opened(one)
        store.settled(one)
    assert store.flush()


@contextlib.contextmanager
def opened(path, token):
    file = LedgerFile(path, token, Turns(), busy_timeout=1.0)
    try:
        yield file
    finally:
        file.close(ended=True)


def query(path, statement):
    with contextlib.closing(sqlite3.connect(path)) as database:
        return database.execute(statement).fetchall()


def test_what_was_estimated_and_has_an_id_is_a_question_and_nothing_else_is(path, open_ledger):
    store = open_ledger()
    settle(store, guessed(), guessed(answer=""), ended(attempt(answer="gen-2")))
    store.opened(attempt(answer="gen-3"))
    assert store.flush()
    (question,) = Questions(path, store.token).take(9, BEGAN)
    assert (question.answer, question.usage, question.cost) == ("gen-1", GUESS, 13)
    assert (question.mine, question.outcome, question.asked) == (True, Outcome.PARTIAL, 0)
    assert (question.tenant, question.key_name, question.tier, question.model) == (
        *("acme", "prod", "standard", "fast"),
    )
    assert (question.upstream, question.upstream_model, question.endpoint) == ("sim", "sim-1", "chat")


def test_what_the_provider_tells_takes_the_place_of_the_estimate_once(path, open_ledger):
    store = open_ledger()
    one = guessed(left_out=5, cache_saved=2)
    settle(store, one)
    questions = Questions(path, store.token)
    (question,) = questions.take(9, BEGAN)
    assert question.cache_saved == 2
    assert questions.answer(question, BILLED, 24, 6)
    assert not questions.answer(question, Usage(1, 1), 1, 0)
    told = "SELECT input_tokens, output_tokens, cached_input_tokens, reasoning_tokens, cost, estimated, told"
    told += ", prompt_cache_saved, left_out_tokens"
    assert query(path, told + " FROM attempts") == [(10, 7, 4, 3, 24, 0, 1, 6, 5)]
    assert questions.take(9, BEGAN + PATIENCE) == []
    # A transaction of which nobody knew whether it held is written once more.
    store.close()
    with opened(path, store.token) as file:
        file.write([], [one])
    assert query(path, told + " FROM attempts") == [(10, 7, 4, 3, 24, 0, 1, 6, 5)]
    line = total(summarize(path))
    assert (line.attempts, line.told, line.estimated, line.output_tokens, line.cost) == (1, 1, 0, 7, 24)


def test_a_question_is_asked_again_after_a_pause_that_doubles_and_given_up_in_the_end(path, open_ledger):
    store = open_ledger()
    settle(store, guessed())
    questions = Questions(path, store.token)
    now = BEGAN
    for asked in range(4):
        assert [one.asked for one in questions.take(9, now)] == [asked]
        assert questions.take(9, now) == [], "somebody is asking just now"
        now += FIRST_PAUSE * 2**asked
        assert questions.take(9, now - 0.001) == []
    assert len(questions.take(9, BEGAN + PATIENCE + 1)) == 1, "a last time"
    assert query(path, "SELECT told, estimated FROM attempts") == [(GIVEN_UP, 1)]
    assert questions.take(9, BEGAN + 2 * PATIENCE) == []


def test_what_cannot_be_told_is_given_up_at_once(path, open_ledger):
    store = open_ledger()
    settle(store, guessed())
    questions = Questions(path, store.token)
    (question,) = questions.take(9, BEGAN)
    questions.give_up(question)
    assert questions.take(9, BEGAN + PATIENCE / 2) == []
    assert not questions.answer(question, BILLED, 24, 6)


def test_each_process_asks_for_its_own_and_anybody_for_those_who_are_gone(path, open_ledger):
    one, other = open_ledger(), open_ledger()
    settle(one, guessed("gen-1"))
    settle(other, guessed("gen-2"))
    assert [q.answer for q in Questions(path, one.token).take(9, BEGAN)] == ["gen-1"]
    other.close()
    (inherited,) = Questions(path, one.token).take(9, BEGAN)
    assert (inherited.answer, inherited.mine) == ("gen-2", False)


def test_few_are_taken_at_once_and_none_twice(path, open_ledger):
    store = open_ledger()
    settle(store, *(guessed(f"gen-{i}") for i in range(10)))
    questions = Questions(path, store.token)
    taken = [[one.answer for one in questions.take(4, BEGAN)] for _ in range(4)]
    assert [len(some) for some in taken] == [4, 4, 2, 0]
    assert len({name for some in taken for name in some}) == 10


def test_without_a_ledger_there_is_nothing_to_ask(path, tmp_path):
    assert Questions(path, "x").take(9) == []
    (tmp_path / "other.db").write_bytes(b"")
    assert Questions(tmp_path / "other.db", "x").take(9) == []


def test_the_id_of_an_answer_under_way_is_in_the_file(path, open_ledger):
    store = open_ledger()
    early, late = attempt(), attempt()
    store.opened(early)
    early.answer = "gen-early"
    store.noted(early)
    store.opened(late)
    assert store.flush()
    late.answer = "gen-late"
    store.noted(late)
    assert store.flush()
    assert query(path, "SELECT outcome, answer FROM attempts ORDER BY row") == [
        ("reserved", "gen-early"),
        ("reserved", "gen-late"),
    ]
    assert Questions(path, store.token).take(9, BEGAN) == []


# ---- with processes that are killed ----

_PROGRAM = """
    import sys
    sys.path.insert(0, {tests!r})
    from ledger_attempts import attempt
    from penstock.ledger.sqlite import SQLiteStore
    store = SQLiteStore(sys.argv[1], interval=3600).start()
    one = attempt(generation="gen_x")
    store.opened(one)
    if "reserved" in sys.argv:
        assert store.flush()
    one.answer = "gen-1"
    store.noted(one)
    if "noted" in sys.argv:
        assert store.flush()
    print("ready", flush=True)
    sys.stdin.read()
"""


def killed(path, *how):
    code = textwrap.dedent(_PROGRAM).format(tests=str(Path(__file__).parent))
    command = [sys.executable, "-c", code, str(path), *how]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        process.kill()


@pytest.mark.parametrize("how", [(), ("reserved",), ("reserved", "noted")], ids=["queue", "reserved", "file"])
def test_what_was_under_way_when_its_process_was_killed_can_be_asked_for(path, open_ledger, how):
    killed(path, *how)
    store = open_ledger()
    (question,) = Questions(path, store.token).take(9, BEGAN)
    assert (question.answer, question.mine) == ("gen-1", False)
    assert Questions(path, store.token).answer(question, BILLED, 24, 6)
    assert query(path, "SELECT outcome, error, output_tokens, estimated FROM attempts") == [
        ("partial", PROCESS_DIED, 7, 0)
    ]


def taken_over(store):
    """The row that who takes the dead process's answer over writes."""
    usage = Usage(input_tokens=9, output_tokens=4, estimated=True)
    one = attempt(generation="gen_x", id="gen_x/1 died")
    settle(store, ended(one, Outcome.PARTIAL, usage, error=PROCESS_DIED, duration=5.0))


@pytest.mark.parametrize("first", ["taken over", "dead", "told"])
def test_what_was_taken_over_is_asked_for_by_the_id_that_the_dead_has_left(path, open_ledger, first):
    survivor = open_ledger()
    killed(path, "reserved")
    if first == "taken over":
        taken_over(survivor)
        open_ledger()
    else:
        heir = open_ledger()
        if first == "told":
            (question,) = Questions(path, heir.token).take(9, BEGAN)
            assert Questions(path, heir.token).answer(question, BILLED, 24, 6)
        taken_over(survivor)
    if first != "told":
        (question,) = Questions(path, survivor.token).take(9, BEGAN)
        assert (question.answer, question.mine, question.usage.output_tokens) == ("gen-1", True, 4)
        assert Questions(path, survivor.token).answer(question, BILLED, 24, 6)
    assert query(path, "SELECT answer, output_tokens, estimated, told FROM attempts") == [("gen-1", 7, 0, 1)]


def test_what_was_told_stays_when_the_dead_processs_own_rows_come_to_light(path, open_ledger):
    survivor = open_ledger()
    killed(path, "reserved")
    open_ledger()
    taken_over(survivor)
    (question,) = Questions(path, survivor.token).take(9, BEGAN)
    assert Questions(path, survivor.token).answer(question, BILLED, 24, 6)
    with opened(path, "of a test") as file:
        file.recovery._count_once(99, ended(attempt(generation="gen_x"), Outcome.PARTIAL, Usage(9, 3)))
    assert query(path, "SELECT output_tokens, told FROM attempts") == [(7, 1)]


def test_what_a_prompt_cache_has_saved_is_not_told_of_the_rest_of_an_answer(path):
    """Which is an estimate: what was cached of it nobody knows."""
    died = guessed(generation="gen_x", error=PROCESS_DIED, duration=9.0, cache_saved=5, cache_missed=6)
    died.usage, died.row = Usage(9, 7, cached_input_tokens=4), 1
    with opened(path, "0123456789abcdef") as file:
        file.write([], [died])
        shown = (
            "SELECT output_tokens, cached_input_tokens, prompt_cache_saved, prompt_cache_missed FROM attempts"
        )
        assert query(path, shown) == [(7, 4, 5, 6)]
        file.recovery._count_once(99, ended(attempt(generation="gen_x"), Outcome.PARTIAL, Usage(9, 3)))
    assert query(path, shown) == [(4, 0, 0, 0)]
