"""How a worker lets requests in: its own listener, or somebody else's ASGI server.

All of them serve the same gateway on the socket that the supervisor bound.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import logging
import socket
import ssl
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, get_args

import msgspec

from penstock.config.model import Config, TLSConfig
from penstock.errors import ConfigError
from penstock.installing import install_command
from penstock.net.tls import server_context

if TYPE_CHECKING:
    from penstock.net.clock import Clock
    from penstock.net.exchange import Application, Repeats
    from penstock.net.listener import Listener

log = logging.getLogger("penstock.worker")

ServerName: TypeAlias = Literal["own", "uvicorn", "granian", "hypercorn"]
SERVERS: tuple[ServerName, ...] = get_args(ServerName)


class Door(Protocol):
    async def open(self) -> None:
        """Accept connections; returns when the first one can be answered."""

    def announce_end(self) -> None:
        """From now on each answer ends its connection, as far as the server can be told."""

    async def close(self, seconds: float) -> int:
        """Close the port, then wait ``seconds`` for requests in flight.

        :returns: how many connections were cut at the deadline
        """

    def adopt(self, index: int) -> None:
        """Accept on the socket of another worker too, as long as that one is not there."""

    def release(self, index: int) -> None:
        """Leave that socket to its worker again."""

    def renew_certificate(self, tls: TLSConfig) -> None:
        """New connections get the certificate that the files hold now."""

    def statistics(self) -> dict[str, Any]:
        """As :class:`penstock.net.listener.ListenerStatistics`, as far as the server tells."""


def check_server(name: ServerName) -> None:
    """:raises penstock.errors.ConfigError: the package is missing"""
    if name != "own" and importlib.util.find_spec(name) is None:
        line = install_command("" if name == "uvicorn" else name)
        raise ConfigError(f"--server {name} needs a package that is not installed: {line}")


def server_for(name: ServerName, *, http2: bool, http3: bool) -> ServerName:
    """The server that speaks these protocols: the one that is named, or one that does if it is our own.

    :raises penstock.errors.ConfigError: the one that is named does not
    """
    speak = {"hypercorn"} if http3 else {"hypercorn", "granian"} if http2 else set(SERVERS)
    if name in speak:
        return name
    if name == "own":
        return "hypercorn"
    option = "--http3" if http3 else "--http2"
    raise ConfigError(f"--server {name} does not speak {option.removeprefix('--')}; leave --server out")


def check_protocols(config: Config, *, http2: bool, http3: bool) -> None:
    """:raises penstock.errors.ConfigError: something is missing for these protocols"""
    if (http2 or http3) and config.tls is None:
        raise ConfigError("HTTP/2 and HTTP/3 are agreed upon in TLS: the configuration needs `tls` for them")
    if http3 and config.tls is not None and config.tls.key_password is not None:
        raise ConfigError(
            "HTTP/3 needs a private key that is not encrypted: hypercorn reads no tls.key_password for it"
        )
    if http3 and importlib.util.find_spec("aioquic") is None:
        raise ConfigError(f"--http3 needs a package that is not installed: {install_command('http3')}")


def listens_itself(name: ServerName) -> bool:
    """Whether the server makes its own listening socket beside the supervisor's (which only reserves the port)."""
    return name == "granian"


def make_door(
    name: ServerName,
    application: Application,
    config: Config,
    clock: Clock,
    sockets: Sequence[socket.socket],
    index: int,
    *,
    repeats: Repeats | None = None,
    http3: bool = False,
) -> Door:
    """The door of the worker in place ``index``; ``sockets`` are those of all places, or only its own.

    :param repeats: knows answers by their requests' bytes, which only the own server has
    """
    if name == "own":
        return OwnDoor(application, config, clock, sockets, index, repeats)
    from penstock.asgi import ASGIApplication  # noqa: PLC0415 - only with a foreign server

    app, sock = ASGIApplication(application, config.listener), sockets[0]
    if name == "uvicorn":
        return UvicornDoor(app, config, sock)
    if name == "hypercorn":
        return HypercornDoor(app, config, sock, http3=http3)
    return GranianDoor(app, config, sock)


def renew(context: ssl.SSLContext, tls: TLSConfig) -> None:
    """Load the files' present certificate into a context that is in use.

    :raises penstock.errors.ConfigError: they cannot be read, or do not fit together; nothing has changed
    """
    server_context(tls)  # a bad pair must not get into the living context
    password = tls.key_password.reveal() if tls.key_password else ""
    context.load_cert_chain(tls.certificate, tls.key, password=lambda: password)


def _fingerprint(tls: TLSConfig) -> bytes:
    """Tells one content of the files from another."""
    files = (Path(tls.certificate).read_bytes(), Path(tls.key).read_bytes())
    return hashlib.blake2b(b"".join(len(data).to_bytes(8, "big") + data for data in files)).digest()


class OwnDoor:
    """The listener of ``penstock.net``."""

    def __init__(
        self,
        application: Application,
        config: Config,
        clock: Clock,
        sockets: Sequence[socket.socket],
        index: int,
        repeats: Repeats | None = None,
    ) -> None:
        from penstock.net.listener import Listener  # noqa: PLC0415 - not with a foreign server

        self._listener: Listener = Listener(application, config.listener, clock, repeats=repeats)
        self._own = sockets[index]
        # The ways to the accept queues: of our socket too, once the event loop has let go of it.
        self._queues = [sock.dup() if sock is self._own else sock for sock in sockets]
        self._adopted: set[int] = set()
        self._taking: set[asyncio.Task[None]] = set()
        self._tls = server_context(config.tls) if config.tls else None
        self._handshake_timeout = config.listener.header_timeout or None

    async def open(self) -> None:
        await self._listener.serve(self._own, ssl=self._tls)

    def announce_end(self) -> None:
        self._listener.announce_end()

    async def close(self, seconds: float) -> int:
        deadline = time.monotonic() + seconds
        self._close_port()
        if self._taking:
            await asyncio.wait(self._taking, timeout=seconds)
        return await self._listener.drain(max(0.0, deadline - time.monotonic()))

    def adopt(self, index: int) -> None:
        self._adopted.add(index)
        asyncio.get_running_loop().add_reader(self._queues[index], self._take_waiting, index)

    def release(self, index: int) -> None:
        if index in self._adopted:
            self._adopted.discard(index)
            asyncio.get_running_loop().remove_reader(self._queues[index])

    def _close_port(self) -> None:
        """Closing a listening socket resets who waits in its accept queue, so these are taken in before.

        That goes for every place's queue: its own worker may be dead.
        """
        self._listener.stop_accepting()
        for index in list(self._adopted):
            self.release(index)
        while self._queues:
            self._take_waiting(-1)
            self._queues.pop().close()

    def _take_waiting(self, index: int) -> None:
        """Take in all who wait in an accept queue."""
        while True:
            try:
                sock, _ = self._queues[index].accept()
            except OSError:  # nobody waits (any more)
                return
            sock.setblocking(False)
            task = asyncio.create_task(self._take(sock))
            self._taking.add(task)
            task.add_done_callback(self._taking.discard)

    async def _take(self, sock: socket.socket) -> None:
        loop, factory = asyncio.get_running_loop(), self._listener.protocol_factory
        try:
            if self._tls is None:
                await loop.connect_accepted_socket(factory, sock)
            else:
                await loop.connect_accepted_socket(
                    factory, sock, ssl=self._tls, ssl_handshake_timeout=self._handshake_timeout
                )
        except OSError:  # the client has left, or its TLS is broken
            sock.close()

    def renew_certificate(self, tls: TLSConfig) -> None:
        if self._tls is not None:
            renew(self._tls, tls)

    def statistics(self) -> dict[str, Any]:
        return msgspec.structs.asdict(self._listener.statistics())


def _tls_arguments(config: Config) -> TLSConfig | None:
    if config.tls is not None:
        server_context(config.tls)  # our own clear error, before the server's
    return config.tls


class _Alone:
    """A server that accepts on its own socket only, and ends connections when it likes."""

    def announce_end(self) -> None:
        pass

    def adopt(self, index: int) -> None:
        raise NotImplementedError("only the own listener accepts for others")

    def release(self, index: int) -> None:
        raise NotImplementedError("only the own listener accepts for others")


class UvicornDoor(_Alone):
    def __init__(self, app: Any, config: Config, sock: socket.socket) -> None:
        import uvicorn  # noqa: PLC0415

        from penstock.admin.guest import GuestServer  # noqa: PLC0415

        tls = _tls_arguments(config)
        settings = uvicorn.Config(
            app,
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # whom to believe says `listener.trusted_proxies`
            timeout_keep_alive=round(config.listener.idle_timeout),
            ssl_certfile=tls.certificate if tls else None,
            ssl_keyfile=tls.key if tls else None,
            ssl_keyfile_password=tls.key_password.reveal() if tls and tls.key_password else None,
        )
        self._server = GuestServer(settings)
        self._settings = settings
        self._sock = sock
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        self._task = await self._server.start(self._sock)

    async def close(self, seconds: float) -> int:
        assert self._task is not None
        self._settings.timeout_graceful_shutdown = max(1, round(seconds))
        tasks = self._server.server_state.tasks
        self._server.should_exit = True
        _, late = await asyncio.wait([self._task], timeout=seconds)
        cut = len(tasks) if late else 0
        if late:
            self._server.force_exit = True
            for task in list(tasks):
                task.cancel()
        await self._task
        return cut

    def renew_certificate(self, tls: TLSConfig) -> None:
        context = self._settings.ssl
        if context is not None:
            renew(context, tls)

    def statistics(self) -> dict[str, Any]:
        state = self._server.server_state
        return {
            "open": len(state.connections),
            "in_progress": len(state.tasks),
            "requests": state.total_requests,
        }


def _datagrams(sock: socket.socket) -> socket.socket:
    """A UDP socket at the address of a TCP socket, beside those of the other workers.

    The kernel chooses among them by the addresses of both ends, so that a QUIC connection stays where it began as
    long as its client stays where it is.
    """
    datagrams = socket.socket(sock.family, socket.SOCK_DGRAM)
    datagrams.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        datagrams.bind(sock.getsockname())
    except OSError as error:
        datagrams.close()
        raise ConfigError(f"the port cannot be used for HTTP/3 (UDP): {error.strerror}") from error
    return datagrams


class _Counted:
    """An ASGI application, and whether it has requests in flight."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        self._in_flight += 1
        self._idle.clear()
        try:
            await self._app(scope, receive, send)
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._idle.set()

    async def wait_idle(self) -> None:
        await self._idle.wait()


LAST_DATAGRAMS = 0.3  # seconds for what the last answers still have to send, and to send again, over QUIC


class HypercornDoor(_Alone):
    def __init__(self, app: Any, config: Config, sock: socket.socket, *, http3: bool = False) -> None:
        from hypercorn.config import Config as Defaults  # noqa: PLC0415

        from penstock.admin.shut_windows import wait_at_shut_windows  # noqa: PLC0415

        wait_at_shut_windows()

        class Settings(Defaults):
            """hypercorn's, that keep its TLS context within reach."""

            context: ssl.SSLContext | None = None

            def create_ssl_context(self) -> ssl.SSLContext | None:
                self.context = super().create_ssl_context()
                return self.context

        tls = _tls_arguments(config)
        settings = Settings()
        settings.bind = [f"fd://{sock.fileno()}"]
        settings.accesslog = None
        settings.errorlog = None
        settings.backlog = 4096
        settings.include_server_header = False
        settings.keep_alive_timeout = config.listener.idle_timeout
        if tls:
            settings.certfile, settings.keyfile = tls.certificate, tls.key
            settings.keyfile_password = tls.key_password.reveal() if tls.key_password else None
        self._datagrams = _datagrams(sock) if http3 else None
        if self._datagrams is not None:
            from penstock.admin.guarded_quic import guard  # noqa: PLC0415

            guard(config.listener.max_connections)
            settings.quic_bind = [f"fd://{self._datagrams.fileno()}"]  # hypercorn tells of it: Alt-Svc
        self._certificate = _fingerprint(tls) if tls else None
        self._app = _Counted(app)
        self._settings = settings
        self._sock = sock
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        from hypercorn.asyncio import serve  # noqa: PLC0415

        opened = asyncio.Event()

        async def until_stop() -> None:
            opened.set()  # hypercorn begins to wait for this when its sockets accept
            await self._stop.wait()

        self._task = asyncio.create_task(
            serve(self._app, self._settings, shutdown_trigger=until_stop, mode="asgi")
        )
        waiting = asyncio.create_task(opened.wait())
        await asyncio.wait([self._task, waiting], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if self._task.done():
            self._task.result()
        self._sock.detach()  # hypercorn closes it
        if self._datagrams is not None:
            self._datagrams.detach()

    async def close(self, seconds: float) -> int:
        assert self._task is not None
        self._settings.graceful_timeout = seconds
        self._stop.set()
        if self._settings.quic_bind:
            await self._close_quic(self._task, seconds)
        else:
            await self._task
        return 0

    async def _close_quic(self, serving: asyncio.Task[None], seconds: float) -> None:
        """Hypercorn would wait all of its time for its QUIC servers, which end only by being cancelled."""
        idle = asyncio.create_task(self._app.wait_idle())
        await asyncio.wait({serving, idle}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        idle.cancel()
        await asyncio.wait({serving}, timeout=min(seconds, LAST_DATAGRAMS))
        for task in asyncio.all_tasks():
            if getattr(task.get_coro(), "__qualname__", "") == "UDPServer.run":
                task.cancel()
        await asyncio.wait({serving})

    def renew_certificate(self, tls: TLSConfig) -> None:
        if self._settings.context is not None:
            renew(self._settings.context, tls)
        found = _fingerprint(tls)
        if self._settings.quic_bind and found != self._certificate:
            self._certificate = found
            log.warning(
                "tls has changed: HTTP/1.1 and HTTP/2 use it, HTTP/3 keeps the old certificate until a restart"
            )

    def statistics(self) -> dict[str, Any]:
        return {}


class GranianDoor(_Alone):
    """granian accepts in Rust, on a socket of its own beside the one that reserves the port."""

    def __init__(self, app: Any, config: Config, sock: socket.socket) -> None:
        from granian.constants import Interfaces  # noqa: PLC0415
        from granian.http import HTTP1Settings  # noqa: PLC0415
        from granian.server.embed import Server  # noqa: PLC0415

        tls = _tls_arguments(config)
        host, port = sock.getsockname()[:2]
        self._server = Server(
            app,
            address=host,
            port=port,
            interface=Interfaces.ASGINL,
            websockets=False,
            log_enabled=False,
            http1_settings=HTTP1Settings(header_read_timeout=round(config.listener.header_timeout * 1000)),
            ssl_cert=Path(tls.certificate) if tls else None,
            ssl_key=Path(tls.key) if tls else None,
            ssl_key_password=tls.key_password.reveal() if tls and tls.key_password else None,
        )
        self._sock = sock
        self._certificate = _fingerprint(tls) if tls else None
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        self._task = asyncio.create_task(self._server.serve())
        await _wait_answering(self._sock.getsockname()[:2], self._task)

    async def close(self, seconds: float) -> int:
        assert self._task is not None
        self._sock.close()
        self._server.stop()  # type: ignore[no-untyped-call]
        _, late = await asyncio.wait([self._task], timeout=seconds)
        if late:
            self._task.cancel()
            return 1
        return 0

    def renew_certificate(self, tls: TLSConfig) -> None:
        """It cannot; but nothing else of a new configuration depends on that."""
        found = _fingerprint(tls)
        if found != self._certificate:
            self._certificate = found
            log.warning("tls has changed, which needs a restart behind granian; the old certificate stays")

    def statistics(self) -> dict[str, Any]:
        return {}


async def _wait_answering(address: tuple[str, int], server: asyncio.Task[None]) -> None:
    """Until a connection is accepted: granian does not say when it listens."""
    while not server.done():
        try:
            _, writer = await asyncio.open_connection(*address)
        except ConnectionRefusedError:
            await asyncio.sleep(0.01)
            continue
        writer.close()
        return
    server.result()
