"""Reading traces of production traffic.

Two published forms, gzipped or not, told apart by their first line:

* Azure's LLM inference traces (Patel et al., ISCA 2024): CSV with ``TIMESTAMP, ContextTokens,
  GeneratedTokens``
* Mooncake's (Qin et al., FAST 2025): JSON lines with ``timestamp`` in milliseconds, ``input_length``,
  ``output_length`` and ``hash_ids``, one id for each 512-token block of the prompt; equal ids mean equal text
"""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, TextIO, cast

import msgspec

BLOCK_TOKENS = 512
_MOST_TOKENS = 10_000_000  # of one call; a number beyond it is a mistake in the file
_AZURE = ("timestamp", "contexttokens", "generatedtokens")


class TraceCall(msgspec.Struct, frozen=True):
    """One call of a trace."""

    at: float  # seconds since the trace's first call
    input_tokens: int
    output_tokens: int
    blocks: tuple[int, ...] = ()  # ids of the prompt's 512-token blocks, where the trace knows them


class TraceError(Exception):
    """The file cannot be used; the message names file and line."""


def read_trace(path: Path | str, limit: int | None = None) -> list[TraceCall]:
    """The calls of a trace, by time of arrival.

    :param limit: read the first so many only
    :raises TraceError: missing, unreadable or malformed
    """
    path = Path(path)
    calls = []
    try:
        with _opened(path) as file:
            for call in _calls(path, file):
                calls.append(call)
                if limit is not None and len(calls) >= limit:
                    break
    except OSError as error:  # gzip.BadGzipFile is one
        raise TraceError(f"{path}: {error.strerror or error}") from error
    except (EOFError, zlib.error) as error:
        raise TraceError(f"{path}: the gzip file is damaged: {error}") from error
    except csv.Error as error:
        raise TraceError(f"{path}, line {len(calls) + 2}: {error}") from error
    except UnicodeDecodeError as error:
        raise TraceError(f"{path}: not a text file (byte {error.start} is no UTF-8)") from error
    if not calls:
        raise TraceError(f"{path}: no calls in it")
    first = min(call.at for call in calls)
    moved = [msgspec.structs.replace(call, at=call.at - first) for call in calls]
    return sorted(moved, key=lambda call: call.at)


def _opened(path: Path) -> TextIO:
    file: BinaryIO = path.open("rb")
    try:
        zipped = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        raw = cast("BinaryIO", gzip.GzipFile(fileobj=file)) if zipped else file
        return _Text(raw, file)
    except BaseException:
        file.close()
        raise


class _Text(io.TextIOWrapper):
    """Text over a stream that may itself stand on a file; both are closed with it."""

    def __init__(self, raw: BinaryIO, file: BinaryIO) -> None:
        super().__init__(raw, encoding="utf-8-sig", newline="")
        self._file = file

    def close(self) -> None:
        super().close()
        self._file.close()


def _calls(path: Path, file: TextIO) -> Iterator[TraceCall]:
    first = file.readline()
    if first.lstrip().startswith("{"):
        return _mooncake(path, first, file)
    header = [name.strip().lower() for name in next(csv.reader([first]), [])]
    if not set(_AZURE) <= set(header):
        shown = first.strip()[:80]
        raise TraceError(
            f"{path}, line 1: neither JSON nor a header with TIMESTAMP, ContextTokens and GeneratedTokens: {shown!r}"
        )
    return _azure(path, header, file)


def _azure(path: Path, header: list[str], file: TextIO) -> Iterator[TraceCall]:
    time, context, generated = (header.index(name) for name in _AZURE)
    for line, row in enumerate(csv.reader(file), 2):
        if not row:
            continue
        if len(row) != len(header):
            raise TraceError(f"{path}, line {line}: {len(row)} columns where the header has {len(header)}")
        try:
            at = datetime.fromisoformat(row[time].strip()).timestamp()
        except ValueError:
            raise TraceError(f"{path}, line {line}: TIMESTAMP is no date and time: {row[time]!r}") from None
        yield TraceCall(
            at,
            _tokens(path, line, "ContextTokens", row[context]),
            _tokens(path, line, "GeneratedTokens", row[generated]),
        )


def _tokens(path: Path, line: int, name: str, text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = -1
    if not 0 <= number <= _MOST_TOKENS:
        raise TraceError(f"{path}, line {line}: {name} is no number of tokens: {text!r}")
    return number


class _Line(msgspec.Struct):
    timestamp: float
    input_length: int
    output_length: int
    hash_ids: tuple[int, ...] = ()


def _mooncake(path: Path, first: str, file: TextIO) -> Iterator[TraceCall]:
    decode = msgspec.json.Decoder(_Line).decode
    text = first
    line = 1
    while text:
        if text.strip():
            try:
                call = decode(text)
            except msgspec.DecodeError as error:
                raise TraceError(f"{path}, line {line}: {error}") from None
            yield TraceCall(
                call.timestamp / 1000,
                _tokens(path, line, "input_length", str(call.input_length)),
                _tokens(path, line, "output_length", str(call.output_length)),
                call.hash_ids,
            )
        text = file.readline()
        line += 1
