"""Rows of calls that no upstream was asked for: in groups, and each there once."""

import contextlib
import math
import random
import sqlite3
import time
from itertools import combinations

import pytest
from ledger_attempts import attempt, ended

from penstock.ledger import sqlite
from penstock.ledger._file import LedgerFile
from penstock.ledger._queue import RowQueue, queue_path
from penstock.ledger.ledger import Ledger
from penstock.ledger.prices import PriceTable
from penstock.ledger.report import GROUPS, attempts_of, summarize
from penstock.ledger.sqlite import SQLiteStore
from penstock.messages import SAVING, Outcome, Usage

NEVER = 3600.0  # an interval that does not end: only a flush writes
DAY = 86_400.0
JUNE_15 = 1_749_945_600.0  # 2025-06-15, midnight UTC
OUTCOMES = sorted(SAVING, key=lambda outcome: outcome.value)


@pytest.fixture
def make_store(path, monkeypatch):
    # After a flush the writer would look again by itself, the sooner the shorter it had waited.
    monkeypatch.setattr(sqlite, "SHORT_INTERVAL", NEVER)
    stores = []

    def make(at=path, **options):
        store = SQLiteStore(at, interval=NEVER, busy_timeout=0.05, **options).start()
        stores.append(store)
        return store

    yield make
    for store in stores:
        store.close()


def hit(outcome=Outcome.CACHED, usage=None, saved=5, duration=0.0, **changes):
    one = attempt(reserved=Usage(), **changes)
    return ended(one, outcome, usage, saved=saved, duration=duration)


def save(store, *hits):
    for one in hits:
        store.saved(one)


def query(path, statement, *values):
    with contextlib.closing(sqlite3.connect(path)) as database:
        return database.execute(statement, values).fetchall()


def one_by_one(path, columns="generation"):
    return query(path, f"SELECT {columns} FROM attempts_and_savings ORDER BY abs(row)")


def each_once(path, hits):
    return one_by_one(path) == [(one.generation,) for one in hits]


# ---- what is written ----


def test_those_of_a_batch_that_are_alike_are_one_row(make_store, path):
    store = make_store()
    hits = [hit(started=JUNE_15 + second, usage=Usage(10 + second, 2)) for second in range(3)]
    save(store, *hits)
    assert store.flush()
    columns = "calls, input_tokens, output_tokens, saved, first_started, last_started, outcome, model"
    assert query(path, f"SELECT {columns} FROM savings") == [
        (3, 33, 6, 15, JUNE_15, JUNE_15 + 2, "cached", "fast")
    ]
    assert each_once(path, hits)
    assert query(path, "SELECT count(*) FROM attempts") == [(0,)]


def test_one_by_one_they_look_as_if_each_had_a_row(make_store, path):
    store = make_store()
    usage = Usage(9, 8, 7, 6, 5, 4, 3, estimated=True, image_input_tokens=2, units=11)
    details = {
        "outcome": Outcome.JOINED,
        "usage": usage,
        "duration": 1.5,
        "error": "client_gone",
        "number": 0,
        "label": "search",
    }
    alone, grouped = hit(**details), hit(**details)
    store.opened(alone)
    store.settled(alone)  # a row of its own, as earlier versions wrote it
    save(store, hit(), grouped, hit())
    assert store.flush()
    columns = [name for _, name, *_ in query(path, "PRAGMA table_info(attempts)")]
    assert [name for _, name, *_ in query(path, "PRAGMA table_info(attempts_and_savings)")] == columns
    own = ", ".join(name for name in columns if name not in {"row", "generation"})
    of = f"SELECT {own} FROM attempts_and_savings WHERE generation = ?"
    assert query(path, of, grouped.generation) == query(path, of, alone.generation) != []


def test_each_kind_of_which_there_are_several_is_a_group_and_so_is_each_day(make_store, path):
    store = make_store()
    kinds = [
        {},
        *(
            {name: "other"}
            for name in ("tenant", "key_name", "tier", "endpoint", "model", "upstream", "label")
        ),
        {"upstream_model": "other"},
        {"number": 0},
        {"error": "client_gone"},
        {"outcome": Outcome.ATTACHED},
        {"started": JUNE_15 - 1},
    ]
    hits = [hit(**{"started": JUNE_15, **kind}) for _ in range(2) for kind in kinds]
    save(store, *hits)
    assert store.flush()
    assert query(path, "SELECT calls FROM savings") == [(2,)] * len(kinds)
    assert sorted(one_by_one(path)) == sorted((one.generation,) for one in hits)


def test_the_ledger_hands_them_over_and_all_others_are_rows_of_their_own(make_store, path):
    store = make_store()
    ledger = Ledger(PriceTable([]), store)
    for outcome in Outcome:
        ledger.enter(hit(outcome))
    assert store.flush()
    rows = query(path, "SELECT outcome FROM attempts ORDER BY row")
    assert rows == [(outcome.value,) for outcome in Outcome if outcome not in SAVING]
    groups = query(path, "SELECT outcome FROM savings ORDER BY outcome")
    assert groups == [(outcome.value,) for outcome in OUTCOMES]


def test_names_that_callers_invent_are_cut(make_store, path):
    store = make_store()
    save(store, hit(model="m" * 100_000, upstream_model="n" * 100_000))
    assert store.flush()
    assert query(path, "SELECT length(model), length(upstream_model) FROM savings") == [(256, 256)]


@pytest.mark.parametrize(
    "nonsense",
    [
        {"usage": Usage(input_tokens=2**70)},
        {"usage": Usage(output_tokens=-(2**70))},
        {"saved": 2**80},
        {"saved": 2**63 - 1},
        {"error": "half \ud800 a pair"},
        {"generation": "half \ud800 a pair"},
    ],
)
def test_values_that_no_column_holds_stop_nobody(make_store, path, nonsense):
    store = make_store()
    save(store, hit(), hit(**nonsense), hit())
    assert store.flush()
    assert store.statistics().trouble == ""
    assert query(path, "SELECT count(*), count(DISTINCT row) FROM attempts_and_savings") == [(3, 3)]


# ---- each once ----


def test_a_commit_of_which_nobody_knows_whether_it_held_is_not_counted_twice(make_store, path, monkeypatch):
    store = make_store()
    write = LedgerFile.write

    def uncertain(self, *args):
        write(self, *args)
        raise sqlite3.OperationalError("disk I/O error")

    hits = [hit() for _ in range(6)]
    monkeypatch.setattr(LedgerFile, "write", uncertain)
    for some in (hits[:2], hits[2:4]):  # the second time the first ones come again, in another company
        save(store, *some)
        assert not store.flush()
    monkeypatch.setattr(LedgerFile, "write", write)
    save(store, *hits[4:])
    assert store.flush()
    assert each_once(path, hits)


@pytest.mark.parametrize("seed", range(8))
def test_whatever_a_dead_process_had_written_its_queue_adds_what_is_missing(
    make_store, path, monkeypatch, seed
):
    """Its mark lags behind by as much as can be: it never moved."""
    dice = random.Random(seed)
    dead = path.with_name("dead.db")
    store = make_store()
    assert store.flush()
    monkeypatch.setattr(RowQueue, "mark", lambda *_: None)
    written, late = [], []
    for _ in range(dice.randrange(1, 6)):
        some = [hit(model=dice.choice("ab")) for _ in range(dice.randrange(1, 9))]
        save(store, *some)
        written += some
        assert store.flush()
    with contextlib.closing(sqlite3.connect(path)) as file, contextlib.closing(sqlite3.connect(dead)) as copy:
        file.backup(copy)
    late = [hit(model=dice.choice("ab")) for _ in range(dice.randrange(9))]
    save(store, *late)
    left = queue_path(path, store.token).read_bytes()
    monkeypatch.undo()
    for missing in (len(late), 0):  # the second time everything is there
        queue_path(dead, store.token).write_bytes(left)
        heir = make_store(at=dead)
        assert heir.flush()
        assert heir.statistics().recovered == missing
        heir.close()
        assert sorted(one_by_one(dead)) == sorted((one.generation,) for one in written + late)


def test_the_queue_of_an_earlier_version_enters_single_rows_and_none_twice(make_store, path):
    """Those versions gave such rows numbers among all others."""
    store = make_store()
    hits = [hit(), hit()]
    for one in hits:
        store.entered(one)
    copy = queue_path(path, store.token).read_bytes()
    assert store.flush()
    store.close()
    queue_path(path, store.token).write_bytes(copy)
    heir = make_store()
    assert heir.flush()
    assert heir.statistics().recovered == 0
    assert query(path, "SELECT generation FROM attempts ORDER BY row") == [(one.generation,) for one in hits]
    assert query(path, "SELECT count(*) FROM savings") == [(0,)]


def test_nonsense_in_a_queue_does_not_keep_the_ledger_shut(make_store, path):
    store = make_store()
    assert store.flush()
    save(store, hit(), hit(usage=Usage(input_tokens=2**64 - 1)), hit(model="m" * 100_000))
    copy = queue_path(path, store.token).read_bytes()
    store.close()
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("DELETE FROM savings")
    queue_path(path, store.token).write_bytes(copy)
    heir = make_store()
    assert heir.flush()
    assert heir.statistics().recovered == 3
    assert query(path, "SELECT sum(calls) FROM savings") == [(3,)]


def test_where_too_many_wait_they_are_in_the_sums(make_store, tmp_path):
    path = tmp_path / "later" / "ledger.db"
    store = make_store(at=path, max_rows=10)
    for _ in range(25):
        save(store, hit())
        store.flush()
    path.parent.mkdir()
    assert store.flush()
    assert query(path, "SELECT outcome, attempts, saved FROM folded") == [("cached", 15, 75)]
    assert query(path, "SELECT calls, saved FROM savings") == [(10, 50)]


def test_a_file_that_is_begun_anew_has_those_that_come_then(make_store, path):
    store = make_store()
    save(store, hit())
    assert store.flush()
    for piece in path.parent.glob("ledger.db*"):
        if piece.suffix not in {".lock", ".queue"}:
            piece.rename(piece.with_name("old-" + piece.name))
    later = [hit(), hit()]
    save(store, *later)
    assert store.flush()
    assert each_once(path, later)


# ---- what is read ----


def test_sums_are_the_same_as_those_of_single_rows(make_store, tmp_path):
    dice = random.Random(7)
    grouped, single = tmp_path / "grouped.db", tmp_path / "single.db"
    groups, rows = make_store(at=grouped), make_store(at=single)
    for _ in range(4):
        for _ in range(20):
            names = {name: dice.choice("ab") for name in ("tenant", "key_name", "model", "upstream", "label")}
            usage = Usage(dice.randrange(99), dice.randrange(99), 5, estimated=True, units=2)
            what = {"outcome": dice.choice(OUTCOMES), "usage": usage, "saved": dice.randrange(10**9)}
            what |= {"started": JUNE_15 + dice.randrange(3) * DAY / 2 + dice.randrange(9), **names}
            groups.saved(hit(**what))
            one = hit(**what)
            rows.opened(one)
            rows.settled(one)
        assert groups.flush()
        assert rows.flush()
    moments = (0.0, JUNE_15 + 3, JUNE_15 + DAY + 5, JUNE_15 + 3 * DAY, math.inf)
    for by in (*((name,) for name in GROUPS), ("day", "tenant")):
        for since, until in combinations(moments, 2):
            of_groups, of_rows = (
                summarize(path, by=by, since=since, until=until) for path in (grouped, single)
            )
            assert of_groups == of_rows
    assert summarize(grouped)


def test_a_single_one_is_found_by_its_generation(make_store, path):
    store = make_store()
    one = attempt()
    store.opened(one)
    store.settled(ended(one))
    hits = [hit(), hit(generation=one.generation, outcome=Outcome.JOINED, started=one.started + 1), hit()]
    save(store, *hits)
    assert store.flush()
    assert [(row.outcome, row.saved) for row in attempts_of(path, one.generation)] == [
        ("completed", 0),
        ("joined", 5),
    ]
    assert attempts_of(path, one.generation[:-1]) == []


# ---- what is too old ----


def test_groups_that_are_too_old_are_deleted_and_those_that_are_not_wholly_so_stay(make_store, path):
    store = make_store(keep_days=30)
    now = time.time()
    save(store, hit(started=now - 31 * DAY), hit(started=now - 29 * DAY))
    border = now - 30 * DAY
    edge = hit(started=border + 60)
    save(store, edge, hit(started=max(border - 60, border // DAY * DAY)))
    assert store.flush()
    assert query(path, "SELECT count(*) FROM savings WHERE last_started < ?", border) == [(0,)]
    assert len(attempts_of(path, edge.generation)) == 1


def test_they_are_deleted_in_small_steps(make_store, path, monkeypatch):
    monkeypatch.setattr(sqlite, "FORGET_ROWS", 5)
    store = make_store()
    for days in (40, 39, 38, 37):
        save(store, *(hit(started=time.time() - days * DAY) for _ in range(3)))
    assert store.flush()
    store.close()
    store = make_store(keep_days=30)
    left = []
    for _ in range(3):
        assert store.flush()
        left += query(path, "SELECT coalesce(sum(calls), 0) FROM savings")
    assert left == [(6,), (0,), (0,)]


# ---- when they are written ----


def test_they_count_for_a_quarter_in_what_a_transaction_should_have(make_store, path):
    store = make_store()
    hits = [hit() for _ in range(100)]
    save(store, *hits)
    for _ in range(10):
        store.opened(one := attempt())
        store.settled(ended(one))
    assert store._take() == 10 + 25
    assert store._take() == 0
    assert store.flush()
    assert query(path, "SELECT sum(calls) FROM savings") == [(100,)]
