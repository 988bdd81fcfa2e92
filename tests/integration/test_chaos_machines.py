"""The chaos run in short, with two machines that are killed in turn: their ledgers together are the bill."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from penstock.testing import RedisServer

ROOT = Path(__file__).parents[2]
CALLS = 250


@pytest.mark.slow  # machines are killed, and come back
@pytest.mark.skipif(not RedisServer.available(), reason="there is no redis-server on this machine")
def test_no_answer_is_lost_and_the_ledgers_together_equal_the_bill(tmp_path):
    line = [sys.executable, "-m", "benchmarks.chaos", "--machines", "2", "--out", str(tmp_path)]
    line += ["--calls", str(CALLS), "--speed", "3", "--kill-every", "3"]
    ended = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    result = json.loads((tmp_path / "chaos.json").read_text())
    assert result["wrong"] == []
    assert result["killed_at"]
    assert result["whole"] == result["patient"] > 0.8 * CALLS
    assert result["taken_over"] > 0
    account = result["books"]
    assert account["died"] > result["taken_over"]  # in both ledgers is a row for each
    # What was stored is in the ledger of who took over, what its provider has told beyond that in the other one.
    assert account["estimated"] == account["taken over"] == account["wrong"] == []
    # A kill takes along half a second's calls at most.  The rest is exact, but for callers who were gone at once.
    unknown = account["unknown"]
    assert account["exact"] + len(unknown) >= CALLS - result["hung_up"]
    assert len(unknown) <= 1 + len(result["killed_at"]) * 0.5 * CALLS / result["seconds"]
    short = [sum(one["short"][side] for one in unknown) for side in (0, 1)]
    assert [due - own for own, due in zip(account["ledger"], account["bill"], strict=True)] == short
