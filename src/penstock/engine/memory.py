"""How much memory a process may still take here: of the machine, and of the container that it is in."""

from __future__ import annotations

from pathlib import Path

from penstock.config.model import LocalConfig

_SHARE = 4  # a quarter of what is free is for keys and values, at most
_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def available_bytes(meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP) -> int | None:
    """Bytes that can be taken without pushing others out; None: this system does not tell.

    What the page cache holds of files counts as free, as in the kernel's own estimate (``MemAvailable``).
    """
    figures = [figure for figure in (_of_machine(meminfo), _of_container(cgroup)) if figure is not None]
    return min(figures) if figures else None


def cache_pages(config: LocalConfig, context: int, token_bytes: int, page: int) -> int:
    """Pages for keys and values: what was asked for; else what the slots can use and the memory has room for.

    :param token_bytes: of one token; 0: it cannot be told
    :param page: tokens of one
    """
    wanted = config.slots * context
    room = config.cache_bytes or (available_bytes() or 0) // _SHARE
    if room and token_bytes:
        wanted = room // token_bytes if config.cache_bytes else min(wanted, room // token_bytes)
    return max(1, wanted // page)


def _of_machine(meminfo: Path) -> int | None:
    try:
        lines = meminfo.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _of_container(cgroup: Path) -> int | None:
    """Control groups, version 2: the limit less what is used and cannot be dropped."""
    try:
        limit = (cgroup / "memory.max").read_text().strip()
        used = int((cgroup / "memory.current").read_text())
        stat = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    if limit == "max":
        return None
    return max(0, int(limit) - used + int(stat.get("inactive_file", 0)))
