"""A Redis of one's own: a process on a free port, without a trace on the disk."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from typing import Self

from penstock.testing._ports import free_port

_START_TIMEOUT = 60.0  # seconds
_TRIES = 100  # ports


class RedisServer:
    """``redis-server``, which can be killed, stopped in its tracks and started anew on its port.

    :param options: further ones of its command line, such as ``"--maxmemory", "1mb"``
    :param port: where it listens on 127.0.0.1; 0: a free one, which is another if somebody takes it before the start
    """

    def __init__(self, *options: str, port: int = 0) -> None:
        self._fixed = port != 0
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self._use(port or free_port())

    def __repr__(self) -> str:
        state = "running" if self._process is not None and self._process.poll() is None else "not running"
        return f"<RedisServer on port {self.port}, {state}>"

    def _use(self, port: int) -> None:
        self.port = port
        self.url = f"redis://127.0.0.1:{port}"

    @staticmethod
    def available() -> bool:
        """Whether there is a ``redis-server`` on this machine."""
        return shutil.which("redis-server") is not None

    def start(self) -> Self:
        """Start it, empty, and wait until it answers.

        :raises RuntimeError: it does not
        """
        said = ""
        for _ in range(1 if self._fixed else _TRIES):
            said = self._try()
            if not said:
                self._fixed = True  # who starts it anew finds it where it was
                return self
            if "in use" not in said:
                break
            if not self._fixed:
                self._use(free_port())
        raise RuntimeError(f"redis-server does not start: {said}")

    def _try(self) -> str:
        """Start it; what it says if it does not, else nothing.

        That is asked of its log, not of its port, where somebody else's might answer.
        """
        command = [
            "redis-server",
            *("--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"),
            *self._options,
        ]
        with tempfile.TemporaryFile() as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)  # noqa: S603
            deadline = time.monotonic() + _START_TIMEOUT
            while True:
                ended = self._process.poll() is not None
                said = os.pread(log.fileno(), 65_536, 0).decode(errors="replace")
                if "Ready to accept connections" in said:
                    return ""
                if ended or time.monotonic() > deadline:
                    self.stop()
                    return said or "it says nothing"
                time.sleep(0.01)

    def kill(self) -> None:
        """End it as a crash would; what it held is lost."""
        assert self._process is not None, "it was not started"
        self._process.kill()
        self._process.wait()

    def freeze(self) -> None:
        """Stop it in its tracks: it is there, and does not answer."""
        assert self._process is not None, "it was not started"
        os.kill(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None, "it was not started"
        os.kill(self._process.pid, signal.SIGCONT)

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
