import sqlite3

import pytest

from penstock.cache import entry_table


@pytest.fixture
def database():
    with sqlite3.connect(":memory:") as made:
        for statement in entry_table.SCHEMA:
            made.execute(statement)
        yield made
    made.close()


@pytest.mark.parametrize(("share", "left"), [(0.0, 9), (0.5, 5), (1.0, 0)])
def test_what_was_put_first_goes_first(database, share, left):
    for number in range(10):
        database.execute(entry_table.PUT, (b"%d" % number, 9.0, b"x"))
    assert entry_table.evict_oldest(database, share) == 10 - left
    kept = [key for (key,) in database.execute("SELECT key FROM entries ORDER BY row")]
    assert kept == [b"%d" % number for number in range(10 - left, 10)]


def test_what_is_put_anew_is_the_latest(database):
    for key in (b"a", b"b", b"a"):
        database.execute(entry_table.PUT, (key, 9.0, b"x"))
    entry_table.evict_oldest(database, 0.0)
    assert database.execute("SELECT key FROM entries").fetchall() == [(b"a",)]


def test_nothing_goes_where_nothing_is(database):
    assert entry_table.evict_oldest(database, 1.0) == 0


def test_no_file_is_too_small_for_an_answer():
    assert (entry_table.pages(0), entry_table.pages(1 << 30)) == (64, 262_144)
