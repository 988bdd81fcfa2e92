"""``kill -9`` of processes that settle rows: every row that was settled is in the ledger after the next start."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from ledger_attempts import attempt, ended

from penstock.ledger import sqlite
from penstock.ledger._file import LedgerFile
from penstock.ledger._queue import RowQueue, queue_path
from penstock.ledger._recovery import Recovery
from penstock.ledger.deductions import Deduction, Deductions
from penstock.ledger.sqlite import SQLiteStore
from penstock.messages import PROCESS_DIED, Outcome, Usage

NEVER = 3600.0  # an interval that does not end: only a flush writes

_PROGRAM = """
    import os, sys, time
    sys.path.insert(0, {tests!r})
    from ledger_attempts import attempt, ended
    from penstock.ledger.sqlite import SQLiteStore
    from penstock.messages import Usage
    path = sys.argv[1]
"""

# Settles rows until it is killed, and tells each through a pipe; the number of tokens is the row's name.
_SETTLES_FOR_EVER = """
    store = SQLiteStore(path, interval=float(sys.argv[2])).start()
    number = int(sys.argv[3])
    while True:
        number += 1
        store.opened(attempt(number=9))  # one that will never be settled
        one = attempt()
        store.opened(one)
        store.settled(ended(one, usage=Usage(input_tokens=number, output_tokens=1)))
        os.write(1, b"%d\\n" % number)
"""


@pytest.fixture
def open_ledger(path):
    """What the next start does."""
    stores = []

    def begin(**options):
        store = SQLiteStore(path, interval=NEVER, **options).start()
        stores.append(store)
        assert store.flush()
        return store

    yield begin
    for store in stores:
        store.close()


@contextlib.contextmanager
def program(code, *args):
    head = textwrap.dedent(_PROGRAM).format(tests=str(Path(__file__).parent))
    command = [sys.executable, "-c", head + textwrap.dedent(code), *map(str, args)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def killed(code, *args, after=b"ready\n"):
    """Run it until it says so, then kill it."""
    with program(code, *args) as process:
        assert process.stdout.readline() == after
        process.kill()
        process.wait()


def query(path, statement, *values):
    with contextlib.closing(sqlite3.connect(path)) as database:
        return database.execute(statement, values).fetchall()


def outcomes(path):
    return query(path, "SELECT outcome, error, input_tokens FROM attempts ORDER BY row")


@pytest.mark.parametrize("interval", [0.005, NEVER])
def test_every_row_that_was_settled_is_there_after_a_kill_at_any_moment(path, open_ledger, interval):
    told = 0
    for round_ in range(10):
        with program(_SETTLES_FOR_EVER, path, interval, told) as process:
            for _ in range(1 + 97 * round_ % 400):
                process.stdout.readline()
            process.kill()
            lines = process.stdout.read().split(b"\n")  # what it said before it died is still in the pipe
        del lines[-1]  # cut, or empty
        told_before, told = told, told + 1 + 97 * round_ % 400
        if lines:
            told = int(lines[-1])
        open_ledger().close()
        settled = [
            row for (row,) in query(path, "SELECT input_tokens FROM attempts WHERE outcome = 'completed'")
        ]
        assert len(settled) == len(set(settled))
        new = {number for number in settled if number > told_before}
        # One more may have been settled, and not told.
        assert new - {told + 1} == set(range(told_before + 1, told + 1))
        told = max(settled)
    assert list(path.parent.iterdir()) == [path]
    assert query(path, "SELECT count(*) FROM attempts WHERE outcome = 'reserved'") == [(0,)]


# The same of calls that no upstream was asked for, a few kinds of them.
_SAVES_FOR_EVER = """
    from penstock.messages import Outcome
    store = SQLiteStore(path, interval=float(sys.argv[2])).start()
    number = int(sys.argv[3])
    while True:
        number += 1
        one = attempt(model="abc"[number % 3], number=1)
        store.saved(ended(one, Outcome.CACHED, Usage(input_tokens=number)))
        os.write(1, b"%d\\n" % number)
"""


@pytest.mark.parametrize("interval", [0.005, NEVER])
def test_every_answer_that_was_kept_is_there_once_after_a_kill_at_any_moment(path, open_ledger, interval):
    told = 0
    for round_ in range(10):
        with program(_SAVES_FOR_EVER, path, interval, told) as process:
            for _ in range(1 + 397 * round_ % 1_600):
                process.stdout.readline()
            process.kill()
            lines = process.stdout.read().split(b"\n")  # what it said before it died is still in the pipe
        told += 1 + 397 * round_ % 1_600
        if lines[:-1]:
            told = int(lines[-2])
        open_ledger().close()
        saved = [row for (row,) in query(path, "SELECT input_tokens FROM attempts_and_savings ORDER BY 1")]
        # One more may have been entered, and not told.
        assert saved in (list(range(1, told + 1)), list(range(1, told + 2)))
        told = saved[-1]
    assert list(path.parent.iterdir()) == [path]


_ONE_OF_EACH = """
    from penstock.ledger import sqlite
    sqlite.SHORT_INTERVAL = 3600  # after a flush, too, only the next one writes
    store = SQLiteStore(path, interval=3600).start()
    if "flush" in sys.argv:
        assert store.flush()
    one, other = attempt(), attempt()
    store.opened(one)
    store.opened(other)
    if "reserved" in sys.argv:
        assert store.flush()
    store.settled(ended(one))
    if "settled" in sys.argv:
        assert store.flush()
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_who_runs_on_enters_what_somebody_left_who_is_not_replaced(path, open_ledger):
    living = open_ledger(recover_interval=0.0)
    killed(_ONE_OF_EACH, path, "reserved")
    assert living.flush()
    assert [outcome[:2] for outcome in outcomes(path)] == [("completed", ""), ("partial", PROCESS_DIED)]
    statistics = living.statistics()
    assert (statistics.recovered, statistics.orphans) == (1, 1)
    assert [left.name for left in path.parent.glob("*.queue")] == [queue_path(path, living.token).name]


def test_a_queue_that_cannot_be_read_is_told_of_once(path, open_ledger, caplog):
    strange = queue_path(path, "0123456789abcdef")
    strange.write_bytes(b"no queue of ours")
    living = open_ledger(recover_interval=0.0)
    for _ in range(3):
        assert living.flush()
    assert caplog.text.count("was left alone") == 1
    assert strange.exists()


@pytest.mark.parametrize(
    "written", [["nothing"], ["flush"], ["reserved"], ["reserved", "settled"], ["settled"]]
)
def test_whatever_the_file_had_settled_rows_are_what_they_were_and_open_ones_are_orphans(
    path, open_ledger, written, caplog
):
    killed(_ONE_OF_EACH, path, *written)
    store = open_ledger()
    assert outcomes(path) == [("completed", "", 90), ("partial", PROCESS_DIED, 0)]
    assert store.flush()  # what the file shows, the writer counts a moment later
    assert store.statistics().recovered == (0 if "settled" in written else 1)
    assert store.statistics().orphans == 1
    assert ("1 rows of processes that died were found" in caplog.text) == ("settled" not in written)
    store.close()
    assert list(path.parent.iterdir()) == [path]


def test_what_was_entered_once_is_not_entered_again(path, open_ledger, tmp_path):
    """As if the opener had died after its commit, and before it removed the queue."""
    killed(_ONE_OF_EACH, path)
    (left,) = path.parent.glob("*.queue")
    copy = left.read_bytes()
    open_ledger().close()
    before = outcomes(path)
    left.write_bytes(copy)
    store = open_ledger()
    assert outcomes(path) == before
    assert store.statistics().recovered == 0
    assert not left.exists()


def test_an_opening_that_fails_leaves_the_queue_for_the_next(path, open_ledger, monkeypatch):
    killed(_ONE_OF_EACH, path)
    monkeypatch.setattr(Recovery, "settle_orphans", lambda *_: 1 / 0)
    store = SQLiteStore(path, interval=NEVER).start()
    assert not store.flush()
    assert query(path, "SELECT count(*) FROM sqlite_master") == [(0,)]  # the transaction was undone
    monkeypatch.undo()
    assert store.flush()
    assert outcomes(path) == [("completed", "", 90), ("partial", PROCESS_DIED, 0)]
    store.close()


def test_two_that_open_at_once_enter_everything_once(path, open_ledger):
    for _ in range(3):
        killed(_ONE_OF_EACH, path)
    stores = [SQLiteStore(path, interval=NEVER) for _ in range(4)]
    for store in stores:
        store.start()
    threads = [threading.Thread(target=store.flush) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [row[0] for row in outcomes(path)] == ["completed", "partial"] * 3
    assert sum(store.statistics().recovered for store in stores) == 3
    for store in stores:
        store.close()


def test_the_queue_of_a_living_process_is_left_alone(path, open_ledger):
    with program(_ONE_OF_EACH, path, "flush") as process:
        process.stdout.readline()
        store = open_ledger()
        assert outcomes(path) == []
        assert len(list(path.parent.glob("*.queue"))) == 2
    store.close()
    store = open_ledger()
    assert [row[0] for row in outcomes(path)] == ["completed", "partial"]


def test_a_living_process_that_has_trouble_with_the_file_is_not_taken_for_dead(
    path, open_ledger, monkeypatch
):
    troubled = open_ledger()
    one = attempt()
    troubled.opened(one)
    assert troubled.flush()

    def broken(*_):
        raise sqlite3.OperationalError("disk I/O error")

    write = LedgerFile.write
    monkeypatch.setattr(LedgerFile, "write", broken)
    troubled.settled(ended(one))
    assert not troubled.flush()  # it has let go of the file
    monkeypatch.setattr(LedgerFile, "write", write)
    assert open_ledger().statistics().orphans == 0
    assert outcomes(path) == [("reserved", "", 0)]
    assert troubled.flush()
    assert outcomes(path) == [("completed", "", 90)]


_FULL_DISK = """
    import resource
    store = SQLiteStore(path, interval=3600).start()
    assert store.flush()
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # as near to a full disk as needs no privilege
    for number in range(2_000):
        one = attempt()
        store.opened(one)
        store.settled(ended(one, usage=Usage(input_tokens=number)))
        if number % 500 == 0:
            assert not store.flush() or not number
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_on_a_full_disk_the_queue_keeps_what_the_file_cannot_take(path, open_ledger):
    killed(_FULL_DISK, path)
    open_ledger()
    assert query(path, "SELECT count(*), sum(input_tokens) FROM attempts") == [(2_000, 1_999_000)]


_NO_ROOM = """
    import resource
    store = SQLiteStore(path, interval=0.01)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    store.start()
    one = attempt()
    store.opened(one)
    store.settled(ended(one))
    assert store.flush(), store
    assert store.statistics().unqueued == 2, store.statistics()
    store.close()
"""


def test_where_there_is_no_room_for_a_queue_rows_are_written_as_ever(path):
    with program(_NO_ROOM, path) as process:
        assert process.wait(60) == 0
    assert [row[0] for row in outcomes(path)] == ["completed"]
    assert list(path.parent.iterdir()) == [path]


def test_rows_that_could_not_be_written_at_close_are_entered_by_the_next_start(path, open_ledger, caplog):
    store = SQLiteStore(path, interval=NEVER, busy_timeout=0.05).start()
    assert store.flush()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        one = attempt()
        store.opened(one)
        store.settled(ended(one))
        store.close()
    assert "closed with 1 rows not written; the next start looks for them in the queue" in caplog.text
    open_ledger()
    assert outcomes(path) == [("completed", "", 90)]


def test_sums_and_the_rows_in_them_are_not_both_counted(path, open_ledger, monkeypatch):
    """The process dies after the commit of its sums, before the queue is marked."""
    directory = path.parent / "later"
    there = directory / "ledger.db"
    directory.mkdir()
    store = SQLiteStore(there, interval=NEVER, max_rows=10).start()
    monkeypatch.setattr(sqlite, "LedgerFile", lambda *_, **__: 1 / 0)
    for number in range(25):
        one = attempt()
        store.opened(one)
        store.settled(ended(one, usage=Usage(input_tokens=number)))
        store.flush()
    monkeypatch.undo()
    queue = queue_path(there, store.token)
    monkeypatch.setattr(RowQueue, "mark", lambda *_: None)
    assert store.flush()
    assert store.statistics().folded == 15
    late = attempt()
    store.opened(late)
    store.settled(ended(late, usage=Usage(input_tokens=1_000)))
    copy = queue.read_bytes()
    store.close()
    monkeypatch.undo()
    query_all = (
        "SELECT sum(n), sum(t) FROM (SELECT 1 AS n, input_tokens AS t FROM attempts"
        " UNION ALL SELECT attempts, input_tokens FROM folded)"
    )
    expected = [(26, sum(range(25)) + 1_000)]
    assert query(there, query_all) == expected
    with (
        contextlib.closing(sqlite3.connect(there)) as database,
        database,
    ):  # it did not come to write this one
        database.execute("DELETE FROM attempts WHERE input_tokens = 1000")
    queue.write_bytes(copy)
    store = SQLiteStore(there, interval=NEVER).start()
    assert store.flush()
    assert query(there, query_all) == expected
    assert store.statistics().recovered == 1
    store.close()


def test_nonsense_that_no_column_holds_does_not_keep_the_ledger_shut(path, open_ledger):
    killed(
        """
        store = SQLiteStore(path, interval=3600).start()
        one, other = attempt(), attempt()
        for each, tokens in ((one, 2**64 - 1), (other, 7)):
            store.opened(each)
            store.settled(ended(each, usage=Usage(input_tokens=tokens)))
        print("ready", flush=True)
        sys.stdin.read()
        """,
        path,
    )
    open_ledger()
    assert outcomes(path) == [("completed", "", 2**63 - 1), ("completed", "", 7)]


@pytest.mark.parametrize("content", [b"", b"garbage" * 1_000, b"PENSQUEU\x63" + bytes(5_000)])
def test_a_strange_file_is_left_alone_and_the_log_says_so(path, open_ledger, caplog, content):
    strange = queue_path(path, "f" * 16)
    strange.write_bytes(content)
    store = open_ledger()
    assert f"a queue of the ledger was left alone: {strange}" in caplog.text
    assert strange.read_bytes() == content
    assert store.statistics().trouble == ""


def test_a_queue_that_is_removed_or_moved_is_made_anew(path, open_ledger):
    store = open_ledger()
    queue_path(path, store.token).rename(path.with_name("away"))
    one, other = attempt(), attempt()
    store.opened(one)
    store.settled(ended(one))
    assert store.flush()
    assert queue_path(path, store.token).exists()
    store.opened(other)
    store.settled(ended(other))
    copy = queue_path(path, store.token).read_bytes()
    store.close()
    left = queue_path(path, store.token)
    left.write_bytes(copy)
    open_ledger()
    assert [row[0] for row in outcomes(path)] == ["completed", "completed"]


def test_when_the_queue_is_full_rows_are_written_as_ever_and_the_log_says_so(
    path, open_ledger, monkeypatch, caplog
):
    monkeypatch.setattr(
        sqlite, "RowQueue", lambda *args, **options: RowQueue(*args, **options, capacity=2_048)
    )
    store = open_ledger()
    for _ in range(100):
        one = attempt()
        store.opened(one)
        store.settled(ended(one))
    assert store.flush()
    assert len(outcomes(path)) == 100
    refused = store.statistics().unqueued
    assert 150 < refused < 200
    assert caplog.text.count("was full") == 1
    one = attempt()
    store.opened(one)
    store.settled(ended(one))
    assert store.statistics().unqueued == refused


_FORKS = """
    store = SQLiteStore(path, interval=3600).start()
    assert store.flush()
    one = attempt()
    store.opened(one)
    child = os.fork()
    mine = attempt()
    store.opened(mine)
    store.settled(ended(mine, usage=Usage(input_tokens=1 if child else 2)))
    os.write(1, b"%d\\n" % child)  # each when it has settled its row, in one piece
    sys.stdin.read()
"""


def test_a_forked_child_has_a_queue_of_its_own_and_does_not_hold_its_parents(path, open_ledger):
    with program(_FORKS, path) as process:
        told = [int(process.stdout.readline()) for _ in range(2)]
        child = max(told)
        assert min(told) == 0
        try:
            process.kill()
            process.wait()
            open_ledger().close()
            assert outcomes(path) == [("partial", PROCESS_DIED, 0), ("completed", "", 1)]
        finally:
            os.kill(child, signal.SIGKILL)
        for _ in range(1_000):  # its parent is dead: it is not ours to wait for
            open_ledger().close()
            if len(outcomes(path)) == 3:
                break
    assert outcomes(path)[2:] == [("completed", "", 2)]
    assert list(path.parent.iterdir()) == [path]


def takes_over(store, generation, output, *, later=60.0):
    """What a process settles that takes the answer of a dead one over, which began a minute ago."""
    one = attempt(id=f"{generation}/1 died", generation=generation, started=time.time() - 60)
    store.opened(one)
    usage = Usage(input_tokens=90, output_tokens=output, estimated=True)
    store.settled(ended(one, Outcome.PARTIAL, usage, error=PROCESS_DIED, cost=400, duration=later))
    queue = queue_path(store.path, store.token).read_bytes()
    assert store.flush()
    return queue


_HAS_SETTLED = """
    store = SQLiteStore(path, interval=3600).start()
    now = time.time() - 1
    one = attempt(generation="gen_shared", started=now)
    store.opened(one)
    if "open" in sys.argv:
        store.opened(attempt(generation="gen_shared", number=2, started=now))
    store.settled(ended(one))
    if "flush" in sys.argv:
        assert store.flush()
    print("ready", flush=True)
    sys.stdin.read()
"""


_SETTLES_UNSEEN = """
    store = SQLiteStore(path, interval=3600).start()
    one = attempt()
    store.opened(one)
    assert store.flush()
    store.settled(ended(one, usage=Usage(input_tokens=90, output_tokens=10, cached_input_tokens=85), cost=100))
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_what_another_ledger_has_of_it_is_taken_off_a_row_that_is_found_in_a_queue_later(path, open_ledger):
    killed(_SETTLES_UNSEEN, path)
    with contextlib.closing(sqlite3.connect(path)) as database:  # somebody who could not read the queue
        change = "UPDATE attempts SET outcome = 'partial', error = ?"
        database.execute(change, (PROCESS_DIED,))
        database.commit()
    ((token,),) = query(path, "SELECT token FROM boots")
    Deductions(path, "other").make([Deduction(token, 1, Usage(input_tokens=9, output_tokens=4), 40)])
    for _ in range(2):
        open_ledger()
        columns = "outcome, input_tokens, output_tokens, cached_input_tokens, cost"
        assert query(path, f"SELECT {columns} FROM attempts") == [("completed", 81, 6, 81, 60)]


@pytest.mark.parametrize("flush", [["flush"], []])
class TestTakenOver:
    """A dead process's own row, and the row of who took its answer over."""

    def tokens(self, path):
        return query(path, "SELECT sum(input_tokens), sum(output_tokens) FROM attempts")

    def test_what_the_dead_had_settled_is_counted_once_if_it_is_found_first(self, path, open_ledger, flush):
        killed(_HAS_SETTLED, path, *flush)
        store = open_ledger()
        takes_over(store, "gen_shared", 8)
        assert self.tokens(path) == [(90, 10)]

    def test_and_if_it_is_taken_over_first(self, path, open_ledger, flush):
        store = open_ledger()
        with program(_HAS_SETTLED, path, *flush) as process:
            process.stdout.readline()
        takes_over(store, "gen_shared", 8)
        open_ledger()
        assert self.tokens(path) == [(90, 10)]

    def test_what_it_had_not_settled_stays(self, path, open_ledger, flush):
        store = open_ledger()
        with program(_HAS_SETTLED, path, "open", *flush) as process:
            process.stdout.readline()
        takes_over(store, "gen_shared", 18)
        open_ledger()
        assert self.tokens(path) == [(90 + 100, 18)]
        (rest,) = query(path, "SELECT cost FROM attempts WHERE input_tokens = 100")
        assert rest == (400 * 8 // 18,)

    @pytest.mark.parametrize("first", ["found", "taken over"])
    def test_what_it_had_not_settled_is_one_attempt(self, path, open_ledger, flush, first):
        store = open_ledger()
        with program(_HAS_SETTLED, path, "open", *flush) as process:
            process.stdout.readline()
        if first == "found":
            open_ledger()
        takes_over(store, "gen_shared", 18)
        open_ledger()
        assert sorted(outcomes(path)) == [("completed", "", 90), ("partial", PROCESS_DIED, 100)]

    def test_what_others_did_for_the_answer_later_is_no_reason(self, path, open_ledger, flush):
        store = open_ledger()
        takes_over(store, "gen_shared", 18, later=1.0)
        killed(_HAS_SETTLED, path, *flush)
        open_ledger()
        assert self.tokens(path) == [(180, 28)]

    def test_nor_is_it_counted_again_when_who_took_it_over_dies_as_well(self, path, open_ledger, flush):
        killed(_HAS_SETTLED, path, *flush)
        store = open_ledger()
        queue = takes_over(store, "gen_shared", 18)
        goes_on = attempt(generation="gen_shared", number=2, started=time.time() + 1)
        store.opened(goes_on)
        store.settled(ended(goes_on, usage=Usage(input_tokens=7, output_tokens=6)))
        store.close()
        before = self.tokens(path)
        assert before == [(90 + 100 + 7, 10 + 8 + 6)]
        # As if it had died before it could mark what is written.
        queue_path(path, store.token).write_bytes(queue)
        open_ledger()
        assert self.tokens(path) == before
