"""A disk becomes full while a gateway runs, and has room again: what is said then, that nothing is lost, and
that deleting works."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("on_small_disk.py")
LINES = 12
# A file system in a name space of one's own: nobody else sees it, and it goes with its last process.
IN_NAME_SPACE = ("unshare", "--map-root-user", "--mount", "sh", "-c")
MOUNTED = 'mount -t tmpfs -o size=32m tmpfs "$1" && exec "$2" "$3" "$1" "$4"'


@pytest.fixture
def folders(tmp_path):
    disk, folder = tmp_path / "disk", tmp_path / "folder"
    disk.mkdir()
    folder.mkdir()
    try:
        subprocess.run([*IN_NAME_SPACE, 'mount -t tmpfs tmpfs "$0"', disk], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no file system may be mounted here")
    return disk, folder


def test_what_cannot_be_kept_is_refused_and_goes_on_when_there_is_room_again(folders):
    disk, folder = folders
    ran = subprocess.run(
        [*IN_NAME_SPACE, MOUNTED, "sh", disk, sys.executable, SCRIPT, folder],
        check=False,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr[-4_000:]
    told = json.loads(ran.stdout)
    calls, refused = told["full"]
    assert set(calls.values()) == {200}
    assert refused == dict.fromkeys(refused, 507)
    states, events, same = told["stream"]
    assert states == [
        ["running", True, 1],
        ["running", False, 0],
        ["finished", False, 0],
        ["finished", True, 1],
    ]
    assert (events, same) == (62, True)
    assert told["said"] == [True, True]
    assert told["offsets"] == ["1000"] * 5  # where its caller goes on later
    assert told["deleted"] == {"file": 200, "upload": 204, "conversation": 200, "response": 200}
    assert set(told["left"].values()) <= {404, 410}
    well, refused = told["starts"]
    assert well == ""
    assert f"there is no room left on the disk of {disk}" in refused
    calls, writes = told["room"]
    assert set(calls.values()) == {200}
    assert writes == {**dict.fromkeys(writes, 200), "upload": 201}
    assert told["offset"] == "1000"
    assert told["counts"] == {"total": LINES, "completed": LINES, "failed": 0}
    assert told["results"] == sorted(f"c{number}" for number in range(LINES))
    assert told["batches"] == 2  # none of those that were refused
    assert told["webhooks"] == 1
    assert told["outcomes"] == ["completed"]
