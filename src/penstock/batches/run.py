"""One batch on its way from its input to its results.

Whatever state the batch was left in, by whomever, :meth:`Run.run` goes on from there; each step may be done again
after a crash in the middle of it, and only the calls that were under way at that moment are made twice.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec

from penstock.batches.batch import ENDED, Batch, Status
from penstock.batches.division import Division, places, sent_ids
from penstock.batches.exchange import LineExchange
from penstock.batches.provider_batch import ProviderBatch
from penstock.batches.provider_run import ProviderRun
from penstock.batches.providers import Providers
from penstock.batches.results import ResultFile, Results
from penstock.batches.source import LineSource, validate
from penstock.batches.store import BatchStore
from penstock.config.model import BatchesConfig
from penstock.errors import PenstockError
from penstock.messages import Endpoint, Tenant
from penstock.upload.files import FileStore
from penstock.wire import batch as openai_form
from penstock.wire import message_batch as anthropic_form
from penstock.wire.batch import ENDPOINTS, Line, result_id

TAKEN = 32  # lines that are read ahead
TAKEN_BYTES = 1 << 20
ROUNDS = 3  # of a line whose upstreams fail; each is a call with retries and fallbacks of its own
FIRST_DELAY = 1.0  # seconds before the second round at most; doubles with each
LAST_DELAY = 60.0
LONGEST_WAIT = 600.0  # seconds; who asks for more with Retry-After is asked again all the same
PROGRESS_INTERVAL = 1.0  # seconds between two updates of the counts that callers see

_CALLED = {**ENDPOINTS, Endpoint.MESSAGES.path: Endpoint.MESSAGES}

_PRESSURE = frozenset({429, 503})  # worth waiting for
_FAILED = frozenset({502, 504})  # worth another round
_UNFINISHED = {
    Status.EXPIRED: ("batch_expired", "This request was not run before the batch's window ended."),
    Status.CANCELLED: ("batch_cancelled", "The batch was cancelled before this request was run."),
}

log = logging.getLogger("penstock.batches")

_T = TypeVar("_T")


class Answering(Protocol):
    """The pipeline, as far as a batch knows it."""

    def __call__(self, exchange: LineExchange, endpoint: Endpoint, tenant: Tenant) -> None:
        """Answer, now or later, with ``exchange.respond``."""


class ResultForm(Protocol):
    """How results are written: as OpenAI has it, or Anthropic."""

    def answered_line(
        self, batch_id: str, custom_id: str, status: int, request_id: str, body: bytes, /
    ) -> bytes: ...

    def unanswered_line(self, batch_id: str, custom_id: str, code: str, message: str, /) -> bytes: ...


class Surroundings(Protocol):
    """What all runs of a worker have in common."""

    store: BatchStore
    files: FileStore
    config: BatchesConfig
    longest_line: int
    slots: asyncio.Semaphore
    answer: Answering
    providers: Providers | None  # None: nobody hands anything on
    sending: asyncio.Lock
    now: Callable[[], float]  # Unix time
    monotonic: Callable[[], float]
    stopping: bool  # the worker is going away

    async def announce(self, batch: Batch) -> None:
        """Tell those who want to know that a batch has ended; durable when it returns."""

    async def ask(self, asking: Coroutine[Any, Any, _T]) -> _T:
        """Ask a provider; broken off when the worker ends."""

    async def pause(self, seconds: float, over: Callable[[], bool]) -> bool:
        """Wait; False: it was ``over`` before."""

    forget: Callable[[str], None]  # nobody will come back for a generation's answer: it is on the disk

    def line_done(self, *, completed: bool) -> None:
        """A line has a result."""


class Run:
    """Runs one batch, whose lock is held."""

    def __init__(self, batch: Batch, around: Surroundings) -> None:
        self.batch = batch
        self._around = around
        self._endpoint = _CALLED[batch.endpoint]
        self._form: ResultForm = anthropic_form if self._endpoint is Endpoint.MESSAGES else openai_form
        self._done: set[str] = set()
        self._elsewhere: set[str] = set()  # what is not called here: it is done, or providers have it
        self._provider_runs: list[ProviderRun] = []
        self._waiting: deque[Line] = deque()
        self._reading = asyncio.Lock()
        self._exhausted = False
        self._trouble: PenstockError | None = None
        self._told_at = 0.0
        around_store = around.store
        self._source = LineSource(
            around_store.input_of(batch), self._endpoint, around.longest_line, self._elsewhere
        )
        self._results = Results(
            ResultFile(around_store.results_of(batch)),
            ResultFile(around_store.errors_of(batch)),
            around.files.run,
            lambda seconds: around.pause(seconds, lambda: around.stopping),
        )

    def __repr__(self) -> str:
        return f"<Run of {self.batch!r}, {self._results!r}>"

    async def run(self) -> None:
        """To the end, or as far as it goes while the worker is there.

        :raises PenstockError: the disk does not answer; it can be tried again
        """
        store = self._around.store
        self.batch = await store.current(self.batch.id)  # it may have gone on before we got the lock
        if self.batch.status is Status.VALIDATING:
            await self._validate()
        if self.batch.status in {Status.IN_PROGRESS, Status.CANCELLING}:
            await self._call()
        if self.batch.status is Status.FINALIZING:
            await self._publish()
        if self.batch.status in ENDED and not self.batch.announced:
            await self._around.announce(self.batch)
            await self._around.files.run(lambda: store.remove_files(self.batch))
            await self._change(announced=True)

    def notice(self, batch: Batch) -> None:
        """The record has been read again: somebody may have cancelled the batch."""
        if batch.status is Status.CANCELLING and self.batch.status is Status.IN_PROGRESS:
            self.batch = batch

    async def _change(self, **changes: object) -> None:
        replace = msgspec.structs.replace
        self.batch = await self._around.store.change(self.batch.id, lambda batch: replace(batch, **changes))

    # ---- validating ----

    async def _validate(self) -> None:
        around = self._around
        path = around.store.input_of(self.batch)
        total, faults = await around.files.run(
            lambda: validate(
                path, self._endpoint, max_lines=around.config.max_lines, longest=around.longest_line
            )
        )
        now = around.now()

        def decide(batch: Batch) -> Batch:
            if batch.status is not Status.VALIDATING:  # cancelled meanwhile
                return batch
            if faults:
                return msgspec.structs.replace(batch, status=Status.FAILED, faults=faults, ended=now)
            counts = msgspec.structs.replace(batch.counts, total=total)
            return msgspec.structs.replace(batch, status=Status.IN_PROGRESS, counts=counts, began=now)

        self.batch = await around.store.change(self.batch.id, decide)

    # ---- calling ----

    @property
    def is_over(self) -> bool:
        """Whether no further line is to be run, ever."""
        return self.batch.status is Status.CANCELLING or self._around.now() >= self.batch.expires

    def _must_stop(self) -> bool:
        return self._around.stopping or self.is_over

    async def _call(self) -> None:
        """Run the lines that are not done, and write down what becomes of the others."""
        total = self.batch.counts.total
        self._done |= await self._results.open()
        self._elsewhere |= self._done
        try:
            if total:  # else it was cancelled before anybody had looked at it
                await self._divide()
                async with asyncio.TaskGroup() as group:
                    for run in self._provider_runs:
                        group.create_task(self._hand_on(run))
                    for _ in range(min(self._around.config.concurrency, total)):
                        group.create_task(self._call_some())
            if self._trouble is not None:
                raise self._trouble
            if self._around.stopping and not self.is_over:
                return
            if not all(run.is_done for run in self._provider_runs):
                return
            outcome = Status.COMPLETED
            if len(self._done) < total:
                outcome = Status.CANCELLED if self.batch.status is Status.CANCELLING else Status.EXPIRED
                await self._write_unfinished(*_UNFINISHED[outcome])
        finally:
            await self._results.close()
            await self._around.files.run(self._source.close)
        counts, unrun, now = self._results.counts(total), self._results.unrun, self._around.now()

        def finalize(batch: Batch) -> Batch:
            # Whose caller was told that it is being cancelled is not told later that it was not.
            too_late = batch.status is Status.CANCELLING and outcome is Status.COMPLETED
            return msgspec.structs.replace(
                batch,
                status=Status.FINALIZING,
                outcome=Status.CANCELLED if too_late else outcome,
                finalizing=now,
                counts=counts,
                unrun=unrun,
            )

        self.batch = await self._around.store.change(self.batch.id, finalize)

    async def _divide(self) -> None:
        """Settle which lines providers get in batches of their own, or find out what was settled before."""
        around, batch = self._around, self.batch
        store, run, providers = around.store, around.files.run, around.providers
        if providers is None:
            return
        if not batch.divided:
            records: list[ProviderBatch] = []
            if providers.is_any and not self._done and not self.is_over:
                path = store.input_of(batch)
                source = LineSource(path, self._endpoint, around.longest_line, self._elsewhere)
                try:
                    records = await Division(batch, self._endpoint, providers, store, run).divide(source)
                finally:
                    await run(source.close)
            self.batch = batch = await store.divide(batch.id, records)
        records = await store.provider_batches(batch.id)
        if records:
            sent = [store.sent_of(batch.id, record.number) for record in records]
            self._elsewhere |= await run(partial(self._known, store.input_of(batch), sent))
            self._provider_runs = [ProviderRun(record, self, around, providers) for record in records]

    def _known(self, source: Path, sent: list[Path]) -> set[str]:
        """The ``custom_id`` of each line that is in these files.  For a thread."""
        ids = set().union(*map(sent_ids, sent))
        return {custom_id for _, custom_id in places(source, self._endpoint, self.batch.id, ids).values()}

    async def _hand_on(self, run: ProviderRun) -> None:
        try:
            await run.run()
        except PenstockError as error:  # what is under way is finished first, as above
            self._trouble = error

    async def _call_some(self) -> None:
        while not self._must_stop():
            line = await self._next()
            if line is None:
                return
            await self._call_one(line)
            await self._show_progress()

    async def _next(self) -> Line | None:
        async with self._reading:
            if not self._waiting and not self._exhausted:
                try:
                    taken = await self._around.files.run(lambda: self._source.take(TAKEN, TAKEN_BYTES))
                except PenstockError as error:  # what is under way is finished first: it is paid for
                    self._trouble = error
                    taken = []
                self._waiting.extend(taken)
                self._exhausted = not taken
            return self._waiting.popleft() if self._waiting else None

    async def _call_one(self, line: Line) -> None:
        """Until it is answered, or it makes no sense to ask again."""
        around = self._around
        began = around.monotonic()
        delay = FIRST_DELAY
        rounds = 0
        while True:
            async with around.slots:
                if self._must_stop():
                    return
                exchange = await self._ask(line)
            completed = 200 <= exchange.status < 300
            if not completed and around.stopping:
                return  # perhaps only because of that; whoever goes on asks again
            rounds += exchange.status in _FAILED
            waits = exchange.status in _PRESSURE and around.monotonic() - began < around.config.retry_for
            if completed or not (waits or (exchange.status in _FAILED and rounds < ROUNDS)):
                break
            wait = max(min(_asked_to_wait(exchange), LONGEST_WAIT), delay * random.random())
            delay = min(LAST_DELAY, 2 * delay)
            if not await around.pause(wait, self._must_stop):
                return
        request_id = exchange.answer_headers.get(b"penstock-generation", b"").decode()
        if not await self._keep(line, exchange.status, request_id, exchange.answer):
            return
        if exchange.answer_headers.get(b"penstock-status") == b"created":  # another's is not ours to forget
            self._around.forget(request_id)

    async def _ask(self, line: Line) -> LineExchange:
        # The key is the same after a crash: a generation that outlived it is read, not bought again.
        headers = {
            b"content-type": b"application/json",
            b"idempotency-key": result_id(self.batch.id, line.custom_id).encode(),
        }
        if self.batch.betas:
            headers[b"anthropic-beta"] = self.batch.betas.encode()
        exchange = LineExchange(self._endpoint.path, line.body, headers)
        self._around.answer(exchange, self._endpoint, self.batch.caller)
        await exchange.wait_answered()
        return exchange

    async def _keep(self, line: Line, status: int, request_id: str, answer: bytes) -> bool:
        """Whether the line is done: else the worker is going away, and the disk did not take it."""
        completed = 200 <= status < 300
        text = self._form.answered_line(self.batch.id, line.custom_id, status, request_id, answer)
        try:
            await self._results.add(text, completed=completed)
        except PenstockError:
            return False
        self._done.add(line.custom_id)
        self._around.line_done(completed=completed)
        return True

    # ---- for lines that providers have ----

    @property
    def endpoint(self) -> Endpoint:
        return self._endpoint

    @property
    def done(self) -> set[str]:
        return self._done

    async def keep(self, line: Line, status: int, request_id: str, answer: bytes) -> None:
        await self._keep(line, status, request_id, answer)
        await self._show_progress()

    async def keep_unrun(self, line: Line) -> None:
        await self._keep_unrun([line], *_UNFINISHED[Status.EXPIRED])

    async def call_each(self, lines: list[Line]) -> None:
        waiting = deque(lines)

        async def call_some() -> None:
            while waiting and not self._must_stop():
                await self._call_one(waiting.popleft())
                await self._show_progress()

        async with asyncio.TaskGroup() as group:
            for _ in range(min(self._around.config.concurrency, len(lines))):
                group.create_task(call_some())

    async def _show_progress(self) -> None:
        """Now and then: what is shown may lag behind, and the files have the truth."""
        now = self._around.monotonic()
        if now - self._told_at < PROGRESS_INTERVAL:
            return
        self._told_at = now
        counts = self._results.counts(self.batch.counts.total)
        try:
            await self._change(counts=counts)
        except PenstockError as error:
            log.warning("%s: its progress cannot be shown: %s", self.batch.id, error.message)

    async def _write_unfinished(self, code: str, message: str) -> None:
        """A line of errors for each request that was not run."""
        self._source.close()
        unrun = LineSource(
            self._around.store.input_of(self.batch), self._endpoint, self._around.longest_line, self._done
        )
        try:
            while lines := await self._around.files.run(lambda: unrun.take(1_000, TAKEN_BYTES)):
                await self._keep_unrun(lines, code, message)
        finally:
            await self._around.files.run(unrun.close)

    async def _keep_unrun(self, lines: list[Line], code: str, message: str) -> None:
        texts = [self._form.unanswered_line(self.batch.id, line.custom_id, code, message) for line in lines]
        await asyncio.gather(*(self._results.add(text, completed=False) for text in texts))
        self._done.update(line.custom_id for line in lines)
        self._results.unrun += len(lines)

    # ---- finalizing ----

    async def _publish(self) -> None:
        """Make the results files of the tenant's, and end."""
        store, batch = self._around.store, self.batch
        has_output = await self._enter(store.results_of(batch), batch.output_file, f"{batch.id}_output.jsonl")
        has_errors = await self._enter(store.errors_of(batch), batch.error_file, f"{batch.id}_error.jsonl")
        await self._change(
            status=batch.outcome, ended=self._around.now(), has_output=has_output, has_errors=has_errors
        )
        log.info("%s %s: %s", batch.id, self.batch.status.value, self.batch.counts)

    async def _enter(self, path: Path, file_id: str, filename: str) -> bool:
        """Whether there is anything in it."""
        files, batch = self._around.files, self.batch
        size = await files.run(lambda: _size(path)) or await files.size_of(batch.tenant, file_id)
        if not size:
            return False
        file = files.described(file_id, size, filename, "batch_output", batch.output_kept_for)
        await files.enter(batch.tenant, path, file, within_quota=False)
        return True


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _asked_to_wait(exchange: LineExchange) -> float:
    try:
        return float(exchange.answer_headers.get(b"retry-after-ms", b"0")) / 1_000
    except ValueError:
        return 0.0
