"""A simulator as a child process: what answers where nothing else is configured.

The parent binds its socket, so that its URL is known before it runs and stays when it is restarted; the
child ends when the parent does, because the line between them ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
import time
from typing import Any

import msgspec

from penstock.config.model import Config
from penstock.errors import ConfigError

log = logging.getLogger("penstock.sim")

OPTIONS = "ttft=0,tps=0,tokens=64"
"""As ``penstock sim`` has them."""
START_TIMEOUT = 30.0  # seconds
RESTART_DELAYS = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)  # seconds, after deaths in a row
GOOD_LIFE = 60.0  # seconds after which a death does not count as one in a row
ORPHAN_DRAIN = 30.0  # seconds that answers under way are given when the parent is gone


def wants_simulator(config: Config) -> bool:
    """Whether an upstream of kind ``sim`` says nothing of where it is."""
    return any(upstream.kind == "sim" and not upstream.base_url for upstream in config.upstreams.values())


# ---- the parent's side -----------------------------------------------------------------------------


class EmbeddedSimulator:
    """Runs from :meth:`start` until :meth:`close`; one that dies is started again behind the same URL."""

    def __init__(self) -> None:
        self.port = 0  # 0: not started
        self.restarts = 0
        self._listening: socket.socket | None = None
        self._line: socket.socket | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._keeping: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def start(self) -> None:
        """Returns when it answers.

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

    def fill(self, config: Config) -> Config:
        """The configuration with this simulator's URL where one is missing."""
        upstreams = {
            name: msgspec.structs.replace(upstream, base_url=self.url)
            if upstream.kind == "sim" and not upstream.base_url
            else upstream
            for name, upstream in config.upstreams.items()
        }
        return msgspec.structs.replace(config, upstreams=upstreams)

    async def close(self) -> None:
        if self._keeping is not None:
            self._keeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeping
        process = self._process
        if process is not None and process.returncode is None:
            process.terminate()
            try:
                async with asyncio.timeout(2):
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
                *(sys.executable, "-P", "-m", "penstock.lab.embedded"),
                *(str(self._listening.fileno()), str(theirs.fileno())),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(self._listening.fileno(), theirs.fileno()),
                start_new_session=True,  # Ctrl-C in the terminal is for the parent, which lets answers end first
            )
        except OSError as error:
            raise ConfigError(f"the simulator cannot be started: {error.strerror}") from error
        finally:
            theirs.close()
        try:
            async with asyncio.timeout(START_TIMEOUT):
                word = await asyncio.get_running_loop().sock_recv(self._line, 100)
        except TimeoutError:
            word = b""
        if not word:
            if process.returncode is None:
                process.kill()
            await process.wait()
            raise ConfigError("the simulator did not start; the log says why")

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
            log.error("the simulator died (status %d); another starts in %.0f s", status, delay)
            await asyncio.sleep(delay)
            self.restarts += 1
            started = time.monotonic()
            with contextlib.suppress(ConfigError):  # then it has died again
                await self._spawn()

    def __repr__(self) -> str:
        return f"<EmbeddedSimulator port {self.port}, {self.restarts} restarts>"


# ---- the child's side ------------------------------------------------------------------------------


async def _run(listening: socket.socket, line: socket.socket) -> None:
    from penstock.lab import scenario  # noqa: PLC0415 - the parent needs none of this
    from penstock.lab.serve import Service  # noqa: PLC0415
    from penstock.lab.simulator import Simulator  # noqa: PLC0415

    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, told.set)
    service = Service(Simulator(scenario.parse(OPTIONS)))
    await service.start(listening)
    await loop.sock_sendall(line, b"ready\n")
    orphaned = asyncio.ensure_future(loop.sock_recv(line, 1))
    stopped = asyncio.ensure_future(told.wait())
    either: list[asyncio.Future[Any]] = [orphaned, stopped]
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    await service.close(0.0 if told.is_set() else ORPHAN_DRAIN)
    for future in either:
        future.cancel()


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    listening, line = (socket.socket(fileno=int(word)) for word in sys.argv[1:3])
    for sock in (listening, line):
        sock.setblocking(False)
        sock.set_inheritable(False)
    try:
        import uvloop  # noqa: PLC0415
    except ImportError:
        asyncio.run(_run(listening, line))
    else:
        uvloop.run(_run(listening, line))


if __name__ == "__main__":
    main()
