"""The first process: binds the port, keeps the workers alive, hands them the configuration, shows how they are.

There is always one, also for a single worker, so that there is one way in which Penstock runs: the
supervisor holds the control API (and with it FastAPI) and no caller's byte; the workers hold the callers.

* **Start.** The sockets are bound here, so that a port in use is one clear line and not N tracebacks.
  Workers start while the control API is still being imported.
* **Death of a worker.** Its socket lives on in this process with its accept queue; who connects meanwhile
  waits and is answered by the replacement.  Deaths in a row are answered ever more slowly.
* **A worker that hangs.** One whose event loop gives no sign of life for ``worker_timeout`` is killed.
* **Beside it.** The simulator and local models are processes of their own, started anew when they die.
* **Reload.** SIGHUP, or a file that changed: read, check, and only then handed out; one worker that
  cannot take it, and all go back to what they had.  Connections never notice.
* **End.** SIGTERM or SIGINT: the gateway is not ready any more, and after ``drain_delay`` the ports close; what is in
  flight ends, at the latest after ``drain_timeout``; then the simulator and the control API go.  A second SIGINT ends
  at once.  When this process is killed, the workers see the end of their channel and drain by themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from penstock import __version__
from penstock.admin.address import Address, bind_exclusively, bind_shared, parse_address
from penstock.admin.channel import pack_config
from penstock.admin.controlled import ReloadOutcome
from penstock.admin.departures import Departures
from penstock.admin.doors import ServerName, check_protocols, check_server, listens_itself, server_for
from penstock.admin.elsewhere import Elsewhere
from penstock.admin.fixed import keep_fixed
from penstock.admin.open_files import allow_open_files
from penstock.admin.process import WorkerProcess, ended_by
from penstock.admin.slot import Slot
from penstock.admin.totals import Totals
from penstock.admin.watch import FileWatch
from penstock.admin.watchdog import Watchdog
from penstock.config import expiry
from penstock.config.model import Config
from penstock.config.reminder import Reminder
from penstock.errors import ConfigError
from penstock.flow.sharing import Pool
from penstock.lab.embedded import EmbeddedSimulator, wants_simulator
from penstock.metrics import Families, Registry, identity_metrics, process_metrics
from penstock.net.tls import server_context
from penstock.upstream.local import LocalEngines

if TYPE_CHECKING:
    from penstock.admin.guest import GuestServer

log = logging.getLogger("penstock.supervisor")

WORKER_COMMAND = (sys.executable, "-P", "-m", "penstock.admin.worker")
ASK_TIMEOUT = 1.0  # seconds that a worker has to tell its state
WATCH_INTERVAL = 1.0  # seconds between two looks at the files
KILL_AFTER = 5.0  # seconds past its deadline that a draining worker is given before it is killed
HURRY = 2.0  # the same after a second SIGINT
LAST_START = 1.0  # seconds before the port closes: a worker that is started later would be too late
ALONE = 2.0  # seconds between two starts of a worker while there is no other one


class Supervisor:
    """Runs one gateway; to the control API it is a :class:`~penstock.admin.controlled.Controlled`.

    :param reread: gives the configuration anew when a reload is asked for
    :param files: those that ``reread`` reads; they are watched for changes
    :param on_ready: called once, when every worker answers and the control API does
    :param worker_command: how a worker is started; tests bring their own
    :param watch_interval: seconds between two looks at the files
    """

    def __init__(
        self,
        config: Config,
        *,
        reread: Callable[[], Config] | None = None,
        files: Callable[[], Iterable[Path]] = tuple,
        server: ServerName = "own",
        http2: bool = False,
        http3: bool = False,
        on_ready: Callable[[Supervisor], None] | None = None,
        worker_command: Sequence[str] = WORKER_COMMAND,
        watch_interval: float = WATCH_INTERVAL,
    ) -> None:
        self.config = config
        self.version = 1
        self.slots: list[Slot] = []
        self.listen = parse_address(config.listen)
        self.control = parse_address(config.control, "control")
        self.stopping = False
        self.started = False  # every worker has been ready once
        self._open_until = 0.0  # monotonic; of a gateway that is ending
        self.registry = Registry()
        self._reread = reread
        self._files = files
        self._server: ServerName = server_for(server, http2=http2, http3=http3)
        self._http2 = http2
        self._http3 = http3
        self._on_ready = on_ready
        self._worker_command = tuple(worker_command)
        self._watch_interval = watch_interval
        self._pool = Pool()
        self.departures = Departures(self._present, config.departures)
        self._elsewhere = Elsewhere(self.departures, lambda: self.config)
        self._simulator = EmbeddedSimulator()
        self._engines = LocalEngines()
        self._control_socket: socket.socket | None = None
        self._control: tuple[GuestServer, asyncio.Task[None]] | None = None
        self._stop = asyncio.Event()
        self._changed = asyncio.Event()  # some worker's state
        self._hurry = False
        self._failure: ConfigError | None = None
        self._reloading = asyncio.Lock()
        self._hangups: set[asyncio.Future[ReloadOutcome]] = set()
        self._watch = FileWatch(())
        self._reminder = Reminder()
        self._totals = Totals()
        self._declare_metrics()

    # ---- life ------------------------------------------------------------------------------------

    async def run(self) -> int:
        """Until a signal: the exit status.

        :raises penstock.errors.ConfigError: a port is in use, a worker cannot start with this configuration
        """
        check_server(self._server)
        check_protocols(self.config, http2=self._http2, http3=self._http3)
        if self.config.tls is not None:
            server_context(self.config.tls)
        loop = asyncio.get_running_loop()
        keepers: list[asyncio.Task[None]] = []
        control: asyncio.Task[None] | None = None
        watching: asyncio.Task[None] | None = None
        hearing: asyncio.Task[None] | None = None
        try:
            self._bind()
            loop.add_signal_handler(signal.SIGTERM, self.stop)
            loop.add_signal_handler(signal.SIGINT, self._interrupted)
            loop.add_signal_handler(signal.SIGHUP, self._hung_up)
            self._warn_of_open_control()
            allow_open_files(self.config)
            self._watch.follow(self._watched(self.config))
            control = asyncio.create_task(self._start_control())
            self.config = await self._resolve(self.config)
            keepers = [asyncio.create_task(self._keep(slot)) for slot in self.slots]
            watching = asyncio.create_task(self._watch_workers())
            hearing = asyncio.create_task(self._elsewhere.run())
            await control
            await self._wait_started()
            if not self._stop.is_set():
                self.started = True
                log.info("ready on %s, control on %s, %d workers", self.listen, self.control, len(self.slots))
                if self._on_ready is not None:
                    self._on_ready(self)
                await self._watch_files()
            if self._failure is not None:
                raise self._failure
        finally:
            self.stop()
            await self._end(keepers)
            if hearing is not None:
                hearing.cancel()
                await asyncio.wait([hearing])
            if watching is not None:
                await watching
            await self._simulator.close()
            await self._engines.close()
            await self._end_control(control)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)
        return 130 if self._hurry else 0

    def stop(self) -> None:
        """Begin to drain."""
        if not self.stopping:
            self.stopping = True
            self._open_until = time.monotonic() + (self.config.drain_delay if self.started else 0.0)
            self._stop.set()
            self._changed.set()

    def _delay_left(self) -> float:
        """Seconds until the port closes, of a gateway that is ending."""
        return 0.0 if self._hurry else max(0.0, self._open_until - time.monotonic())

    def _interrupted(self) -> None:
        if self.stopping:
            self._hurry = True
            for slot in self.slots:
                if slot.process is not None:
                    slot.process.drain(0.0)
            self._changed.set()
        self.stop()

    def _hung_up(self) -> None:
        task = asyncio.ensure_future(self.reload())
        self._hangups.add(task)
        task.add_done_callback(self._hangups.discard)

    def _bind(self) -> None:
        # The control port is nobody else's, and comes first: of two supervisors that start in the same
        # instant one fails here, before they could share the other port.
        self._control_socket = bind_exclusively(self.control, "control")
        self.control = Address(self.control.host, self._control_socket.getsockname()[1])
        sockets = bind_shared(self.listen, self.config.workers, listening=not listens_itself(self._server))
        self.listen = Address(self.listen.host, sockets[0].getsockname()[1])
        self.slots = [Slot(index, sock) for index, sock in enumerate(sockets)]

    def _warn_of_open_control(self) -> None:
        if not self.control.loopback and self.config.control_key is None:
            log.warning("the control port %s is open to other machines and has no control_key", self.control)

    async def _resolve(self, config: Config) -> Config:
        """Start the simulator and local models whose address the configuration leaves open, and fill it in."""
        config = await self._engines.resolve(config)
        if not wants_simulator(config):
            return config
        if not self._simulator.port:
            await self._simulator.start()
        return self._simulator.fill(config)

    async def _wait_started(self) -> None:
        while not self.stopping:
            self._changed.clear()
            if self._control is not None and all(slot.state == "ready" for slot in self.slots):
                return
            await self._changed.wait()

    # ---- workers ---------------------------------------------------------------------------------

    async def _keep(self, slot: Slot) -> None:
        """Keep one slot filled until the end, and while the gateway ends for as long as callers may still come."""
        while self._takes_callers:
            process = await self._start_worker(slot)
            if process is None:
                continue
            slot.process = process
            self.departures.tell(process)
            if self.stopping:  # the order to drain went out while this one was being started
                process.drain(self.config.drain_timeout, self._delay_left())
            status = await process.wait()
            self._totals.died(slot.index)
            self._changed.set()
            if not self._takes_callers or (self.stopping and not status):
                return
            if not self.started:
                self._give_up(process, status)
                return
            delay = slot.backoff.delay(process.age)
            why = process.failure.text if process.failure is not None else ended_by(status)
            if self.stopping and delay:
                log.error(
                    "worker %d (pid %d) died again: %s; the others end without it",
                    slot.index,
                    process.pid,
                    why,
                )
                return
            log.error(
                "worker %d (pid %d) died: %s; another starts in %.0f s", slot.index, process.pid, why, delay
            )
            slot.restarts += 1
            self._restarts.add(1)
            await self._back_off(delay)

    @property
    def _takes_callers(self) -> bool:
        """Whether the port is open, and will be for long enough that a worker can be started."""
        return not self.stopping or self._delay_left() > LAST_START

    def _present(self) -> list[WorkerProcess]:
        return [slot.process for slot in self.slots if slot.process]

    async def _start_worker(self, slot: Slot) -> WorkerProcess | None:
        """None: the system would not start a process; that has been waited out."""
        try:
            return await WorkerProcess.start(
                slot.index,
                (*self._worker_command, "--server", self._server, *["--http3"] * self._http3),
                self._sockets(slot),
                pack_config(self.config),
                self.version,
                self._worker_changed,
                self._pool,
                self.departures,
                self._present,
            )
        except OSError as error:
            delay = slot.backoff.delay(0.0)
            log.error("worker %d cannot be started: %s; next try in %.0f s", slot.index, error, delay)  # noqa: TRY400
            await self._pause(delay)
            return None

    def _sockets(self, slot: Slot) -> list[socket.socket]:
        """What a worker inherits: every place's socket, where it could accept on one; else only its own."""
        if self._server != "own":
            return [slot.listening]
        return [other.listening for other in self.slots]

    def _worker_changed(self) -> None:
        """Have somebody accept on every socket.

        The kernel spreads connections over all sockets, whether or not anybody is there: without this a
        worker that cannot be kept alive would leave its share of the callers waiting for half a minute.
        """
        self._changed.set()
        if self._server != "own" or not self.started or not self._takes_callers:
            return
        # One that drains still accepts, until the port closes.
        states = ("ready", "draining") if self.stopping else ("ready",)
        ready = [slot.process for slot in self.slots if slot.process and slot.process.state in states]
        for slot in self.slots:
            if slot.adopter is not None and (slot.state in states or slot.adopter not in ready):
                slot.adopter.release(slot.index)
                slot.adopter = None
            if slot.state not in states and slot.adopter is None and ready:
                slot.adopter = ready[slot.index % len(ready)]
                slot.adopter.adopt(slot.index)

    async def _watch_workers(self) -> None:
        """Kill the workers that hang; somebody else starts others in their places."""
        watchdog = Watchdog()
        while not self.stopping:
            limit = self.config.worker_timeout
            await self._pause(watchdog.interval(limit))
            processes = [slot.process for slot in self.slots if slot.process is not None]
            for process in watchdog.hanging(processes, limit) if not self.stopping else ():
                log.error(
                    "worker %d (pid %d) has given no sign of life for %g s and is killed",
                    *(process.index, process.pid, limit),
                )
                process.kill()

    async def _back_off(self, seconds: float) -> None:
        """Wait before a worker is started once more; not for long where no other one answers callers."""
        until = time.monotonic() + seconds
        while not self.stopping and (left := until - time.monotonic()) > 0:
            await self._pause(min(left, ALONE))
            if all(slot.state == "gone" for slot in self.slots):
                return

    async def _pause(self, seconds: float) -> None:
        """Wait, but not past the order to stop."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()

    def _give_up(self, process: WorkerProcess, status: int) -> None:
        """A worker that cannot even start once is a mistake to be told, not one to repeat."""
        if process.failure is not None:
            self._failure = ConfigError(process.failure.message, process.failure.mistakes)
        else:
            self._failure = ConfigError(
                f"a worker ended while it was starting ({ended_by(status)}); the log says why"
            )
        self.stop()

    async def _end(self, keepers: Sequence[asyncio.Task[None]]) -> None:
        """Close the port, let the workers finish, see that all are gone."""
        delay = self._delay_left()
        deadline = time.monotonic() + delay + self.config.drain_timeout
        for slot in self.slots:
            if slot.process is not None and slot.process.state != "gone":
                slot.process.drain(self.config.drain_timeout, delay)
        if keepers and self._failure is None:
            if delay:
                log.info("not ready any more; the port closes in %.0f s", delay)
            log.info("draining, for %.0f s at most", self.config.drain_timeout)
        hurried = False
        while not all(keeper.done() for keeper in keepers):
            self._changed.clear()
            if not self._takes_callers:
                self._close_sockets()
            if self._hurry and not hurried:
                hurried = True
                deadline = time.monotonic() + HURRY - KILL_AFTER
            if time.monotonic() > deadline + KILL_AFTER:
                for slot in self.slots:
                    if slot.process is not None and slot.process.state != "gone":
                        log.error("worker %d did not end in time and is killed", slot.index)
                        slot.process.kill()
                break
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(asyncio.get_running_loop().time() + 0.5):
                    await self._changed.wait()
        self._close_sockets()
        for result in await asyncio.gather(*keepers, return_exceptions=True):
            if isinstance(result, BaseException):
                log.error("a worker could not be kept", exc_info=result)
        cut = sum(slot.process.cut for slot in self.slots if slot.process is not None)
        if cut:
            log.warning("%d calls were cut at the deadline", cut)
        if keepers and self._failure is None:
            log.info("stopped")

    def _close_sockets(self) -> None:
        """The workers hold the last copies: they empty the queues, then close."""
        for slot in self.slots:
            slot.listening.close()

    # ---- configuration ---------------------------------------------------------------------------

    async def _watch_files(self) -> None:
        while not self.stopping:
            for sentence in self._reminder.due(self.config, time.time(), time.monotonic()):
                log.warning("%s", sentence)
            await self._pause(self._watch_interval)
            if not self.stopping and self._watch.changed():
                for path in self._watch.missing:
                    log.error("%s cannot be read, which the configuration needs", path)
                await self.reload()

    def _watched(self, config: Config) -> list[Path]:
        tls = (config.tls.certificate, config.tls.key) if config.tls is not None else ()
        return [*self._files(), *(Path(name) for name in (*tls, config.prices, config.keys_file) if name)]

    async def reload(self) -> ReloadOutcome:
        """Read the configuration again, and have every worker take it; or keep what there is."""
        async with self._reloading:
            outcome = await self._reload()
        if outcome.mistakes:
            self._reloads.labels("failed").add(1)
            for mistake in outcome.mistakes:
                log.error("config reload failed, the old configuration stays: %s", mistake)
        else:
            self._reloads.labels("done").add(1)
            log.info("configuration %d is in use", outcome.version)
            for key in outcome.needs_restart:
                log.warning("%s has changed, which needs a restart; the old value stays", key)
        return outcome

    async def _reload(self) -> ReloadOutcome:
        read = self._watch.look()  # what changes from now on may be missed, and is a change to come
        try:
            fresh = self._reread() if self._reread is not None else self.config
            fresh = await self._resolve(fresh)
            fresh, needs_restart = keep_fixed(self.config, fresh)
            if fresh.tls is not None:
                server_context(fresh.tls)
        except ConfigError as error:
            return ReloadOutcome(self.version, error.mistakes or (error.message,))
        version, packed = self.version + 1, pack_config(fresh)
        if mistakes := await self._hand_out(packed, version):
            await self._hand_out(pack_config(self.config), self.version)
            return ReloadOutcome(self.version, mistakes)
        self.config, self.version = fresh, version
        self._reminder.again()
        await self._hand_out(packed, version)  # to those that were started meanwhile
        self._watch.follow(self._watched(fresh), read)
        self._engines.retire(fresh, fresh.drain_timeout)
        return ReloadOutcome(version, (), needs_restart)

    async def _hand_out(self, packed: msgspec.Raw, version: int) -> tuple[str, ...]:
        """:returns: what the first worker that did not take it says; empty if all that live did"""
        for slot in self.slots:
            process = slot.process
            if process is None or process.version == version or process.state in ("draining", "gone"):
                continue
            try:
                mistakes = await process.reload(packed, version)
            except ConnectionError:
                continue  # its replacement starts with what is decided here
            if mistakes:
                return mistakes
        return ()

    # ---- what the control API shows --------------------------------------------------------------

    def readiness(self) -> tuple[bool, list[str]]:
        """Whether calls are taken, and what is not as it should be.

        Every worker has to be ready once.  Later one that does is enough: it answers in the place of one that has
        died, and who stood in front would lose all of them for the sake of one.
        """
        reasons = ["the gateway is draining"] if self.stopping else []
        reasons += [f"worker {slot.index} is {slot.state}" for slot in self.slots if slot.state != "ready"]
        taking = any(slot.state == "ready" for slot in self.slots)
        return not reasons or (self.started and not self.stopping and taking), reasons

    async def states(self) -> list[tuple[Slot, dict[str, Any] | None]]:
        """What every worker says of itself; None where one did not answer in time."""

        async def ask(slot: Slot) -> dict[str, Any] | None:
            return await slot.process.ask(ASK_TIMEOUT) if slot.process is not None else None

        answers = await asyncio.gather(*(ask(slot) for slot in self.slots))
        self._silent.add(sum(answer is None for answer in answers))
        return list(zip(self.slots, answers, strict=True))

    async def first(self, ask: Callable[[WorkerProcess], Awaitable[Any]]) -> tuple[int, Any] | None:
        """What the first worker answers that does, and which that is."""
        for slot in self.slots:
            if slot.process is not None and (found := await ask(slot.process)) is not None:
                return slot.index, found
        return None

    def purge(self, tags: tuple[str, ...], keys: tuple[str, ...]) -> None:
        """Tell every worker that these kept answers count no more; one that starts later has none of them."""
        for slot in self.slots:
            if slot.process is not None:
                slot.process.purge(tags, keys)

    async def metrics(self) -> Families:
        """All workers together, and the supervisor's own."""
        told = [
            (slot.index, None if state is None else msgspec.convert(state.get("metrics", []), Families))
            for slot, state in await self.states()
        ]
        return self._totals.together(self.registry.collect(), told)

    def _declare_metrics(self) -> None:
        registry = self.registry
        process_metrics(registry)
        identity_metrics(registry, __version__)
        workers = registry.gauge("penstock_workers", "Worker processes, by state.", labels=("state",))
        self._restarts = registry.counter(
            "penstock_worker_restarts_total", "Workers started in the place of one that died."
        ).labels()
        self._reloads = registry.counter(
            "penstock_config_reloads_total", "Reloads of the configuration, by result.", labels=("result",)
        )
        self._silent = registry.counter(
            "penstock_worker_silent_total", "Times that a worker did not tell its state within a second."
        ).labels()
        engines = registry.counter(
            "penstock_local_restarts_total", "Local models started in the place of one that died."
        ).labels()
        version = registry.gauge("penstock_config_version", "Grows with every reload.").labels()
        missing = registry.gauge(
            "penstock_config_files_missing", "Files of the configuration that cannot be read."
        ).labels()
        keys = registry.gauge("penstock_keys", "Callers' keys, by state.", labels=("state",))
        next_end = registry.gauge(
            "penstock_key_next_end_timestamp_seconds", "When the next key ends (Unix time); +Inf: none does."
        ).labels()
        for result in ("done", "failed"):
            self._reloads.labels(result)

        def collect() -> None:
            for state in ("starting", "ready", "draining", "gone"):
                workers.labels(state).set(sum(slot.state == state for slot in self.slots))
            version.set(self.version)
            missing.set(len(self._watch.missing))
            ended, at = expiry.ended(self.config.keys, time.time())
            keys.labels("ended").set(ended)
            keys.labels("valid").set(len(self.config.keys) - ended)
            next_end.set(at)
            engines.value = max(engines.value, self._engines.restarts)

        registry.before_collecting(collect)

    # ---- the control API -------------------------------------------------------------------------

    async def _start_control(self) -> None:
        # In a thread: the workers' messages are read while FastAPI is imported, which takes longer
        # than everything else here.
        control = await asyncio.to_thread(_import_control)
        assert self._control_socket is not None
        server = control.make_server(self)
        self._control = server, await server.start(self._control_socket)
        self._changed.set()

    async def _end_control(self, starting: asyncio.Task[None] | None) -> None:
        if starting is not None:
            await asyncio.wait([starting])
        if self._control is not None:
            server, task = self._control
            server.should_exit = True
            await task
        if self._control_socket is not None:
            self._control_socket.close()

    def __repr__(self) -> str:
        state = "stopping" if self.stopping else "running" if self.started else "starting"
        return f"<Supervisor {state} on {self.listen}, config {self.version}, {self.slots}>"


def _import_control() -> Any:
    from penstock.admin import control  # noqa: PLC0415 - FastAPI is slow to import

    return control
