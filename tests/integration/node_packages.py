"""Packages of npm that tests run with Node, each installed once below ``.cache``."""

import shutil
import subprocess
from pathlib import Path

import pytest

_CACHE = Path(__file__).resolve().parents[2] / ".cache"
_UNREACHABLE = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "ENETUNREACH", "E403")

needs_node = pytest.mark.skipif(
    shutil.which("node") is None or shutil.which("npm") is None, reason="there is no Node.js on this machine"
)


def installed(package: str) -> Path:
    """A folder in which Node finds ``package``, named with its version; skips where there is no registry."""
    home = _CACHE / package.rpartition("@")[0]
    stamp = home / "installed"
    if not stamp.exists() or stamp.read_text() != package:
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        words = ["npm", "install", "--no-audit", "--no-fund", "--fetch-retries=1", "--fetch-timeout=20000"]
        done = subprocess.run(
            [*words, "--prefix", home, package], check=False, capture_output=True, text=True, timeout=120
        )
        if any(code in done.stderr for code in _UNREACHABLE):
            pytest.skip("npm reaches no registry from here")
        assert done.returncode == 0, f"{package} could not be installed:\n{done.stderr}"
        stamp.write_text(package)
    return home
