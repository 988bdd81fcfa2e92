"""The soak test in short: half a minute of everything at once, after which nothing may be left."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_half_a_minute_of_mixed_load_leaves_nothing_behind(tmp_path):
    line = [sys.executable, "-m", "benchmarks.soak", "--minutes", "0.5", "--out", str(tmp_path)]
    ended = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=360, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    result = json.loads((tmp_path / "soak.json").read_text())
    assert result["leaks"] == []
    assert len(result["wishes"]) == 14  # each kind of visitor came
    assert result["most"]["open_attempts"] > 10  # there was something that could have been left
    account = result["books"]
    assert account["ledger"][0] == account["bill"][0]
    assert account["output_tokens_of_exact_models"] > 0.9 * account["bill"][1]
    assert "nothing leaks" in (tmp_path / "soak.txt").read_text()
