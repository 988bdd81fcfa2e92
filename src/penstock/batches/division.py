"""Which lines of a batch go to providers' own batches, and with which others: written to files, one for each of those."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Literal, TypeAlias

from penstock.batches.batch import Batch
from penstock.batches.provider_batch import ProviderBatch, new_name
from penstock.batches.providers import Prepared, Providers
from penstock.batches.source import LineSource
from penstock.batches.store import BatchStore
from penstock.messages import Endpoint
from penstock.sqlite_files import private_opener
from penstock.upload.local_files import sync_directory, write_all
from penstock.wire.batch import Line, read_line, result_id
from penstock.wire.provider_batch import form_of

MOST_BYTES = 32 << 20  # of one provider's batch: they are in memory, twice, while they are sent
MOST_INPUTS = 50_000  # texts of one batch that are made vectors of, as OpenAI has it
_TAKEN = 16  # lines between which others have their turn
_TAKEN_BYTES = 1 << 20
_BEGINNING = b'{"custom_id":"'
_ID_LENGTH = len(result_id("", ""))

# Only lines that have all of this in common go together: upstream, its endpoint, its model, ours.
_Key: TypeAlias = tuple[str, Endpoint, str, str]


class _Open:
    """A file that takes more lines yet."""

    def __init__(self, number: int, path: Path) -> None:
        self.number = number
        self.path = path
        self.lines = self.size = self.inputs = self.cost = 0
        self.texts: list[bytes] = []  # that are not written yet
        self._mode: Literal["wb", "ab"] = (
            "wb"  # what a process has left that was killed before it had divided all of it, goes
        )

    def write(self) -> None:
        """For a thread."""
        texts, self.texts = self.texts, []
        with open(self.path, self._mode, buffering=0, opener=private_opener) as file:
            write_all(file, b"".join(texts))
        self._mode = "ab"

    def __repr__(self) -> str:
        return f"<_Open {self.path.name}, {self.lines} lines>"


class Division:
    """Goes through the lines of a batch once.

    :param run: runs work on the disk in a thread
    """

    def __init__(
        self,
        batch: Batch,
        endpoint: Endpoint,
        providers: Providers,
        store: BatchStore,
        run: Callable[[Callable[[], object]], Awaitable[object]],
    ) -> None:
        self._batch = batch
        self._endpoint = endpoint
        self._providers = providers
        self._store = store
        self._run = run
        self._open: dict[_Key, _Open] = {}
        self._unwritten: dict[int, _Open] = {}
        self._records: list[ProviderBatch] = []
        self._count = 0

    def __repr__(self) -> str:
        return f"<Division of {self._batch.id}, {self._count} so far>"

    async def divide(self, source: LineSource) -> list[ProviderBatch]:
        """The records of what is to be sent, in the order of their numbers; nothing of it is entered anywhere.

        :param source: the lines that have no result yet
        """
        while lines := await self._taken(source):
            for line in lines:
                prepared = self._providers.prepare(self._batch, self._endpoint, line)
                if prepared is not None:
                    self._add(line, prepared)
            await self._run(self._write)
        for key in list(self._open):
            self._close(key)
        await self._run(self._sync)
        return sorted(self._records, key=lambda record: record.number)

    async def _taken(self, source: LineSource) -> list[Line]:
        taken: list[Line] = []
        await self._run(lambda: taken.extend(source.take(_TAKEN, _TAKEN_BYTES)))
        return taken

    def _add(self, line: Line, prepared: Prepared) -> None:
        key = (prepared.upstream, prepared.endpoint, prepared.model, prepared.named)
        form = form_of(prepared.endpoint.path)
        text = form.request(result_id(self._batch.id, line.custom_id), prepared.endpoint, prepared.body)
        most = min(form.most_bytes, MOST_BYTES)
        if len(text) > most or prepared.inputs > MOST_INPUTS:
            return  # it is called by itself
        file = self._open.get(key)
        if file is not None and (
            file.lines >= form.most_lines
            or file.size + len(text) > most
            or file.inputs + prepared.inputs > MOST_INPUTS
        ):
            self._close(key)
            file = None
        if file is None:
            path = self._store.sent_of(self._batch.id, self._count)
            file = self._open[key] = _Open(self._count, path)
            self._count += 1
        self._unwritten[file.number] = file
        file.texts.append(text)
        file.lines += 1
        file.size += len(text)
        file.inputs += prepared.inputs
        file.cost += prepared.cost

    def _close(self, key: _Key) -> None:
        """No more goes into it."""
        file = self._open.pop(key)
        upstream, endpoint, model, named = key
        self._records.append(
            ProviderBatch(
                batch=self._batch.id,
                number=file.number,
                upstream=upstream,
                endpoint=endpoint.path,
                model=model,
                named=named,
                lines=file.lines,
                name=new_name(),
                cost=file.cost,
            )
        )

    def _write(self) -> None:
        unwritten, self._unwritten = self._unwritten, {}
        for file in unwritten.values():
            file.write()

    def _sync(self) -> None:
        for number in range(self._count):
            with self._store.sent_of(self._batch.id, number).open("rb") as file:
                os.fsync(file.fileno())
        sync_directory(self._store.lines)


def sent_ids(path: Path) -> set[str]:
    """By which the requests of such a file are known at the provider.  For a thread."""
    with path.open("rb") as file:
        return {
            line[len(_BEGINNING) : len(_BEGINNING) + _ID_LENGTH].decode("ascii")
            for line in file
            if line.startswith(_BEGINNING)
        }


def places(path: Path, endpoint: Endpoint, batch_id: str, wanted: set[str]) -> dict[str, tuple[int, str]]:
    """Where the lines stand in a batch's input that are known by these ids: offset, and ``custom_id``.  For a thread."""
    found: dict[str, tuple[int, str]] = {}
    with path.open("rb") as source:
        at = 0
        for text in source:
            if text.strip():
                line = read_line(text, endpoint)
                assert isinstance(line, Line), "it was validated, and nobody can change it"
                name = result_id(batch_id, line.custom_id)
                if name in wanted:
                    found[name] = (at, line.custom_id)
            at += len(text)
    return found


def lines_at(path: Path, endpoint: Endpoint, offsets: Iterable[int]) -> list[Line]:
    """The lines of a batch's input that begin there.  For a thread."""
    found = []
    with path.open("rb") as source:
        for offset in offsets:
            source.seek(offset)
            line = read_line(source.readline(), endpoint)
            assert isinstance(line, Line), "it was validated, and nobody can change it"
            found.append(line)
    return found
