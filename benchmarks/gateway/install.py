"""Gets the rivals: a Debian package, environments of their own under ``.cache/``."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "benchmarks"
PATIENCE = 900.0  # seconds for one installation
_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"


class NotInstalled(Exception):
    """Why a rival is not here."""


def which(program: str) -> str:
    """:raises NotInstalled: there is none"""
    found = shutil.which(program, path=_PATH)
    if found is None:
        raise NotInstalled(f"there is no {program}")
    return found


def debian(package: str, program: str) -> None:
    """The program, from Debian's package if it is missing and we are root."""
    if shutil.which(program, path=_PATH) is not None:
        return
    apt = shutil.which("apt-get")
    if apt is None or os.geteuid() != 0:
        raise NotInstalled(f"there is no {program}; on Debian: sudo apt-get install {package}")
    _run([apt, "update", "-qq"], {"DEBIAN_FRONTEND": "noninteractive"})
    _run([apt, "install", "-qq", "-y", package], {"DEBIAN_FRONTEND": "noninteractive"})
    which(program)


def environment(name: str, *packages: str) -> Path:
    """A virtual environment with these packages, made once for each interpreter: its folder."""
    home = CACHE / name
    stamp = home / "installed"
    wanted = f"{sys.version} {sys.base_prefix} {packages}"
    if not stamp.exists() or stamp.read_text() != wanted:
        venv.create(home, with_pip=True, clear=True)
        pip = [home / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _run([*pip, *packages])
        stamp.write_text(wanted)
    return home


def litellm_folder(folder: Path) -> Path:
    """Where LiteLLM is started: it imports from the folder two above that as well, where anybody's modules may lie."""
    work = folder / "work" / "here"
    work.mkdir(parents=True, exist_ok=True)
    return work


def installed_version(home: Path, package: str) -> str:
    """Of a package in one of those environments."""
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    done = subprocess.run(
        [home / "bin" / "python", "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    return done.stdout.strip() or "?"


def node_modules(name: str, packages: Sequence[str], overrides: Mapping[str, str]) -> Path:
    """A folder with these npm packages, made once.

    :param overrides: versions that hold also where a package asks for others
    """
    npm = which("npm")
    home = CACHE / name
    stamp = home / "installed"
    wanted = json.dumps({"private": True, "packages": list(packages), "overrides": dict(overrides)})
    if not stamp.exists() or stamp.read_text() != wanted:
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        (home / "package.json").write_text(wanted)
        _run([npm, "install", "--no-audit", "--no-fund", "--prefix", home, *packages])
        stamp.write_text(wanted)
    return home


def _run(command: Sequence[str | Path], environ: dict[str, str] | None = None) -> None:
    words = [str(word) for word in command]
    print("…", *words[-6:], file=sys.stderr)
    try:
        done = subprocess.run(
            words,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **(environ or {})},
        )
    except subprocess.TimeoutExpired:
        raise NotInstalled(f"{words[0]} took longer than {PATIENCE:.0f} s") from None
    if done.returncode != 0:
        raise NotInstalled(f"{' '.join(words[-6:])}: {(done.stderr or done.stdout).strip()[-500:]}")
