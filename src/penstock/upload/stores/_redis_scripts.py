"""What a Redis server does in one step for an index of uploads.

All keys share a slot (``{...}`` in the prefix), and scripts make most of them from it, as what they touch depends on
what they find.  A script cannot be undone, so each looks at everything that may refuse it before it writes.

=========================== ======= ======================================================================
``PREFIX upload:ID``        hash    the fields of an upload; what is None is not there
``PREFIX segments:ID``      list    its blocks in order: 32 bytes of digest, then the size in decimal digits
``PREFIX parts:ID``         set     uploads whose parent it is
``PREFIX names:OWNER``      hash    upload by name
``PREFIX open:OWNER``       set     uploads that have not ended
``PREFIX blocks:OWNER``     hash    by digest: file, a space, the size
``PREFIX uses:OWNER``       hash    by digest: how many segments have it; not there: none
``PREFIX unused:OWNER``     zset    digests that no segment has, by when that was not so, or they were asked for
``PREFIX sums:OWNER``       hash    ``charged``: what the blocks count for; ``held``: bytes of those in use
``PREFIX owners``           set     of blocks that are not in use, or were once
``PREFIX files``            set     of all blocks
``PREFIX expires``          zset    uploads by when their time is over
``PREFIX content:FILE``     string  a block's bytes, where they lie here as well
=========================== ======= ======================================================================

Every script has the prefix as its only key, and begins with the arguments ``now`` and ``kept`` (1: contents lie here as
well).  An answer that refuses is one string.
"""

from __future__ import annotations

_COMMON = b"""
local P, now, kept = KEYS[1], ARGV[1], ARGV[2] == '1'
local call = redis.call
local function int(number) return string.format('%d', number) end

local function live(id, owner)
  local upload = call('HMGET', P .. 'upload:' .. id, 'owner', 'phase', 'expires')
  if upload[1] ~= owner then return 'unknown' end
  if upload[2] == '2' or tonumber(upload[3]) <= tonumber(now) then return 'gone' end
end

local function use(owner, digest, size)
  if call('HINCRBY', P .. 'uses:' .. owner, digest, 1) == 1 then
    call('ZREM', P .. 'unused:' .. owner, digest)
    call('HINCRBY', P .. 'sums:' .. owner, 'held', size)
  end
end

local function unuse(owner, digest, size)
  if call('HINCRBY', P .. 'uses:' .. owner, digest, -1) == 0 then
    call('HDEL', P .. 'uses:' .. owner, digest)
    call('ZADD', P .. 'unused:' .. owner, now, digest)
    call('SADD', P .. 'owners', owner)
    call('HINCRBY', P .. 'sums:' .. owner, 'held', -size)
  end
end

local function charge(size) return math.max(tonumber(size), 4096) end

local function let_go(file, going)
  if kept then call('UNLINK', P .. 'content:' .. file) end
  going[#going + 1] = file
end

local function delete(owner, digest, going)
  local file, size = call('HGET', P .. 'blocks:' .. owner, digest):match('^(%S+) (%d+)$')
  call('HDEL', P .. 'blocks:' .. owner, digest)
  call('ZREM', P .. 'unused:' .. owner, digest)
  call('SREM', P .. 'files', file)
  call('HINCRBY', P .. 'sums:' .. owner, 'charged', int(-charge(size)))
  let_go(file, going)
end

local function set(id, values)
  call('HSET', P .. 'upload:' .. id, unpack(values))
end

-- blocks: {digest, size, file} ...; why not, or {files that go}
local function add(owner, blocks, most)
  local new, coming, wanted = {}, 0, {}
  for _, block in ipairs(blocks) do
    if not wanted[block[1]] and call('HEXISTS', P .. 'blocks:' .. owner, block[1]) == 0 then
      if kept and call('EXISTS', P .. 'content:' .. block[3]) == 0 then return 'lost' end
      new[block[1]] = block[3]
      coming = coming + charge(block[2])
    end
    wanted[block[1]] = true
  end
  local over = tonumber(call('HGET', P .. 'sums:' .. owner, 'charged') or 0) + coming - most
  local old = {}
  if coming > 0 and over > 0 then
    for _, digest in ipairs(call('ZRANGE', P .. 'unused:' .. owner, 0, -1)) do
      if over <= 0 then break end
      if not wanted[digest] then
        old[#old + 1] = digest
        over = over - charge(call('HGET', P .. 'blocks:' .. owner, digest):match(' (%d+)$'))
      end
    end
    if over > 0 then return 'quota' end
  end
  local going = {}
  for _, digest in ipairs(old) do delete(owner, digest, going) end
  for _, block in ipairs(blocks) do
    local digest, size, file = block[1], block[2], block[3]
    if new[digest] == file then
      call('HSET', P .. 'blocks:' .. owner, digest, file .. ' ' .. size)
      call('SADD', P .. 'files', file)
      call('HINCRBY', P .. 'sums:' .. owner, 'charged', int(charge(size)))
      if kept then call('PERSIST', P .. 'content:' .. file) end
    else
      let_go(file, going)
    end
    if call('HEXISTS', P .. 'uses:' .. owner, digest) == 0 then
      call('ZADD', P .. 'unused:' .. owner, now, digest)
      call('SADD', P .. 'owners', owner)
    end
  end
  return going
end

-- Only the upload's name stays, until then.
local function forget(id, untill)
  local upload = call('HMGET', P .. 'upload:' .. id, 'owner', 'name', 'parent')
  local owner = upload[1]
  for _, segment in ipairs(call('LRANGE', P .. 'segments:' .. id, 0, -1)) do
    unuse(owner, segment:sub(1, 32), segment:sub(33))
  end
  call('DEL', P .. 'segments:' .. id, P .. 'parts:' .. id)
  if upload[2] and call('HGET', P .. 'names:' .. owner, upload[2]) == id then
    call('HDEL', P .. 'names:' .. owner, upload[2])
  end
  if upload[3] ~= '' then call('SREM', P .. 'parts:' .. upload[3], id) end
  call('SREM', P .. 'open:' .. owner, id)
  call('HDEL', P .. 'upload:' .. id, 'answer', 'name')
  call('HINCRBY', P .. 'upload:' .. id, 'epoch', 1)
  set(id, {'phase', '2', 'parent', '', 'expires', untill})
  call('ZADD', P .. 'expires', untill, id)
end

-- the id of the upload of a name, if there is one; the name of one that has ended is free
local function named(owner, name)
  local id = name ~= '' and call('HGET', P .. 'names:' .. owner, name)
  if not id then return nil end
  if live(id, owner) then
    call('HDEL', P .. 'names:' .. owner, name)
    call('HDEL', P .. 'upload:' .. id, 'name')
    return nil
  end
  return id
end

local function insert(id, owner, name, parent, expires, phase, fields)
  set(id, fields)
  call('ZADD', P .. 'expires', expires, id)
  if name ~= '' then call('HSET', P .. 'names:' .. owner, name, id) end
  if parent ~= '' then call('SADD', P .. 'parts:' .. parent, id) end
  if phase == '0' then call('SADD', P .. 'open:' .. owner, id) else call('SREM', P .. 'open:' .. owner, id) end
end

local function rest(from)
  local values = {}
  for i = from, #ARGV do values[#values + 1] = ARGV[i] end
  return values
end

local function blocks_from(from)
  local blocks = {}
  for i = from, #ARGV, 3 do blocks[#blocks + 1] = {ARGV[i], ARGV[i + 1], ARGV[i + 2]} end
  return blocks
end
"""

CREATE = (
    _COMMON
    + b"""
-- id, owner, name, parent, expires, phase, fingerprint, how many may be open; fields and values
-- Returns the id, or of one of the same name; 'reused'; or how many are open.
local id, owner, name, parent, expires, phase, fingerprint, most = unpack(ARGV, 3, 10)
local found = named(owner, name)
if found then
  if call('HGET', P .. 'upload:' .. found, 'fingerprint') ~= fingerprint then return 'reused' end
  return found
end
if phase == '0' then
  local count = call('SCARD', P .. 'open:' .. owner)
  if count >= tonumber(most) then return count end
end
insert(id, owner, name, parent, expires, phase, rest(11))
return id
"""
)

END_EPOCH = (
    _COMMON
    + b"""
-- id, owner.  Returns fields and values, or 'unknown' or 'gone'.
local id, owner = ARGV[3], ARGV[4]
local refused = live(id, owner)
if refused then return refused end
local upload = call('HGETALL', P .. 'upload:' .. id)
if call('HGET', P .. 'upload:' .. id, 'phase') == '0' then call('HINCRBY', P .. 'upload:' .. id, 'epoch', 1) end
return upload
"""
)

ENTER = (
    _COMMON
    + b"""
-- id, owner, epoch, offset, offset after it, length or '', 1: complete, until when that is kept, what the owner may keep,
-- how many segments may be; digest, size, file of each block
-- Returns files, or 'superseded', 'segments', 'quota', 'lost'.
local id, owner, epoch, offset, after, length, complete, untill, most, most_segments = unpack(ARGV, 3, 12)
local key = P .. 'upload:' .. id
local upload = call('HMGET', key, 'epoch', 'offset', 'phase', 'expires')
if upload[1] ~= epoch or upload[2] ~= offset or upload[3] ~= '0' or tonumber(upload[4]) <= tonumber(now) then
  return 'superseded'
end
local blocks = blocks_from(13)
if call('LLEN', P .. 'segments:' .. id) + #blocks > tonumber(most_segments) then return 'segments' end
local going = add(owner, blocks, tonumber(most))
if type(going) == 'string' then return going end
for _, block in ipairs(blocks) do
  call('RPUSH', P .. 'segments:' .. id, block[1] .. block[2])
  use(owner, block[1], block[2])
end
set(id, {'offset', after})
if length ~= '' then set(id, {'length', length}) end
call('HINCRBY', key, 'epoch', 1)
if complete == '1' then
  if tonumber(untill) > tonumber(upload[4]) then untill = upload[4] end
  set(id, {'phase', '1', 'expires', untill})
  call('ZADD', P .. 'expires', untill, id)
  call('SREM', P .. 'open:' .. owner, id)
end
return going
"""
)

ADD = (
    _COMMON
    + b"""
-- owner, what it may keep; digest, size, file.  Returns files, or 'quota', 'lost'.
return add(ARGV[3], blocks_from(5), tonumber(ARGV[4]))
"""
)

FIND = (
    _COMMON
    + b"""
-- owner, digests.  Returns 'file size', or false, for each.
local found = {}
for i = 4, #ARGV do
  found[i - 3] = call('HGET', P .. 'blocks:' .. ARGV[3], ARGV[i])
  if found[i - 3] then call('ZADD', P .. 'unused:' .. ARGV[3], 'XX', now, ARGV[i]) end
end
return found
"""
)

COMPLETE = (
    _COMMON
    + b"""
-- id, owner, epoch, until when it is kept.  Returns whether.
local id, owner, epoch, untill = unpack(ARGV, 3, 6)
local upload = call('HMGET', P .. 'upload:' .. id, 'epoch', 'phase', 'expires', 'offset')
if upload[1] ~= epoch or upload[2] ~= '0' then return 0 end
if tonumber(untill) > tonumber(upload[3]) then untill = upload[3] end
set(id, {'phase', '1', 'length', upload[4], 'expires', untill})
call('HINCRBY', P .. 'upload:' .. id, 'epoch', 1)
call('ZADD', P .. 'expires', untill, id)
call('SREM', P .. 'open:' .. owner, id)
return 1
"""
)

REMEMBER = (
    _COMMON
    + b"""
-- id, answer
if call('EXISTS', P .. 'upload:' .. ARGV[3]) == 1 then set(ARGV[3], {'answer', ARGV[4]}) end
"""
)

GIVE_UP = (
    _COMMON
    + b"""
-- id, owner, until when its name is known.  Returns '', 'unknown' or 'gone'.
local id, owner, untill = ARGV[3], ARGV[4], ARGV[5]
local refused = live(id, owner)
if refused then return refused end
for _, part in ipairs(call('SMEMBERS', P .. 'parts:' .. id)) do forget(part, untill) end
forget(id, untill)
return ''
"""
)

JOIN = (
    _COMMON
    + b"""
-- id, owner, name, parent of the parts, expires, length or '', fingerprint, longest, how many segments may be, how many
-- parts, their ids; fields and values of what it becomes, but for offset and length
-- Returns the id, or of one of the same name; {why not, a part}; {'size', size, segments}: that is too much, or too little.
local id, owner, name, parent, expires, length, fingerprint, longest, most_segments, count = unpack(ARGV, 3, 12)
if parent ~= '' then
  local refused = live(id, owner)
  if refused then return {refused, id} end
  if call('HGET', P .. 'upload:' .. id, 'phase') ~= '0' then return {'ended', id} end
else
  local found = named(owner, name)
  if found then
    if call('HGET', P .. 'upload:' .. found, 'fingerprint') ~= fingerprint then return {'reused', found} end
    return found
  end
end
local size, segments = 0, 0
for i = 13, 12 + count do
  local refused = live(ARGV[i], owner)
  if refused then return {refused, ARGV[i]} end
  local part = call('HMGET', P .. 'upload:' .. ARGV[i], 'phase', 'parent', 'concat', 'offset')
  if part[1] ~= '1' or part[2] ~= parent or part[3] ~= 'partial' then return {'incomplete', ARGV[i]} end
  size = size + tonumber(part[4])
  segments = segments + call('LLEN', P .. 'segments:' .. ARGV[i])
end
if size > tonumber(longest) or segments > tonumber(most_segments) or (length ~= '' and int(size) ~= length) then
  return {'size', size, segments}
end
for i = 13, 12 + count do
  for _, segment in ipairs(call('LRANGE', P .. 'segments:' .. ARGV[i], 0, -1)) do
    call('RPUSH', P .. 'segments:' .. id, segment)
    use(owner, segment:sub(1, 32), segment:sub(33))
  end
end
insert(id, owner, name, '', expires, '1', rest(13 + count))
set(id, {'offset', int(size), 'length', int(size)})
return id
"""
)

FILES = (
    _COMMON
    + b"""
-- id.  Returns files.
local owner = call('HGET', P .. 'upload:' .. ARGV[3], 'owner')
local files = {}
for i, segment in ipairs(call('LRANGE', P .. 'segments:' .. ARGV[3], 0, -1)) do
  files[i] = call('HGET', P .. 'blocks:' .. owner, segment:sub(1, 32)):match('^%S+')
end
return files
"""
)

EXPIRE = (
    _COMMON
    + b"""
-- until when names are known, blocks not used since when go, how many at once.  Returns how many things went, and files.
local untill, since, most = ARGV[3], ARGV[4], tonumber(ARGV[5])
local count, going = 0, {}
for _, id in ipairs(call('ZRANGE', P .. 'expires', '-inf', now, 'BYSCORE', 'LIMIT', 0, most)) do
  count = count + 1
  local upload = call('HMGET', P .. 'upload:' .. id, 'phase')
  if upload[1] == '2' or not upload[1] then
    call('DEL', P .. 'upload:' .. id)
    call('ZREM', P .. 'expires', id)
  else
    forget(id, untill)
  end
end
for _, owner in ipairs(call('SMEMBERS', P .. 'owners')) do
  for _, digest in ipairs(call('ZRANGE', P .. 'unused:' .. owner, '-inf', since, 'BYSCORE', 'LIMIT', 0, most)) do
    count = count + 1
    delete(owner, digest, going)
  end
  if call('EXISTS', P .. 'unused:' .. owner) == 0 then call('SREM', P .. 'owners', owner) end
  if count >= most then break end
end
return {count, going}
"""
)

ALL = (
    CREATE,
    END_EPOCH,
    ENTER,
    ADD,
    FIND,
    COMPLETE,
    REMEMBER,
    GIVE_UP,
    JOIN,
    FILES,
    EXPIRE,
)
