"""One conversation and its answer, as a line of a file; and reading directories of such files.

::

    directory/TENANT/BEGAN-PROCESS-NUMBER.jsonl

``TENANT`` is percent-encoded, ``BEGAN`` are milliseconds since 1970.  A process that was killed leaves a line that
is not whole, a power cut perhaps more of them: a reader passes them over.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import msgspec

SUFFIX = ".jsonl"


class Message(msgspec.Struct, frozen=True):
    role: Literal["system", "user", "assistant"]
    content: str


class Transcript(msgspec.Struct, frozen=True, omit_defaults=True):
    """``messages`` ends with the answer; ``at`` is Unix time, in seconds."""

    id: str  # the generation's
    at: float
    tenant: str
    model: str  # as the caller named it
    upstream: str
    upstream_model: str  # who answered
    messages: tuple[Message, ...]


class Damaged(msgspec.Struct, frozen=True):
    """A line that is no transcript."""

    path: Path
    line: int


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Transcript).decode


def line_of(transcript: Transcript) -> bytes:
    return _encode(transcript) + b"\n"


def folder_of(tenant: str) -> str:
    """The name of a tenant's folder; no two tenants have the same, and none is a way out of the directory."""
    return quote(tenant, safe="").replace(".", "%2E")


def files(directory: Path) -> list[Path]:
    """All files of a directory, the oldest first."""
    found = [path for path in directory.glob(f"*/*{SUFFIX}") if began(path) is not None]
    return sorted(found, key=lambda path: (began(path), path.name, path))


def began(path: Path) -> float | None:
    """When a file was begun, Unix time; None: its name is not one of ours."""
    stamp, _, rest = path.name.partition("-")
    return int(stamp) / 1_000 if rest and stamp.isascii() and stamp.isdecimal() else None


def read(directory: Path) -> Iterator[Transcript | Damaged]:
    """Everything that stands in a directory's files, the oldest file first; what went meanwhile is left out.

    :raises OSError: a file cannot be read
    """
    for path in files(directory):
        try:
            file = path.open("rb")
        except FileNotFoundError:  # it was kept for long enough
            continue
        with file:
            for number, line in enumerate(file, 1):
                try:
                    yield _decode(line)
                except (msgspec.DecodeError, UnicodeDecodeError):
                    yield Damaged(path, number)
