import asyncio
import contextlib
import logging
import os
import random
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from ledger_attempts import RESERVED, attempt, ended, one_and_two

from penstock.errors import StorageUnavailable
from penstock.ledger import _rows, _schema, sqlite
from penstock.ledger._file import LedgerFile
from penstock.ledger.ledger import Ledger
from penstock.ledger.sqlite import SQLiteStore
from penstock.messages import SAVING, Outcome, Usage

NEVER = 3600.0  # an interval that does not end: only a flush writes, so that a test decides what a batch is
LOGGER = "penstock.ledger.sqlite"


@pytest.fixture
def make_store(path, monkeypatch):
    # After a flush the writer would look again by itself, the sooner the shorter it had waited.
    monkeypatch.setattr(sqlite, "SHORT_INTERVAL", NEVER)
    stores = []

    def make(at=path, interval=NEVER, **options):
        store = SQLiteStore(at, interval=interval, busy_timeout=0.05, **options).start()
        stores.append(store)
        return store

    yield make
    for store in stores:
        store.close()


def rows(path, columns="*", where="1"):
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.row_factory = sqlite3.Row
        return [
            dict(row)
            for row in database.execute(f"SELECT {columns} FROM attempts WHERE {where} ORDER BY row")
        ]


def execute(path, *statements):
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        return [database.execute(statement).fetchall() for statement in statements][-1]


def run(store, *attempts):
    """Open and settle."""
    for one in attempts:
        store.opened(one)
        store.settled(ended(one))


class TestWriting:
    def test_a_settled_attempt_is_in_the_file_with_all_its_fields(self, make_store, path):
        store = make_store()
        usage = Usage(9, 8, 7, 6, 5, 4, 3, estimated=True, image_input_tokens=2, units=11)
        one = attempt(endpoint="messages", model="smart", upstream_model="sim-2", label="search")
        store.opened(one)
        details = {
            "status": 200,
            "error": "upstream_broken",
            "first_token": 0.25,
            "duration": 1.5,
            "cost": 12,
            "saved": 0,
        }
        of_prompt = {"left_out": 40, "cache_saved": -5, "cache_missed": 6}
        one.answer = "gen-1"
        store.settled(ended(one, Outcome.PARTIAL, usage, **details, **of_prompt))
        assert store.flush()
        (row,) = rows(path)
        asked = {"generation": one.generation, "number": 1, "tenant": "acme", "key_name": "prod"}
        route = {"endpoint": "messages", "model": "smart", "upstream": "sim", "upstream_model": "sim-2"}
        reserved = {"reserved_input_tokens": 100, "reserved_output_tokens": 500}
        read = {"input_tokens": 9, "cached_input_tokens": 7, "cache_write_tokens": 6, "audio_input_tokens": 4}
        written = {"output_tokens": 8, "reasoning_tokens": 5, "audio_output_tokens": 3}
        rest = {"tier": "standard", "started": one.started, "outcome": "partial", "estimated": 1, "boot": 1}
        few = {"image_input_tokens": 2, "units": 11, "label": "search"}
        few |= {"left_out_tokens": 40, "prompt_cache_saved": -5, "prompt_cache_missed": 6}
        question = {"answer": "gen-1", "told": 0, "asked": 0, "ask_at": 0.0}
        expected = asked | route | reserved | details | read | written | rest | few | question
        assert row == expected | {"row": row["row"]}
        assert path.stat().st_mode & 0o137 == 0, "who asked what of whom is not for everybody"

    def test_an_open_attempt_is_in_the_file_as_reserved(self, make_store, path):
        store = make_store()
        store.opened(attempt())
        assert store.flush()
        (row,) = rows(path)
        assert row["outcome"] == "reserved"
        assert row["reserved_output_tokens"] == RESERVED.output_tokens
        assert row["output_tokens"] == row["cost"] == 0

    def test_settling_replaces_the_reserved_row(self, make_store, path):
        store = make_store()
        one, other = attempt(), attempt()
        store.opened(one)
        store.opened(other)
        assert store.flush()
        store.settled(ended(one))
        assert store.flush()
        assert [row["outcome"] for row in rows(path)] == ["completed", "reserved"]

    def test_what_is_opened_and_settled_within_a_batch_is_written_once(self, make_store, path):
        store = make_store()
        assert store.flush()
        execute(
            path,
            "CREATE TABLE writes (what TEXT)",
            "CREATE TRIGGER i AFTER INSERT ON attempts BEGIN INSERT INTO writes VALUES ('insert'); END",
            "CREATE TRIGGER u AFTER UPDATE ON attempts BEGIN INSERT INTO writes VALUES ('update'); END",
        )
        run(store, attempt(), attempt())
        assert store.flush()
        assert execute(path, "SELECT what FROM writes") == [("insert",), ("insert",)]

    def test_nothing_is_written_when_there_is_nothing_new(self, make_store, path):
        store = make_store()
        run(store, attempt())
        assert store.flush()
        before = execute(path, "PRAGMA data_version", "SELECT count(*) FROM attempts")
        assert store.flush()
        assert execute(path, "SELECT count(*) FROM attempts") == before

    def test_batches_of_every_size_arrive_whole(self, make_store, path):
        store = make_store()
        expected = 0
        for size in (1, 31, 32, 33, 64, 999, 1000, 1001, 2500):
            run(store, *(attempt() for _ in range(size)))
            expected += size
            assert store.flush()
            assert execute(path, "SELECT count(*), count(DISTINCT generation) FROM attempts") == [
                (expected,) * 2
            ]

    def test_a_full_batch_is_written_without_waiting_for_the_interval(self, make_store, monkeypatch):
        written = threading.Event()
        write = LedgerFile.write

        def signalling(self, *args):
            write(self, *args)
            written.set()

        monkeypatch.setattr(LedgerFile, "write", signalling)
        store = make_store()
        assert store.flush()
        run(store, *(attempt() for _ in range(1000)))
        assert written.wait(60)

    def test_the_interval_writes_by_itself(self, make_store, monkeypatch):
        written = threading.Event()
        write = LedgerFile.write
        monkeypatch.setattr(LedgerFile, "write", lambda *args: (write(*args), written.set()))
        store = make_store(interval=0.01)
        run(store, attempt())
        assert written.wait(60)

    def test_the_first_row_starts_the_writer(self, path):
        store = SQLiteStore(path)
        assert not store.flush()
        run(store, attempt())
        assert store.flush()
        store.close()
        assert len(rows(path)) == 1

    def test_coroutines_can_wait_for_it(self, make_store, path):
        store = make_store()

        async def main():
            run(store, attempt())
            return await store.wait_flushed()

        assert asyncio.run(main())
        assert len(rows(path)) == 1

    def test_names_that_callers_invent_are_cut(self, make_store, path):
        store = make_store()
        run(store, attempt(model="m" * 100_000, upstream_model="n" * 100_000))
        assert store.flush()
        (row,) = rows(path)
        assert len(row["model"]) == len(row["upstream_model"]) == 256

    @pytest.mark.parametrize(
        "nonsense",
        [
            {"usage": Usage(input_tokens=2**70)},
            {"usage": Usage(output_tokens=-(2**70))},
            {"cost": 2**80},
            {"error": "half \ud800 a pair"},
        ],
    )
    def test_values_that_no_column_holds_stop_nobody(self, make_store, path, nonsense):
        store = make_store()
        before, odd, after = attempt(), attempt(), attempt()
        for one in (before, odd, after):
            store.opened(one)
        store.settled(ended(before))
        store.settled(ended(odd, **nonsense))
        store.settled(ended(after))
        assert store.flush()
        assert store.statistics().trouble == ""
        assert [row["outcome"] for row in rows(path)] == ["completed"] * 3


class TestClosing:
    def test_writes_what_waits(self, make_store, path):
        store = make_store()
        run(store, attempt())
        store.close()
        assert len(rows(path)) == 1

    def test_leaves_nothing_behind_but_the_file(self, make_store, path):
        store = make_store()
        run(store, attempt())
        store.close()
        assert os.listdir(path.parent) == [path.name]
        assert execute(path, "SELECT ended IS NOT NULL FROM boots") == [(1,)]

    def test_twice_is_fine_and_a_flush_afterwards_says_no(self, make_store):
        store = make_store()
        store.close()
        store.close()
        assert not store.flush()

    def test_with_rows_that_cannot_be_written_says_how_many(self, make_store, tmp_path, caplog):
        store = make_store(at=tmp_path / "nowhere" / "ledger.db")
        run(store, attempt(), attempt())
        store.close()
        assert "closed with 2 rows not written; they are lost: it had no queue" in caplog.text


# A process that opens two attempts, settles one, and says so; then it waits to be killed.
_WORKER = """
    import os, sys, time
    sys.path.insert(0, {tests!r})
    from ledger_attempts import attempt, ended
    from penstock.ledger.sqlite import SQLiteStore
    store = SQLiteStore({path!r}).start()
    one, other = attempt(), attempt()
    for each in (one, other):
        store.opened(each)
    assert store.flush()
    store.settled(ended(one))
    assert store.flush()
    print("ready", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def worker(path):
    code = textwrap.dedent(_WORKER).format(tests=str(Path(__file__).parent), path=str(path))
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def of_the_dead(store, generation, output_tokens):
    """Book what a process that is taken for dead had stored of an answer."""
    one = attempt(generation=generation)
    store.opened(one)
    usage = Usage(input_tokens=100, output_tokens=output_tokens, estimated=True)
    store.settled(ended(one, Outcome.PARTIAL, usage, error="process_died", cost=1_000))
    assert store.flush()


def booked_for_the_dead(path):
    where = "error = 'process_died' AND output_tokens > 0"
    return [tuple(row.values()) for row in rows(path, "input_tokens, output_tokens, cost", where)]


class TestTakenOver:
    def test_what_the_dead_had_received_is_booked(self, make_store, path):
        store = make_store()
        run(store, attempt())  # somebody else's
        of_the_dead(store, "gen_1", 144)
        assert booked_for_the_dead(path) == [(100, 144, 1_000)]

    def test_but_for_what_earlier_attempts_at_the_same_answer_have_rows_for(self, make_store, path):
        store = make_store()
        broken = attempt(generation="gen_1")
        store.opened(broken)
        store.settled(ended(broken, Outcome.PARTIAL, Usage(input_tokens=100, output_tokens=36)))
        joined = attempt(generation="gen_1")
        store.opened(joined)
        store.settled(ended(joined, Outcome.JOINED, Usage(input_tokens=100, output_tokens=50)))
        of_the_dead(store, "gen_1", 144)
        # Its prompt was that of the call and the text that there was.
        assert booked_for_the_dead(path) == [(136, 108, 750)]

    def test_and_not_twice_when_who_took_it_over_dies_too(self, make_store, path):
        store = make_store()
        of_the_dead(store, "gen_1", 144)
        of_the_dead(store, "gen_1", 144)
        of_the_dead(store, "gen_1", 244)
        assert [row[1] for row in booked_for_the_dead(path)] == [144, 100]

    def test_whatever_goes_on_with_the_answer_by_then(self, make_store, path):
        store = make_store()
        store.opened(attempt(generation="gen_1", number=2))
        of_the_dead(store, "gen_1", 144)
        assert booked_for_the_dead(path) == [(100, 144, 1_000)]

    def test_not_at_all_if_it_is_ours_and_lives(self, make_store, path):
        store = make_store()
        store.opened(attempt(generation="gen_1"))
        of_the_dead(store, "gen_1", 144)
        assert booked_for_the_dead(path) == []

    def test_not_at_all_while_the_other_process_lives_for_it_settles_its_own(self, make_store, path):
        store = make_store()
        with worker(path) as process:
            (generation,) = [row["generation"] for row in rows(path) if row["outcome"] == "reserved"]
            of_the_dead(store, generation, 144)
            assert booked_for_the_dead(path) == []
            process.kill()
            process.wait()
            of_the_dead(store, generation, 144)
        assert booked_for_the_dead(path) == [(100, 144, 1_000)]


class TestCrashes:
    def test_open_rows_of_a_dead_process_become_partial_and_keep_what_was_reserved(
        self, make_store, path, caplog
    ):
        with worker(path) as process:
            process.kill()
            process.wait()
            assert [row["outcome"] for row in rows(path)] == ["completed", "reserved"]
        store = make_store()
        assert store.flush()
        orphan = rows(path)[1]
        assert (orphan["outcome"], orphan["error"], orphan["estimated"]) == ("partial", "process_died", 1)
        assert (orphan["input_tokens"], orphan["cost"]) == (0, 0)
        assert orphan["reserved_output_tokens"] == RESERVED.output_tokens
        assert store.statistics().orphans == 1
        assert "1 attempts of processes that died" in caplog.text

    def test_their_lock_files_are_cleared_away(self, make_store, path):
        with worker(path) as process:
            process.kill()
            process.wait()
        store = make_store()
        assert store.flush()
        store.close()
        assert os.listdir(path.parent) == [path.name]

    def test_open_rows_of_a_living_process_are_left_alone(self, make_store, path):
        with worker(path):
            store = make_store()
            assert store.flush()
            assert [row["outcome"] for row in rows(path)] == ["completed", "reserved"]
            assert store.statistics().orphans == 0

    def test_open_rows_of_another_store_of_this_process_are_left_alone(self, make_store, path):
        one = make_store()
        one.opened(attempt())
        assert one.flush()
        assert make_store().flush()
        assert [row["outcome"] for row in rows(path)] == ["reserved"]

    def test_attempts_open_at_close_are_settled_by_the_next_start(self, make_store, path):
        store = make_store()
        store.opened(attempt())
        store.close()
        assert make_store().flush()
        assert [row["error"] for row in rows(path)] == ["process_died"]


def test_several_processes_write_one_file(path):
    code = textwrap.dedent("""
        import sys
        sys.path.insert(0, {tests!r})
        from ledger_attempts import attempt, ended
        from penstock.ledger.sqlite import SQLiteStore
        store = SQLiteStore({path!r}, interval=0.001).start()
        for _ in range(300):
            one = attempt()
            store.opened(one)
            store.settled(ended(one))
        assert store.flush(30)
        store.close()
    """).format(tests=str(Path(__file__).parent), path=str(path))
    processes = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert execute(path, "SELECT count(*), count(DISTINCT boot), sum(input_tokens) FROM attempts") == [
        (900, 3, 81_000)
    ]


OF_PROMPTS = ("left_out_tokens", "prompt_cache_saved", "prompt_cache_missed")
OF_THE_SEVENTH = (
    "DROP VIEW attempts_and_savings",
    *(f"ALTER TABLE {table} DROP COLUMN {name}" for table in ("attempts", "folded") for name in OF_PROMPTS),
    "ALTER TABLE folded DROP COLUMN shortened_to_tokens",
)
OF_THE_FIFTH = (
    *OF_THE_SEVENTH,
    "DROP TABLE savings",
    "ALTER TABLE attempts DROP COLUMN label",
)


class TestTrouble:
    def test_a_missing_directory(self, make_store, tmp_path, caplog):
        path = tmp_path / "later" / "ledger.db"
        store = make_store(at=path)
        run(store, attempt())
        assert not store.flush()
        assert not store.flush()
        assert "does not exist" in store.statistics().trouble
        assert store.statistics().errors == 2
        assert [record.levelname for record in caplog.records] == ["ERROR"]  # once, not at every try
        path.parent.mkdir()
        assert store.flush()
        assert store.statistics().trouble == ""
        assert caplog.records[-1].message.startswith(f"the ledger {path} is written again")
        assert len(rows(path)) == 1

    def test_a_file_that_another_process_holds_locked(self, make_store, path):
        store = make_store()
        assert store.flush()
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            run(store, attempt())
            assert not store.flush()
            assert "locked" in store.statistics().trouble
            assert store.statistics().waiting == 1
            other.execute("ROLLBACK")
        assert store.flush()
        assert len(rows(path)) == 1

    def test_a_file_that_is_no_database(self, make_store, path):
        path.write_bytes(b"these are the minutes of the last meeting" * 100)
        before = path.read_bytes()
        store = make_store()
        run(store, attempt())
        assert not store.flush()
        assert "not a database" in store.statistics().trouble
        assert path.read_bytes() == before  # nobody's file is overwritten
        path.unlink()
        assert store.flush()
        assert len(rows(path)) == 1

    def test_somebody_elses_database(self, make_store, path):
        execute(path, "CREATE TABLE customers (name TEXT)")
        store = make_store()
        run(store, attempt())
        assert not store.flush()
        assert "somebody else's" in store.statistics().trouble
        assert execute(path, "SELECT name FROM sqlite_master") == [("customers",)]

    def test_a_ledger_of_the_first_version_is_gone_on_with(self, make_store, path):
        store = make_store()
        store.opened(one := attempt())
        store.settled(ended(one))
        store.close()
        execute(path, *OF_THE_FIFTH)
        for table in ("attempts", "folded"):
            execute(path, f"ALTER TABLE {table} DROP COLUMN saved")
        execute(path, "ALTER TABLE folded DROP COLUMN queued", "DROP INDEX attempts_died")
        execute(path, "DROP INDEX attempts_questions")
        for column in ("answer", "told", "asked", "ask_at", "image_input_tokens", "units"):
            execute(path, f"ALTER TABLE attempts DROP COLUMN {column}")
        execute(path, "PRAGMA user_version = 1")
        store = make_store()
        store.opened(another := attempt())
        store.settled(ended(another, Outcome.JOINED, saved=7))
        assert store.flush()
        assert execute(path, "SELECT outcome, saved FROM attempts ORDER BY row") == [
            ("completed", 0),
            ("joined", 7),
        ]

    def test_a_ledger_of_the_version_before_is_gone_on_with(self, make_store, path):
        store = make_store()
        run(store, attempt())
        store.saved(ended(attempt(), Outcome.CACHED))
        store.close()
        execute(path, *OF_THE_SEVENTH, "CREATE VIEW attempts_and_savings AS SELECT row FROM attempts")
        execute(path, "PRAGMA user_version = 7")
        store = make_store()
        store.opened(another := attempt())
        store.settled(ended(another, left_out=3, cache_saved=-2, cache_missed=1))
        assert store.flush()
        columns = ", ".join(("outcome", *OF_PROMPTS))
        assert execute(path, f"SELECT {columns} FROM attempts_and_savings ORDER BY abs(row)") == [
            ("completed", 0, 0, 0),
            ("cached", 0, 0, 0),
            ("completed", 3, -2, 1),
        ]

    def test_a_ledger_of_the_sixth_version_is_gone_on_with(self, make_store, path):
        store = make_store()
        run(store, attempt())
        store.saved(ended(attempt(), Outcome.CACHED))
        store.close()
        execute(path, *OF_THE_SEVENTH, "ALTER TABLE attempts DROP COLUMN label")
        execute(path, "ALTER TABLE savings DROP COLUMN label")
        execute(path, "CREATE VIEW attempts_and_savings AS SELECT row FROM attempts")
        execute(path, "PRAGMA user_version = 6")
        store = make_store()
        run(store, attempt(label="search"))
        store.saved(ended(attempt(label="search"), Outcome.CACHED))
        assert store.flush()
        assert execute(path, "SELECT outcome, label FROM attempts_and_savings ORDER BY abs(row)") == [
            ("completed", ""),
            ("cached", ""),
            ("completed", "search"),
            ("cached", "search"),
        ]

    def test_a_ledger_of_the_fifth_version_is_gone_on_with(self, make_store, path):
        store = make_store()
        run(store, attempt())
        store.opened(one := attempt())
        store.settled(ended(one, Outcome.CACHED))  # as rows of answers that were kept were written
        store.close()
        execute(path, *OF_THE_FIFTH, "PRAGMA user_version = 5")
        store = make_store()
        store.saved(ended(attempt(), Outcome.CACHED))
        assert store.flush()
        assert execute(path, "SELECT outcome FROM attempts_and_savings ORDER BY row") == [
            ("cached",),
            ("completed",),
            ("cached",),
        ]

    def test_a_ledger_of_the_fourth_version_is_gone_on_with(self, make_store, path):
        store = make_store()
        run(store, attempt())
        store.close()
        execute(path, *OF_THE_FIFTH)
        for column in ("image_input_tokens", "units"):
            execute(path, f"ALTER TABLE attempts DROP COLUMN {column}")
        execute(path, "PRAGMA user_version = 4")
        store = make_store()
        store.opened(another := attempt())
        store.settled(ended(another, Outcome.COMPLETED, Usage(units=3)))
        assert store.flush()
        assert execute(path, "SELECT units FROM attempts ORDER BY row") == [(0,), (3,)]

    def test_a_ledger_of_a_newer_version(self, make_store, path):
        make_store().close()
        execute(path, "PRAGMA user_version = 99")
        store = make_store()
        run(store, attempt())
        assert not store.flush()
        assert "version 99" in store.statistics().trouble

    def test_a_file_that_is_damaged_while_it_is_written(self, make_store, path):
        store = make_store()
        run(store, *(attempt() for _ in range(500)))
        assert store.flush()
        execute(path, "PRAGMA wal_checkpoint(TRUNCATE)")
        with path.open("r+b") as file:
            file.seek(0)
            file.write(b"\xff" * 8192)
        run(store, attempt())
        assert not store.flush()
        assert store.statistics().waiting == 1
        for remains in path.parent.glob("ledger.db*"):
            remains.unlink()
        assert store.flush()
        assert len(rows(path)) == 1

    def test_a_file_that_was_moved_away_is_begun_anew(self, make_store, path, caplog):
        store = make_store()
        still_open, settled_before = attempt(), attempt()
        store.opened(still_open)
        run(store, settled_before)
        assert store.flush()
        execute(path, "PRAGMA wal_checkpoint(TRUNCATE)")
        for piece in path.parent.glob("ledger.db*"):
            piece.rename(piece.with_name("old-" + piece.name))
        run(store, attempt())
        assert store.flush()
        assert "moved or removed" in caplog.text
        assert sorted(row["outcome"] for row in rows(path)) == ["completed", "reserved"]
        store.settled(ended(still_open))
        assert store.flush()
        assert [row["outcome"] for row in rows(path)] == ["completed", "completed"]

    def test_a_commit_of_which_nobody_knows_whether_it_held_is_not_counted_twice(
        self, make_store, path, monkeypatch
    ):
        store = make_store()
        write = LedgerFile.write

        def uncertain(self, *args):
            write(self, *args)
            raise sqlite3.OperationalError("disk I/O error")

        one = attempt()
        store.opened(one)
        monkeypatch.setattr(LedgerFile, "write", uncertain)
        assert not store.flush()
        run(store, attempt())
        store.settled(ended(one))
        assert not store.flush()
        monkeypatch.setattr(LedgerFile, "write", write)
        assert store.flush()
        assert [row["outcome"] for row in rows(path)] == ["completed", "completed"]

    def test_a_defect_does_not_end_the_writer(self, make_store, path, monkeypatch):
        store = make_store()
        write = LedgerFile.write
        monkeypatch.setattr(LedgerFile, "write", lambda *_: 1 / 0)
        run(store, attempt())
        assert not store.flush()
        monkeypatch.setattr(LedgerFile, "write", write)
        assert store.flush()
        assert len(rows(path)) == 1

    def test_a_full_disk(self, tmp_path):
        # The limit on the size of files is the nearest to a full disk that needs no privilege.
        code = textwrap.dedent("""
            import resource, signal, sys
            sys.path.insert(0, {tests!r})
            from ledger_attempts import attempt, ended
            from penstock.ledger.sqlite import SQLiteStore
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            store = SQLiteStore({path!r}, interval=3600).start()
            def run(count):
                for _ in range(count):
                    one = attempt()
                    store.opened(one)
                    store.settled(ended(one))
            run(10)
            assert store.flush(), store
            _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (65_536, hard))
            run(5_000)
            assert not store.flush(), store
            print(store.statistics().trouble, file=sys.stderr)
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
            assert store.flush(), store
            store.close()
        """).format(tests=str(Path(__file__).parent), path=str(tmp_path / "ledger.db"))
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
        assert execute(tmp_path / "ledger.db", "SELECT count(*) FROM attempts") == [(5_010,)]


def file_totals(path):
    return execute(
        path,
        """
        SELECT outcome, sum(n), sum(i), sum(o), sum(c) FROM (
          SELECT outcome, 1 AS n, input_tokens AS i, output_tokens AS o, cost AS c FROM attempts
          UNION ALL SELECT outcome, calls, input_tokens, output_tokens, 0 FROM savings
          UNION ALL SELECT outcome, attempts, input_tokens, output_tokens, cost FROM folded
        ) GROUP BY outcome""",
    )


def book_totals(ledger):
    return [
        (outcome.value, total.attempts, total.usage.input_tokens, total.usage.output_tokens, total.cost)
        for outcome, total in sorted(ledger.totals().items(), key=lambda item: item[0].value)
        if total.attempts
    ]


class TestBoundedMemory:
    def test_rows_beyond_the_bound_are_kept_as_sums(self, make_store, tmp_path, caplog):
        path = tmp_path / "later" / "ledger.db"
        store = make_store(at=path, max_rows=10)
        ledger = Ledger(one_and_two(), store)
        for _ in range(25):
            one = attempt()
            ledger.open(one)
            ledger.settle(ended(one))
            store.flush()
        assert store.statistics().waiting == 10
        assert store.statistics().folded == 15
        path.parent.mkdir()
        assert store.flush()
        assert "15 rows are kept as sums only" in caplog.text
        assert execute(path, "SELECT count(*) FROM attempts") == [(10,)]
        assert file_totals(path) == book_totals(ledger)

    def test_a_folded_row_does_not_stay_reserved(self, make_store, path, monkeypatch):
        store = make_store(max_rows=2)
        write = LedgerFile.write
        early = [attempt() for _ in range(3)]
        for one in early:
            store.opened(one)
        assert store.flush()

        def broken(*_):
            raise sqlite3.OperationalError("database or disk is full")

        monkeypatch.setattr(LedgerFile, "write", broken)
        for one in early:
            store.settled(ended(one))
            store.flush()
        monkeypatch.setattr(LedgerFile, "write", write)
        assert store.flush()
        assert [row["outcome"] for row in rows(path)] == ["completed", "completed"]
        assert execute(path, "SELECT outcome, attempts FROM folded") == [("completed", 1)]

    def test_a_writer_that_hangs_in_the_disk_does_not_let_the_queue_grow(self, make_store, path, monkeypatch):
        entered, release = threading.Event(), threading.Event()
        write = LedgerFile.write

        def hanging(self, *args):
            entered.set()
            assert release.wait(60)
            write(self, *args)

        store = make_store(max_rows=5)
        ledger = Ledger(one_and_two(), store)
        early = [attempt() for _ in range(3)]
        for one in early:
            ledger.open(one)
        assert store.flush()
        monkeypatch.setattr(LedgerFile, "write", hanging)
        first = attempt()
        ledger.open(first)
        ledger.settle(ended(first))
        store._wake.set()
        assert entered.wait(60)
        for one in [*early, *(attempt() for _ in range(20))]:
            if one not in early:
                ledger.open(one)
            ledger.settle(ended(one))
        assert len(store._settled) <= 5
        assert len(store._opened) <= 5
        release.set()
        assert store.flush()
        assert store.statistics().folded == 18
        assert file_totals(path) == book_totals(ledger)


@pytest.mark.parametrize("seed", range(8))
def test_whatever_the_disk_does_the_file_adds_up_to_the_book(make_store, path, monkeypatch, seed):
    """Transactions fail before or after their commit, the file is locked, memory is short: no token is lost."""
    dice = random.Random(seed)
    write = LedgerFile.write

    def unreliable(self, *args):
        fate = dice.random()
        if fate < 0.3:
            raise sqlite3.OperationalError("database or disk is full")
        write(self, *args)
        if fate < 0.5:
            raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(LedgerFile, "write", unreliable)
    store = make_store(max_rows=20)
    ledger = Ledger(one_and_two(), store)
    under_way = []
    for _ in range(400):
        deed = dice.random()
        if deed < 0.45:
            one = attempt()
            ledger.open(one)
            under_way.append(one)
        elif deed < 0.85 and under_way:
            one = under_way.pop(dice.randrange(len(under_way)))
            usage = Usage(input_tokens=dice.randrange(1000), output_tokens=dice.randrange(1000))
            ledger.settle(ended(one, dice.choice(list(Outcome)), usage))
        elif deed > 0.95:
            usage = Usage(input_tokens=dice.randrange(1000), output_tokens=dice.randrange(1000))
            for _ in range(dice.randrange(15)):
                ledger.enter(ended(attempt(), dice.choice(list(SAVING)), usage))
        elif deed > 0.9:
            store.flush()
    monkeypatch.setattr(LedgerFile, "write", write)
    assert store.flush()
    reserved = rows(path, where="outcome = 'reserved'")
    assert len(under_way) - store.statistics().unreserved <= len(reserved) <= len(under_way)
    assert all(row["input_tokens"] == row["cost"] == 0 for row in reserved)
    assert [row for row in file_totals(path) if row[0] != "reserved"] == book_totals(ledger)
    numbers = execute(path, "SELECT count(row), count(DISTINCT row) FROM attempts_and_savings")
    assert numbers[0][0] == numbers[0][1]


def test_log_records_name_the_store(make_store, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    store = make_store(at=tmp_path / "no" / "x.db")
    assert not store.flush()
    assert {record.name for record in caplog.records} == {LOGGER}
    assert "does not exist" in repr(store)


def test_statement_parameters_fit_every_sqlite():
    own = len(_rows.OWN) + len(_rows.OF_PROMPT)
    assert len(_rows.COMMON) + _rows.ROWS_PER_STATEMENT * own <= 999
    columns = len(_rows.COMMON) + len(_rows.OWN) + len(_schema.OF_QUESTIONS)
    columns += len(_schema.OF_FEW) + len(_rows.OF_PROMPT)
    assert _schema.ATTEMPTS.count("\n  ") == columns


# ---- what is too old ----

DAY = 86_400.0


def of_age(days):
    return attempt(started=time.time() - days * DAY)


def test_rows_are_kept_for_ever_where_nothing_else_is_said(make_store, path):
    store = make_store()
    run(store, of_age(10_000))
    assert store.flush()
    assert len(rows(path)) == 1


def test_rows_that_are_too_old_are_deleted_and_open_ones_are_not(make_store, path):
    store = make_store(keep_days=30)
    run(store, of_age(31), of_age(29), of_age(400))
    store.opened(of_age(31))
    assert store.flush()
    assert sorted(row["outcome"] for row in rows(path)) == ["completed", "reserved"]


def test_they_are_deleted_in_small_steps(make_store, path, monkeypatch):
    monkeypatch.setattr(sqlite, "FORGET_ROWS", 2)
    store = make_store(keep_days=30)
    run(store, *(of_age(31) for _ in range(5)))
    left = []
    for _ in range(4):
        assert store.flush()
        left.append(len(rows(path)))
    assert left == [3, 1, 0, 0]


def test_between_two_looks_time_passes(make_store, path):
    store = make_store(keep_days=30)
    assert store.flush()
    run(store, of_age(31))
    assert store.flush()
    assert len(rows(path)) == 1


def test_sums_that_are_too_old_are_deleted(make_store, path):
    store = make_store(keep_days=30)
    store.flush()
    for days in (31, 1):
        store._fold(ended(of_age(days)), 0)
        assert store.flush()
    store._forget_at = 0.0
    assert store.flush()
    assert len(execute(path, "SELECT * FROM folded")) == 1


def test_it_is_known_which_answers_have_a_row_whoever_has_written_it(path, make_store):
    """Also what only the queue of a process has that was killed."""
    mine, theirs, old, none = attempt(), attempt(), attempt(started=10.0), attempt()
    before = make_store()
    run(before, old)
    assert before.flush()
    code = """
        import os, signal, sys
        from ledger_attempts import attempt, ended
        from penstock.ledger.sqlite import SQLiteStore
        store = SQLiteStore(sys.argv[1], interval=3600).start()
        assert store.flush()
        store.entered(ended(attempt(generation=sys.argv[2])))
        os.kill(os.getpid(), signal.SIGKILL)
    """
    arguments = [sys.executable, "-c", textwrap.dedent(code), str(path), theirs.generation]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path])}
    assert subprocess.run(arguments, env=environ, check=False, timeout=60).returncode == -9
    asked = {each.generation for each in (mine, theirs, old, none)}
    assert before.known(asked, since=1_000.0) == {theirs.generation}
    store = make_store()
    store.entered(ended(mine))
    assert store.known(asked, since=1_000.0) == {mine.generation, theirs.generation}
    assert store.known(asked, since=0.0) == {mine.generation, theirs.generation, old.generation}


def test_which_answers_have_a_row_is_not_guessed_where_the_file_cannot_be_written(tmp_path, make_store):
    (tmp_path / "ledger.sqlite").mkdir()
    with pytest.raises(StorageUnavailable):
        make_store(tmp_path / "ledger.sqlite").known({"gen_1"}, since=0.0)
