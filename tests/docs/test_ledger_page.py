"""The page about the ledger says what is so: its columns, its figures, and a price table that can be taken over."""

from __future__ import annotations

import contextlib
import inspect
import re
import sqlite3

import pytest
from doc_pages import Page

from penstock.ledger import _queue, prices, sqlite
from penstock.ledger._file import LedgerFile
from penstock.messages import SAVING
from penstock.turns import Turns

PAGE = Page("docs/ledger.md")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "ledger.sqlite"
    LedgerFile(path, "token", Turns(), busy_timeout=1.0).close(ended=True)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        yield connection


def test_columns_that_are_explained_exist(file):
    told = {
        name
        for row in re.findall(r"^\| (`.*?) \|", PAGE.section("Columns"), re.MULTILINE)
        for name in re.findall("`([a-z_]+)`", row)
    }
    assert len(told) > 8
    assert told <= {row[1] for row in file.execute("PRAGMA table_info(attempts)")}


def test_its_queries_can_be_asked(file):
    queries = [block.text for block in PAGE.blocks if block.language == "sql"]
    assert len(queries) == 2
    for query in queries:
        assert file.execute(query).fetchall() == []


def test_outcomes_that_save_are_all_told():
    assert {outcome.value for outcome in SAVING} <= set(re.findall("`([a-z]+)` if", PAGE.section("Savings")))


def test_figures_are_those_of_the_source():
    assert f"every {sqlite.INTERVAL:g} s in one transaction" in PAGE.text
    most = inspect.signature(sqlite.SQLiteStore).parameters["max_rows"].default
    assert f"when more than {most:,} wait" in PAGE.text
    assert f"a file of {_queue.CAPACITY >> 20} MiB" in PAGE.text


def test_the_price_table_is_one(tmp_path):
    (block,) = [block.text for block in PAGE.blocks if block.language == "toml"]
    path = tmp_path / "prices.toml"
    path.write_text(block)
    table = prices.PriceTable.load(str(path), kinds={"gpu": "openai"})
    assert table.price("openai", "gpt-4o-2024-08-06").output == 8
    assert table.price("gpu", "llama").output == table.prices[1].output
