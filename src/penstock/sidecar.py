"""A server that runs beside a gateway, in a process of its own: the simulator, a local model.

The parent binds its socket, so that its URL is known before it runs and stays when it is started again; who connects
while nobody is there waits in the socket's queue.  The child ends when the parent does, because the line between
them ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from penstock.errors import ConfigError

START_TIMEOUT = 30.0  # seconds
RESTART_DELAYS = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)  # seconds, after deaths in a row
GOOD_LIFE = 60.0  # seconds after which a death does not count as one in a row
ORPHAN_DRAIN = 30.0  # seconds that answers under way are given when the parent is gone
_END_TIMEOUT = 2.0  # seconds that it is given to end by itself
_READY = b"ready\n"


# ---- the parent's side -----------------------------------------------------------------------------


class Sidecar:
    """Runs from :meth:`start` until :meth:`close`; one that dies is started again behind the same URL.

    :param title: what it is called in logs and errors, "the simulator"
    :param module: that is run as a program; its ``main`` calls :func:`run_beside`
    :param arguments: its arguments, before those that are the sockets
    :param environment: its environment; None: the parent's
    """

    def __init__(
        self,
        title: str,
        module: str,
        arguments: Sequence[str],
        log: logging.Logger,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.port = 0  # 0: not started
        self.restarts = 0
        self._title = title
        self._command = (sys.executable, "-P", "-m", module, *arguments)
        self._log = log
        self._environment = environment
        self._listening: socket.socket | None = None
        self._line: socket.socket | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._keeping: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def start(self) -> None:
        """Returns when it listens.

        :raises penstock.errors.ConfigError: it does not start
        """
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
        try:
            await self._spawn()
        except BaseException:
            self._listening.close()
            raise
        self.port = self._listening.getsockname()[1]
        self._keeping = asyncio.create_task(self._keep())

    async def close(self) -> None:
        if self._keeping is not None:
            self._keeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeping
        process = self._process
        if process is not None and process.returncode is None:
            process.terminate()
            try:
                async with asyncio.timeout(_END_TIMEOUT):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
        for sock in (self._line, self._listening):
            if sock is not None:
                sock.close()
        self.port = 0

    async def _spawn(self) -> None:
        assert self._listening is not None
        if self._line is not None:
            self._line.close()
        self._line, theirs = socket.socketpair()
        self._line.setblocking(False)
        try:
            self._process = process = await asyncio.create_subprocess_exec(
                *self._command,
                *(str(self._listening.fileno()), str(theirs.fileno())),
                stdin=asyncio.subprocess.DEVNULL,
                env=self._environment,
                pass_fds=(self._listening.fileno(), theirs.fileno()),
                start_new_session=True,  # Ctrl-C in the terminal is for the parent, which lets answers end first
            )
        except OSError as error:
            raise ConfigError(f"{self._title} cannot be started: {error.strerror}") from error
        finally:
            theirs.close()
        try:
            async with asyncio.timeout(START_TIMEOUT):
                word = await asyncio.get_running_loop().sock_recv(self._line, 100)
        except (TimeoutError, ConnectionError):
            word = b""
        if not word:
            if process.returncode is None:
                process.kill()
            await process.wait()
            raise ConfigError(f"{self._title} did not start; the log says why")

    async def _keep(self) -> None:
        deaths = 0
        started = time.monotonic()
        while True:
            assert self._process is not None
            status = await self._process.wait()
            if time.monotonic() - started >= GOOD_LIFE:
                deaths = 0
            delay = RESTART_DELAYS[min(deaths, len(RESTART_DELAYS) - 1)]
            deaths += 1
            self._log.error("%s died (status %d); another starts in %.0f s", self._title, status, delay)
            await asyncio.sleep(delay)
            self.restarts += 1
            started = time.monotonic()
            with contextlib.suppress(ConfigError):  # then it has died again
                await self._spawn()

    def __repr__(self) -> str:
        return f"<Sidecar {self._title} port {self.port}, {self.restarts} restarts>"


# ---- the child's side ------------------------------------------------------------------------------


class Service(Protocol):
    """What listens in the child."""

    async def close(self, deadline: float) -> None:
        """Stop listening, and cut what is still under way after ``deadline`` seconds."""


Begin = Callable[[socket.socket, Callable[[int], None]], Awaitable[Service]]
"""Listens at a socket; and may end the process by itself, with a status, by calling the second argument."""


def run_beside(begin: Begin) -> int:
    """The life of the child, in a process whose last two arguments are the sockets.

    :returns: the exit status
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    listening, line = (socket.socket(fileno=int(word)) for word in sys.argv[-2:])
    for sock in (listening, line):
        sock.setblocking(False)
        sock.set_inheritable(False)
    try:
        import uvloop  # noqa: PLC0415
    except ImportError:
        return asyncio.run(_run(begin, listening, line))
    return uvloop.run(_run(begin, listening, line))


async def _run(begin: Begin, listening: socket.socket, line: socket.socket) -> int:
    loop = asyncio.get_running_loop()
    told: asyncio.Future[int] = loop.create_future()

    def end(status: int) -> None:
        if not told.done():
            told.set_result(status)

    loop.add_signal_handler(signal.SIGTERM, end, 0)
    service = await begin(listening, end)
    await loop.sock_sendall(line, _READY)
    orphaned = asyncio.ensure_future(loop.sock_recv(line, 1))
    either: list[asyncio.Future[Any]] = [orphaned, told]
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    await service.close(0.0 if told.done() else ORPHAN_DRAIN)
    orphaned.cancel()
    return told.result() if told.done() else 0
