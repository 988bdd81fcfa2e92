"""One provider's batch on its way: made, found again, waited for, and its results taken in.

Theory of operation
-------------------
Money is spent by one request, that for the batch.  Before it goes out the record says so (:attr:`Step.ASKED`), and
whoever finds a record in that step, after a crash or a broken connection, asks nobody for a batch before it is certain
that there is none:

- OpenAI's API lists batches with what they were called and which file they are made of.  If after
  :data:`FIND_FOR` seconds the list does not have ours, the file is deleted, so that a request for the batch which
  might still be on its way can only fail, and the list is looked through once more.
- Anthropic's lists neither, but tells when a batch was made and how many requests it has, and, when it has ended, their
  ``custom_id``, which nobody else's have.  One that might be ours is waited for.

What comes of it is written to our disk as it is said, and from there it is taken in line by line: into the ledger, then
among the results, where a line is done (:mod:`.results`).  A process that takes this over asks the ledger first which of
the lines without a result have a row already.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol, TypeVar

import msgspec

from penstock.batches.batch import Batch
from penstock.batches.division import lines_at, places, sent_ids
from penstock.batches.provider_batch import ProviderBatch, Step, new_name
from penstock.batches.providers import Aside, ProviderAPI, Providers
from penstock.batches.store import BatchStore
from penstock.config.model import BatchesConfig
from penstock.errors import CallerError, Draining, Overloaded, PenstockError, UpstreamError
from penstock.messages import Endpoint
from penstock.sqlite_files import private_opener
from penstock.upload.files import FileStore
from penstock.upload.local_files import write_all
from penstock.wire.batch import Line
from penstock.wire.provider_batch import Fate, NotMade, Result, Told, form_of

FIRST_LOOK: Final = (
    1.0  # seconds after which the provider is asked how its batch stands; twice as many each time
)
LAST_LOOK: Final = 60.0
FIND_FOR: Final = 10.0  # seconds for which a batch that may have been made is looked for
DOUBTED_FOR: Final = (
    600.0  # seconds for which a provider has to say that it does not know a batch which it has made
)
FAILING_FOR: Final = (
    600.0  # seconds for which a provider may fail after the window has ended before its batch is given up
)
CLOCKS_APART: Final = 900.0  # seconds by which a provider's clock and ours may differ
CROWDED: Final = 60.0  # seconds before a batch that was one too many is tried again; twice as many each time
MOST_CROWDED: Final = 900.0
NO_MONEY: Final = 10.0  # seconds before a batch that budgets have no room for is tried again
TAKEN: Final = 16  # results that are taken in at once

_PRESSURE: Final = frozenset({408, 429, 500, 502, 503, 504, 529})

log = logging.getLogger("penstock.batches")

_T = TypeVar("_T")


class Owner(Protocol):
    """The run of the batch that the lines are of."""

    batch: Batch

    @property
    def is_over(self) -> bool:
        """Whether no further line of it is to be run, ever."""

    @property
    def endpoint(self) -> Endpoint: ...

    @property
    def done(self) -> set[str]:
        """The ``custom_id`` of each line that has a result."""

    async def keep(self, line: Line, status: int, request_id: str, answer: bytes) -> None:
        """A line has this result, which is on the disk when this returns."""

    async def keep_unrun(self, line: Line) -> None:
        """Its time was over before a line was run: that is its result."""

    async def call_each(self, lines: list[Line]) -> None:
        """Call these lines, each by itself."""


class Surroundings(Protocol):
    """What all of them have in common that a worker runs."""

    store: BatchStore
    files: FileStore
    sending: asyncio.Lock  # what is sent is in memory: one at a time
    stopping: bool
    config: BatchesConfig
    now: Callable[[], float]  # Unix time
    monotonic: Callable[[], float]

    async def ask(self, asking: Coroutine[Any, Any, _T]) -> _T: ...

    async def pause(self, seconds: float, over: Callable[[], bool]) -> bool: ...


class ProviderRun:
    """Runs one of a batch whose lock is held."""

    def __init__(
        self, record: ProviderBatch, owner: Owner, around: Surroundings, providers: Providers
    ) -> None:
        self.record = record
        self._providers = providers
        self._owner = owner
        self._around = around
        self._aside: Aside | None = None
        self._delay = FIRST_LOOK
        self._crowded = CROWDED
        self._seek = FIRST_LOOK  # seconds before it is looked for again
        self._unknown_since = (
            math.inf
        )  # monotonic; the provider has said ever since that there is no such batch
        self._failing_since = (
            math.inf
        )  # monotonic; the provider has failed ever since, and the window has ended
        self._sought_since = 0.0  # monotonic; 0: not yet
        self._cancelled = False
        self._is_ours = (
            False  # this process has taken it to its end itself, so no result of it was taken in before
        )

    def __repr__(self) -> str:
        return f"<ProviderRun of {self.record!r}>"

    @property
    def is_done(self) -> bool:
        return self.record.step is Step.DONE

    async def run(self) -> None:
        """To its end, or as far as it goes while the worker is there.

        :raises PenstockError: the disk does not answer
        """
        around = self._around
        if self.record.step in {Step.ASKED, Step.RUNNING}:
            self._aside = await self._providers.set_aside(self._owner.batch, self.record, bought=True)
        try:
            while not around.stopping and not self.is_done:
                try:
                    await self._step()
                    self._answered()
                except (UpstreamError, CallerError, Overloaded) as error:
                    await self._failed(error)
        except Draining:
            return
        finally:
            self._release()
            if self.record.step is Step.ENDED:  # whoever goes on asks the ledger which results have a row
                await self._providers.flush()

    def _answered(self) -> None:
        """The provider does what it is asked for."""
        self._delay = FIRST_LOOK
        self._failing_since = math.inf

    async def _failed(self, error: PenstockError) -> None:
        """It does not: it is asked again, but not for ever."""
        around = self._around
        if self._owner.is_over:
            self._failing_since = min(self._failing_since, around.monotonic())
            if around.monotonic() - self._failing_since >= FAILING_FOR:
                log.error("%r is given up, whatever it has cost: %s", self.record, error.message)
                await self._note(step=Step.DONE)
                return
        log.warning("%r is tried again in %.0f s: %s", self.record, self._delay, error.message)
        await around.pause(self._delay, lambda: False)
        self._delay = min(LAST_LOOK, 2 * self._delay)

    def _release(self) -> None:
        """Keep no money for it any more."""
        if self._aside is not None:
            self._aside.release()

    async def _step(self) -> None:
        record, owner = self.record, self._owner
        api = self._providers.api(record.upstream, record.endpoint)
        bought = record.step in {Step.ASKED, Step.RUNNING}
        if owner.is_over and not bought and record.step is not Step.ENDED:
            await self._note(step=Step.DONE)
            if api is not None:
                await self._forget(api)
        elif api is None:
            if owner.is_over:
                log.error("%r is given up: the upstream is not configured any more", record)
                await self._note(step=Step.DONE)
            else:
                await self._wait(LAST_LOOK)
        elif record.step is Step.ENDED:
            await self._take_in(api)
        elif record.step is Step.RUNNING:
            await self._follow(api)
        elif record.step is Step.ASKED:
            await self._find(api)
        else:
            await self._send(api)

    async def _wait(self, seconds: float) -> None:
        """Or until there is something to be said to the provider."""
        await self._around.pause(seconds, lambda: self._owner.is_over and not self._cancelled)

    async def _note(self, **changes: object) -> None:
        record = msgspec.structs.replace(self.record, **changes)
        await self._around.store.note(record)
        self.record = record

    # ---- making it ----

    async def _send(self, api: ProviderAPI) -> None:
        around, record = self._around, self.record
        if self._aside is None:
            self._aside = await around.ask(self._providers.set_aside(self._owner.batch, record, bought=False))
        if self._aside is None:
            log.info("%r waits: budgets have no room for it", record)
            await self._wait(NO_MONEY)
            return
        path = around.store.sent_of(record.batch, record.number)
        async with around.sending:
            if around.stopping or self._owner.is_over:
                return
            if api.takes_files and record.step is Step.WRITTEN:
                file = await self._around.ask(api.upload(await self._read(path), record.name))
                await self._note(step=Step.UPLOADED, file=file)
            requests = self.record.file.encode() if api.takes_files else await self._read(path)
            await self._note(step=Step.ASKED, asked=around.now())
            try:
                told = await self._around.ask(api.create(requests, record.name, self._owner.batch.betas))
            except NotMade as refused:
                await self._refused(refused.error)
                return
            await self._found(told)

    async def _read(self, path: Path) -> bytes:
        read: list[bytes] = []
        await self._around.files.run(lambda: read.append(path.read_bytes()))
        return read[0]

    async def _refused(self, error: PenstockError) -> None:
        """There is none: for now, or for good."""
        if error.status == 429:
            await self._note(step=Step.UPLOADED if self.record.file else Step.WRITTEN)
            raise error
        log.warning("%r was not taken: %s", self.record, error.message)
        await self._note(step=Step.ENDED, fate=Fate.FAILED, why=error.message)

    async def _found(self, told: Told) -> None:
        await self._note(step=Step.RUNNING, id=told.id)
        log.info("%r has %d lines", self.record, self.record.lines)

    # ---- finding it ----

    async def _find(self, api: ProviderAPI) -> None:
        """It may have been made."""
        around, now = self._around, self._around.monotonic()
        self._sought_since = self._sought_since or now
        found, maybe = await self._look_for(api)
        if found is None and not maybe and now - self._sought_since >= FIND_FOR:
            if api.takes_files and self.record.file:
                try:
                    await around.ask(api.delete_file(self.record.file))
                except CallerError as error:  # it is gone; of any other failure it is not known whether it is
                    log.info("%r: %s", self.record, error.message)
                found, _ = await self._look_for(api)
            if found is None:
                log.info("%r was not made", self.record)
                self._sought_since, self._seek = 0.0, FIRST_LOOK
                await self._note(step=Step.WRITTEN, file="", name=new_name())
                return
        if found is not None:
            await self._found(found)
            return
        self._seek = min(2 * self._seek, LAST_LOOK)
        await around.pause(self._seek if maybe else min(self._seek, FIND_FOR / 4), lambda: False)

    async def _look_for(self, api: ProviderAPI) -> tuple[Told | None, bool]:
        """The batch, if it is certain; and whether one that runs may be it."""
        record, maybe, after = self.record, False, ""
        known = await self._around.store.known_at_providers()
        while True:
            page = await self._around.ask(api.page(after))
            for told in page.batches:
                if told.tag == record.name or (record.file and told.input_file == record.file):
                    return told, False
                if api.takes_files or told.id in known or told.id in self.record.not_ours:
                    continue
                if told.lines != record.lines or abs(told.created - record.asked) > CLOCKS_APART:
                    continue
                if told.ended is None:
                    maybe = True
                elif await self._is_made_of_ours(api, told):
                    return told, False
                else:
                    await self._note(not_ours=(*self.record.not_ours, told.id))
            after = page.after
            oldest = min((told.created for told in page.batches), default=0.0)
            if not after or oldest < record.asked - CLOCKS_APART:
                return None, maybe

    async def _is_made_of_ours(self, api: ProviderAPI, told: Told) -> bool:
        ours = await self._ids()
        beginning = bytearray()

        async def look(data: bytes) -> None:
            beginning.extend(data)
            if b"\n" in beginning:
                raise _Enough

        for results in told.results:
            try:
                await self._around.ask(api.download(results, look))
            except _Enough:
                pass
            line = api.form.result(bytes(beginning).partition(b"\n")[0])
            return line is not None and line.custom_id in ours
        return False

    async def _ids(self) -> set[str]:
        path = self._around.store.sent_of(self.record.batch, self.record.number)
        found: list[set[str]] = []
        await self._around.files.run(lambda: found.append(sent_ids(path)))
        return found[0]

    # ---- waiting for it ----

    async def _follow(self, api: ProviderAPI) -> None:
        """Ask how it stands, more and more seldom; when it has ended, get what came of it."""
        around, delay = self._around, FIRST_LOOK
        while not around.stopping:
            if self._owner.is_over and not self._cancelled:
                try:
                    await around.ask(api.cancel(self.record.id))
                except CallerError as error:
                    log.info("%r cannot be cancelled: %s", self.record, error.message)  # it has ended
                self._cancelled = True
                delay = FIRST_LOOK
            try:
                told = await around.ask(api.look(self.record.id))
            except CallerError as error:
                if error.status != 404:
                    raise
                self._unknown_since = min(self._unknown_since, around.monotonic())
                if around.monotonic() - self._unknown_since < DOUBTED_FOR:
                    raise
                log.warning("%r is not known there any more: its results are lost", self.record)
                await self._note(step=Step.ENDED, fate=Fate.FAILED, why=error.message, lost=True)
                return
            self._unknown_since = math.inf
            if told.ended is Fate.FAILED and told.is_crowded and not told.results:
                await self._again_later(api, told)
                return
            if told.ended is not None:
                await self._fetch(api, told, told.ended)
                return
            self._failing_since = math.inf
            await self._wait(delay)
            delay = min(LAST_LOOK, 2 * delay)

    async def _again_later(self, api: ProviderAPI, told: Told) -> None:
        """The provider has as much of ours as it takes: none of this was run."""
        log.info("%r is tried again in %.0f s: %s", self.record, self._crowded, told.why)
        await self._suppressed(api.delete_file(self.record.file))
        await self._note(step=Step.WRITTEN, file="", id="", name=new_name())
        await self._wait(self._crowded)
        self._crowded = min(MOST_CROWDED, 2 * self._crowded)

    async def _fetch(self, api: ProviderAPI, told: Told, fate: Fate) -> None:
        """Write down what came of it, as it comes."""
        files = self._around.files
        path = self._around.store.come_of(self.record.batch, self.record.number)
        opened: list[BinaryIO] = []
        await files.run(lambda: opened.append(open(path, "wb", buffering=0, opener=private_opener)))  # noqa: SIM115
        (file,) = opened
        try:
            for results in told.results:

                async def write(data: bytes) -> None:
                    await files.run(lambda: write_all(file, data))

                await self._around.ask(api.download(results, write))
                await files.run(lambda: write_all(file, b"\n"))
            await files.run(lambda: os.fsync(file.fileno()))
        finally:
            await files.run(file.close)
        self._is_ours = True
        await self._note(step=Step.ENDED, fate=fate, results=told.results, why=told.why)
        log.info("%r: %s", self.record, fate.value)

    # ---- taking it in ----

    async def _take_in(self, api: ProviderAPI) -> None:
        around, owner, record = self._around, self._owner, self.record
        ids, source = await self._ids(), around.store.input_of(owner.batch)
        found: list[dict[str, tuple[int, str]]] = []
        await around.files.run(lambda: found.append(places(source, owner.endpoint, owner.batch.id, ids)))
        left = {name: place for name, place in found[0].items() if place[1] not in owner.done}
        entered: set[str] = set()
        if not self._is_ours and left:
            names = {self._generation(custom_id) for _, custom_id in left.values()}
            entered = await self._providers.entered(names, min(owner.batch.created, record.asked))
        self._is_ours = False  # if it is tried again, some of it may have been taken in
        rest: list[int] = []
        form, reader = form_of(record.endpoint), _Lines(around.store.come_of(record.batch, record.number))
        try:
            while not around.stopping and (texts := await self._next(reader)):
                results = [result for text in texts if (result := form.result(text)) is not None]
                taken = {result.custom_id: result for result in results if result.custom_id in left}
                mine = [(left.pop(name), result) for name, result in taken.items()]
                kept = [each for each in mine if not self._may_be_called(each[1])]
                rest += [place[0] for place, result in mine if self._may_be_called(result)]
                await self._keep_all(kept, entered)
        finally:
            await around.files.run(reader.close)
        if around.stopping:
            return
        missing = [(place, self._untold(name)) for name, place in left.items()]
        rest += [place[0] for place, result in missing if self._may_be_called(result)]
        kept = [each for each in missing if not self._may_be_called(each[1])]
        for at in range(0, len(kept), TAKEN):
            await self._keep_all(kept[at : at + TAKEN], entered)
        if rest:
            log.info("%d lines of %r are called by themselves", len(rest), record)
            self._release()  # each of them keeps what it needs back itself
        for at in range(0, len(rest), TAKEN):
            await owner.call_each(await self._lines(rest[at : at + TAKEN]))
            if around.stopping:
                return
        if around.stopping:  # a result that the disk has not taken is none yet
            return
        await self._note(step=Step.DONE)
        await self._forget(api)

    def _untold(self, name: str) -> Result:
        """What became of a request that results do not tell of.

        In a batch that was completed it was run, as far as anybody knows, and so it is not called again.
        """
        record = self.record
        if record.fate is Fate.COMPLETED:
            return Result(name, 200, is_unreadable=True)
        return Result(name, fate=record.fate, why=record.why)

    async def _next(self, reader: _Lines) -> list[bytes]:
        texts: list[bytes] = []
        await self._around.files.run(lambda: texts.extend(reader.take(TAKEN)))
        return texts

    def _may_be_called(self, result: Result) -> bool:
        """Whether the provider has not run it, or was too busy, and it is to be called by itself then."""
        if not self._around.config.call_rest or self._owner.is_over or self.record.lost:
            return False
        return not result.status or result.status in _PRESSURE

    async def _keep_all(self, results: list[tuple[tuple[int, str], Result]], entered: set[str]) -> None:
        lines = await self._lines([place[0] for place, _ in results])
        await asyncio.gather(
            *(self._keep(line, result, entered) for line, (_, result) in zip(lines, results, strict=True))
        )

    async def _keep(self, line: Line, result: Result, entered: set[str]) -> None:
        owner = self._owner
        if not result.status and (result.fate in {Fate.EXPIRED, Fate.CANCELLED}):
            if not owner.is_over:  # else all that were not run are told together
                await owner.keep_unrun(line)
            return
        generation = self._generation(line.custom_id)
        status, answer = self._providers.deliver(
            owner.batch, self.record, line, result, generation, is_entered=generation in entered
        )
        await owner.keep(line, status, generation, answer)

    async def _lines(self, offsets: list[int]) -> list[Line]:
        found: list[Line] = []
        source, endpoint = self._around.store.input_of(self._owner.batch), self._owner.endpoint
        await self._around.files.run(lambda: found.extend(lines_at(source, endpoint, offsets)))
        return found

    def _generation(self, custom_id: str) -> str:
        """The id that a line's answer has here: the same, whoever takes it in."""
        batch = self._owner.batch
        digest = hashlib.blake2b(
            custom_id.encode("utf-8", "surrogatepass"),
            key=batch.id.encode()[:64],
            digest_size=10,
            person=b"line",
        )
        return f"gen_{int(batch.created * 1_000):012x}{digest.hexdigest()}"

    async def _forget(self, api: ProviderAPI) -> None:
        """Nothing of it need be kept at the provider."""
        record = self.record
        if api.takes_files:
            for file in filter(None, (record.file, *record.results)):
                await self._suppressed(api.delete_file(file))
        elif record.id and not record.lost:
            await self._suppressed(api.delete(record.id))

    async def _suppressed(self, asking: Coroutine[Any, Any, object]) -> None:
        """What is tried once, and does not matter much."""
        try:
            await self._around.ask(asking)
        except (UpstreamError, CallerError, Overloaded) as error:
            log.info("%r: %s", self.record, error.message)


class _Enough(Exception):
    """The beginning has come."""


class _Lines:
    """A file that is read line by line.  For a thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None

    def __repr__(self) -> str:
        return f"<_Lines of {self._path.name}>"

    def take(self, count: int) -> list[bytes]:
        """The next ones that are not empty; none: it has ended, or was never there."""
        if self._file is None:
            try:
                self._file = self._path.open("rb")
            except FileNotFoundError:
                return []
        taken: list[bytes] = []
        for line in self._file:
            if line.strip():
                taken.append(line)
                if len(taken) == count:
                    break
        return taken

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
