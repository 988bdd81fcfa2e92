"""The sync client, and those for httpx, are what the script makes of their source."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "make_twins.py"


def test_twins_are_up_to_date():
    done = subprocess.run([sys.executable, SCRIPT, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_nothing_async_is_left_in_the_sync_ones():
    for name in ("_sync_httpx2.py", "_sync_httpx.py", "_sync_heads.py"):
        text = (SCRIPT.parents[1] / "src" / "penstock" / "client" / name).read_text()
        code = [line.partition("#")[0] for line in text.splitlines()]
        assert not [line for line in code if "async" in line or "await" in line or "anyio" in line]
