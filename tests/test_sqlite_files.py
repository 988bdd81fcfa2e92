"""Whose a SQLite file is, and what becomes of one that is not ours."""

import contextlib
import fcntl
import sqlite3
import stat
import subprocess
import sys

import pytest

from penstock.sqlite_files import (
    Foreign,
    Kind,
    Mark,
    OtherVersion,
    create_private,
    identity,
    private_opener,
    transaction,
)

MARK = Mark(0x50454E54, 2)
SCHEMA = ("CREATE TABLE t (n INTEGER)",)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "d"


@pytest.fixture
def db(path):
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        yield db


def test_an_empty_file_becomes_ours_once(db):
    assert not MARK.check(db)
    assert not MARK.is_on(db)
    for _ in range(2):
        with transaction(db):
            MARK.adopt(db, SCHEMA)
    assert MARK.check(db)
    assert MARK.is_on(db)
    assert db.execute("SELECT count(*) FROM t").fetchone() == (0,)


@pytest.mark.parametrize(
    "make", ["CREATE TABLE mine (x)", "PRAGMA application_id = 7", "PRAGMA user_version = 1"]
)
def test_what_somebody_else_has_made_is_not_adopted(db, make):
    db.execute(make)
    with pytest.raises(Foreign), transaction(db):
        MARK.adopt(db, SCHEMA)
    assert not db.execute("SELECT 1 FROM sqlite_master WHERE name = 't'").fetchall()


@pytest.mark.parametrize("version", [1, 3])
def test_another_version_says_which_it_is(db, version):
    with transaction(db):
        Mark(MARK.application_id, version).adopt(db, SCHEMA)
    with pytest.raises(OtherVersion) as refused:
        MARK.check(db)
    assert refused.value.found == version
    assert not MARK.is_on(db)


@pytest.mark.parametrize("statement", range(4))
def test_a_file_that_another_process_makes_just_now_is_ours_or_still_empty(path, db, statement):
    begun = iter(range(10))
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as theirs:

        def between(_):
            if next(begun) == statement:
                with transaction(theirs):
                    MARK.adopt(theirs, SCHEMA)

        db.set_trace_callback(between)
        assert MARK.check(db) == (statement == 0)


def test_no_two_kinds_have_the_same_number():
    """An enumeration takes the second for another name of the first."""
    assert len(Kind) == len(Kind.__members__)


def test_a_file_of_another_kind_is_refused_by_its_name(db):
    with transaction(db):
        Mark(Kind.WEBHOOKS, 1).adopt(db, SCHEMA)
    for refuse in (Mark(Kind.LEDGER, 1).check, lambda db: Mark(Kind.LEDGER, 1).adopt(db, SCHEMA)):
        with pytest.raises(Foreign, match="it is Penstock's file of webhooks"):
            refuse(db)


def test_a_cache_from_when_it_had_the_number_of_conversations_is_one_and_gets_its_own(db):
    cache, conversations = Mark(Kind.CACHE, 1), Mark(Kind.CONVERSATIONS, 1)
    with transaction(db):
        conversations.adopt(db, ["CREATE TABLE entries (n INTEGER)", "INSERT INTO entries VALUES (1)"])
    with pytest.raises(Foreign, match="file of cache"):
        conversations.check(db)
    assert cache.check(db)
    with transaction(db):
        cache.adopt(db, SCHEMA)
    assert cache.is_on(db)
    assert db.execute("SELECT n FROM entries").fetchall() == [(1,)]


def test_conversations_are_not_taken_for_a_cache(db):
    with transaction(db):
        Mark(Kind.CONVERSATIONS, 1).adopt(db, ["CREATE TABLE conversations (n INTEGER)"])
    with pytest.raises(Foreign, match="file of conversations"):
        Mark(Kind.CACHE, 1).check(db)


def test_a_transaction_is_all_or_nothing(db):
    db.execute(*SCHEMA)
    begun = []
    with contextlib.suppress(LookupError), transaction(db):
        db.execute("INSERT INTO t VALUES (1)")
        raise LookupError
    with transaction(db, lambda statement: begun.append(db.execute(statement))):
        db.execute("INSERT INTO t VALUES (2)")
    assert db.execute("SELECT n FROM t").fetchall() == [(2,)]
    assert len(begun) == 1
    assert not db.in_transaction


def test_a_damaged_file_is_removed_only_if_it_can_still_be_told_to_be_ours(path, db):
    with transaction(db):
        MARK.adopt(db, SCHEMA)
    db.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:100] + b"?" * (len(whole) - 100))
    (path.parent / "d-wal").write_bytes(b"log")
    other = Mark(7, 1)
    assert not other.remove(path)
    assert path.exists()
    assert MARK.remove(path)
    assert not list(path.parent.iterdir())


@pytest.mark.parametrize(("head", "ours"), [(b"SQLite", True), (b"a letter to a friend", False), (b"", True)])
def test_of_a_file_that_was_cut_its_beginning_tells(path, head, ours):
    path.write_bytes(head)
    assert MARK.remove(path) == ours


def test_a_path_names_another_file_once_that_was_moved_away(path, tmp_path):
    assert identity(path) is None
    path.touch()
    first = identity(path)
    path.rename(tmp_path / "moved")
    path.touch()
    assert identity(path) not in {None, first}
    assert identity(tmp_path / "moved") == first


def test_a_file_that_is_made_is_private_and_one_that_is_there_stays_as_it_is(tmp_path):
    create_private(tmp_path / "new")
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o600
    old = tmp_path / "old"
    old.write_bytes(b"content")
    old.chmod(0o640)
    create_private(old)
    assert (old.stat().st_mode & 0o777, old.read_bytes()) == (0o640, b"content")


def test_a_lock_on_a_file_that_is_there_is_kept(tmp_path):
    path = tmp_path / "d"
    create_private(path)
    other = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'r+b'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    with path.open("r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        create_private(path)
        refused = subprocess.run([sys.executable, "-c", other, path], capture_output=True, check=False)
    assert b"BlockingIOError" in refused.stderr


def test_what_a_private_opener_makes_nobody_else_may_read(tmp_path):
    with open(tmp_path / "new", "xb", opener=private_opener) as file:
        file.write(b"x")
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o600
