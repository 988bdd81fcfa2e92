"""Running the simulator: on a socket of its own event loop, or as a whole process."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
import sys
from collections.abc import Callable

from penstock.config.model import ListenerConfig
from penstock.lab.simulator import MOST_BODY, Simulator
from penstock.net.clock import Clock
from penstock.net.listener import Listener

_LISTENER = ListenerConfig(max_body_bytes=MOST_BODY, idle_timeout=600.0)


def bind(host: str, port: int) -> socket.socket:
    """A listening socket.

    :param port: 0: any that is free
    :raises OSError: the address is taken or not ours
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(2048)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


class Service:
    """A simulator that listens in the running event loop, until :meth:`close`."""

    def __init__(self, simulator: Simulator, config: ListenerConfig = _LISTENER) -> None:
        self.simulator = simulator
        self._clock = Clock()
        self._listener = Listener(simulator, config, self._clock)

    async def start(self, sock: socket.socket) -> None:
        self._clock.start(asyncio.get_running_loop())
        await self._listener.serve(sock)

    async def close(self, deadline: float = 0.0) -> None:
        """Stop listening, and cut what is still under way after ``deadline`` seconds."""
        await self._listener.drain(deadline)
        self.simulator.wheel.close()
        self._clock.stop()

    def __repr__(self) -> str:
        return f"<Service {self.simulator!r}, {self._listener!r}>"


def run(
    simulator: Simulator, sock: socket.socket, *, ready: Callable[[], None], with_parent: bool = False
) -> None:
    """Serve until SIGTERM or SIGINT, on uvloop where there is one.

    :param with_parent: end with the process that started this one too: when standard input, if it is a
        pipe, comes to its end
    """

    async def main() -> None:
        loop = asyncio.get_running_loop()
        stop = loop.create_future()

        def on_signal() -> None:
            if not stop.done():
                stop.set_result(None)

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_signal)
        if with_parent and _is_pipe(0):

            def on_input() -> None:
                if not os.read(0, 4096):
                    loop.remove_reader(0)
                    on_signal()

            loop.add_reader(0, on_input)
        service = Service(simulator)
        await service.start(sock)
        ready()
        await stop
        await service.close()

    if sys.platform == "win32":
        asyncio.run(main())
    else:
        import uvloop  # noqa: PLC0415 - not to be had on Windows

        uvloop.run(main())


def tell_ready(fd: int, port: int) -> None:
    """Write the port, as a line, to a file descriptor that a parent reads; close it."""
    with os.fdopen(fd, "w") as pipe:
        pipe.write(f"{port}\n")


def _is_pipe(fd: int) -> bool:
    try:
        mode = os.fstat(fd).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
