"""Which files there are, in a Redis server that the gateways of several machines share.

All keys share a slot (``{...}`` in the prefix); each script is one step, and looks at everything that may refuse it
before it writes.

====================== ====== ===================================================================================
``PREFIX file:ID``     hash   ``tenant``, ``bytes``, ``charged``, ``created``, ``filename``, ``purpose``, ``parts``
                              (names with spaces between them), and ``expires``, unless it stays
``PREFIX of:TENANT``   zset   ids by when they were created
``PREFIX charged``     hash   by tenant: what its files count for
``PREFIX expires``     zset   ids by when their time is over
``PREFIX parts``       set    of all files
``PREFIX content:PART`` string bytes, where they lie here as well; until its file is entered, such a key expires
====================== ====== ===================================================================================
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from penstock.errors import PenstockError
from penstock.upload.file_index import Parts, Query, StoredFile, files_quota
from penstock.upload.stores.redis import BUDGET, not_in, redis_client, text, unavailable
from penstock.upload.stores.redis_clock import RedisClock

PREFIX = "penstock:{files}:"
_SCANNED = 500  # files that are looked at in one step, for which everybody else waits
_STEPS = 50

_COMMON = b"""
local P, kept = KEYS[1], ARGV[1] == '1'
local call = redis.call

local function drop(id)
  local file = call('HMGET', P .. 'file:' .. id, 'tenant', 'charged', 'parts')
  if not file[1] then return '' end
  call('DEL', P .. 'file:' .. id)
  call('ZREM', P .. 'of:' .. file[1], id)
  call('ZREM', P .. 'expires', id)
  if call('HINCRBY', P .. 'charged', file[1], '-' .. file[2]) <= 0 then call('HDEL', P .. 'charged', file[1]) end
  for part in file[3]:gmatch('%S+') do
    call('SREM', P .. 'parts', part)
    if kept then call('UNLINK', P .. 'content:' .. part) end
  end
  return file[3]
end
"""

# tenant, id, charged, limit (empty: none), created, expires (empty: never), parts, then fields and their values
_INSERT = (
    _COMMON
    + b"""
local tenant, id, charged, limit = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local created, expires, parts = ARGV[6], ARGV[7], ARGV[8]
if call('EXISTS', P .. 'file:' .. id) == 1 then return 'there' end
local used = tonumber(call('HGET', P .. 'charged', tenant) or '0')
if limit ~= '' and used + tonumber(charged) > tonumber(limit) then return 'quota' end
if kept then
  for part in parts:gmatch('%S+') do
    if call('EXISTS', P .. 'content:' .. part) == 0 then return 'lost' end
  end
end
for part in parts:gmatch('%S+') do
  if kept then call('PERSIST', P .. 'content:' .. part) end
  call('SADD', P .. 'parts', part)
end
call('HSET', P .. 'file:' .. id, 'tenant', tenant, 'charged', charged, 'parts', parts, unpack(ARGV, 9))
call('ZADD', P .. 'of:' .. tenant, created, id)
call('HINCRBY', P .. 'charged', tenant, charged)
if expires ~= '' then call('ZADD', P .. 'expires', expires, id) end
return 'ok'
"""
)

# tenant, id
_DELETE = (
    _COMMON
    + b"""
if call('HGET', P .. 'file:' .. ARGV[3], 'tenant') ~= ARGV[2] then return false end
return drop(ARGV[3])
"""
)

# now, how many; id and parts of each, by turns
_EXPIRE = (
    _COMMON
    + b"""
local gone = {}
for _, id in ipairs(call('ZRANGE', P .. 'expires', '-inf', ARGV[2], 'BYSCORE', 'LIMIT', 0, ARGV[3])) do
  gone[#gone + 1] = id
  gone[#gone + 1] = drop(id)
  call('ZREM', P .. 'expires', id)
end
return gone
"""
)

# tenant, after (empty: from the beginning), its time, newest first (1), how many: what comes after it
_SCAN = (
    _COMMON
    + b"""
local key, after, at, count = P .. 'of:' .. ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[6])
local newest = ARGV[5] == '1'
local found, offset = {}, 0
while #found < count do
  local ids
  if newest then
    ids = call('ZRANGE', key, at, '-inf', 'BYSCORE', 'REV', 'LIMIT', offset, count)
  else
    ids = call('ZRANGE', key, at, '+inf', 'BYSCORE', 'LIMIT', offset, count)
  end
  if #ids == 0 then break end
  offset = offset + #ids
  for _, id in ipairs(ids) do
    local beyond = true
    if after ~= '' and tonumber(call('ZSCORE', key, id)) == tonumber(at) then
      if newest then beyond = id < after else beyond = id > after end
    end
    if beyond and #found < count then
      found[#found + 1] = {id, call('HGETALL', P .. 'file:' .. id)}
    end
  end
end
return found
"""
)

_ALL = (_INSERT, _DELETE, _EXPIRE, _SCAN)


class RedisFileIndex:
    """A :class:`~penstock.upload.file_index.FileIndex` in a Redis server, version 7 or newer.

    :param url: see :meth:`penstock.config.redis_address.Address.parse`
    :param kept: whether the bytes lie in the same server, under the same prefix
    :param clock: is told the server's time; who gives a time here has it from there
    :raises ValueError: the URL is none of Redis
    """

    def __init__(
        self, url: str, *, kept: bool, clock: RedisClock, prefix: str = PREFIX, budget: float = BUDGET
    ) -> None:
        self._client = redis_client(url, budget, _ALL)
        self._clock = clock
        self._kept = b"1" if kept else b""
        self._prefix = prefix.encode()

    def __repr__(self) -> str:
        return f"<RedisFileIndex {self._client}>"

    async def open(self) -> None:
        with contextlib.suppress(PenstockError):  # it is in the log, and all but files goes on
            await self._clock.hear(self._client)

    async def close(self) -> None:
        await self._client.close()

    async def _run(self, script: bytes, *values: bytes) -> Any:
        return await self._client.run(script, [self._prefix], self._kept, *values)

    async def used(self, tenant: str) -> int:
        await self._clock.hear(self._client)  # before anything is entered
        return int(await self._client.ask(b"HGET", self._prefix + b"charged", tenant.encode()) or 0)

    async def insert(
        self, tenant: str, file: StoredFile, charged: int, parts: Parts, limit: int | None
    ) -> bool:
        fields = {
            b"bytes": b"%d" % file.bytes,
            b"created": text(file.created),
            b"filename": file.filename.encode(errors="surrogatepass"),
            b"purpose": file.purpose.encode(),
        }
        if file.expires is not None:
            fields[b"expires"] = text(file.expires)
        answer = await self._run(
            _INSERT,
            tenant.encode(),
            file.id.encode(),
            b"%d" % charged,
            b"" if limit is None else b"%d" % limit,
            text(file.created),
            b"" if file.expires is None else text(file.expires),
            " ".join(parts).encode(),
            *(word for field in fields.items() for word in field),
        )
        if answer == b"quota":
            assert limit is not None
            raise files_quota(limit)
        if answer == b"lost":
            raise unavailable("Redis has lost a block of a file before it was entered")
        return bool(answer == b"ok")

    async def _fields(self, file_id: str) -> dict[bytes, bytes]:
        key = self._prefix + b"file:" + file_id.encode(errors="replace")
        return _named(await self._client.ask(b"HGETALL", key))

    async def find(self, tenant: str, file_id: str, now: float) -> StoredFile | None:
        fields = await self._fields(file_id)
        if not fields or fields[b"tenant"] != tenant.encode():
            return None
        file = _file(file_id, fields)
        return file if file.expires is None or file.expires > now else None

    async def parts(self, file_id: str) -> Parts:
        return _parts((await self._fields(file_id)).get(b"parts", b""))

    async def page(self, tenant: str, query: Query) -> tuple[list[StoredFile], bool]:
        found: list[StoredFile] = []
        at, after = ("+inf" if query.newest_first else "-inf"), query.after
        if after:
            last = await self._fields(after)
            if last.get(b"tenant") != tenant.encode():
                return [], False
            at = last[b"created"].decode()
        while True:
            rows = await self._run(
                _SCAN,
                tenant.encode(),
                after.encode(),
                at.encode(),
                b"1" if query.newest_first else b"",
                b"%d" % _SCANNED,
            )
            for name, answer in rows:
                file = _file(name.decode(), _named(answer))
                at, after = repr(file.created), file.id
                lives = file.expires is None or file.expires > query.now
                if lives and (not query.purpose or file.purpose == query.purpose):
                    found.append(file)
            if len(found) > query.limit or len(rows) < _SCANNED:
                return found[: query.limit], len(found) > query.limit

    async def delete(self, tenant: str, file_id: str) -> Parts | None:
        answer = await self._run(_DELETE, tenant.encode(), file_id.encode(errors="replace"))
        return None if answer is None else _parts(answer)

    async def expire(self, now: float) -> list[tuple[str, Parts]]:
        gone: list[tuple[str, Parts]] = []
        await self._clock.hear(self._client)
        for _ in range(_STEPS):
            answer = await self._run(_EXPIRE, text(now), b"%d" % _SCANNED)
            gone += [
                (file_id.decode(), _parts(parts))
                for file_id, parts in zip(answer[::2], answer[1::2], strict=True)
            ]
            if len(answer) < 2 * _SCANNED:
                break
        return gone

    async def unknown(self, names: Sequence[str]) -> list[str]:
        return await not_in(self._client, self._prefix + b"parts", names)


def _parts(told: bytes) -> Parts:
    return tuple(told.decode().split())


def _named(answer: list[bytes]) -> dict[bytes, bytes]:
    return dict(zip(answer[::2], answer[1::2], strict=True))


def _file(file_id: str, fields: dict[bytes, bytes]) -> StoredFile:
    expires = fields.get(b"expires")
    return StoredFile(
        file_id,
        int(fields[b"bytes"]),
        float(fields[b"created"]),
        None if expires is None else float(expires),
        fields[b"filename"].decode(errors="surrogatepass"),
        fields[b"purpose"].decode(),
    )
