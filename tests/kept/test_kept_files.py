"""What earlier versions left in files is told by the present one, and whoever changes a layout says how."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3

import pytest
from kept_files import FOLDER, KINDS, made_of, number

from penstock.errors import ConfigError, StorageUnavailable
from penstock.generation.store import StoreUnavailable

TEXTS = sorted(FOLDER.glob("*.sql"))


def layout_of(path):
    with contextlib.closing(sqlite3.connect(path)) as db:
        return (
            number(db, "user_version"),
            sorted(db.execute("SELECT type, name, tbl_name FROM sqlite_master"), key=str),
            {
                table: sorted(row[1:] for row in db.execute(f"PRAGMA table_xinfo({table})"))
                for (table,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            },
        )


@pytest.fixture(params=KINDS)
def name(request):
    return request.param


@pytest.fixture
def present(name, tmp_path):
    """A file that the present version has filled."""
    path = tmp_path / f"{name}.sqlite"
    asyncio.run(KINDS[name].fill(path))
    return path


def test_there_is_a_file_of_the_present_version(name, present):
    """``python tests/kept/kept_files.py`` writes it."""
    assert (FOLDER / f"{name}-{layout_of(present)[0]}.sql").exists()


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: path.stem)
def test_what_a_version_kept_is_told_and_its_file_becomes_one_of_the_present_version(text, tmp_path):
    name = text.stem.rpartition("-")[0]
    kind = KINDS[name]
    for folder in ("present", "old"):
        (tmp_path / folder).mkdir()
    present = tmp_path / "present" / f"{name}.sqlite"
    asyncio.run(kind.fill(present))
    wanted = layout_of(present)
    old = made_of(text.read_text(), tmp_path / "old" / f"{name}.sqlite")
    expected = asyncio.run(kind.told(present))
    assert asyncio.run(kind.told(old)) == expected
    assert layout_of(old) == wanted  # if not: the layout was changed, and no step leads there


def test_a_file_of_a_newer_version_is_refused_in_so_many_words_and_nothing_is_written_to_it(
    name, present, caplog
):
    version = layout_of(present)[0]
    with contextlib.closing(sqlite3.connect(present)) as db:
        db.execute(f"PRAGMA user_version = {version + 1}")
    before = present.read_bytes()
    with pytest.raises((ConfigError, StorageUnavailable, StoreUnavailable)) as refused:
        asyncio.run(KINDS[name].told(present))
    assert (
        f"it has version {version + 1}, this program writes {version}: a newer Penstock"
        in caplog.text + str(refused.value)
    )
    assert present.read_bytes() == before
