"""The input of a batch, line by line.  These functions block; they are for a thread."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from penstock.messages import Endpoint
from penstock.wire.batch import Fault, Line, read_line

MAX_FAULTS = 100  # told of one batch


def numbered(source: BinaryIO, longest: int) -> Iterator[tuple[int, bytes]]:
    """The lines that are not empty, with their numbers from 1; of one that is too long, only its beginning."""
    number = 0
    while text := source.readline(longest + 1):
        number += 1
        whole = text
        while len(text) > longest and not text.endswith(b"\n"):
            text = source.readline(longest + 1)  # the rest of it, of which nothing is kept
        if whole.strip():
            yield number, whole


def validate(
    path: Path, endpoint: Endpoint, *, max_lines: int, longest: int
) -> tuple[int, tuple[Fault, ...]]:
    """How many lines there are, and what is wrong with them.

    :param longest: bytes of a line
    """
    faults: list[Fault] = []
    seen: set[str] = set()
    count = 0
    with path.open("rb") as source:
        for number, text in numbered(source, longest):
            count += 1
            if count > max_lines:
                return count, (Fault("too_many_tasks", f"A batch has at most {max_lines} requests."),)
            read = _checked(text, endpoint, longest, seen)
            if isinstance(read, Line):
                seen.add(read.custom_id)
            elif len(faults) < MAX_FAULTS:
                faults.append(msgspec.structs.replace(read, line=number))
    if not count:
        faults.append(Fault("empty_batch", "The input file holds no requests."))
    return count, tuple(faults)


def _checked(text: bytes, endpoint: Endpoint, longest: int, seen: set[str]) -> Line | Fault:
    if len(text) > longest:
        return Fault("invalid_request", f"The line is longer than {longest} bytes.")
    read = read_line(text, endpoint)
    if isinstance(read, Line) and read.custom_id in seen:
        return Fault("duplicate_custom_id", "Another line has this custom_id.", "custom_id")
    return read


class LineSource:
    """The requests of a batch that was validated, in their order.

    :param done: ``custom_id`` of those that are not wanted
    """

    def __init__(self, path: Path, endpoint: Endpoint, longest: int, done: set[str]) -> None:
        self._path = path
        self._endpoint = endpoint
        self._longest = longest
        self._done = done
        self._file: BinaryIO | None = None
        self._lines: Iterator[tuple[int, bytes]] = iter(())

    def __repr__(self) -> str:
        return f"<LineSource {self._path.name}, {'open' if self._file else 'closed'}>"

    def take(self, count: int, size: int) -> list[Line]:
        """The next ones: at most ``count``, and about ``size`` bytes; none: it has ended."""
        if self._file is None:
            self._file = self._path.open("rb")
            self._lines = numbered(self._file, self._longest)
        taken: list[Line] = []
        held = 0
        for _, text in self._lines:
            line = read_line(text, self._endpoint)
            assert isinstance(line, Line), "it was validated, and nobody can change it"
            if line.custom_id in self._done:
                continue
            taken.append(line)
            held += len(text)
            if len(taken) >= count or held >= size:
                break
        return taken

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
