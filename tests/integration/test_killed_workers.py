"""The chaos run in short: a trace with callers who leave, upstreams that fail, and workers that are killed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CALLS = 250


@pytest.mark.slow  # three workers have to die while there is something to lose
def test_no_answer_is_lost_and_the_ledger_equals_the_bill_but_for_what_a_kill_takes_along(tmp_path):
    line = [sys.executable, "-m", "benchmarks.chaos", "--out", str(tmp_path)]
    line += ["--calls", str(CALLS), "--speed", "3", "--kill-every", "4"]
    ended = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    result = json.loads((tmp_path / "chaos.json").read_text())
    assert result["wrong"] == []
    assert len(result["killed_at"]) >= 2
    assert result["whole"] == result["patient"] > 0.8 * CALLS
    assert result["hung_up"] > 0.05 * CALLS
    assert result["taken_over"] > 0
    assert result["came_back"] > 0
    account = result["books"]
    assert account["died"] > 0
    # Whose answer's head had come, its provider was asked what it has really cost.
    assert account["estimated"] == account["taken over"] == []
    assert account["wrong"] == []
    # A kill takes along half a second's calls at most.  The rest is exact, but for callers who were gone at once.
    unknown = account["unknown"]
    assert account["exact"] + len(unknown) >= CALLS - result["hung_up"]
    assert len(unknown) <= 1 + len(result["killed_at"]) * 0.5 * CALLS / result["seconds"]
    short = [sum(one["short"][side] for one in unknown) for side in (0, 1)]
    assert [due - own for own, due in zip(account["ledger"], account["bill"], strict=True)] == short
    assert account["requests"] > CALLS  # upstreams failed, and were asked again
    assert {"completed", "cancelled", "continued"} <= set(account["outcomes"])  # of "failed", one or none
    assert "are booked wrong" not in ended.stdout
