"""Who gets on next, and the thread that computes: one model, any number of calls.

A library that batches continuously takes what is added to it in the order in which it came.  So the order is made
here, before: a call waits in a heap by priority and deadline, and is added only when the next step has room for its
prompt.  What has been added and is still being read in front of it is then never more than about one step long,
whoever waits behind: that is what a call of the top tier waits for, at worst, if it has a place.

* **Places.**  ``slots`` generations are under way at once; a few more (a quarter) for calls whose priority is above
  that of somebody who has a place.
* **Steps.**  The thread adds, computes a step with the interpreter's lock released, and tells all that came of it to
  the event loop in one call.  No lock, task or future per token: the loop's own thread makes text of the ids.
* **Cancel** takes effect before the next step: the place is free with it.
* **Failure.**  A step that raises is the end: the library's state is unknown.  All who wait are told, and the process
  that runs the engine ends; somebody starts another.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from math import inf
from typing import Protocol, TypeAlias

import msgspec

from penstock.engine.backend import Backend, CannotTake, Progress, Sampling
from penstock.errors import BadRequest, Draining, InternalError, Overloaded, PenstockError

log = logging.getLogger("penstock.engine")


class Job(msgspec.Struct, eq=False):
    """What a model is asked.

    :param priority: higher ones go first
    :param deadline: monotonic seconds; who has no place by then is refused
    """

    prompt: Sequence[int]
    sampling: Sampling
    priority: int = 0
    deadline: float = inf


class Follower(Protocol):
    """Who wants a job's tokens.  Called in the event loop's thread; must not block or raise."""

    def on_progress(self, progress: Progress) -> None:
        """Ids that came, and whether that was all."""

    def on_failure(self, error: PenstockError) -> None:
        """There will be no more, and that was not the end."""


_News: TypeAlias = list[Progress | tuple[int, PenstockError]]


class _Waiting(msgspec.Struct, eq=False, order=False):
    number: int
    job: Job


class _Order(msgspec.Struct, order=True, array_like=True):
    """Who goes first among those who wait; the number decides among equals."""

    above: int  # minus its priority
    deadline: float
    number: int


class EngineStatistics(msgspec.Struct, frozen=True):
    """``generated`` and ``read``: tokens of answers and of prompts since the start."""

    running: int
    waiting: int
    steps: int
    generated: int
    read: int
    refused: int


class Engine:
    """Computes the jobs that it is given.  All methods belong to the event loop's thread.

    :param load: makes the backend; called in the engine's own thread
    :param slots: generations under way at once
    :param max_waiting: jobs that may wait for a place; more are refused
    :param on_broken: called when the model is not to be used any more
    """

    def __init__(
        self,
        load: Callable[[], Backend],
        *,
        slots: int = 64,
        max_waiting: int = 1_000,
        on_broken: Callable[[], None] = lambda: None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._load = load
        self._slots = slots
        self._reserve = max(1, slots // 4)
        self._max_waiting = max_waiting
        self._on_broken = on_broken
        self._now = now
        self._loop = asyncio.get_running_loop()
        self._loaded: asyncio.Future[Backend] = self._loop.create_future()
        self._numbers = itertools.count(1)
        self._followers: dict[int, Follower] = {}
        self._broken: PenstockError | None = None
        self._refused = 0
        self._inbox: queue.SimpleQueue[_Waiting | int | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="penstock-engine", daemon=True)
        # The thread's own; the loop only reads the numbers.
        self._waiting: list[tuple[_Order, _Waiting]] = []
        self._running: dict[int, Job] = {}
        self._ahead = 0  # prompt tokens that were added and are still to be read
        self._reading: set[int] = set()  # generations whose prompt is
        self._given_up: set[int] = set()  # that have a place, and are to be cancelled before the next step
        self._steps = 0
        self._generated = 0
        self._read = 0
        self._stopping = False
        self._thread.start()

    def __repr__(self) -> str:
        state = "broken" if self._broken else "loaded" if self._loaded.done() else "loading"
        return (
            f"<Engine {state}, {len(self._running)} of {self._slots} running, {len(self._waiting)} waiting>"
        )

    async def loaded(self) -> Backend:
        """The backend, as soon as it can be used.

        :raises penstock.errors.PenstockError: it could not be loaded
        """
        return await asyncio.shield(self._loaded)

    @property
    def backend(self) -> Backend | None:
        """The same at once; None: it is not loaded (yet)."""
        done = self._loaded.done() and not self._loaded.cancelled() and self._loaded.exception() is None
        return self._loaded.result() if done else None

    @property
    def failure(self) -> PenstockError | None:
        """Why the model cannot be used, if so."""
        return self._broken

    @property
    def was_loaded(self) -> bool:
        """Whether the model could be used once."""
        return self.backend is not None

    def submit(self, job: Job, follower: Follower) -> int:
        """Have a job computed.

        :returns: its number, for :meth:`cancel`
        :raises penstock.errors.Overloaded: too many wait
        :raises penstock.errors.PenstockError: the engine is broken, or ends
        """
        if self._broken is not None:
            raise self._broken
        if len(self._followers) >= self._slots + self._max_waiting:
            self._refused += 1
            raise Overloaded(f"{self._max_waiting} calls wait for the model already", retry_after=1.0)
        number = next(self._numbers)
        self._followers[number] = follower
        self._inbox.put(_Waiting(number, job))
        return number

    def cancel(self, number: int) -> None:
        """Nobody wants it any more; nothing is told of it from now on."""
        if self._followers.pop(number, None) is not None:
            self._inbox.put(number)

    def statistics(self) -> EngineStatistics:
        return EngineStatistics(
            running=len(self._running),
            waiting=max(0, len(self._followers) - len(self._running)),
            steps=self._steps,
            generated=self._generated,
            read=self._read,
            refused=self._refused,
        )

    async def close(self) -> None:
        """Stop after the step that is being computed; jobs that are under way are told."""
        self._inbox.put(None)
        await asyncio.to_thread(self._thread.join)
        self._fail_all(Draining("the engine ends"))

    # ---- what the thread tells the loop --------------------------------------------------------------

    def _tell(self, news: _News) -> None:
        for item in news:
            if isinstance(item, Progress):
                follower = self._followers.get(item.number)
                if follower is None:
                    continue  # cancelled meanwhile
                if item.finish:
                    del self._followers[item.number]
                follower.on_progress(item)
            else:
                number, error = item
                follower = self._followers.pop(number, None)
                if follower is not None:
                    follower.on_failure(error)

    def _tell_loaded(self, backend: Backend) -> None:
        if not self._loaded.done():
            self._loaded.set_result(backend)

    def _tell_broken(self, error: PenstockError) -> None:
        self._broken = error
        if not self._loaded.done():
            self._loaded.set_exception(error)
            self._loaded.exception()  # whoever waits is told; nobody need
        self._fail_all(error)
        self._on_broken()

    def _fail_all(self, error: PenstockError) -> None:
        followers, self._followers = self._followers, {}
        for follower in followers.values():
            follower.on_failure(error)

    # ---- the thread ----------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            backend = self._load()
        except PenstockError as error:
            self._post(self._tell_broken, error)
            return
        except Exception as error:
            log.exception("the model could not be loaded")
            self._post(self._tell_broken, InternalError(f"the model could not be loaded: {error}"))
            return
        self._post(self._tell_loaded, backend)
        try:
            while self._take_orders(backend):
                news = self._add(backend)
                if self._running:
                    news += self._step(backend)
                if news:
                    self._post(self._tell, news)
        except Exception:
            log.exception("the model failed in the middle of a step, and cannot be used any more")
            self._post(self._tell_broken, InternalError("the model failed in the middle of a step"))
        finally:
            self._running.clear()
            backend.close()

    def _post(self, call: Callable[..., None], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:  # the loop is closed: nobody is there to be told
            self._stopping = True

    def _take_orders(self, backend: Backend) -> bool:
        """Read the inbox; let the backend rest, and wait for something, if there is nothing to do.  False: it is the end."""
        cancelled: set[int] = set()
        while not self._stopping:
            idle = not (self._running or self._waiting or cancelled)
            if idle and self._inbox.empty():
                backend.rest()
            try:
                order = self._inbox.get(block=idle)
            except queue.Empty:
                break
            if order is None:
                self._stopping = True
            elif isinstance(order, int):
                cancelled.add(order)
            else:
                job = order.job
                heapq.heappush(self._waiting, (_Order(-job.priority, job.deadline, order.number), order))
        if cancelled:
            self._drop(cancelled)
        return not self._stopping

    def _drop(self, cancelled: set[int]) -> None:
        """Who waits is forgotten here; who has a place is given up by the backend, in :meth:`_add`."""
        if any(waiting.number in cancelled for _, waiting in self._waiting):
            self._waiting = [entry for entry in self._waiting if entry[1].number not in cancelled]
            heapq.heapify(self._waiting)
        self._given_up = cancelled & self._running.keys()

    def _add(self, backend: Backend) -> _News:
        """Give places to those who wait, as far as the next step has room."""
        for number in self._given_up:
            backend.cancel(number)
            self._leave(number)
        self._given_up = set()
        news: _News = []
        now = self._now()
        room = backend.card.step_tokens - len(self._running)
        while self._waiting and self._ahead < room and self._has_place(self._waiting[0][1].job):
            _, waiting = heapq.heappop(self._waiting)
            job = waiting.job
            if job.deadline <= now:
                news.append((waiting.number, Overloaded("the call's deadline passed while it waited")))
                continue
            try:
                backend.add(waiting.number, job.prompt, job.sampling)
            except CannotTake as refusal:
                news.append((waiting.number, BadRequest(str(refusal))))
                continue
            self._running[waiting.number] = job
            self._reading.add(waiting.number)
            self._ahead += len(job.prompt)
            self._read += len(job.prompt)
        return news

    def _has_place(self, job: Job) -> bool:
        running = len(self._running)
        if running < self._slots:
            return True
        if running >= self._slots + self._reserve:
            return False
        return any(other.priority < job.priority for other in self._running.values())

    def _step(self, backend: Backend) -> _News:
        progress = backend.step()
        self._steps += 1
        self._ahead = max(0, self._ahead - backend.card.step_tokens)
        for one in progress:
            self._generated += len(one.ids)
            if one.finish:
                self._leave(one.number)
            elif one.number in self._reading:
                self._begun(one.number)
        return list(progress)

    def _leave(self, number: int) -> None:
        self._running.pop(number, None)
        self._begun(number)

    def _begun(self, number: int) -> None:
        """Its prompt has been read, or need not be any more."""
        self._reading.discard(number)
        if not self._reading:
            self._ahead = 0
