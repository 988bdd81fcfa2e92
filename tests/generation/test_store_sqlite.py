import asyncio
import contextlib
import os
import re
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from journaled_log import JournaledLog
from store_suite import LARGE, LATER, NOW, SharedStoreSuite, append, begin, end, record

from penstock.generation.journal import Journal
from penstock.generation.store import GONE_FOR, Naming, StoreUnavailable
from penstock.generation.stores import _sqlite_file
from penstock.generation.stores._sqlite_reader import SQLiteReader
from penstock.generation.stores._sqlite_writer import SQLiteWriter
from penstock.generation.stores.sqlite import SQLiteStore
from penstock.net.clock import Clock
from penstock.sqlite_files import Kind, Mark
from waiting import until


class TestSQLiteStore(SharedStoreSuite):
    @pytest.fixture(autouse=True)
    def _directory(self, tmp_path):
        self.path = tmp_path / "generations.db"

    def make(self, max_bytes=1 << 26):
        return SQLiteStore(self.path, max_bytes)


def run(test):
    asyncio.run(test())


async def filled(path, events=3, **how):
    """A store with one running generation."""
    store = SQLiteStore(path, 1 << 26, **how)
    await store.start()
    one = record()
    await store.write([begin(one, [b"%d" % i for i in range(events)])])
    return store, one


def test_prompts_are_readable_by_their_owner_only(tmp_path):
    async def test():
        store, _ = await filled(tmp_path / "g.db")
        modes = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}
        assert modes.keys() >= {"g.db", "g.db-wal"}
        assert [name for name, mode in modes.items() if mode & 0o077] == []
        await store.close()

    run(test)


def visit(path):
    """Another process reads the database, and thinks that it was the last one if nobody else has a lock on it."""
    code = "import sqlite3, sys; d = sqlite3.connect(sys.argv[1]); d.execute('SELECT * FROM fence').fetchall(); d.close()"
    subprocess.run([sys.executable, "-c", code, path], check=True)


def test_a_process_that_goes_does_not_take_the_log_from_those_that_stay(tmp_path):
    path = tmp_path / "g.db"

    async def test():
        store, one = await filled(path)
        assert len(await store.events(one.id, 0, LARGE)) == 3  # both of its connections are open
        log = path.with_name("g.db-wal").stat().st_ino
        visit(path)
        assert path.with_name("g.db-wal").stat().st_ino == log
        assert await store.write([append(one, 3, b"3")]) == {}
        other = SQLiteStore(path, 1 << 26)
        await other.start()
        assert len(await other.events(one.id, 0, LARGE)) == 4
        await other.close()
        await store.close()

    run(test)


@pytest.mark.parametrize(("fsync", "synchronous"), [(False, 1), (True, 2)], ids=["without", "with"])
def test_with_fsync_a_write_is_over_when_the_disk_has_it_and_all_else_is_the_same(
    tmp_path, fsync, synchronous
):
    """SQLite's ``NORMAL`` (1) leaves the log ahead to the operating system; ``FULL`` (2) waits for each commit."""

    async def test():
        store, one = await filled(tmp_path / "g.db", fsync=fsync)
        told = await store._writer.do(lambda writer: writer.file.db.execute("PRAGMA synchronous").fetchone())
        assert told == (synchronous,)
        assert await store.write([append(one, 3, b"3", end=end())]) == {}
        assert len(await store.events(one.id, 0, LARGE)) == 4
        await store.close()

    run(test)


def test_batches_that_nobody_needs_any_more_are_removed_and_the_file_does_not_grow(tmp_path):
    async def test():
        store, quiet = await filled(tmp_path / "g.db")
        for _ in range(4):
            busy = record()
            await store.write([begin(busy)])
            for at in range(1_500):
                await store.write([append(busy, at, b"x" * 200)])
            await store.write([append(busy, 1_500, end=end(NOW))])
            assert await store.expire(NOW) == 1
        assert await store.events(quiet.id, 0, LARGE) == [b"0", b"1", b"2"]
        await store.close()
        db = sqlite3.connect(tmp_path / "g.db")
        (batches,) = db.execute("SELECT count(*) FROM batches").fetchone()
        db.close()
        assert batches < 1_500
        assert (tmp_path / "g.db").stat().st_size < 4 << 20

    run(test)


def test_whoever_follows_and_comes_too_late_for_the_batches_misses_nothing(tmp_path):
    async def test():
        store, one = await filled(tmp_path / "g.db", events=1)
        got = (await store.tail({one.id: 0}))[one.id].events
        for at in range(1, 3_000):
            await store.write([append(one, at, b"%d" % at)])
        got += (await store.tail({one.id: 1}))[one.id].events
        assert got == [b"%d" % i for i in range(3_000)]
        await store.close()

    run(test)


# ---- files that are not as they should be -----------------------------------------------------------------


def test_a_file_that_is_no_database_is_set_aside_and_a_new_one_begun(tmp_path, caplog):
    async def test():
        path = tmp_path / "g.db"
        path.write_bytes(b"not a database" * 1_000)
        store, one = await filled(path)
        assert len(await store.events(one.id, 0, LARGE)) == 3
        (aside,) = tmp_path.glob("g.db.corrupt-*")
        assert aside.read_bytes().startswith(b"not a database")
        await store.close()

    run(test)
    assert "corrupt" in caplog.text


def test_a_file_that_breaks_while_it_is_used_is_set_aside_and_the_journal_writes_all_of_it_again(tmp_path):
    async def test():
        path = tmp_path / "g.db"
        clock = Clock()
        clock.start(asyncio.get_running_loop())
        store = SQLiteStore(path, 1 << 26)
        journal = Journal(store, clock)
        journal.start()
        log = JournaledLog(journal)
        for i in range(10):
            log.append(b"%d" % i)
        await until(lambda: log.given == 10)
        await store._writer.do(
            lambda writer: writer.file.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        )
        with path.open("r+b") as file:
            file.write(b"\xa5" * path.stat().st_size)
        # The writer has its pages in memory; whoever comes anew sees what is on the disk.
        assert await store.events(log.record.id, 0, LARGE) == []
        assert list(tmp_path.glob("g.db.corrupt-*"))
        log.append(b"10")
        await until(lambda: log.given == 11)
        await until(lambda: log.entry.durable and log.entry.stored == 11)
        assert await store.events(log.record.id, 0, LARGE) == [b"%d" % i for i in range(11)]
        assert not log.fenced
        await journal.close()
        await store.close()
        clock.stop()

    run(test)


def test_a_file_that_was_removed_is_begun_anew_and_the_journal_writes_all_of_it_again(tmp_path):
    async def test():
        path = tmp_path / "g.db"
        clock = Clock()
        clock.start(asyncio.get_running_loop())
        store = SQLiteStore(path, 1 << 26)
        journal = Journal(store, clock)
        journal.start()
        log = JournaledLog(journal)
        log.append(b"0")
        await until(lambda: log.entry.stored == 1)
        assert store.losses == 0
        for file in tmp_path.iterdir():
            file.unlink()
        log.append(b"1")
        await until(lambda: log.given == 2)
        await until(lambda: log.entry.durable and log.entry.stored == 2)
        assert store.losses == 1
        assert await store.events(log.record.id, 0, LARGE) == [b"0", b"1"]
        await journal.close()
        await store.close()
        clock.stop()

    run(test)


@pytest.mark.parametrize("change", ["PRAGMA application_id = 7", "PRAGMA user_version = 99"])
def test_somebody_elses_database_and_another_version_are_refused_and_left_alone(tmp_path, change):
    async def test():
        path = tmp_path / "g.db"
        store, _ = await filled(path)
        await store.close()
        db = sqlite3.connect(path)
        db.execute(change)
        db.commit()
        db.close()
        before = path.read_bytes()
        store = SQLiteStore(path, 1 << 26)
        with pytest.raises(StoreUnavailable, match=r"somebody else's|version 99"):
            await store.start()
        await store.close()
        assert path.read_bytes() == before

    run(test)


def with_a_step(monkeypatch):
    """From now on whoever opens a file takes a step that the version before did not have."""
    monkeypatch.setattr(_sqlite_file, "STEPS", [["ALTER TABLE claims ADD COLUMN later INTEGER"]])
    monkeypatch.setattr(_sqlite_file, "MARK", Mark(Kind.GENERATIONS, 2))


def test_a_file_of_an_earlier_version_takes_its_steps_with_all_that_is_in_it(tmp_path, monkeypatch):
    async def test():
        path = tmp_path / "g.db"
        store, one = await filled(path)
        expected = await store.load(one.id)
        await store.close()
        with_a_step(monkeypatch)
        store = SQLiteStore(path, 1 << 26)
        assert await store.load(one.id) == expected
        assert not await store.write([append(one, 3, b"more")])
        await store.close()
        with contextlib.closing(sqlite3.connect(path)) as db:
            assert db.execute("PRAGMA user_version").fetchone() == (2,)
            db.execute("SELECT later FROM claims")

    run(test)


@pytest.mark.parametrize(
    "use",
    [
        lambda store, one: store.write([append(one, 3, b"more")]),
        lambda store, _: store.write([begin(record())]),
        lambda store, one: store.load(one.id),
        lambda store, one: store.tail({one.id: 0}),
        lambda store, _: store.renew("me", LATER),
        lambda store, one: store.delete(one.id),
        lambda store, one: store.claim("t", "n", b"", one.id, now=NOW, until=LATER),
    ],
)
def test_who_still_has_the_file_open_neither_reads_nor_writes_what_he_does_not_understand(
    tmp_path, monkeypatch, use
):
    async def test():
        path = tmp_path / "g.db"
        older, one = await filled(path)
        assert (await older.load(one.id)).events == 3
        earlier = _sqlite_file.MARK
        with_a_step(monkeypatch)
        newer = SQLiteStore(path, 1 << 26)
        await newer.start()
        monkeypatch.setattr(_sqlite_file, "MARK", earlier)
        with pytest.raises(
            StoreUnavailable, match="it has version 2, this program writes 1: a newer Penstock"
        ):
            await use(older, one)
        await older.close()
        await newer.close()
        with contextlib.closing(sqlite3.connect(path)) as db:
            tables = ("generations", "batches", "leases", "claims")
            counts = [db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables]
        assert counts == [1, 1, 0, 0]

    run(test)


def test_a_directory_that_does_not_exist_is_an_error_that_names_it(tmp_path):
    async def test():
        store = SQLiteStore(tmp_path / "missing" / "g.db", 1 << 26)
        with pytest.raises(StoreUnavailable, match="missing"):
            await store.start()
        await store.close()

    run(test)


def test_a_closed_store_says_so(tmp_path):
    async def test():
        store, one = await filled(tmp_path / "g.db")
        await store.close()
        await store.close()
        with pytest.raises(StoreUnavailable, match="closed"):
            await store.load(one.id)

    run(test)


# ---- what is large is compressed ----


def chunk(number):
    said = f'{{"content":" word {number}"}},"logprobs":null,"finish_reason":null'
    return f'data: {{"id":"chatcmpl-1","object":"chat.completion.chunk","choices":[{{"delta":{said}}}]}}\n\n'.encode()


def test_an_answer_that_ends_while_what_is_past_its_time_goes_stays(tmp_path, monkeypatch):
    """Its owner was taken for dead, and its time was over; then it ended, and its caller may come for it."""
    look = SQLiteReader.past

    async def test():
        store = SQLiteStore(tmp_path / "g.db", 1 << 26)
        one, other = record(expires_at=NOW), record(expires_at=NOW)
        await store.write([begin(one, [b"zero"]), begin(other)])

        def past(self, now, limit):
            found = look(self, now, limit)
            with contextlib.closing(sqlite3.connect(tmp_path / "g.db")) as theirs, theirs:
                theirs.execute(
                    "UPDATE generations SET state = 'finished', expires_at = ? WHERE id = ?", (LATER, one.id)
                )
            return found

        monkeypatch.setattr(SQLiteReader, "past", past)
        assert await store.expire(NOW + 1) == 1
        assert (await store.load(one.id)).id == one.id
        assert await store.load(other.id) is None
        await store.close()

    run(test)


def test_a_long_answer_takes_a_fraction_of_its_size_and_is_read_from_any_event_on(tmp_path):
    async def test():
        store = SQLiteStore(tmp_path / "g.db", 1 << 28)
        await store.start()
        events = [chunk(number) for number in range(2_000)]
        body = os.urandom(500) * 40
        one = record(body=body)
        await store.write([begin(one, events[:1_000])])
        await store.write([append(one, 1_000, *events[1_000:], end=end())])
        assert await store.events(one.id, 0, LARGE) == events
        assert await store.events(one.id, 1_234, LARGE) == events[1_234:]
        kept = await store.load(one.id)
        assert kept.body == body
        await store.close()
        with sqlite3.connect(tmp_path / "g.db") as db:
            (pieces,) = db.execute("SELECT sum(length(events)) FROM pieces").fetchone()
            (requests,) = db.execute("SELECT sum(length(record)) FROM requests").fetchone()
        db.close()
        assert pieces * 8 < sum(map(len, events))
        assert requests * 8 < len(body)

    run(test)


@pytest.mark.parametrize(
    "damage", ["substr(events, 1, length(events) / 2)", "x'28b52ffd00'", "x'c1'", "x'91c0'"]
)
def test_a_piece_that_is_damaged_is_told_and_the_others_are_read(tmp_path, damage):
    async def test():
        store = SQLiteStore(tmp_path / "g.db", 1 << 26)
        await store.start()
        one, other = record(), record()
        events = [chunk(number) for number in range(300)]
        await store.write([begin(one, events, end()), begin(other, events, end())])
        with sqlite3.connect(tmp_path / "g.db") as db:
            db.execute(f"UPDATE pieces SET events = {damage} WHERE row = (SELECT min(row) FROM pieces)")
        db.close()
        with pytest.raises(StoreUnavailable, match="damaged"):
            await store.events(one.id, 0, LARGE)
        assert await store.events(other.id, 0, LARGE) == events
        await store.close()

    run(test)


# ---- no room ---------------------------------------------------------------------------------------------


def test_a_full_file_makes_room_by_what_ended_and_otherwise_refuses(tmp_path):
    async def test():
        store = SQLiteStore(tmp_path / "g.db", 8 << 20)  # the file may have 26 MiB
        await store.start()
        await store.renew("me", LATER)
        running = record()
        await store.write([begin(running, [b"x"])])
        for _ in range(60):
            assert await store.write([begin(record(), [os.urandom(1 << 20)], end())]) == {}
        assert (tmp_path / "g.db").stat().st_size <= 26 << 20
        assert (await store.statistics()).dropped > 0
        assert await store.events(running.id, 0, LARGE) == [b"x"]

        async def fill():
            for _ in range(60):
                await store.write([begin(record(), [os.urandom(1 << 20)])])

        with pytest.raises(StoreUnavailable, match="no room"):
            await fill()
        await store.close()

    run(test)


LIMITED = """
import asyncio, resource, signal, sys
sys.path.insert(0, sys.argv[2])
from store_suite import LARGE, append, begin, record
from penstock.generation.store import StoreUnavailable
from penstock.generation.stores.sqlite import SQLiteStore

async def main():
    store = SQLiteStore(sys.argv[1], 1 << 30)
    await store.start()
    one = record()
    await store.write([begin(one)])
    # No file may become larger from here on; the signal that says so would end the process.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
    stored = 0
    try:
        while stored < 1_000:
            await store.write([append(one, stored, bytes(5_000))])
            stored += 1
    except StoreUnavailable as error:
        print("refused", error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert 0 < stored < 1_000
    assert len(await store.events(one.id, 0, LARGE)) == stored
    assert await store.write([append(one, stored, b"again")]) == {}
    assert await store.events(one.id, stored, LARGE) == [b"again"]
    await store.close()
    print("whole")

asyncio.run(main())
"""


def test_a_disk_that_is_full_fails_the_write_harms_nothing_and_goes_on_once_there_is_room(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, tmp_path / "g.db", Path(__file__).parent],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    assert re.fullmatch(r"refused .+g\.db.+\nwhole\n", done.stdout)


# ---- several processes -----------------------------------------------------------------------------------


def test_what_makes_room_gets_the_reserve_of_a_full_disk(tmp_path, monkeypatch):
    reserve = tmp_path / "g.db-reserve"
    remove = SQLiteWriter._remove

    def fails(self, row, now):
        remove(self, row, now)
        if reserve.exists():
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorname = "SQLITE_FULL"
            raise error

    monkeypatch.setattr(SQLiteWriter, "_remove", fails)

    async def test():
        store, one = await filled(tmp_path / "g.db")
        await store.delete(one.id)
        assert await store.load(one.id) is None
        assert reserve.exists()  # again: there is room
        await store.write([begin(record(), [b"x"], end(NOW))])
        assert await store.expire(LATER) == 1
        await store.close()

    run(test)


def test_of_what_is_gone_so_many_are_known_and_for_so_long(tmp_path, monkeypatch):
    monkeypatch.setattr("penstock.generation.stores._sqlite_gone.MAX_GONE", 2)

    async def test():
        store = SQLiteStore(tmp_path / "g.db", 1 << 20)
        await store.start()
        gone = [record() for _ in range(3)]
        for one in gone:
            await store.write([begin(one)])
            await store.delete(one.id)

        async def known():
            return [await store.was_there(one.id, "t") for one in gone]

        now = await store.time()
        await store.expire(now)
        assert await known() == [False, True, True]
        await store.expire(now + GONE_FOR + 60)
        assert await known() == [False] * 3
        await store.close()

    run(test)


def test_what_is_damaged_can_be_removed(tmp_path):
    async def test():
        store, one = await filled(tmp_path / "g.db")
        with contextlib.closing(sqlite3.connect(tmp_path / "g.db")) as database:
            database.execute("UPDATE requests SET record = x'00'")
            database.commit()
        await store.delete(one.id)
        assert (await store.statistics()).generations == 0
        await store.close()

    run(test)


def test_another_process_that_holds_the_file_for_long_makes_a_write_fail_and_not_hang(tmp_path):
    async def test():
        store, one = await filled(tmp_path / "g.db", busy_timeout=0.05)
        other = sqlite3.connect(tmp_path / "g.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="locked"):
            await store.write([append(one, 3, b"3")])
        assert len(await store.events(one.id, 0, LARGE)) == 3  # reading goes on
        other.execute("ROLLBACK")
        other.close()
        assert await store.write([append(one, 3, b"3")]) == {}
        await store.close()

    run(test)


# The locks of one who makes the log's index anew, as the first does who comes after all were killed, and the index
# without its two heads: https://www.sqlite.org/walformat.html, sections 2.1 and 2.3.
RECOVERING = """
import fcntl, sys
with open(sys.argv[1], "r+b", buffering=0) as index:
    fcntl.lockf(index, fcntl.LOCK_EX, 3, 120)
    index.write(bytes(96))
    print("begun", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def recovering(index):
    """Another process that does so until its standard input ends."""
    words = [sys.executable, "-c", RECOVERING, index]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"begun\n"
        yield other


@pytest.mark.parametrize(
    "look",
    [lambda store: store.expired(NOW, 9), lambda store: store.expire(NOW), lambda store: store.statistics()],
    ids=["expired", "expire", "statistics"],
)
def test_whoever_comes_while_another_process_recovers_the_log_waits_for_it(look, tmp_path):
    async def test():
        store, one = await filled(tmp_path / "g.db", busy_timeout=30)
        assert len(await store.events(one.id, 0, LARGE)) == 3  # both of its connections are open
        with recovering(tmp_path / "g.db-shm") as other:
            looking = asyncio.create_task(look(store))
            asyncio.get_running_loop().call_later(0.05, other.stdin.close)
            await looking
        assert len(await store.events(one.id, 0, LARGE)) == 3
        await store.close()

    run(test)


def test_a_store_that_was_never_used_closes_and_a_repr_tells_the_file(tmp_path):
    async def test():
        store = SQLiteStore(tmp_path / "g.db", 1 << 20)
        assert "g.db" in repr(store)
        await store.close()
        assert list(tmp_path.iterdir()) == []

    run(test)


@pytest.mark.parametrize(("answers", "statements"), [(7, 7), (31, 15)])
def test_a_batch_of_whole_answers_takes_few_statements(tmp_path, answers, statements):
    async def test():
        store, _ = await filled(tmp_path / "g.db")
        asked = []
        await store._writer.do(lambda writer: writer.file.db.set_trace_callback(asked.append))
        now = time.time()
        begun = [record() for _ in range(answers)]
        naming = [Naming("t", each.id, b"f", now, now + 300, 10.0) for each in begun]
        writes = [begin(each, [b"all"], end(), named) for each, named in zip(begun, naming, strict=True)]
        assert await store.write(writes) == {}
        assert len(asked) == statements, "begin, look, those of four tables, commit"
        for each in begun:
            assert await store.events(each.id, 0, LARGE) == [b"all"]
        await store.close()

    run(test)
