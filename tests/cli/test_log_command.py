"""``penstock log``: what the lines that a gateway writes come to."""

import contextlib
import datetime as dt
import io
import json
import os
import tempfile

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.cli import main
from penstock.cli.log import Field, requests, sums
from penstock.logs import RequestLine

NOON = dt.datetime(2026, 11, 23, 12, tzinfo=dt.UTC)


def line(minutes=0, **more):
    what = {"tenant": "acme", "status": 200, "outcome": "finished", "upstream": "fast", **more}
    return msgspec.json.encode(RequestLine(NOON + dt.timedelta(minutes=minutes), **what))


LINES = [
    line(
        0,
        generation="gen_1",
        input_tokens=3,
        output_tokens=5,
        cost=7_000_000,
        ttft_ms=250.0,
        duration_ms=500.0,
    ),
    line(1, generation="gen_2", trace="t" * 32, read="cached", ttft_ms=0.0, duration_ms=0.0),
    line(
        2,
        generation="gen_3",
        status=502,
        outcome="failed",
        error="upstream_failed",
        upstream="slow",
        ttft_ms=4e3,
    ),
    line(3, generation="gen_4", status=499, outcome="running"),
    *[line(4, tenant="noisy", status=429, outcome="refused", error="rate_limit_exceeded", upstream="")] * 5,
    line(
        5, tenant="", status=401, outcome="refused", error="invalid_api_key", request_id="req-9", upstream=""
    ),
]
OTHERS = [
    b'{"time":"2026-11-23T12:00:00Z","level":"info","message":"ready"}',
    b"Traceback",
    b"",
    b"{}",
    LINES[0][:60],
]


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "gateway.log"
    path.write_bytes(b"\n".join(LINES + OTHERS) + b"\n")
    return path


def told(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        main(["log", *map(str, words)])
    return ended.value.code, capsys.readouterr().out


def summed(capsys, *words):
    return [json.loads(one) for one in told(capsys, *words, "--json")[1].splitlines()]


def test_requests_are_added_up_by_tenant_and_whoever_asks_most_comes_first(log, capsys):
    first, second, third = summed(capsys, log)
    assert (first["tenant"], first["requests"], first["refused"]) == ("noisy", 5, 5)
    assert (second["tenant"], second["requests"], second["refused"]) == ("acme", 4, 0)
    assert (second["failed"], second["left"]) == (1, 1)
    assert (second["input_tokens"], second["output_tokens"], second["cost_picousd"]) == (3, 5, 7_000_000)
    assert (third["tenant"], third["requests"]) == ("", 1)


def test_by_upstream_the_slow_one_is_seen_and_kept_answers_do_not_hide_it(log, capsys):
    figures = {one["upstream"]: one for one in summed(capsys, log, "--by", "upstream")}
    assert figures["slow"]["first_token_p95"] == 4.0
    assert figures["fast"]["first_token_p50"] == 0.25
    assert figures[""]["took_p50"] is None


def test_several_fields_make_groups_together(log, capsys):
    groups = {(one["tenant"], one["error"]) for one in summed(capsys, log, "--by", "tenant", "--by", "error")}
    assert ("noisy", "rate_limit_exceeded") in groups
    assert ("acme", "upstream_failed") in groups


def test_only_a_part_of_the_time_is_added_up(log, capsys):
    words = ("--since", "2026-11-23T12:02", "--until", "2026-11-23T12:04")
    assert [one["requests"] for one in summed(capsys, log, *words)] == [2]


def test_what_a_journal_puts_before_a_line_is_passed_over(log):
    written = log.read_bytes().splitlines(keepends=True)
    journal = io.BytesIO(b"".join(b"Nov 23 12:00:00 host penstock[17]: " + one for one in written))
    assert sums(requests(journal), [Field.tenant]).keys() == {("acme",), ("noisy",), ("",)}
    assert len(list(requests(io.BytesIO(log.read_bytes())))) == len(LINES)


TORN = st.tuples(
    st.sampled_from(LINES),
    st.sampled_from(["time", "status", "input_tokens", "cost_picousd", "ttft_ms", "tenant", "level"]),
    st.sampled_from(
        [None, True, -1, 10**30, 1e308, "x", [], {"a": 1}, "0001-01-01T00:00:00", "9999-12-31T23:59:59Z"]
    ),
).map(lambda each: json.dumps({**json.loads(each[0]), each[1]: each[2]}).encode()) | st.tuples(
    st.sampled_from(LINES),
    st.integers(0, 300),
    st.sampled_from([b"", b"\0\0", b"{", b'{"a":' * 5_000, b"\xff"]),
).map(lambda each: each[2] + each[0][: each[1]])


@settings(max_examples=int(os.environ.get("PENSTOCK_FUZZ_EXAMPLES", "60")))
@given(
    st.lists(TORN, max_size=6), st.sampled_from([["--json"], [], ["--request", "gen_3"], ["--by", "status"]])
)
def test_lines_that_are_torn_or_not_of_this_log_disturb_no_other(torn, words):
    whole = LINES[: len(torn)]
    text = b"".join(one + b"\n" for each in zip(torn, whole, strict=True) for one in each)
    found = list(requests(io.BytesIO(text)))
    assert all(one in found for one in requests(io.BytesIO(b"\n".join(whole))))
    with tempfile.NamedTemporaryFile() as file, contextlib.redirect_stdout(io.StringIO()) as out:
        file.write(text)
        file.flush()
        with pytest.raises(SystemExit) as ended, contextlib.redirect_stderr(io.StringIO()):
            main(["log", file.name, *words])
    assert ended.value.code == ("--request" in words and not out.getvalue())


@pytest.mark.parametrize(
    ("name", "error"), [("gen_3", "upstream_failed"), ("req-9", "invalid_api_key"), ("t" * 32, None)]
)
def test_a_request_is_found_by_any_of_its_names(log, capsys, name, error):
    (found,) = summed(capsys, log, "--request", name)
    assert found.get("error") == error
    status, text = told(capsys, log, "--request", name)
    assert status == 0
    assert f"status  {found['status']}\n" in text


def test_a_request_that_is_not_there_is_a_failure(log, capsys):
    assert told(capsys, log, "--request", "gen_none") == (1, "")


def test_a_line_that_is_shown_has_none_of_a_callers_own(log, capsys):
    log.write_bytes(line(6, model="a\n          status  500", generation="gen_x") + b"\n")
    assert told(capsys, log, "--request", "gen_x")[1].count("\n          status  ") == 1


def test_the_table_says_the_same_and_obeys_no_caller(log, capsys):
    with log.open("ab") as file:
        file.write(line(6, model="\x1b]0;x\x07[b]", tenant="t") + b"\n")
    status, text = told(capsys, log, "--by", "model", "--by", "tenant")
    assert status == 0
    assert "\x1b" not in text
    assert "[b]" in text
    assert "0.000007" in text
    assert "0.25 / 4.00" in text
    log.write_bytes(b"")
    assert told(capsys, log)[1] == "No requests.\n"
