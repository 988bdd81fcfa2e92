"""What a Redis server does in one step.

The keys of a generation, a hash with its record and a stream with its events, share a slot (``{id}``), so each
script works on a Redis Cluster if it is called for one generation; a single server is given all at once.
Integers that scripts return or store go through ``%d``: Lua has only floating-point numbers.
"""

from __future__ import annotations

WRITE = b"""
-- KEYS: record and events of each generation.
-- ARGV of each: epoch, first, count, size, events; bill, or ''; request, its size, owner, trace, expires_at, native
-- expiry, or '' for all six; state, ending, expires_at, native expiry, or '' for all four.
-- Returns for each: why it was refused, and how many events there are; or if it ended '', its size and its owner;
-- or false.
local answers = {}
for i = 1, #KEYS / 2 do
  local record, events = KEYS[2 * i - 1], KEYS[2 * i]
  local epoch, first, count, size, content, bill, request, request_size, owner, trace, expires, native, state,
    ending, end_expires, end_native = unpack(ARGV, 16 * i - 15, 16 * i)
  local stored = redis.call('HMGET', record, 'epoch', 'events', 'state')
  local refused = false
  if request ~= '' then
    if stored[1] then refused = 'exists'
    elseif first ~= '0' then refused = 'misplaced' end
  elseif not stored[1] then refused = 'unknown'
  elseif stored[1] ~= epoch then refused = 'fenced'
  elseif stored[3] ~= 'running' then refused = 'ended'
  elseif stored[2] ~= first then refused = 'misplaced' end
  if refused then
    answers[i] = {refused, tonumber(stored[2] or '0')}
  else
    if request ~= '' then
      redis.call('HSET', record, 'state', 'running', 'owner', owner, 'epoch', epoch, 'events', 0,
        'size', request_size, 'expires_at', expires, 'request', request, 'trace', trace)
      redis.call('PEXPIREAT', record, native)
      end_native = end_native ~= '' and end_native or native
    end
    if count ~= '0' then
      redis.call('XADD', events, string.format('%d-0', first + 1), 'e', content)
      redis.call('HINCRBY', record, 'events', count)
      redis.call('HINCRBY', record, 'size', size)
      if first == '0' then redis.call('PEXPIREAT', events, redis.call('PEXPIRETIME', record)) end
    end
    if bill ~= '' then redis.call('HSET', record, 'bill', bill) end
    if state ~= '' then
      redis.call('HSET', record, 'state', state, 'ending', ending, 'expires_at', end_expires)
      redis.call('PEXPIREAT', record, end_native)
      redis.call('PEXPIREAT', events, end_native)
    end
    answers[i] = state ~= '' and {'', unpack(redis.call('HMGET', record, 'size', 'owner'))}
  end
end
return answers
"""

APPEND = b"""
-- The common case of WRITE: events for generations that have begun, and that go on.
-- KEYS: record and events of each generation.  ARGV of each: epoch, first, how many are there then, size, events.
-- Returns as WRITE does, but a single false if nothing was refused.
local answers, all = {}, true
for i = 1, #KEYS / 2 do
  local record, a = KEYS[2 * i - 1], 5 * i - 4
  local stored = redis.call('HMGET', record, 'epoch', 'events', 'state')
  if stored[1] == ARGV[a] and stored[2] == ARGV[a + 1] and stored[3] == 'running' then
    redis.call('XADD', KEYS[2 * i], string.format('%d-0', ARGV[a + 1] + 1), 'e', ARGV[a + 4])
    redis.call('HSET', record, 'events', ARGV[a + 2])
    redis.call('HINCRBY', record, 'size', ARGV[a + 3])
    if ARGV[a + 1] == '0' then redis.call('PEXPIREAT', KEYS[2 * i], redis.call('PEXPIRETIME', record)) end
    answers[i] = false
  else
    local refused = 'misplaced'
    if not stored[1] then refused = 'unknown'
    elseif stored[1] ~= ARGV[a] then refused = 'fenced'
    elseif stored[3] ~= 'running' then refused = 'ended' end
    answers[i] = {refused, tonumber(stored[2] or '0')}
    all = false
  end
end
return not all and answers
"""

READ = b"""
-- KEYS: record and events of each generation.  ARGV: most entries of each; the first index wanted of each.
-- Returns for each: state, how many events there are, and entries from the one with that index on.
local answers = {}
for i = 1, #KEYS / 2 do
  local record, events, start = KEYS[2 * i - 1], KEYS[2 * i], tonumber(ARGV[i + 1])
  local stored = redis.call('HMGET', record, 'state', 'events')
  local entries = {}
  if stored[1] and tonumber(stored[2]) > start then
    local at = redis.call('XREVRANGE', events, string.format('%d-0', start + 1), '-', 'COUNT', 1)
    entries = redis.call('XRANGE', events, at[1] and at[1][1] or '-', '+', 'COUNT', ARGV[1])
  end
  answers[i] = {stored[1], stored[2], entries}
end
return answers
"""

TAKE_OVER = b"""
-- KEYS: record.  ARGV: the owner and the epoch that it was seen with, the new owner.
-- Returns the new epoch, or false if somebody was faster.
local stored = redis.call('HMGET', KEYS[1], 'state', 'owner', 'epoch')
if stored[1] ~= 'running' or stored[2] ~= ARGV[1] or stored[3] ~= ARGV[2] then return false end
redis.call('HSET', KEYS[1], 'owner', ARGV[3])
return redis.call('HINCRBY', KEYS[1], 'epoch', 1)
"""

REMOVE_DEAD = b"""
-- KEYS: record and events.  ARGV: the owner and the epoch that it was seen with, running.
-- Returns whether it was so still; then it is gone.
local stored = redis.call('HMGET', KEYS[1], 'state', 'owner', 'epoch')
if stored[1] ~= 'running' or stored[2] ~= ARGV[1] or stored[3] ~= ARGV[2] then return 0 end
redis.call('DEL', KEYS[1], KEYS[2])
return 1
"""

RELEASE = b"""
-- KEYS: record.  ARGV: its owner; its bill, or ''.  Returns whether it was that one's, or has been nobody's already.
local stored = redis.call('HMGET', KEYS[1], 'state', 'owner')
if stored[1] ~= 'running' or (stored[2] ~= ARGV[1] and stored[2] ~= '') then return 0 end
redis.call('HSET', KEYS[1], 'owner', '')
if ARGV[2] ~= '' then redis.call('HSET', KEYS[1], 'bill', ARGV[2]) end
return 1
"""

CUT = b"""
-- KEYS: record and events.  ARGV: state, ending, expires_at, native expiry.
-- Returns its size and its owner, or false if it did not run.
local stored = redis.call('HMGET', KEYS[1], 'state', 'size', 'owner')
if stored[1] ~= 'running' then return false end
redis.call('HSET', KEYS[1], 'state', ARGV[1], 'ending', ARGV[2], 'expires_at', ARGV[3])
redis.call('HINCRBY', KEYS[1], 'epoch', 1)
redis.call('PEXPIREAT', KEYS[1], ARGV[4])
redis.call('PEXPIREAT', KEYS[2], ARGV[4])
return {stored[2], stored[3]}
"""

CLAIM = b"""
-- KEYS: claim.  ARGV: now, instead_of, generation, fingerprint, until, native expiry.
-- Returns whose it is, its fingerprint and until when, or false if it is the given one's now.
local held = redis.call('HMGET', KEYS[1], 'generation', 'fingerprint', 'until')
if held[1] and tonumber(held[3]) > tonumber(ARGV[1]) and held[1] ~= ARGV[2] then
  return held
end
redis.call('HSET', KEYS[1], 'generation', ARGV[3], 'fingerprint', ARGV[4], 'until', ARGV[5])
redis.call('PEXPIREAT', KEYS[1], ARGV[6])
return false
"""

COUNT_IN = b"""
-- KEYS: ended, expiry, sizes, total.  ARGV of each generation that has ended: id, size, expires_at.
local time = redis.call('TIME')
local now = string.format('%d.%06d', time[1], time[2])
for i = 1, #ARGV, 3 do
  if redis.call('HSETNX', KEYS[3], ARGV[i], ARGV[i + 1]) == 1 then
    redis.call('ZADD', KEYS[1], now, ARGV[i])
    redis.call('ZADD', KEYS[2], ARGV[i + 2], ARGV[i])
    redis.call('INCRBY', KEYS[4], ARGV[i + 1])
  end
end
return redis.call('GET', KEYS[4])
"""

COUNT_OUT = b"""
-- KEYS: ended, expiry, sizes, total.  ARGV: ids.
for i = 1, #ARGV do
  local size = redis.call('HGET', KEYS[3], ARGV[i])
  if size then
    redis.call('HDEL', KEYS[3], ARGV[i])
    redis.call('ZREM', KEYS[1], ARGV[i])
    redis.call('ZREM', KEYS[2], ARGV[i])
    redis.call('DECRBY', KEYS[4], size)
  end
end
return redis.call('GET', KEYS[4])
"""

LET_GO = b"""
-- KEYS: traces of what is gone.  ARGV: for how long they are kept, in seconds; how many; new ones.
local time = redis.call('TIME')
local now = time[1] + time[2] / 1e6
for i = 3, #ARGV do redis.call('ZADD', KEYS[1], string.format('%.6f', now + ARGV[1]), ARGV[i]) end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.6f', now))
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -ARGV[2] - 1)
redis.call('EXPIRE', KEYS[1], ARGV[1])
"""

TIME = b"""
-- KEYS: any, always the same one, so that of a cluster the same node is asked.
return redis.call('TIME')
"""

ALL = (TIME, WRITE, APPEND, READ, TAKE_OVER, REMOVE_DEAD, RELEASE, CLAIM, COUNT_IN, COUNT_OUT, LET_GO, CUT)
