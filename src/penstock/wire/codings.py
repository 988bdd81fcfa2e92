"""Content codings (RFC 9110, 8.4; RFC 9842 for ``dcz``): bodies decoded within a bound, answers encoded.  No I/O.

gzip comes with Python, zstd with the base install, br with the extra ``brotli``; which there are, :data:`CODINGS`
says.  Nothing that is decoded grows past its bound by more than a buffer: a bomb costs what an honest body of the
largest size that is allowed costs.  Decoding takes time by the bytes that go in, too, and deflate can be made to take
some 0.5 µs for each without giving anything out; so where two codings were applied, what lies between them is bound by
what was sent (:data:`_BETWEEN`), or 100 KB would hold a core for as long as 32 MB do.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import zstandard

from penstock.errors import BadRequest, BodyTooLarge, DictionaryLacking, UnsupportedMedia

try:
    import brotli
except ImportError:  # an extra
    brotli = None

DCZ = "dcz"
CODINGS = ("zstd", "br", "gzip") if brotli is not None else ("zstd", "gzip")  # of answers, the quickest first

_DCZ_MAGIC = b"\x5e\x2a\x4d\x18\x20\x00\x00\x00"  # RFC 9842, 5: a skippable frame that holds the SHA-256
_DCZ_HEADER = len(_DCZ_MAGIC) + 32
_STEP = 65_536  # bytes fed, or given out, at a time
_MOST_CODINGS = 2
# What is coded already gets hardly any shorter by a second coding, unless it says one thing again and again.
_BETWEEN = 4  # times what was sent, or _STEP bytes
# Of one body: the smallest has eight bytes and decodes to none, and each costs a decoder.
_MOST_FRAMES = 1_024
_GZIP_LEVEL, _BROTLI_QUALITY, _ZSTD_LEVEL = 5, 4, 3
_WINDOW = 1 << 23  # bytes of a zstd window: what RFC 9659 lets every peer expect, and no more

Dictionaries = Callable[[bytes], bytes | None]
"""The content of this SHA-256; None: it is not here."""


def codings_in(value: bytes) -> list[str]:
    """The codings of a ``Content-Encoding``, in the order in which they were applied.

    :raises UnsupportedMedia: one is not understood here, or there are too many
    """
    found = [name.strip().lower() for name in value.decode("latin-1").split(",")]
    found = ["gzip" if name == "x-gzip" else name for name in found if name not in {"", "identity"}]
    if len(found) > _MOST_CODINGS or any(
        name not in CODINGS and name not in {DCZ, "deflate"} for name in found
    ):
        raise UnsupportedMedia(f"the codings that are understood here are {', '.join(CODINGS)} and {DCZ}")
    return found


def decoded(body: bytes, codings: list[str], limit: int, dictionaries: Dictionaries) -> bytes:
    """A body without its codings.

    :param limit: bytes that it may have
    :raises BodyTooLarge: it has more, or too much lies between two codings of it
    :raises BadRequest: it is not so coded, or breaks off
    :raises DictionaryLacking: its dictionary is not here
    """
    between = min(limit, max(_BETWEEN * len(body), _STEP))
    for left, name in reversed(tuple(enumerate(codings))):
        most = between if left else limit
        try:
            if name == "gzip":
                body = _inflated(body, most, zlib.MAX_WBITS | 16)
            elif name == "deflate":
                body = _inflated(body, most, zlib.MAX_WBITS)
            elif name == "br":
                body = _from_brotli(body, most)
            elif name == "zstd":
                body = _from_zstd(body, most, None)
            else:
                body = _from_dcz(body, most, dictionaries)
        except (zlib.error, zstandard.ZstdError, ValueError) as error:
            raise _undecodable(name) from error
        except Exception as error:
            if brotli is not None and isinstance(error, brotli.error):
                raise _undecodable(name) from error
            raise
    return body


def _inflated(body: bytes, limit: int, wbits: int) -> bytes:
    parts = bytearray()
    at = members = 0
    while True:  # gzip: members may follow each other (RFC 1952, 2.2)
        inflater = zlib.decompressobj(wbits)
        while not inflater.eof:
            # In steps: what follows a member is copied, and there may be many members.
            fed = body[at : at + _STEP]
            piece = inflater.decompress(fed, limit - len(parts) + 1)
            parts += piece
            if len(parts) > limit:
                raise _too_large(limit)
            if not fed and not piece and not inflater.eof:
                raise ValueError("it breaks off")
            at += len(fed) - len(inflater.unconsumed_tail or inflater.unused_data)
        if at == len(body):
            return bytes(parts)
        if not wbits & 16:
            raise ValueError("something follows")
        members += 1
        if members == _MOST_FRAMES:
            raise _in_too_many("gzip")


def _from_brotli(body: bytes, limit: int) -> bytes:
    decoder = brotli.Decompressor()
    parts = bytearray(decoder.process(body, output_buffer_limit=_STEP))
    while not decoder.is_finished():
        if len(parts) > limit:
            raise _too_large(limit)
        piece = decoder.process(b"", output_buffer_limit=_STEP)
        if not piece and not decoder.is_finished():
            raise ValueError("it breaks off")
        parts += piece
    if len(parts) > limit:
        raise _too_large(limit)
    return bytes(parts)


def _from_zstd(body: bytes, limit: int, dictionary: zstandard.ZstdCompressionDict | None) -> bytes:
    decompressor = zstandard.ZstdDecompressor(dict_data=dictionary, max_window_size=_window(dictionary))
    parts = bytearray()
    at = frames = 0
    while at < len(body):  # frames may follow each other (RFC 8878, 3)
        decoder = decompressor.decompressobj()
        while not decoder.eof:
            fed = body[at : at + _SLICE]
            if not fed:
                raise ValueError("it breaks off")
            # A block gives out 128 KiB at most and takes at least four bytes: so a step is bounded, too.
            parts += decoder.decompress(fed)
            at += len(fed)
            if len(parts) > limit:
                raise _too_large(limit)
        at -= len(decoder.unused_data)
        frames += 1
        if frames == _MOST_FRAMES and at < len(body):
            raise _in_too_many("zstd")
    return bytes(parts)


_SLICE = 256  # bytes of zstd fed at a time: at most 64 blocks, 8 MiB


def _window(dictionary: zstandard.ZstdCompressionDict | None) -> int:
    """RFC 9842, 5: with a dictionary the window may be as large as 1.25 times that."""
    return _WINDOW if dictionary is None else max(_WINDOW, len(dictionary.as_bytes()) * 5 // 4)


def _from_dcz(body: bytes, limit: int, dictionaries: Dictionaries) -> bytes:
    if not body.startswith(_DCZ_MAGIC) or len(body) < _DCZ_HEADER:
        raise ValueError("it has no header")
    name = body[len(_DCZ_MAGIC) : _DCZ_HEADER]
    content = dictionaries(name)
    if content is None:
        raise DictionaryLacking("this dictionary is not here: send the body without it")
    dictionary = zstandard.ZstdCompressionDict(content, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    return _from_zstd(body[_DCZ_HEADER:], limit, dictionary)


def with_dictionary(body: bytes, dictionary: bytes, level: int = _ZSTD_LEVEL) -> bytes:
    """A body in ``dcz``, as a client sends it."""
    content = zstandard.ZstdCompressionDict(dictionary, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    parameters = zstandard.ZstdCompressionParameters.from_level(
        level,
        source_size=len(body),
        dict_size=len(dictionary),
        window_log=_window_log(len(body) + len(dictionary)),
    )
    compressor = zstandard.ZstdCompressor(dict_data=content, compression_params=parameters)
    return _DCZ_MAGIC + hashlib.sha256(dictionary).digest() + compressor.compress(body)


def in_zstd(body: bytes, level: int) -> bytes:
    """A body in ``zstd``, as a client sends it: a large one by several threads, as nothing can be sent until it is done.

    The parts know a little of what is before them, and so all of them together are at most a hundredth longer.
    """
    if len(body) < 2 * _PART:
        return zstandard.ZstdCompressor(level=level).compress(body)
    threads = min(os.cpu_count() or 1, -(-len(body) // _PART), _MOST_THREADS)
    parameters = zstandard.ZstdCompressionParameters.from_level(level, threads=threads, job_size=_PART)
    return zstandard.ZstdCompressor(compression_params=parameters).compress(body)


def each_in_zstd(pieces: Iterable[bytes], level: int) -> list[bytes]:
    """Pieces of a body, each in ``zstd`` by itself, so that together they are the body in ``zstd``.

    Other threads compress those that are there while the next one is made.
    """
    with ThreadPoolExecutor(min(os.cpu_count() or 1, _MOST_THREADS), "penstock-zstd") as threads:
        return list(threads.map(lambda piece: zstandard.ZstdCompressor(level=level).compress(piece), pieces))


_PART = 2_097_152  # bytes that one thread compresses at a time: what its level looks back on
_MOST_THREADS = 4


def _window_log(size: int) -> int:
    return min(max(size.bit_length(), 10), 23)


# ---- answers ----


class Encoder(Protocol):
    """Encodes one answer as it comes."""

    def encode(self, data: bytes) -> bytes:
        """These bytes, flushed: the receiver can decode all of them."""

    def end(self) -> bytes:
        """What ends the coding."""


def preferred(accepted: bytes, offered: tuple[str, ...]) -> str:
    """The coding for an answer, by ``Accept-Encoding`` (RFC 9110, 12.5.3); empty: none.

    Of those that the client takes gladly the one that is offered first; a weight of 0 forbids.
    """
    weights: dict[str, float] = {}
    for item in accepted.decode("latin-1").lower().split(","):
        name, _, parameters = item.strip().partition(";")
        weight = 1.0
        key, _, value = parameters.strip().partition("=")
        if key.strip() == "q":
            try:
                weight = float(value)
            except ValueError:
                weight = 0.0
        weights[name.strip()] = weight
    best, best_weight = "", 0.0
    for name in offered:
        weight = weights.get(name, weights.get("*", 0.0))
        if weight > best_weight:
            best, best_weight = name, weight
    return best if best_weight >= weights.get("identity", 0.0) else ""


def encoder(name: str) -> Encoder:
    """An encoder of one of :data:`CODINGS`."""
    if name == "gzip":
        return _Gzip()
    if name == "br":
        return _Brotli()
    return _Zstd()


class _Gzip:
    def __init__(self) -> None:
        self._deflater = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, zlib.MAX_WBITS | 16)

    def encode(self, data: bytes) -> bytes:
        return self._deflater.compress(data) + self._deflater.flush(zlib.Z_SYNC_FLUSH)

    def end(self) -> bytes:
        return self._deflater.flush()


class _Brotli:
    def __init__(self) -> None:
        self._compressor = brotli.Compressor(quality=_BROTLI_QUALITY)

    def encode(self, data: bytes) -> bytes:
        flushed: bytes = self._compressor.process(data) + self._compressor.flush()
        return flushed

    def end(self) -> bytes:
        rest: bytes = self._compressor.finish()
        return rest


class _Zstd:
    def __init__(self) -> None:
        self._compressor = zstandard.ZstdCompressor(_ZSTD_LEVEL).compressobj()

    def encode(self, data: bytes) -> bytes:
        return self._compressor.compress(data) + self._compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)

    def end(self) -> bytes:
        return self._compressor.flush(zstandard.COMPRESSOBJ_FLUSH_FINISH)


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"The request's body, decoded, is larger than {limit} bytes.")


def _in_too_many(name: str) -> BadRequest:
    return BadRequest(f"the body consists of more than {_MOST_FRAMES} parts in {name}", code="undecodable")


def _undecodable(name: str) -> BadRequest:
    return BadRequest(f"the body is not in {name}, or breaks off", code="undecodable")
