"""A gateway is killed when answers of its batches had ended, and were not among the results yet."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("kill_with_results_waiting.py")
LINES = 24  # of each of two batches
# A file system in a name space of one's own: nobody else sees it, and it goes with its last process.
IN_NAME_SPACE = ("unshare", "--map-root-user", "--mount", "sh", "-c")
MOUNTED = 'mount -t tmpfs -o size=8m tmpfs "$1" && exec "$2" "$3" "$1" "$4" "$5"'


@pytest.mark.slow  # two starts of a gateway, and a lease that has to run out
@pytest.mark.parametrize("durability", ["memory", "disk"])
def test_an_answer_that_had_ended_is_read_from_the_store_and_not_bought_again(durability, tmp_path):
    """Of batches of either API; where answers are in memory only, those that had no result are bought twice."""
    disk, folder = tmp_path / "disk", tmp_path / "folder"
    disk.mkdir()
    folder.mkdir()
    try:
        subprocess.run([*IN_NAME_SPACE, 'mount -t tmpfs tmpfs "$0"', disk], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no file system may be mounted here")
    ran = subprocess.run(
        [*IN_NAME_SPACE, MOUNTED, "sh", disk, sys.executable, SCRIPT, folder, durability],
        check=False,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr[-4_000:]
    told = json.loads(ran.stdout)
    assert told["results"] == sorted(f"{batch}{n}" for batch in "ao" for n in range(LINES))
    assert len(told["twice"]) == (0 if durability == "disk" else told["waiting"])
    assert told["ledger"] == told["bill"]
