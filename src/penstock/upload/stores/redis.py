"""Uploads in a Redis server, which the gateways of several machines share: the index, and the bytes as well.

What the server acknowledged outlives every gateway.  Whether it outlives the server depends on how that is run: with
``appendonly yes`` and ``appendfsync always`` all of it does, with ``everysec`` all but the last second.  A server that
evicts keys when its memory is full loses uploads: it is to be run with ``maxmemory-policy noeviction``.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import msgspec

from penstock.config.redis_address import Address
from penstock.errors import (
    Conflict,
    KeyReused,
    PenstockError,
    StorageFull,
    StorageUnavailable,
)
from penstock.net.redis_client import Client
from penstock.upload.asked import Concat, UploadDialect
from penstock.upload.files import ORPHANED
from penstock.upload.index import (
    MAX_SEGMENTS,
    Addition,
    Limits,
    Sealed,
    Upload,
    checked_size,
    gone,
    joined,
    no_part,
    quota,
    superseded,
    too_many,
    too_many_segments,
    unknown,
)
from penstock.upload.local_files import READ, FileReader
from penstock.upload.offsets import Phase
from penstock.upload.stores import _redis_scripts as scripts
from penstock.upload.stores.disk import Disk
from penstock.upload.stores.redis_clock import RedisClock

BUDGET = 5.0  # seconds for one answer; nothing here is on the way of a call
PREFIX = "penstock:{uploads}:"
_AT_ONCE = 200  # things that expire in one step, for which everybody else waits
_STEPS = 50

log = logging.getLogger("penstock.uploads")


def unavailable(why: str) -> StorageUnavailable:
    """What a caller is told, and the log why."""
    log.warning("uploads and files were asked for, and answered with 503: %s", why)
    return StorageUnavailable("what the gateway keeps cannot be reached now", retry_after=1.0)


def _full(why: str) -> StorageFull:
    log.warning("an upload was refused with 507, because its index is full: %s", why)
    return StorageFull("there is no room left where the gateway keeps uploads")


def redis_client(url: str, budget: float, known: Sequence[bytes] = scripts.ALL) -> Client:
    """Asks a server that keeps what callers send.

    :param known: scripts
    :raises ValueError: the URL is none of Redis
    """
    return Client(Address.parse(url), budget, known, unavailable, _full)


class RedisIndex:
    """An :class:`~penstock.upload.index.Index` in a Redis server, version 7 or newer.

    :param url: see :meth:`penstock.config.redis_address.Address.parse`
    :param limits: whose ``now`` is that of ``clock``
    :param kept: whether :class:`RedisContents` of the same server and prefix hold the bytes
    :param clock: is told the server's time
    :raises ValueError: the URL is none of Redis
    """

    def __init__(
        self,
        url: str,
        limits: Limits,
        *,
        kept: bool,
        clock: RedisClock,
        prefix: str = PREFIX,
        budget: float = BUDGET,
    ) -> None:
        self._client = redis_client(url, budget)
        self._limits = limits
        self._clock = clock
        self._kept = b"1" if kept else b""
        self._prefix = prefix.encode()

    def __repr__(self) -> str:
        return f"<RedisIndex {self._client}>"

    async def open(self) -> None:
        with contextlib.suppress(PenstockError):  # it is in the log, and all but uploads goes on
            await self._clock.hear(self._client)

    async def close(self) -> None:
        await self._client.close()

    async def _run(self, script: bytes, *values: bytes) -> Any:
        await self._client.ready()  # for which it may have to wait, and the time is that of the request
        await self._clock.hear(self._client)
        now = text(self._limits.now())
        return await self._client.run(script, [self._prefix], now, self._kept, *values)

    # ---- one upload ----

    async def create(self, upload: Upload) -> tuple[Upload, bool]:
        answer = await self._run(
            scripts.CREATE,
            upload.id.encode(),
            upload.owner.encode(),
            (upload.name or "").encode(),
            upload.parent.encode(),
            text(upload.expires),
            b"%d" % upload.phase,
            upload.fingerprint.encode(),
            b"%d" % self._limits.max_open,
            *_fields(upload),
        )
        if isinstance(answer, int):
            raise too_many(answer)
        if answer == b"reused":
            raise _reused()
        found = answer.decode()
        if found == upload.id:
            return upload, True
        return await self.get(upload.owner, found), False

    async def get(self, owner: str, upload_id: str) -> Upload:
        upload = _upload(
            await self._client.ask(b"HGETALL", self._prefix + b"upload:" + _word(upload_id)), upload_id
        )
        if upload.owner != owner:
            raise unknown(upload_id)
        if upload.phase is Phase.GONE or upload.expires <= self._limits.now():
            raise gone()
        return upload

    async def end_epoch(self, owner: str, upload_id: str) -> Upload:
        answer = await self._run(scripts.END_EPOCH, _word(upload_id), owner.encode())
        _must_live(answer, upload_id)
        return _upload(answer, upload_id)

    async def enter(self, addition: Addition, sealed: Sequence[Sealed]) -> list[str]:
        after = addition.offset + sum(block.size for block in sealed)
        length = after if addition.complete else addition.length
        answer = await self._run(
            scripts.ENTER,
            addition.upload.encode(),
            addition.owner.encode(),
            b"%d" % addition.epoch,
            b"%d" % addition.offset,
            b"%d" % after,
            b"" if length is None else b"%d" % length,
            b"1" if addition.complete else b"",
            text(self._limits.now() + self._limits.completed_kept_for),
            b"%d" % self._limits.tenant_bytes,
            b"%d" % MAX_SEGMENTS,
            *_blocks(sealed),
        )
        return self._going(answer)

    async def add(self, owner: str, sealed: Sealed) -> list[str]:
        answer = await self._run(
            scripts.ADD, owner.encode(), b"%d" % self._limits.tenant_bytes, *_blocks([sealed])
        )
        return self._going(answer)

    def _going(self, answer: Any) -> list[str]:
        match answer:
            case b"superseded":
                raise superseded()
            case b"segments":
                raise too_many_segments()
            case b"quota":
                raise quota(self._limits)
            case b"lost":
                raise unavailable("Redis has lost a block before it was entered")
        return _names(answer)

    async def find(self, owner: str, digests: Sequence[bytes]) -> dict[bytes, tuple[str, int]]:
        answer = await self._run(scripts.FIND, owner.encode(), *digests)
        found = {}
        for digest, entry in zip(digests, answer, strict=False):
            if entry:
                file, _, size = entry.decode().partition(" ")
                found[digest] = (file, int(size))
        return found

    async def held(self, owner: str) -> int:
        return int(await self._client.ask(b"HGET", self._prefix + b"sums:" + owner.encode(), b"held") or 0)

    async def complete(self, upload: Upload) -> bool:
        until = self._limits.now() + self._limits.completed_kept_for
        return bool(
            await self._run(
                scripts.COMPLETE,
                upload.id.encode(),
                upload.owner.encode(),
                b"%d" % upload.epoch,
                text(until),
            )
        )

    async def remember(self, upload_id: str, answer: bytes) -> None:
        await self._run(scripts.REMEMBER, upload_id.encode(), answer)

    async def give_up(self, owner: str, upload_id: str) -> None:
        until = text(self._limits.now() + self._limits.kept_for)
        _must_live(await self._run(scripts.GIVE_UP, _word(upload_id), owner.encode(), until), upload_id)

    async def concatenate(self, upload: Upload, part_ids: Sequence[str], parent: str) -> Upload:
        whole = joined(upload, part_ids, 0, self._limits)
        answer = await self._run(
            scripts.JOIN,
            upload.id.encode(),
            upload.owner.encode(),
            (upload.name or "").encode(),
            parent.encode(),
            text(whole.expires),
            b"" if upload.length is None else b"%d" % upload.length,
            upload.fingerprint.encode(),
            b"%d" % upload.max_size,
            b"%d" % MAX_SEGMENTS,
            b"%d" % len(part_ids),
            *map(_word, part_ids),
            *_fields(whole),
        )
        if isinstance(answer, bytes):
            return await self.get(upload.owner, answer.decode())
        why, *more = answer
        if why == b"size":
            checked_size(upload, *more)
        named = "" if why == b"size" else more[0].decode(errors="replace")
        match why:
            case b"reused":
                raise _reused()
            case b"ended":
                raise Conflict("this upload has ended", code="upload_ended")
            case b"incomplete":
                raise no_part(named)
        _must_live(why, named)
        raise unavailable(f"Redis answered {why!r}")

    async def files(self, upload_id: str) -> list[str]:
        return _names(await self._run(scripts.FILES, upload_id.encode()))

    # ---- what is to go ----

    async def expire(self) -> list[str]:
        now = self._limits.now()
        until, since = text(now + self._limits.kept_for), text(now - self._limits.blocks_kept_for)
        going: list[str] = []
        for _ in range(_STEPS):
            count, files = await self._run(scripts.EXPIRE, until, since, b"%d" % _AT_ONCE)
            going += _names(files)
            if count < _AT_ONCE:
                break
        return going

    async def unknown(self, files: Sequence[str]) -> list[str]:
        return await not_in(self._client, self._prefix + b"files", files)


class RedisContents:
    """:class:`~penstock.upload.contents.Contents` in the server in which :class:`RedisIndex` is.

    A block goes there in pieces; until it is entered its key expires by itself, and the index takes that from it in
    the step that enters it.  So what nobody enters goes, and nothing has to look for it.
    """

    local = False

    def __init__(self, url: str, disk: Disk, *, prefix: str = PREFIX, budget: float = BUDGET) -> None:
        self._client = redis_client(url, budget)
        self._disk = disk
        self._prefix = prefix.encode() + b"content:"

    def __repr__(self) -> str:
        return f"<RedisContents {self._client}>"

    async def open(self) -> None:
        with contextlib.suppress(PenstockError):  # it is in the log, and all but uploads goes on
            await self._client.ask(b"PING")

    async def close(self) -> None:
        await self._client.close()

    def _key(self, file: str) -> bytes:
        return self._prefix + file.encode()

    async def keep(self, sealed: Sequence[Sealed]) -> list[Sealed]:
        taken: list[str] = []
        try:
            for block in sealed:
                taken.append(block.file)
                await self._send(block)
        except PenstockError:
            await self._forget(taken)
            raise
        await self._disk.remove(taken)
        return list(sealed)

    async def _send(self, block: Sealed) -> None:
        key = self._key(block.file)
        source = FileReader(self._disk.directory / block.file, READ)
        held = 0
        try:
            while piece := await self._disk.run(source.read):
                held += len(piece)
                if held == len(piece):
                    await self._client.ask(b"SET", key, piece, b"EX", b"%d" % ORPHANED)
                elif await self._client.ask(b"APPEND", key, piece) != held:
                    raise unavailable("Redis has lost a block while it was written")
        finally:
            source.close()

    async def _forget(self, files: Sequence[str]) -> None:
        with contextlib.suppress(PenstockError):  # they expire
            await self.remove(files)

    async def pieces(self, file: str) -> AsyncGenerator[bytes, None]:
        key, at = self._key(file), 0
        while piece := await self._client.ask(b"GETRANGE", key, b"%d" % at, b"%d" % (at + READ - 1)):
            yield piece
            at += len(piece)
        if not at:  # no block is empty
            raise unavailable("Redis has lost a block")

    async def whole(self, files: Sequence[str]) -> bytes:
        return b"".join([piece for file in files async for piece in self.pieces(file)])

    async def remove(self, files: Sequence[str]) -> None:
        if files:
            await self._client.ask(b"UNLINK", *map(self._key, files))

    async def old(self) -> list[str]:
        return []


def text(number: float) -> bytes:
    return repr(float(number)).encode()


async def not_in(client: Client, key: bytes, names: Sequence[str]) -> list[str]:
    """Those names that are not in this set."""
    found: list[str] = []
    for at in range(0, len(names), 1_000):
        some = names[at : at + 1_000]
        known = await client.ask(b"SMISMEMBER", key, *(name.encode() for name in some))
        found += [name for name, here in zip(some, known, strict=True) if not here]
    return found


def _word(upload_id: str) -> bytes:
    """An id that a caller has sent."""
    return upload_id.encode(errors="replace")


def _fields(upload: Upload) -> list[bytes]:
    """Names and values, as a hash has them; what is None is not there."""
    found = []
    for name, value in msgspec.structs.asdict(upload).items():
        if value is not None:
            found += [name.encode(), value if isinstance(value, bytes) else _encoded(value)]
    return found


def _encoded(value: object) -> bytes:
    return text(value) if isinstance(value, float) else f"{value}".encode()


def _upload(fields: list[bytes], upload_id: str) -> Upload:
    """:raises NotFound: there are none"""
    if not fields:
        raise unknown(upload_id)
    found = {name.decode(): value for name, value in zip(fields[::2], fields[1::2], strict=True)}
    text = {name: value.decode() for name, value in found.items() if name not in {"target", "answer"}}
    return Upload(
        text["id"],
        text["owner"],
        UploadDialect(text["dialect"]),
        found["target"],
        float(text["created"]),
        float(text["expires"]),
        int(text["max_size"]),
        int(text["length"]) if "length" in text else None,
        int(text["offset"]),
        Phase(int(text["phase"])),
        int(text["epoch"]),
        text.get("name"),
        text["fingerprint"],
        Concat(text["concat"]),
        text["parts"],
        text["parent"],
        found.get("answer"),
    )


def _blocks(sealed: Sequence[Sealed]) -> list[bytes]:
    return [part for block in sealed for part in (block.digest, b"%d" % block.size, block.file.encode())]


def _names(answer: list[bytes]) -> list[str]:
    return [name.decode() for name in answer]


def _must_live(answer: Any, upload_id: str) -> None:
    """:raises NotFound: this owner has no such upload
    :raises Gone: it had
    """
    if answer == b"unknown":
        raise unknown(upload_id)
    if answer == b"gone":
        raise gone()


def _reused() -> KeyReused:
    return KeyReused("this Idempotency-Key belongs to another upload")
