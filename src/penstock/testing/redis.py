"""A Redis of one's own: a process on a free port, without a trace on the disk."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from typing import Self

_START_TIMEOUT = 10.0  # seconds


class RedisServer:
    """``redis-server``, which can be killed, stopped in its tracks and started anew on its port.

    :param options: further ones of its command line, such as ``"--maxmemory", "1mb"``
    :param port: where it listens on 127.0.0.1; 0: a free one
    """

    def __init__(self, *options: str, port: int = 0) -> None:
        self.port = port or _free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        state = "running" if self._process is not None and self._process.poll() is None else "not running"
        return f"<RedisServer on port {self.port}, {state}>"

    @staticmethod
    def available() -> bool:
        """Whether there is a ``redis-server`` on this machine."""
        return shutil.which("redis-server") is not None

    def start(self) -> Self:
        """Start it, empty, and wait until it answers.

        :raises RuntimeError: it does not
        """
        command = [
            "redis-server",
            *("--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"),
            *self._options,
        ]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603
        deadline = time.monotonic() + _START_TIMEOUT
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1) as sock:
                    sock.sendall(b"PING\r\n")
                    if sock.recv(100):
                        return self
            except OSError:
                pass
            if time.monotonic() > deadline:
                self.stop()
                raise RuntimeError("redis-server does not start")
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


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
