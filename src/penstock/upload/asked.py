"""What a request wants of uploads, whichever dialect it is said in."""

from __future__ import annotations

import enum
import re

import msgspec

from penstock.errors import BadRequest
from penstock.messages import Headers
from penstock.upload.digests import Digest

MAX_BLOCK = 8_388_608  # bytes
LEAST_CUT = 16_384  # bytes of a block that an append asks for: each is a file that is synced
MAX_CUTS = 4_096
_NUMBER = re.compile(rb"\s*([0-9]{1,15})\s*")  # a structured field's integer, RFC 9651, that is not negative


class UploadDialect(enum.StrEnum):
    """Who speaks; the words are those in the store's database."""

    RUFH = "rufh"
    TUS = "tus"
    OPENAI = "openai"


class Concat(enum.StrEnum):
    """What an upload is to tus's concatenation."""

    NONE = ""
    PARTIAL = "partial"
    FINAL = "final"


class Creation(msgspec.Struct, frozen=True):
    """A request that begins an upload, and may hold its beginning."""

    dialect: UploadDialect
    closes: bool | None  # whether its content is all; None: the length will tell
    length: int | None
    digest: Digest | None  # of the content that it holds
    whole: Digest | None = None  # of the whole upload
    metadata: dict[str, str] = {}
    concat: Concat = Concat.NONE
    parts: tuple[str, ...] = ()  # ids of the uploads that a final one puts together
    cuts: tuple[int, ...] = ()  # bytes of the blocks that the content is to become; empty: as it comes


class Append(msgspec.Struct, frozen=True):
    """A request that goes on with an upload."""

    offset: int
    closes: bool | None
    length: int | None
    digest: Digest | None
    whole: Digest | None = None
    cuts: tuple[int, ...] = ()


def cuts_in(headers: Headers) -> tuple[int, ...]:
    """The sizes in ``Penstock-Blocks``, in bytes; empty: it is not there.

    :raises BadRequest: it holds something else than sizes of blocks
    """
    value = headers.get(b"penstock-blocks")
    if value is None:
        return ()
    sizes = value.split(b",", MAX_CUTS)
    if len(sizes) > MAX_CUTS or not all(_NUMBER.fullmatch(size) for size in sizes):
        raise BadRequest(
            f"Penstock-Blocks must hold at most {MAX_CUTS} sizes in bytes", param="penstock-blocks"
        )
    cuts = tuple(map(int, sizes))
    if (
        min(cuts[:-1], default=LEAST_CUT) < LEAST_CUT
        or not 0 < cuts[-1] <= MAX_BLOCK
        or max(cuts) > MAX_BLOCK
    ):
        raise BadRequest(
            f"a block in Penstock-Blocks has {LEAST_CUT} to {MAX_BLOCK} bytes; the last may have fewer",
            param="penstock-blocks",
        )
    return cuts


def number_in(headers: Headers, name: bytes) -> int | None:
    """A field that holds a whole number; None: it is not there.

    :raises BadRequest: it holds something else
    """
    value = headers.get(name)
    if value is None:
        return None
    match = _NUMBER.fullmatch(value)
    if match is None:
        raise BadRequest(f"{name.decode()} must be a whole number", param=name.decode())
    return int(match[1])


def content_length_of(headers: Headers) -> int | None:
    """How long the content says to be; None: it comes in chunks of unknown number."""
    if b"transfer-encoding" in headers:
        return None
    value = headers.get(b"content-length", b"0")
    return int(value) if value.isdigit() else 0
