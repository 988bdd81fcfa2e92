import contextlib
import os
import sqlite3
import tempfile
from pathlib import Path

import pytest
from ledger_attempts import attempt, ended

from penstock.errors import ConfigError
from penstock.ledger.ledger import Ledger
from penstock.ledger.prices import PriceTable
from penstock.ledger.report import FOLDED, GROUPS, Line, summarize, total
from penstock.ledger.sqlite import SQLiteStore
from penstock.messages import SAVING, Endpoint, Outcome, Usage
from penstock.wire.opaque import MAX_UNITS
from penstock.wire.usage import MAX_TOKENS

DAY = 86_400.0
JUNE_15 = 1_749_945_600.0  # 2025-06-15, midnight UTC


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a ledger?.db"  # a name that must be quoted in a URI


@pytest.fixture
def store(path):
    store = SQLiteStore(path, interval=3600, max_rows=10).start()
    yield store
    store.close()


def settle(store, outcome=Outcome.COMPLETED, usage=None, cost=0, **changes):
    one = attempt(**changes)
    store.opened(one)
    store.settled(ended(one, outcome, usage, cost=cost))


def groups(lines):
    return {", ".join(line.group): line.attempts for line in lines}


def test_every_field_is_added_up(store, path):
    for _ in range(2):
        settle(store, usage=Usage(1, 2, 3, 4, 5, 6, 7, estimated=True), cost=8)
    assert store.flush()
    assert summarize(path) == [
        Line(
            ("fast",),
            attempts=2,
            completed=2,
            estimated=2,
            input_tokens=2,
            output_tokens=4,
            cached_input_tokens=6,
            cache_write_tokens=8,
            reasoning_tokens=10,
            audio_input_tokens=12,
            audio_output_tokens=14,
            cost=16,
        )
    ]


def test_units_are_told_apart_by_what_they_count(store, path):
    for endpoint in Endpoint:
        units = 7 if endpoint.unit else 0
        for outcome in (Outcome.COMPLETED, Outcome.ATTACHED):  # the second was saved
            settle(store, outcome, usage=Usage(units=units, image_input_tokens=1), endpoint=endpoint.label)
        assert store.flush()
    (line,) = summarize(path)
    assert (line.images, line.sound_milliseconds, line.characters, line.searches) == (21, 14, 7, 7)
    assert line.image_input_tokens == len(Endpoint)


def test_the_units_of_a_hostile_upstream_can_be_added_up(store, path):
    for _ in range(9):
        settle(store, usage=Usage(MAX_TOKENS, units=MAX_UNITS), endpoint="rerank")
    assert store.flush()
    (line,) = summarize(path)
    assert (line.input_tokens, line.searches) == (9 * MAX_TOKENS, 9 * MAX_UNITS)


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("tenant", {"acme": 2, "umbrella": 1}),
        ("key", {"prod": 3}),
        ("model", {"fast": 2, "smart": 1}),
        ("upstream", {"sim": 2, "openai": 1}),
        ("outcome", {"completed": 2, "partial": 1}),
        ("status", {"200": 2, "none": 1}),
        ("label", {"none": 2, "search": 1}),
        ("day", {"2025-06-15": 1, "2025-06-16": 2}),
    ],
)
def test_groups(store, path, by, expected):
    settle(store, started=JUNE_15, status=200)
    settle(store, started=JUNE_15 + DAY, tenant="umbrella", model="smart", status=200)
    settle(store, outcome=Outcome.PARTIAL, started=JUNE_15 + 1.5 * DAY, upstream="openai", label="search")
    assert store.flush()
    assert groups(summarize(path, by=[by])) == expected
    assert by in GROUPS


def test_what_was_saved_is_told_apart_from_what_was_used(store, path):
    settle(store, usage=Usage(input_tokens=10, output_tokens=2), cost=5, tenant="first", status=200)
    for outcome in SAVING:
        settle(
            store, outcome, Usage(input_tokens=10, output_tokens=2, estimated=True), tenant="next", saved=5
        )
    assert store.flush()
    used, saved = summarize(path, by=["tenant"])
    assert used == Line(("first",), attempts=1, completed=1, input_tokens=10, output_tokens=2, cost=5)
    assert saved == Line(
        ("next",), saved_calls=3, saved_input_tokens=30, saved_output_tokens=6, saved_cost=15
    )
    assert groups(summarize(path, by=["status"])) == {"200": 1, "not asked": 0}
    assert {line.group[0]: line.saved_calls for line in summarize(path, by=["outcome"])} == {
        "completed": 0,
        "cached": 1,
        "joined": 1,
        "attached": 1,
    }


def test_open_attempts_are_shown_as_such(store, path):
    store.opened(attempt())
    assert store.flush()
    (line,) = summarize(path)
    assert (line.attempts, line.open, line.completed) == (1, 1, 0)


def test_since_leaves_out_what_is_older(store, path):
    settle(store, started=JUNE_15)
    settle(store, started=JUNE_15 + 1)
    assert store.flush()
    assert groups(summarize(path, since=JUNE_15 + 1)) == {"fast": 1}
    assert summarize(path, since=JUNE_15 + 2) == []


def test_until_leaves_out_what_is_as_late(store, path):
    settle(store, started=JUNE_15)
    settle(store, started=JUNE_15 + 1)
    assert store.flush()
    assert groups(summarize(path, until=JUNE_15 + 1)) == {"fast": 1}
    assert summarize(path, since=JUNE_15 + 1, until=JUNE_15 + 1) == []


def test_groups_may_be_of_several_things(store, path):
    settle(store, started=JUNE_15, cost=1)
    settle(store, started=JUNE_15 + DAY, cost=2, tenant='a\x1f"b')
    settle(store, started=JUNE_15 + DAY, cost=3)
    assert store.flush()
    lines = summarize(path, by=["tenant", "day"])
    assert [(line.group, line.cost) for line in lines] == [
        (("acme", "2025-06-15"), 1),
        (("acme", "2025-06-16"), 3),
        (('a\x1f"b', "2025-06-16"), 2),
    ]


def test_the_dearest_group_stands_first_and_days_stand_in_order(store, path):
    settle(store, model="cheap", cost=1, started=JUNE_15)
    settle(store, model="dear", cost=5, started=JUNE_15 + DAY)
    assert store.flush()
    assert [line.group[0] for line in summarize(path)] == ["dear", "cheap"]
    assert [line.group[0] for line in summarize(path, by=["day"])] == ["2025-06-15", "2025-06-16"]


def test_sums_of_money_do_not_overflow(store, path):
    for _ in range(4):
        settle(store, cost=2**62 + 1)
    assert store.flush()
    assert summarize(path)[0].cost == 4 * (2**62 + 1)


def test_what_is_known_as_a_sum_only_is_counted(tmp_path):
    path = tmp_path / "later" / "ledger.db"
    store = SQLiteStore(path, interval=3600, max_rows=1).start()
    for _ in range(3):
        settle(store, usage=Usage(10, 1), cost=7)
        store.flush()
    path.parent.mkdir()
    assert store.flush()
    store.close()
    assert groups(summarize(path, by=["tenant"])) == {FOLDED: 2, "acme": 1}
    assert groups(summarize(path, by=["outcome"])) == {"completed": 3}
    everything = total(summarize(path))
    assert (everything.attempts, everything.completed, everything.input_tokens) == (3, 3, 30)
    assert everything.cost == 21


def test_reading_goes_on_while_somebody_writes(store, path):
    settle(store)
    assert store.flush()
    with sqlite3.connect(path, isolation_level=None) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("DELETE FROM attempts")
        assert groups(summarize(path)) == {"fast": 1}
        writer.execute("ROLLBACK")
    writer.close()


@contextlib.contextmanager
def without_privilege():
    """Root may write everywhere; be nobody for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_ledger_that_nobody_writes_can_be_read_from_a_directory_that_is_read_only():
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "ledger.db")
        store = SQLiteStore(path).start()
        settle(store)
        store.close()
        path.chmod(0o644)
        path.parent.chmod(0o555)
        try:
            with without_privilege():
                assert not os.access(name, os.W_OK, effective_ids=True)
                assert groups(summarize(path)) == {"fast": 1}
        finally:
            path.parent.chmod(0o700)


def test_reading_changes_nothing(store, path):
    settle(store)
    store.close()
    before = path.read_bytes()
    summarize(path)
    assert path.read_bytes() == before


def test_no_ledger_is_said_to_be_none(tmp_path):
    with pytest.raises(ConfigError, match="there is no ledger"):
        summarize(tmp_path / "nothing.db")
    assert list(tmp_path.iterdir()) == []


def test_another_file_is_said_to_be_none(tmp_path):
    other = tmp_path / "other.db"
    other.write_text("not a database at all, but long enough to look at" * 20)
    with pytest.raises(ConfigError, match="cannot be read"):
        summarize(other)
    with sqlite3.connect(tmp_path / "theirs.db") as database:
        database.execute("CREATE TABLE customers (name TEXT)")
    database.close()
    with pytest.raises(ConfigError, match="is not a ledger"):
        summarize(tmp_path / "theirs.db")


def test_what_becomes_of_prompts_is_added_up_by_group(store, path):
    used = Usage(100, 5, cached_input_tokens=60)
    settle(store, usage=used, left_out=0, cache_saved=-3, cache_missed=1)
    settle(store, usage=used, left_out=50, cache_saved=10**13, cache_missed=2)
    settle(store, usage=used, tenant="umbrella", left_out=7)
    assert store.flush()
    acme, umbrella = sorted(summarize(path, by=["tenant"]), key=lambda line: line.group)
    assert (acme.left_out_tokens, acme.shortened_to_tokens, acme.shortened_from_tokens) == (50, 100, 150)
    assert (acme.prompt_cache_saved, acme.prompt_cache_missed, acme.cached_share) == (10**13 - 3, 3, 0.6)
    assert (umbrella.shortened_from_tokens, umbrella.prompt_cache_saved) == (107, 0)
    whole = total([acme, umbrella])
    assert (whole.shortened_from_tokens, whole.cached_share) == (257, 0.6)


def test_what_was_left_out_of_a_prompt_whose_answer_was_kept_is_told_with_the_saving(store, path):
    ledger = Ledger(PriceTable([]), store)
    for left_out in (0, 50, 7):
        ledger.enter(ended(attempt(left_out=left_out), Outcome.CACHED, Usage(100, 5)))
    assert store.flush()
    (line,) = summarize(path)
    assert (line.saved_calls, line.saved_input_tokens, line.attempts) == (3, 300, 0)
    assert (line.left_out_tokens, line.shortened_to_tokens) == (57, 200)


def test_losses_by_a_prompt_cache_are_exact(store, path):
    for saved in (-1, -1_999_999, -3 * 10**12):
        settle(store, cache_saved=saved)
    assert store.flush()
    (line,) = summarize(path)
    assert line.prompt_cache_saved == -(3 * 10**12 + 2_000_000)


def test_what_became_of_prompts_is_in_the_sums_of_rows_that_found_no_room(tmp_path):
    path = tmp_path / "no" / "ledger.db"
    with contextlib.closing(SQLiteStore(path, interval=3600, max_rows=3).start()) as store:
        for _ in range(9):
            settle(store, usage=Usage(100), left_out=50, cache_saved=-2, cache_missed=1)
        assert not store.flush()
        path.parent.mkdir()
        assert store.flush()
        assert store.statistics().folded
    lines = summarize(path, by=["model"])
    assert {line.group for line in lines} == {("fast",), (FOLDED,)}
    whole = total(lines)
    assert (whole.shortened_from_tokens, whole.shortened_to_tokens) == (9 * 150, 9 * 100)
    assert (whole.prompt_cache_saved, whole.prompt_cache_missed) == (-18, 9)
