"""Processor instructions of a process, which are the same whatever else the machine does; the kernel's are not counted."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

COMMAND = ("valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null")
ROOT = Path(__file__).resolve().parents[1]


def instructions(*command: str) -> int:
    """How many a command takes, run in the repository's root, with Python's hashes the same each time.

    :raises SystemExit: there is no valgrind
    :raises subprocess.CalledProcessError: the command failed
    """
    if shutil.which("valgrind") is None:
        raise SystemExit("needs valgrind (Debian: apt-get install valgrind)")
    done = subprocess.run(
        [*COMMAND, *command],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "0"},
    )
    found = re.search(r"I\s+refs:\s+([\d,]+)", done.stderr)
    assert found is not None, done.stderr
    return int(found[1].replace(",", ""))
