"""A worker process: one event loop, one gateway, one door, and the line to the supervisor.

Started by the supervisor as ``python -m penstock.admin.worker``.  It inherits its listening socket and
one end of the channel; everything else it is told over the channel.  It never imports FastAPI.

A worker ends in order (port closed, calls in flight finished) when it is told to, when it gets SIGTERM,
and when its supervisor is gone, however that went: no worker is ever left behind.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from penstock import logs
from penstock.admin.channel import channel_to_supervisor, unpack_config
from penstock.admin.channel_messages import (
    Adopt,
    Ask,
    Configure,
    Decide,
    Decided,
    Depart,
    Drain,
    Drained,
    Draining,
    Explain,
    Explained,
    Failed,
    Health,
    IsBack,
    Leased,
    Leaves,
    Ping,
    Pong,
    Purge,
    Ready,
    Release,
    Reload,
    Reloaded,
    Stay,
    Told,
    ToWorker,
)
from penstock.admin.doors import SERVERS, Door, ServerName, make_door
from penstock.admin.leases import ChannelBoard
from penstock.errors import ConfigError, PenstockError
from penstock.metrics import Family, Registry, process_figures, process_metrics
from penstock.net.clock import Clock
from penstock.net.exchange import Application, Repeats

if TYPE_CHECKING:
    from penstock.config.model import Config
    from penstock.flow.canary import Action
    from penstock.flow.lessee import Board

log = logging.getLogger("penstock.worker")

LAST_WORDS = 0.3  # seconds before the deadline of draining, for error events to go out

# When the collector of cycles looks at what: at new containers when so many were made and not freed, at those that
# it has seen once after each third time, and at all after 200 times that.  Nothing on the way of a request is cyclic,
# so what it finds is what calls in flight hold (with 700, Python 3.11's own first, 3 % of the instructions of a
# request) and what is kept of answers: with 10,000 and Python's tenth time, looks of 20 to 75 ms were most of what
# made first tokens late where each is stored (`benchmarks/first_tokens.py`).
COLLECT = (2_000, 2, 200)
# Seconds for which a thread that computes may keep the event loop waiting.  With Python's own 0.005, what writes
# the ledger made the slowest hundredth of 10,000 hits a second a third slower; it costs nothing one can measure.
SWITCH_INTERVAL = 0.0001


class Gateway(Protocol):
    """What a worker needs of ``penstock.gateway.compose.Gateway``."""

    @property
    def reception(self) -> Application: ...
    async def start(self, board: Board | None = None) -> None: ...
    def reload(self, config: Config) -> None: ...
    def state(self) -> dict[str, Any]: ...
    def purge(self, tags: Sequence[str], keys: Sequence[bytes]) -> None: ...
    def explain(self, path: str, headers: dict[str, str], body: bytes) -> dict[str, Any]: ...
    async def decide(self, model: str, action: Action, reason: str, *, wholly: bool) -> dict[str, Any]: ...
    @property
    def leaving(self) -> Leaving: ...
    @property
    def health(self) -> HealthChecks: ...
    @property
    def repeats(self) -> Repeats | None: ...
    async def drain(self, seconds: float) -> int: ...
    async def close(self) -> None: ...


class Leaving(Protocol):
    """What a worker tells of upstreams that go away, and is told; see :class:`penstock.gateway.beside.leaving.Leaving`."""

    on_heard: Callable[[str, float | None, float], None] | None
    on_back: Callable[[str], None] | None

    def announce(self, name: str, seconds: float | None, holds: float | None, /) -> None: ...
    def take_back(self, name: str, /) -> None: ...


class HealthChecks(Protocol):
    """See :class:`penstock.gateway.beside.health.HealthChecks`."""

    asks: bool
    on_verdict: Callable[[str, bool], None] | None

    def heard(self, name: str, /, *, well: bool) -> None: ...


class Build(Protocol):
    def __call__(self, config: Config, *, clock: Clock) -> Gateway: ...


class Worker:
    """The life of one worker, from its first message to its exit status."""

    def __init__(
        self,
        build: Build,
        server: ServerName,
        sockets: Sequence[socket.socket],
        index: int,
        *,
        http3: bool = False,
    ) -> None:
        self._build = build
        self._server = server
        self._http3 = http3
        self._sockets = sockets
        self._index = index
        self._clock = Clock()
        self._first: Configure | None = None
        self._told = asyncio.Event()  # there is a first message, or there is no need for one
        self._stop = asyncio.Event()
        self._deadline: float | None = None  # monotonic; None: nobody said, the configuration's counts
        self._open_until = 0.0  # monotonic: when the port closes, once the end has begun
        self._hurried = asyncio.Event()  # it may close sooner than was said before
        self._ending: asyncio.Task[int] | None = None
        self._channel = channel_to_supervisor(self._on_message, self._on_lost)
        self._board = ChannelBoard(self._channel)
        self._gateway: Gateway | None = None
        self._door: Door | None = None
        self._config: Config | None = None
        self._version = 0
        self._postponed: Reload | None = None
        self._deciding: set[asyncio.Task[None]] = set()
        self._early: list[Depart | Stay] = []  # told before there was a gateway
        self._registry = Registry()
        self._declare_metrics()

    async def run(self, channel_socket: socket.socket) -> int:
        """:returns: the exit status: 0 after an orderly end, 1 if it could not start"""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.stop)
        channel = self._channel
        await channel.open(channel_socket)
        await self._told.wait()
        if self._first is None:
            return 0  # the order to stop came first
        try:
            await self._start(self._first)
        except ConfigError as error:
            channel.send(Failed(error.message, tuple(error.mistakes)))
            await self._leave()
            return 1
        if self._postponed is not None:
            self._on_message(self._postponed)
        sys.setswitchinterval(SWITCH_INTERVAL)
        gc.collect()
        gc.freeze()  # what was loaded until here stays: full collections need not walk it
        gc.set_threshold(*COLLECT)
        channel.send(Ready())
        await self._stop.wait()
        cut = await self._end()
        channel.send(Drained(cut))
        await self._leave()
        return 0

    def stop(self, seconds: float | None = None, delay: float = 0.0) -> None:
        """Begin to end, or end earlier than said before.

        :param seconds: from when the port closes, to the end at the latest
        :param delay: seconds from now, until the port closes
        """
        self._open_until = time.monotonic() + delay
        self._hurried.set()
        if seconds is not None:
            deadline = self._open_until + seconds
            sooner = self._deadline is not None and deadline < self._deadline
            self._deadline = deadline
            if sooner and self._ending is not None:
                self._ending.cancel()  # it starts over with the new deadline
        self._stop.set()
        self._told.set()

    def state(self) -> dict[str, Any]:
        """What the control API shows: the gateway, the door and the process."""
        state = self._gateway.state() if self._gateway is not None else {}
        metrics: list[Family] = list(state.get("metrics", []))
        known = {family.name for family in metrics}
        state["metrics"] = metrics + [own for own in self._registry.collect() if own.name not in known]
        state["process"] = process_figures()
        state["listener"] = self._door.statistics() if self._door is not None else {}
        state["loop_lag"] = self._clock.lag
        return state

    def _declare_metrics(self) -> None:
        registry = self._registry
        process_metrics(registry)
        lag = registry.gauge(
            "penstock_loop_lag_seconds", "How late the event loop was with its last sweep.", merge="max"
        ).labels()
        connections = registry.gauge("penstock_connections", "Open connections of callers.").labels()
        accepted = registry.counter("penstock_connections_total", "Connections of callers.").labels()
        refused = registry.counter(
            "penstock_listener_refusals_total",
            "Requests and connections that the listener refused or cut, by reason.",
            labels=("reason",),
        )

        def collect() -> None:
            lag.set(self._clock.lag)
            figures = self._door.statistics() if self._door is not None else {}
            connections.set(figures.get("open", 0))
            accepted.value = figures.get("accepted", 0)
            for reason, count in figures.get("refused", {}).items():
                refused.labels(reason).value = count

        registry.before_collecting(collect)

    # ---- what the supervisor says ----------------------------------------------------------------

    def _on_message(self, message: ToWorker) -> None:
        match message:
            case Ask(id=number):
                self._channel.send(Told(number, msgspec.Raw(msgspec.json.encode(self.state(), enc_hook=str))))
            case Ping():
                self._channel.send(Pong())
            case Reload() if self._door is None and not self._stop.is_set():
                self._postponed = message  # still starting
            case Reload():
                self._channel.send(Reloaded(message.version, self._reload(message)))
            case Drain(seconds=seconds, delay=delay):
                self.stop(seconds, delay)
            case Adopt(index=index):
                if self._door is not None and self._accepts:
                    self._door.adopt(index)
            case Release(index=index):
                if self._door is not None and self._accepts:
                    self._door.release(index)
            case Purge(tags=tags, keys=keys):
                if self._gateway is not None:
                    self._gateway.purge(tags, [bytes.fromhex(key) for key in keys])
            case Depart() | Stay():
                self._tell_of_departure(message)
            case Health(upstream=upstream, well=well):
                if self._gateway is not None:  # else it is told again, if it is unwell
                    self._gateway.health.heard(upstream, well=well)
            case Explain(id=number, path=path, headers=headers, body=body):
                found = (
                    self._gateway.explain(path, headers, body.encode()) if self._gateway is not None else {}
                )
                self._channel.send(Explained(number, msgspec.Raw(msgspec.json.encode(found))))
            case Decide():
                task = asyncio.ensure_future(self._decide(message))
                self._deciding.add(task)
                task.add_done_callback(self._deciding.discard)
            case Leased():
                self._board.leased(message)
            case Configure():
                self._first = message
                self._told.set()

    @property
    def _accepts(self) -> bool:
        """Whether the port is open, of a worker that has opened it."""
        return not self._stop.is_set() or time.monotonic() < self._open_until

    async def _decide(self, message: Decide) -> None:
        found: dict[str, Any] = {"status": 503, "detail": "this worker is not ready"}
        if self._gateway is not None:
            try:
                found = await self._gateway.decide(
                    message.model, message.action, message.reason, wholly=message.wholly
                )
            except PenstockError as error:
                found = {"status": error.status, "detail": error.message}
        self._channel.send(Decided(message.id, msgspec.Raw(msgspec.json.encode(found))))

    def _tell_of_departure(self, message: Depart | Stay) -> None:
        if self._gateway is None:
            self._early.append(message)
        elif isinstance(message, Depart):
            self._gateway.leaving.announce(message.upstream, message.seconds, message.holds)
        else:
            self._gateway.leaving.take_back(message.upstream)

    def _on_lost(self) -> None:
        if not self._stop.is_set():
            log.warning("the supervisor is gone; finishing what is in flight")
        self.stop()

    # ---- the life --------------------------------------------------------------------------------

    async def _start(self, first: Configure) -> None:
        config = unpack_config(first.config)
        self._clock.add(logs.configure(config.log))
        self._config, self._version = config, first.version
        self._clock.start(asyncio.get_running_loop())
        self._gateway = self._build(config, clock=self._clock)
        for message in self._early:
            self._tell_of_departure(message)
        leaving, send = self._gateway.leaving, self._channel.send
        leaving.on_heard = lambda name, seconds, holds: send(Leaves(name, seconds, holds))
        leaving.on_back = lambda name: send(IsBack(name))
        health = self._gateway.health
        health.asks = self._index == 0  # one for the machine; if it is not there, it soon is again
        health.on_verdict = lambda name, well: send(Health(name, well))
        await self._gateway.start(self._board)
        door = make_door(
            self._server,
            self._gateway.reception,
            config,
            self._clock,
            self._sockets,
            self._index,
            repeats=self._gateway.repeats,
            http3=self._http3,
        )
        await door.open()
        self._door = door

    def _reload(self, message: Reload) -> tuple[str, ...]:
        """:returns: why the configuration was not taken; empty if it was"""
        if self._gateway is None or self._door is None or self._stop.is_set():
            return ()  # it takes no calls any more: any configuration will do
        config = unpack_config(message.config)
        try:
            if config.tls is not None:
                self._door.renew_certificate(config.tls)
            self._gateway.reload(config)
        except ConfigError as error:
            return error.mistakes or (error.message,)
        except Exception as error:
            log.exception("a configuration could not be taken")
            return (f"{type(error).__name__}: {error}",)
        self._config, self._version = config, message.version
        return ()

    async def _end(self) -> int:
        """:returns: how many calls were cut at the deadline"""
        assert self._config is not None
        assert self._door is not None
        self._channel.send(Draining())
        self._door.announce_end()
        while (left := self._open_until - time.monotonic()) > 0:
            self._hurried.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._hurried.wait()
        if self._deadline is None:
            self._deadline = time.monotonic() + self._config.drain_timeout
        while True:
            self._ending = asyncio.ensure_future(self._drain())
            try:
                return await self._ending
            except asyncio.CancelledError:
                continue  # an earlier deadline came

    async def _drain(self) -> int:
        assert self._door is not None
        assert self._gateway is not None
        closing = asyncio.ensure_future(self._door.close(self._left()))
        try:
            # Who is still being answered shortly before the deadline is told so, before the door cuts.
            await asyncio.wait({closing}, timeout=max(0.0, self._left() - LAST_WORDS))
            cut = 0 if closing.done() else await self._gateway.drain(0.0)
            cut += await closing
        except asyncio.CancelledError:
            closing.cancel()
            raise
        cut += await self._gateway.drain(self._left())
        await self._gateway.close()
        self._clock.stop()
        return cut

    def _left(self) -> float:
        assert self._deadline is not None
        return max(0.0, self._deadline - time.monotonic())

    async def _leave(self) -> None:
        """Let the last message out."""
        self._channel.close()
        await self._channel.lost.wait()

    def __repr__(self) -> str:
        state = "stopping" if self._stop.is_set() else "serving" if self._door else "starting"
        return f"<Worker {os.getpid()} {state}, config {self._version}>"


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """uvloop, or asyncio's own loop where it is not to be had."""
    try:
        import uvloop  # noqa: PLC0415
    except ImportError:
        return asyncio.new_event_loop
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def main(arguments: Sequence[str] | None = None, build: Build | None = None) -> int:
    """:param build: makes the gateway; ``penstock.gateway.compose.build`` if not given"""
    parser = argparse.ArgumentParser(prog="penstock.admin.worker", description="Started by the supervisor.")
    parser.add_argument("--listen-fds", required=True, help="by place, with commas; all or only our own")
    parser.add_argument("--index", type=int, required=True, help="our place")
    parser.add_argument("--channel-fd", type=int, required=True)
    parser.add_argument("--server", choices=SERVERS, default="own")
    parser.add_argument("--http3", action="store_true", help="behind hypercorn, at the same port of UDP")
    options = parser.parse_args(arguments)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # these are for the supervisor, which tells us what to do
    sockets = [socket.socket(fileno=int(word)) for word in options.listen_fds.split(",")]
    channel = socket.socket(fileno=options.channel_fd)
    for sock in (*sockets, channel):
        sock.setblocking(False)
        sock.set_inheritable(False)
    if build is None:
        from penstock.gateway.compose import build as compose  # noqa: PLC0415 - tests bring their own

        build = compose
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        worker = Worker(build, options.server, sockets, options.index, http3=options.http3)
        return runner.run(worker.run(channel))


if __name__ == "__main__":
    sys.exit(main())
