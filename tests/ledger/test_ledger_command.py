import contextlib
import csv
import json
import os
import subprocess
import sys

import pytest
import typer
from ledger_attempts import attempt, ended

from penstock.cli.ledger import dollars, parse_since
from penstock.ledger.sqlite import SQLiteStore
from penstock.messages import Outcome, Usage


def penstock(*words, cwd):
    environment = {**os.environ, "COLUMNS": "120", "NO_COLOR": "1"}
    return subprocess.run(
        [sys.executable, "-m", "penstock", "ledger", *words],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        timeout=60,
        check=False,
    )


@pytest.fixture
def ledger(tmp_path):
    path = tmp_path / "ledger.db"
    store = SQLiteStore(path).start()
    for model, cost in (("fast", 1_234_567_890_000), ("fast", 10**6), ("[bold]smart", 5)):
        one = attempt(model=model)
        store.opened(one)
        store.settled(ended(one, usage=Usage(input_tokens=1_000, output_tokens=20), cost=cost))
    assert store.flush()
    yield path
    store.close()


def test_prints_a_table_with_totals(ledger):
    done = penstock("--path", str(ledger), cwd=ledger.parent)
    assert done.returncode == 0, done.stderr
    assert "1.234568" in done.stdout
    assert "[bold]smart" in done.stdout  # a model's name is not markup
    assert "3,000" in done.stdout
    for column in ("reasoning", "shortened", "prompt caches", "table"):
        assert column not in done.stdout  # nought throughout


def test_a_caller_who_chose_a_models_name_writes_nothing_else_to_the_terminal(ledger):
    with contextlib.closing(SQLiteStore(ledger).start()) as store:
        one = attempt(model="\x1b]0;x\x07", upstream_model="a\n│ total\x9b2J")
        store.opened(one)
        store.settled(ended(one))
        assert store.flush()
    for words in (["--by", "model"], ["--generation", one.generation]):
        done = penstock("--path", str(ledger), *words, cwd=ledger.parent)
        assert done.returncode == 0, done.stderr
        assert not {"\x1b", "\x07", "\x9b"}.intersection(done.stdout)
        assert done.stdout.count("\n│ total") == (0 if "--generation" in words else 1)


def test_what_became_of_prompts_is_shown_where_there_is_any(ledger):
    with contextlib.closing(SQLiteStore(ledger).start()) as store:
        one = attempt(model="slow")
        store.opened(one)
        used = Usage(1_000, 20, cached_input_tokens=400)
        amounts = {"cache_saved": -1_500_000_000_000, "cache_missed": 2_000_000}
        store.settled(ended(one, usage=used, left_out=30, **amounts))
    done = penstock("--path", str(ledger), cwd=ledger.parent)
    (slow,) = [line for line in done.stdout.splitlines() if "slow" in line]
    for figure in ("400", "40.0%", "1,030", "1,000", "-1.500000", "0.000002"):
        assert figure in slow
    for heading in ("of input", "shortened from", "by prompt caches", "left on the table"):
        assert heading in done.stdout
    done = penstock("--path", str(ledger), "--csv", cwd=ledger.parent)
    (line,) = [line for line in csv.DictReader(done.stdout.splitlines()) if line["model"] == "slow"]
    assert (line["cached_share"], line["shortened_from_tokens"]) == ("0.4", "1030")
    assert line["prompt_cache_saved_usd"] == "-1.500000000000"
    done = penstock("--path", str(ledger), "--generation", one.generation, "--json", cwd=ledger.parent)
    told = json.loads(done.stdout)
    assert (told["left_out_tokens"], told["prompt_cache_missed_picousd"]) == (30, 2_000_000)


def test_the_attempts_of_one_answer_are_shown_in_the_order_of_their_beginnings(tmp_path):
    path = tmp_path / "ledger.db"
    used = Usage(input_tokens=1_000, output_tokens=20)
    with contextlib.closing(SQLiteStore(path)) as store:
        store.start()
        one = attempt(upstream="[b]second", number=2, started=1_750_000_001.25)
        store.opened(one)
        store.settled(ended(one, usage=used, cost=10**6, first_token=0.25, duration=1.5, status=200))
        before = attempt(generation=one.generation, upstream="first", upstream_model="", model="m")
        store.opened(before)
        store.settled(ended(before, Outcome.FAILED, Usage(), error="upstream_timeout", duration=1.0))
        store.opened(attempt())  # another answer's
    done = penstock("--path", str(path), "--generation", one.generation, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [
        [cell.strip() for cell in line[1:-1].split("│")]
        for line in done.stdout.splitlines()
        if line.startswith("│")
    ]
    assert lines == [
        [
            "2025-06-15 15:06:40.000",
            "first",
            "m",
            "failed upstream_timeout",
            "",
            "1.000",
            "0",
            "0",
            "0.000000",
        ],
        [
            *("2025-06-15 15:06:41.250", "[b]second", "sim-1", "completed 200", "0.250", "1.500"),
            *("1,000", "20", "0.000001"),
        ],
    ]
    done = penstock("--path", str(path), "--generation", one.generation, "--json", cwd=tmp_path)
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [each["number"] for each in told] == [1, 2]
    assert (told[1]["cost_picousd"], told[1]["key"], told[1]["saved_picousd"]) == (10**6, "prod", 0)
    assert penstock("--path", str(path), "--generation", "gen_x", cwd=tmp_path).stdout == "No attempts.\n"


@pytest.mark.parametrize("by", ["tenant", "key", "model", "upstream", "outcome", "status", "label", "day"])
def test_every_grouping_has_its_table(ledger, by):
    done = penstock("--path", str(ledger), "--by", by, "--since", "2025-06-01", cwd=ledger.parent)
    assert done.returncode == 0, done.stderr
    heading, *lines = [line for line in done.stdout.splitlines() if line[:1] in "┃│"]
    assert [title.strip() for title in heading.strip("┃").split("┃")][:2] == [by, "attempts"]
    assert len(lines) == (3 if by == "model" else 2)  # and the total
    assert lines[-1].split("│")[1].strip() == "total"
    assert lines[-1].split("│")[2].strip() == "3"


def test_several_groupings_make_a_line_for_each_of_their_pairs(ledger):
    done = penstock("--path", str(ledger), "--by", "tenant", "--by", "day", "--json", cwd=ledger.parent)
    (line,) = map(json.loads, done.stdout.splitlines())
    assert list(line)[:3] == ["tenant", "day", "attempts"]
    assert line["attempts"] == 3
    done = penstock("--path", str(ledger), "--by", "tenant", "--by", "day", cwd=ledger.parent)
    rows = [line[1:-1].split("│") for line in done.stdout.splitlines() if line[:1] == "│"]
    assert [cell.strip() for cell in rows[-1][:3]] == ["total", "", "3"]
    assert (
        penstock("--path", str(ledger), "--until", "2025-01-01", cwd=ledger.parent).stdout == "No attempts.\n"
    )


def test_csv_is_for_spreadsheets(ledger):
    with contextlib.closing(SQLiteStore(ledger)) as store:
        one = attempt(model='=HYPERLINK("x")')
        store.start().opened(one)
        store.settled(ended(one))
    done = penstock("--path", str(ledger), "--by", "model", "--by", "tenant", "--csv", cwd=ledger.parent)
    assert done.returncode == 0, done.stderr
    lines = list(csv.DictReader(done.stdout.splitlines()))
    assert [line["model"] for line in lines] == ["fast", "[bold]smart", '\'=HYPERLINK("x")']
    assert lines[0]["cost_usd"] == "1.234568890000"
    assert (lines[0]["tenant"], lines[0]["attempts"], lines[0]["input_tokens"]) == ("acme", "2", "2000")
    refused = penstock("--path", str(ledger), "--csv", "--json", cwd=ledger.parent)
    assert (refused.returncode, refused.stdout) == (2, "")


def test_what_was_saved_has_columns_where_something_was(ledger):
    assert "saved" not in penstock("--path", str(ledger), cwd=ledger.parent).stdout
    with contextlib.closing(SQLiteStore(ledger)) as store:
        one = attempt(tenant="other")
        store.start().opened(one)
        used = Usage(input_tokens=1_000, output_tokens=20)
        store.settled(ended(one, Outcome.JOINED, used, saved=1_500_000_000_000))
    done = penstock("--path", str(ledger), "--by", "tenant", cwd=ledger.parent)
    lines = [[cell.strip() for cell in line[1:-1].split(line[0])] for line in done.stdout.splitlines()]
    heading, row = lines[1], next(line for line in lines if line[0] == "other")
    told = dict(zip(heading, row, strict=True))
    assert (told["attempts"], told["input"], told["cost, USD"]) == ("0", "0", "0.000000")
    assert (told["saved calls"], told["saved input"], told["saved output"]) == ("1", "1,000", "20")
    assert told["saved, USD"] == "1.500000"
    as_json = penstock("--path", str(ledger), "--by", "outcome", "--json", cwd=ledger.parent).stdout
    joined = next(line for line in map(json.loads, as_json.splitlines()) if line["outcome"] == "joined")
    assert (joined["cost_picousd"], joined["saved_picousd"]) == (0, 1_500_000_000_000)


def test_units_have_columns_where_there_are_some(ledger):
    titles = ("images", "sound, s", "characters", "searches")
    assert not any(title in penstock("--path", str(ledger), cwd=ledger.parent).stdout for title in titles)
    with contextlib.closing(SQLiteStore(ledger)) as store:
        store.start()
        for endpoint, units in (("images_edits", 1_200), ("transcriptions", 61_250), ("speech", 11)):
            one = attempt(endpoint=endpoint, tenant="media")
            store.opened(one)
            store.settled(ended(one, usage=Usage(units=units)))
    done = penstock("--path", str(ledger), "--by", "tenant", cwd=ledger.parent)
    lines = [[cell.strip() for cell in line[1:-1].split(line[0])] for line in done.stdout.splitlines()]
    told = dict(zip(lines[1], next(line for line in lines if line[0] == "media"), strict=True))
    assert [told.get(title) for title in titles] == ["1,200", "61.2", "11", None]
    as_json = penstock("--path", str(ledger), "--by", "tenant", "--json", cwd=ledger.parent).stdout
    media = next(line for line in map(json.loads, as_json.splitlines()) if line["tenant"] == "media")
    assert (media["images"], media["sound_milliseconds"], media["searches"]) == (1_200, 61_250, 0)


def test_prints_json_lines_with_exact_money(ledger):
    done = penstock("--path", str(ledger), "--by", "model", "--json", cwd=ledger.parent)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["model"] for line in lines] == ["fast", "[bold]smart"]
    assert lines[0]["cost_picousd"] == 1_234_568_890_000
    assert lines[0]["input_tokens"] == 2_000


def test_finds_the_ledger_of_the_configuration(ledger):
    (ledger.parent / "penstock.yaml").write_text("ledger:\n  path: ledger.db\n")
    done = penstock("--json", cwd=ledger.parent)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2


def test_says_what_is_missing(tmp_path):
    done = penstock(cwd=tmp_path)
    assert done.returncode == 1
    assert "--path FILE" in done.stderr
    assert "Traceback" not in done.stderr


def test_says_that_there_are_no_attempts(ledger):
    done = penstock("--path", str(ledger), "--since", "1m", cwd=ledger.parent)
    assert done.stdout == "No attempts.\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", 1_000_000 - 90),
        ("1h", 1_000_000 - 3_600),
        ("1.5d", 1_000_000 - 129_600),
        ("2w", 1_000_000 - 1_209_600),
        ("2026-11-01", 1_793_491_200),
        ("2026-11-01T12:00", 1_793_534_400),
        ("2026-11-01T12:00+01:00", 1_793_530_800),
    ],
)
def test_since_is_an_age_or_a_date(text, expected):
    assert parse_since(text, now=1_000_000) == expected


@pytest.mark.parametrize("text", ["", "yesterday", "1y", "-1h", "2026-13-01"])
def test_anything_else_is_refused(text):
    with pytest.raises(typer.BadParameter):
        parse_since(text, now=0)


def test_dollars_are_cut_off_and_not_rounded():
    assert dollars(0) == "0.000000"
    assert dollars(1_999_999) == "0.000001"
    assert dollars(1_234_567_999_999_999_999) == "1,234,567.999999"
