"""Conversations in a Redis server that the gateways of several machines share.

All keys share a slot (``{...}`` in the prefix), and scripts make most of them from it.  Each script is one step by the
server's own clock, and looks at everything that may refuse it before it writes: a script cannot be undone, and whoever
had no answer must find all of it done, or nothing.

=============================== ====== ===================================================================
``PREFIX conversation:ID``      hash   ``owner``, ``created``, ``metadata``, ``bytes`` that it counts for, and
                                       ``next``: the position of its next item
``PREFIX items:ID``             hash   items' bodies by their ids
``PREFIX order:ID``             zset   items' ids by their positions
``PREFIX of:OWNER``             zset   conversations by when they were added to last
``PREFIX used``                 zset   the same of everybody
``PREFIX owners``               zset   owners by the bytes that their conversations count for
``PREFIX bytes``                string what all count for
``PREFIX once:ID:NAME``         string an addition that was made; it expires
=============================== ====== ===================================================================
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from penstock.config.redis_address import Address
from penstock.errors import StorageFull, StorageUnavailable
from penstock.generation.conversations import (
    LEAST_CHARGE,
    Conversation,
    Item,
    charge_of,
    new_conversation_id,
    renamed,
    too_long,
    unknown_conversation,
    unknown_item,
)
from penstock.net.redis_client import Client

BUDGET = 2.0  # seconds for one answer, for which a call that names a conversation waits
PREFIX = "penstock:{conversations}:"
REMEMBERED = 600  # seconds for which an addition is known by its name

log = logging.getLogger("penstock.gateway")

# Every script has the prefix as its only key, and begins with: owner, conversation, kept_for.
_MAKING = b"""
local P, owner, id, kept_for = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])
local call = redis.call
local time = call('TIME')
local now = time[1] + time[2] / 1000000
local conversation, items, order = P .. 'conversation:' .. id, P .. 'items:' .. id, P .. 'order:' .. id
local function moment(seconds) return string.format('%.6f', seconds) end
"""

_COMMON = (
    _MAKING
    + b"""
if call('HGET', conversation, 'owner') ~= owner
  or tonumber(call('ZSCORE', P .. 'used', id) or '0') <= now - kept_for then
  return 'unknown'
end
"""
)

_CHARGE = b"""
local function charge(size)
  size = string.format('%d', size)
  call('HINCRBY', conversation, 'bytes', size)
  call('ZINCRBY', P .. 'owners', size, owner)
  call('INCRBY', P .. 'bytes', size)
end
"""

_FORGET = b"""
local function forget(id)
  local was = call('HMGET', P .. 'conversation:' .. id, 'owner', 'bytes')
  call('UNLINK', P .. 'conversation:' .. id, P .. 'items:' .. id, P .. 'order:' .. id)
  call('ZREM', P .. 'used', id)
  if not was[1] then return end
  call('ZREM', P .. 'of:' .. was[1], id)
  if tonumber(call('ZINCRBY', P .. 'owners', '-' .. was[2], was[1])) <= 0 then call('ZREM', P .. 'owners', was[1]) end
  call('DECRBY', P .. 'bytes', was[2])
end
"""

# What one call lets go of is bounded, because everybody waits for it; the next call goes on.
_GROW = (
    _FORGET
    + b"""
local function grow(from, stored_bytes)
  local position = tonumber(call('HGET', conversation, 'next'))
  for i = from, #ARGV, 2 do
    call('HSET', items, ARGV[i], ARGV[i + 1])
    call('ZADD', order, string.format('%d', position), ARGV[i])
    position = position + 1
  end
  call('HSET', conversation, 'next', string.format('%d', position))
  call('ZADD', P .. 'used', moment(now), id)
  call('ZADD', P .. 'of:' .. owner, moment(now), id)
  local over = call('ZRANGE', P .. 'used', '-inf', moment(now - kept_for), 'BYSCORE', 'LIMIT', 0, 100)
  for _, old in ipairs(over) do forget(old) end
  for _ = 1, 1000 do
    if tonumber(call('GET', P .. 'bytes') or '0') <= stored_bytes then return end
    local greedy = call('ZRANGE', P .. 'owners', 0, 0, 'REV')[1]
    if not greedy then return end
    local oldest = call('ZRANGE', P .. 'of:' .. greedy, 0, 1)
    local going = oldest[1] ~= id and oldest[1] or oldest[2]
    if not going then return end
    forget(going)
  end
end
"""
)

# stored_bytes, metadata, what all of it counts for; id and body of each item
_CREATE = (
    _MAKING
    + _CHARGE
    + _GROW
    + b"""
call('HSET', conversation, 'owner', owner, 'created', moment(now), 'metadata', ARGV[5], 'bytes', 0, 'next', 1)
charge(tonumber(ARGV[6]))
grow(7, tonumber(ARGV[4]))
return {moment(now), ARGV[5]}
"""
)

_GET = _COMMON + b"return call('HMGET', conversation, 'created', 'metadata')"

# longest, metadata
_UPDATE = (
    _COMMON
    + _CHARGE
    + b"""
local was = call('HMGET', conversation, 'metadata', 'bytes', 'created')
local more = #ARGV[5] - #was[1]
if more > 0 and was[2] + more > tonumber(ARGV[4]) then return 'long' end
call('HSET', conversation, 'metadata', ARGV[5])
charge(more)
return {was[3], ARGV[5]}
"""
)

_DELETE = _COMMON + _FORGET + b"forget(id) return {}"

# stored_bytes, longest, what the items count for, a name for this addition or nothing; id and body of each item.
# Returns: the ids that are there already, if there are any; then nothing was added.
_ADD = (
    _COMMON
    + _CHARGE
    + _GROW
    + b"""
local once = P .. 'once:' .. id .. ':' .. ARGV[7]
if ARGV[7] ~= '' and call('EXISTS', once) == 1 then return {} end
local there = {}
for i = 8, #ARGV, 2 do
  if call('HEXISTS', items, ARGV[i]) == 1 then there[#there + 1] = ARGV[i] end
end
if #there > 0 then return there end
local more = tonumber(ARGV[6])
if more > 0 and call('HGET', conversation, 'bytes') + more > tonumber(ARGV[5]) then return 'long' end
if ARGV[7] ~= '' then call('SET', once, '', 'EX', %d) end
charge(more)
grow(8, tonumber(ARGV[4]))
return {}
"""
    % REMEMBERED
)

_ITEMS = (
    _COMMON
    + b"""
local found = {}
for n, item in ipairs(call('ZRANGE', order, 0, -1)) do found[n] = call('HGET', items, item) end
return found
"""
)

# after (empty: from the beginning), newest first (1), how many
_PAGE = (
    _COMMON
    + b"""
local newest, from, found = ARGV[5] == '1', '-inf', {}
if newest then from = '+inf' end
if ARGV[4] ~= '' then
  local after = call('ZSCORE', order, ARGV[4])
  if not after then return {} end
  from = '(' .. after
end
local ids
if newest then
  ids = call('ZRANGE', order, from, '-inf', 'BYSCORE', 'REV', 'LIMIT', 0, ARGV[6])
else
  ids = call('ZRANGE', order, from, '+inf', 'BYSCORE', 'LIMIT', 0, ARGV[6])
end
for _, item in ipairs(ids) do
  found[#found + 1] = item
  found[#found + 1] = call('HGET', items, item)
end
return found
"""
)

# item
_ITEM = _COMMON + b"return {call('HGET', items, ARGV[4])}"

# item, what an item counts for at least
_REMOVE = (
    _COMMON
    + _CHARGE
    + b"""
local size = call('HSTRLEN', items, ARGV[4])
if size == 0 then return 'no item' end
call('HDEL', items, ARGV[4])
call('ZREM', order, ARGV[4])
charge(-math.max(size, tonumber(ARGV[5])))
return call('HMGET', conversation, 'created', 'metadata')
"""
)

_ALL = (_CREATE, _GET, _UPDATE, _DELETE, _ADD, _ITEMS, _PAGE, _ITEM, _REMOVE)


class RedisConversations:
    """:class:`~penstock.generation.conversations.Conversations` in a Redis server, version 7 or newer.

    :param url: see :meth:`penstock.config.redis_address.Address.parse`
    :param kept_for: seconds
    :param stored_bytes: what all may hold together
    :param longest: bytes of one conversation; a longer one could not be sent to anybody
    :param prefix: of all keys, with a hash tag, for several gateways on one server
    :param budget: seconds for one answer
    :raises ValueError: the URL is none of Redis
    """

    def __init__(
        self,
        url: str,
        *,
        kept_for: float,
        stored_bytes: int,
        longest: int,
        prefix: str = PREFIX,
        budget: float = BUDGET,
    ) -> None:
        self._client = Client(Address.parse(url), budget, _ALL, _unavailable, _full)
        self._prefix = prefix.encode()
        self._kept_for = repr(float(kept_for)).encode()
        self._stored_bytes = b"%d" % stored_bytes
        self._longest = longest

    def __repr__(self) -> str:
        return f"<RedisConversations {self._client}>"

    async def close(self) -> None:
        await self._client.close()

    async def _run(self, script: bytes, owner: str, conversation_id: str, *values: bytes) -> Any:
        whose = (_bytes(owner), _bytes(conversation_id), self._kept_for)
        answer = await self._client.run(script, [self._prefix], *whose, *values)
        if answer == b"unknown":
            raise unknown_conversation(conversation_id)
        if answer == b"long":
            raise too_long(self._longest)
        return answer

    async def create(self, owner: str, metadata: bytes, items: Sequence[Item]) -> Conversation:
        items = _apart(items)
        size = LEAST_CHARGE + len(metadata) + sum(charge_of(item.body) for item in items)
        if size > self._longest:
            raise too_long(self._longest)
        values = (self._stored_bytes, metadata, b"%d" % size, *_words(items))
        conversation_id = new_conversation_id()
        return _conversation(conversation_id, await self._run(_CREATE, owner, conversation_id, *values))

    async def get(self, owner: str, conversation_id: str) -> Conversation:
        return _conversation(conversation_id, await self._run(_GET, owner, conversation_id))

    async def update(self, owner: str, conversation_id: str, metadata: bytes) -> Conversation:
        values = (b"%d" % self._longest, metadata)
        return _conversation(conversation_id, await self._run(_UPDATE, owner, conversation_id, *values))

    async def delete(self, owner: str, conversation_id: str) -> None:
        await self._run(_DELETE, owner, conversation_id)

    # ---- items ----

    async def add(
        self, owner: str, conversation_id: str, items: Sequence[Item], *, once: str = ""
    ) -> list[Item]:
        adding = _apart(items)
        while True:
            size = sum(charge_of(item.body) for item in adding)
            values = (self._stored_bytes, b"%d" % self._longest, b"%d" % size, _bytes(once), *_words(adding))
            there = {name.decode() for name in await self._run(_ADD, owner, conversation_id, *values)}
            if not there:
                return adding
            adding = [renamed(item) if item.id in there else item for item in adding]

    async def items(self, owner: str, conversation_id: str) -> list[bytes]:
        found: list[bytes] = await self._run(_ITEMS, owner, conversation_id)
        return found

    async def page(
        self, owner: str, conversation_id: str, *, after: str, limit: int, newest_first: bool
    ) -> tuple[list[Item], bool]:
        values = (_bytes(after), b"1" if newest_first else b"", b"%d" % (limit + 1))
        answer = await self._run(_PAGE, owner, conversation_id, *values)
        found = [Item(name.decode(), body) for name, body in zip(answer[::2], answer[1::2], strict=True)]
        return found[:limit], len(found) > limit

    async def item(self, owner: str, conversation_id: str, item_id: str) -> Item:
        (body,) = await self._run(_ITEM, owner, conversation_id, _bytes(item_id))
        if body is None:
            raise unknown_item(item_id)
        return Item(item_id, body)

    async def remove(self, owner: str, conversation_id: str, item_id: str) -> Conversation:
        answer = await self._run(_REMOVE, owner, conversation_id, _bytes(item_id), b"%d" % LEAST_CHARGE)
        if answer == b"no item":
            raise unknown_item(item_id)
        return _conversation(conversation_id, answer)


def _apart(items: Sequence[Item]) -> list[Item]:
    """The same, of which no two have one id."""
    taken: set[str] = set()
    apart = []
    for given in items:
        item = renamed(given) if given.id in taken else given
        taken.add(item.id)
        apart.append(item)
    return apart


def _words(items: Sequence[Item]) -> list[bytes]:
    return [word for item in items for word in (_bytes(item.id), item.body)]


def _bytes(text: str) -> bytes:
    return text.encode(errors="replace")  # what a path names may be no text; then there is none of that name


def _conversation(conversation_id: str, told: list[bytes]) -> Conversation:
    created, metadata = told
    return Conversation(conversation_id, float(created), metadata)


def _unavailable(why: str) -> StorageUnavailable:
    """What a caller is told, and the log why."""
    log.warning("a conversation was asked for, and cannot be reached: %s", why)
    return StorageUnavailable("conversations cannot be reached now", retry_after=1.0)


def _full(why: str) -> StorageFull:
    log.warning("a conversation was not kept, for want of room: %s", why)
    return StorageFull("there is no room left where the gateway keeps conversations")
