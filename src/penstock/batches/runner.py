"""The batches of one worker: looks for those that nobody runs, and runs them side by side."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from penstock.batches.batch import Batch
from penstock.batches.providers import Providers
from penstock.batches.repeated import Naming
from penstock.batches.run import Answering, Run
from penstock.batches.store import BatchStore
from penstock.config.model import BatchesConfig
from penstock.errors import Draining, PenstockError
from penstock.metrics import Registry
from penstock.net.clock import Clock
from penstock.upload.files import FileStore

LOOK_INTERVAL = 1.0  # seconds between two looks for what there is to do
TAKEN_AT_ONCE = 4  # batches that one look may begin: the other workers want some, too
REST = 30.0  # seconds before a batch that could not be run is tried again
RECORDS_KEPT = 15_552_000.0  # seconds (180 days) after which a batch that has ended is forgotten
EXPIRE_INTERVAL = 3_600.0

log = logging.getLogger("penstock.batches")

_T = TypeVar("_T")


class Runner:
    """Swept by the worker's clock, which also tells it how much time has passed.

    :param answer: the pipeline's front door
    :param announce: tells those who want to know that a batch has ended; durable when it returns
    :param forget: lets go of a generation, by its id, whose answer is on the disk
    :param longest_line: bytes of one request
    :param providers: who hands lines on to providers' own batches; None: nobody
    :param now: Unix time
    """

    def __init__(
        self,
        store: BatchStore,
        files: FileStore,
        answer: Answering,
        config: BatchesConfig,
        clock: Clock,
        metrics: Registry,
        *,
        announce: Callable[[Batch], Awaitable[None]],
        forget: Callable[[str], None],
        longest_line: int,
        providers: Providers | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.store = store
        self.files = files
        self.answer = answer
        self.config = config
        self.longest_line = longest_line
        self.providers = providers
        self.sending = asyncio.Lock()
        self.slots = asyncio.Semaphore(config.worker_concurrency)
        self.now = now
        self.monotonic = clock.now
        self.stopping = False
        self.forget = forget
        self._announce = announce
        self._clock = clock
        self._runs: dict[str, Run] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._resting: dict[str, float] = {}  # batches that failed, until when
        self._sleepers: dict[asyncio.Future[bool], tuple[float, Callable[[], bool]]] = {}
        self._asked: set[asyncio.Future[Any]] = set()  # of providers
        self._looking = False
        self._next_look = 0.0
        self._next_expiry = 0.0
        self._lines = metrics.counter(
            "penstock_batch_lines_total", "Lines of batches that have a result.", labels=("result",)
        )
        self._ended = metrics.counter(
            "penstock_batches_total", "Batches that have ended.", labels=("status",)
        )
        running = metrics.gauge("penstock_batches_running", "Batches that this worker runs.").labels()
        metrics.before_collecting(lambda: running.set(len(self._runs)))

    def __repr__(self) -> str:
        return f"<Runner of {len(self._runs)} batches{', stopping' if self.stopping else ''}>"

    async def start(self) -> None:
        """:raises penstock.errors.ConfigError: the directory cannot be used"""
        await self.store.start()
        self._clock.add(self)

    async def take(self, batch: Batch, naming: Naming | None = None) -> Batch:
        """Run a new batch soon, once its input and its record are on the disk.

        :returns: it, or the one that was made already for the same request
        :raises KeyReused: its key belongs to a batch that was asked for in other words
        :raises NotFound: its input file is not there any more
        :raises PenstockError: they cannot be written; then there is no such batch
        """
        target = self.store.input_of(batch)
        await self.files.fetch(batch.input_file, target)
        entered = None
        try:
            entered = await self.store.add(batch, naming)
        finally:
            if entered is not batch:
                await self.files.run(target.unlink)
        self.look_soon()
        return entered

    def look_soon(self) -> None:
        """There is something to do."""
        self._next_look = 0.0

    def stop(self) -> None:
        """Begin nothing more; what is under way may end."""
        self.stopping = True
        for sleeper in self._sleepers:
            if not sleeper.done():
                sleeper.set_result(False)

    async def close(self) -> None:
        """After :meth:`stop`, when every call has been answered."""
        self.stop()
        self._clock.remove(self)
        for asked in self._asked:
            asked.cancel()
        while self._tasks:  # a look that is under way may begin a run yet
            await asyncio.wait(self._tasks)
        await self.store.close()

    # ---- for the runs ----

    async def announce(self, batch: Batch) -> None:
        await self._announce(batch)
        self._ended.labels(batch.status.value).add()

    def line_done(self, *, completed: bool) -> None:
        self._lines.labels("completed" if completed else "failed").add()

    async def ask(self, asking: Coroutine[Any, Any, _T]) -> _T:
        """Ask a provider.

        :raises Draining: the worker ends, and does not wait for the answer
        """
        asked = asyncio.ensure_future(asking)
        self._asked.add(asked)
        try:
            return await asked
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if asked.cancelled() and task is not None and not task.cancelling():
                raise Draining("this gateway is going away") from None
            asked.cancel()
            raise
        finally:
            self._asked.discard(asked)

    async def pause(self, seconds: float, over: Callable[[], bool]) -> bool:
        """Wait; False: it was ``over`` before, or the worker is going away."""
        if self.stopping:
            return False
        sleeper: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._sleepers[sleeper] = (self._clock.now() + seconds, over)
        try:
            return await sleeper
        finally:
            del self._sleepers[sleeper]

    # ---- time passes ----

    def sweep(self, now: float) -> None:
        for sleeper, (until, over) in self._sleepers.items():
            if not sleeper.done():
                if over():
                    sleeper.set_result(False)
                elif now >= until:
                    sleeper.set_result(True)
        if now >= self._next_look and not self._looking and not self.stopping:
            self._next_look = now + LOOK_INTERVAL
            self._looking = True
            self._begin(self._look())

    def _begin(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _look(self) -> None:
        """Tell the runs what has become of their batches elsewhere, and begin new ones."""
        try:
            now = self._clock.now()
            begun = 0
            for batch in await self.store.open_batches():
                run = self._runs.get(batch.id)
                if run is not None:
                    run.notice(batch)
                elif begun < TAKEN_AT_ONCE and self._resting.get(batch.id, 0.0) <= now and not self.stopping:
                    begun += await self._take(batch)
            if now >= self._next_expiry:
                self._next_expiry = now + EXPIRE_INTERVAL
                await self.files.expire()
                await self.store.forget(self.now() - RECORDS_KEPT)
        except PenstockError as error:
            log.warning("batches cannot be looked for: %s", error.message)
        finally:
            self._looking = False

    async def _take(self, batch: Batch) -> bool:
        locks: list[int | None] = []
        try:
            await self.files.run(lambda: locks.append(self.store.lock(batch)))
        except asyncio.CancelledError:  # by then somebody may have got it
            for lock in locks:
                if lock is not None:
                    os.close(lock)
            raise
        (lock,) = locks
        if lock is None:
            return False
        self._resting.pop(batch.id, None)
        run = self._runs[batch.id] = Run(batch, self)
        self._begin(self._run(run, lock))
        return True

    async def _run(self, run: Run, lock: int) -> None:
        batch_id = run.batch.id
        try:
            await run.run()
        except PenstockError as error:
            log.warning("batch %s stands still for %.0f s: %s", batch_id, REST, error.message)
            self._resting[batch_id] = self._clock.now() + REST
        except Exception:
            log.exception("defect while running %s", batch_id)
            self._resting[batch_id] = self._clock.now() + REST
        finally:
            os.close(lock)
            del self._runs[batch_id]
