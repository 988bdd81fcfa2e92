"""How much memory and disk there is for us."""

from __future__ import annotations

import shutil
from pathlib import Path

_MEMORY = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")  # version 2, as seen from within a container


def available_memory() -> int | None:
    """Bytes that can still be taken, of the machine's memory and of our container's; None: nobody knows."""
    found = []
    try:
        found.append(_figure(_MEMORY, "MemAvailable:") * 1_024)
    except OSError:
        pass  # not Linux
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
        # Files that were read count as used, though they give way to whoever needs the room.
        cached = _figure(_CGROUP / "memory.stat", "inactive_file")
        found.append(max(0, limit - used + cached))
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        pass
    return min(found, default=None)


def _figure(path: Path, name: str) -> int:
    for line in path.read_text().splitlines():
        words = line.split()
        if words and words[0] == name:
            return int(words[1])
    raise OSError(f"{path} has no {name}")


def free_disk(path: Path) -> int:
    """Bytes that fit on the disk of ``path``, or of where it will be."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free


def shown_bytes(number: float) -> str:
    """``1.5 GB``; decimal units, as disks and models are told."""
    units = ["bytes", "kB", "MB", "GB", "TB"]
    while number >= 1_000 and len(units) > 1:
        number /= 1_000
        del units[0]
    return f"{number:.3g} {units[0]}"
