"""One worker process as its supervisor sees it: from start to exit status."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, TypeAlias

import msgspec

from penstock.admin.channel import Channel, channel_to_worker
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
    Purge,
    Ready,
    Release,
    Reload,
    Reloaded,
    Report,
    Stay,
    Told,
    ToSupervisor,
)
from penstock.admin.departures import Departures
from penstock.flow.canary import Action
from penstock.flow.sharing import Pool

RELOAD_TIMEOUT = 20.0  # seconds; one that is just starting answers when it has

State: TypeAlias = Literal["starting", "ready", "draining", "gone"]


class WorkerProcess:
    """A started worker.

    :param on_change: called when :attr:`state` has changed
    :param pool: the limits that the workers share; None: this one shares them with nobody
    :param departures: where it is told what upstreams have said of their own end
    """

    def __init__(
        self,
        index: int,
        on_change: Callable[[], None],
        pool: Pool | None = None,
        departures: Departures | None = None,
        everybody: Callable[[], Iterable[WorkerProcess]] = tuple,
    ) -> None:
        self.index = index
        self._everybody = everybody
        self._departures = departures
        self._pool = pool if pool is not None else Pool()
        self.state: State = "starting"
        self.failure: Failed | None = None  # why it could not start
        self.cut = 0  # calls that were hung up when it drained
        self.started = time.monotonic()
        self.version = 0  # of the configuration that it has
        self._pinged = False  # and has said nothing since
        self._silent = 0.0
        self._on_change = on_change
        self._process: asyncio.subprocess.Process | None = None
        self._channel: Channel = channel_to_worker(self._on_message, self._on_lost)
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._reloads: dict[int, asyncio.Future[Any]] = {}

    @classmethod
    async def start(
        cls,
        index: int,
        command: Sequence[str],
        sockets: Sequence[socket.socket],
        config: msgspec.Raw,
        version: int,
        on_change: Callable[[], None],
        pool: Pool,
        departures: Departures,
        everybody: Callable[[], Iterable[WorkerProcess]],
    ) -> WorkerProcess:
        """Start one.

        :param everybody: the workers that there are
        :param sockets: its own listening socket first, then those of the others, which it may have to adopt
        :raises OSError: the process cannot be started
        """
        self = cls(index, on_change, pool, departures, everybody)
        descriptors = [sock.fileno() for sock in sockets]
        ours, theirs = socket.socketpair()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                *("--listen-fds", ",".join(map(str, descriptors))),
                *("--channel-fd", str(theirs.fileno())),
                *("--index", str(index)),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(*descriptors, theirs.fileno()),
                process_group=0,  # Ctrl-C in the terminal is for the supervisor, which drains
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        await self._channel.open(ours)
        self._channel.send(Configure(config, version))
        self.version = version
        return self

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def age(self) -> float:
        return time.monotonic() - self.started

    async def wait(self) -> int:
        """The exit status, negative for a signal.  The channel has been read to its end then."""
        assert self._process is not None
        status = await self._process.wait()
        await self._channel.lost.wait()
        self._become("gone")
        return status

    async def ask(self, seconds: float) -> dict[str, Any] | None:
        """Its state; None if it does not answer in time."""
        if self._channel.lost.is_set() or self.state == "starting":
            return None
        number = next(self._numbers)
        return await self._answer(number, Ask(number), seconds)

    async def explain(
        self, path: str, headers: dict[str, str], body: str, seconds: float
    ) -> dict[str, Any] | None:
        """What a request would come to; None if it does not answer in time."""
        if self._channel.lost.is_set() or self.state != "ready":
            return None
        number = next(self._numbers)
        return await self._answer(number, Explain(number, path, headers, body), seconds)

    async def decide(
        self, model: str, action: Action, reason: str, seconds: float, *, wholly: bool
    ) -> dict[str, Any] | None:
        """What becomes of a model's new version; None if it does not answer in time."""
        if self._channel.lost.is_set() or self.state != "ready":
            return None
        number = next(self._numbers)
        return await self._answer(number, Decide(number, model, action, wholly, reason), seconds)

    async def _answer(
        self, number: int, question: Ask | Explain | Decide, seconds: float
    ) -> dict[str, Any] | None:
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        self._channel.send(question)
        try:
            async with asyncio.timeout(seconds):
                told: dict[str, Any] = await answer
        except (TimeoutError, ConnectionError):
            return None
        finally:
            self._asked.pop(number, None)
        return told

    async def reload(self, config: msgspec.Raw, version: int) -> tuple[str, ...]:
        """:returns: why it did not take the configuration; empty if it did

        One that does not answer in time may take it yet, so that nothing is known of what it has.

        :raises ConnectionError: it is gone
        """
        if self._channel.lost.is_set():
            raise ConnectionError("the worker is gone")
        had, self.version = self.version, 0
        answer = self._reloads[version] = asyncio.get_running_loop().create_future()
        self._channel.send(Reload(config, version))
        try:
            async with asyncio.timeout(RELOAD_TIMEOUT):
                mistakes: tuple[str, ...] = await answer
        except TimeoutError:
            return (f"worker {self.index} does not answer",)
        finally:
            self._reloads.pop(version, None)
        self.version = had if mistakes else version
        return mistakes

    def silence(self, passed: float) -> float:
        """Ask for a sign of life; called again and again.

        :param passed: seconds since the last call, during which the supervisor was itself able to listen
        :returns: for how long a sign has been owed; a worker that is starting owes none
        """
        if self.state not in ("ready", "draining"):
            return 0.0
        if self._pinged:
            self._silent += passed
        else:
            self._pinged, self._silent = True, 0.0
            self._channel.send(Ping())
        return self._silent

    def drain(self, seconds: float, delay: float = 0.0) -> None:
        self._channel.send(Drain(seconds, delay))

    def adopt(self, index: int) -> None:
        self._channel.send(Adopt(index))

    def release(self, index: int) -> None:
        self._channel.send(Release(index))

    def purge(self, tags: tuple[str, ...], keys: tuple[str, ...]) -> None:
        """Kept answers with these tags, or of these keys, count no more."""
        self._channel.send(Purge(tags, keys))

    def depart(self, upstream: str, seconds: float | None, holds: float | None = None) -> None:
        """An upstream goes away in so many seconds; None: some time.  ``holds``: None: until it is taken back."""
        self._channel.send(Depart(upstream, seconds, holds))

    def stay(self, upstream: str) -> None:
        self._channel.send(Stay(upstream))

    def pass_on(self, message: Health) -> None:
        """Tell it what another worker has found out."""
        self._channel.send(message)

    def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            os.kill(self._process.pid, signal.SIGKILL)

    def _on_message(self, message: ToSupervisor) -> None:
        self._pinged = False
        match message:
            case Ready():
                if self.state == "starting":
                    self._become("ready")
            case (
                Told(id=number, state=state)
                | Explained(id=number, found=state)
                | Decided(id=number, found=state)
            ):
                future = self._asked.get(number)
                if future is not None and not future.done():
                    future.set_result(msgspec.json.decode(state))
            case Reloaded(version=version, mistakes=mistakes):
                waiting = self._reloads.get(version)
                if waiting is not None and not waiting.done():
                    waiting.set_result(mistakes)
            case Report(id=number, reports=reports, rejoins=rejoins):
                leases = self._pool.exchange(str(self.pid), reports, time.monotonic(), rejoins=rejoins)
                self._channel.send(Leased(number, leases))
            case Leaves(upstream=upstream, seconds=seconds, holds=holds) if self._departures is not None:
                self._departures.heard(upstream, seconds, holds)
            case IsBack(upstream=upstream) if self._departures is not None:
                self._departures.back(upstream)
            case Health():
                for each in self._everybody():
                    if each is not self:
                        each.pass_on(message)
            case Draining():
                self._become("draining")
            case Failed():
                self.failure = message
            case Drained(cut=cut):
                self.cut = cut

    def _on_lost(self) -> None:
        gone = ConnectionResetError("the worker is gone")
        for future in [*self._asked.values(), *self._reloads.values()]:
            if not future.done():
                future.set_exception(gone)

    def _become(self, state: State) -> None:
        if self.state != state:
            self.state = state
            self._on_change()

    def __repr__(self) -> str:
        pid = self._process.pid if self._process is not None else None
        return f"<WorkerProcess {self.index} pid {pid} {self.state} for {self.age:.1f} s>"


def ended_by(status: int) -> str:
    """What a process's exit status says, in words."""
    if status >= 0:
        return f"status {status}"
    with contextlib.suppress(ValueError):
        return signal.Signals(-status).name
    return f"signal {-status}"
