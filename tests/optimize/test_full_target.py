"""The disk that a step writes to is full, really: what is said, and that nothing half-written is left."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("on_full_disk.py")
# A file system in a name space of one's own: nobody else sees it, and it goes with its last process.
IN_NAME_SPACE = ("unshare", "--map-root-user", "--mount", "sh", "-c")
MOUNTED = 'mount -t tmpfs -o size=64m tmpfs "$1" && exec "$2" "$3" "$1" "$4"'
NEARLY_ALL = 60_000_000  # bytes


def test_a_step_says_so_leaves_nothing_and_can_be_taken_when_there_is_room(model, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        subprocess.run([*IN_NAME_SPACE, 'mount -t tmpfs tmpfs "$0"', disk], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no file system may be mounted here")
    ran = subprocess.run(
        [*IN_NAME_SPACE, MOUNTED, "sh", disk, sys.executable, SCRIPT, model],
        check=False,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr[-4_000:]
    told = json.loads(ran.stdout)
    for how in ("filling", "filling_in_other_words"):
        said, left, free = told[how]
        assert said.startswith(f"StepFailed: the disk of {disk / 'made'} is full")
        assert (left, free > NEARLY_ALL) == ([], True)
    said, left, _ = told["too little from the first"]
    assert said.startswith(f"UnusableTarget: {disk / 'made'} needs about 50 MB")
    assert left == ["filler"]
    said, left, _ = told["room again"]
    assert said == ""
    assert {"made/model.safetensors", "made/penstock.json"} <= set(left)
