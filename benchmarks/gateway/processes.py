"""Processes: started on one core and in a group of their own, measured as a tree, ended by their id."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_TAIL = 2_000  # bytes of a log that are told when its process has died


class DidNotStart(Exception):
    """A process ended, or did not answer in time."""


@contextlib.contextmanager
def on_core(core: int) -> Iterator[None]:
    """What is started within stays on this core, with all its threads and children."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


class Tree:
    """A process and all its descendants."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        core: int,
        log: Path,
        cwd: Path | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.log = log
        with on_core(core), log.open("wb") as output:
            self._process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=cwd,
                env={**os.environ, **(environ or {})},
                start_new_session=True,
            )

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def pids(self) -> list[int]:
        """The process itself first."""
        return tree_of(self._process.pid)

    def cpu(self) -> float:
        """Seconds of CPU that the tree has used, with all threads and the children that it has buried."""
        return cpu_of(self._process.pid)

    def rss(self) -> dict[int, float]:
        """MiB of every process."""
        sizes = {}
        for pid in self.pids():
            with contextlib.suppress(OSError):
                sizes[pid] = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE / 2**20
        return sizes

    def worker_rss(self) -> float:
        """MiB of the process that serves: of those that have no children, the largest."""
        sizes = self.rss()
        parents = set()
        for pid in sizes:
            with contextlib.suppress(OSError):
                parents.add(int(_stat(pid)[1]))
        return max((size for pid, size in sizes.items() if pid not in parents), default=0.0)

    def wait_port(self, port: int, seconds: float) -> None:
        """Until somebody listens on the port.

        :raises DidNotStart: with the end of the log
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if not self.alive:
                raise DidNotStart(f"ended with {self._process.returncode}: {self.tail()}")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
                return
            time.sleep(0.05)
        raise DidNotStart(f"does not listen after {seconds:.0f} s: {self.tail()}")

    def tail(self) -> str:
        return self.log.read_bytes()[-_TAIL:].decode(errors="replace").strip()

    def end(self, patience: float = 5.0) -> None:
        """Ask the group to end, then kill it."""
        group = self._process.pid
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGTERM)
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            pass
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
        self._process.wait()

    def __repr__(self) -> str:
        return f"<Tree {self._process.pid}: {self._process.args!r}>"


def tree_of(pid: int) -> list[int]:
    """A process, first, and all its descendants."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                children.setdefault(int(_stat(int(entry))[1]), []).append(int(entry))
    found = [pid]
    for each in found:
        found += children.get(each, ())
    return found


def cpu_of(pid: int) -> float:
    """Seconds of CPU that a process and its descendants have used, with those that they have buried."""
    total = 0.0
    for each in tree_of(pid):
        with contextlib.suppress(OSError):
            total += _cpu(each)
    return total


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat that come after the name: state first, parent second."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()


def _cpu(pid: int) -> float:
    """Seconds of one process and of its children that have ended.

    The kernel keeps user and system time to the nanosecond, but tells it in /proc/PID/stat in steps of a
    hundredth of a second; the process's CPU clock, which everybody may read, has the same sum in full.
    """
    fields = _stat(pid)
    own = (int(fields[11]) + int(fields[12])) / _TICKS
    buried = (int(fields[13]) + int(fields[14])) / _TICKS
    with contextlib.suppress(OSError):
        own = time.clock_gettime((~pid << 3) | 2)  # clock_getcpuclockid(3): all threads, scheduler's clock
    return own + buried
