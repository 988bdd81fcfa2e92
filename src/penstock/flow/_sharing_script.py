"""``penstock.flow.sharing.Pool.exchange`` in Lua, for a Redis that several machines share.

All keys have one hash tag, so that a Redis Cluster keeps them in one slot.  The server's own clock counts.
Numbers are returned as text: what Lua returns as a number Redis cuts to an integer.
"""

from __future__ import annotations

from penstock.flow.gcra import PERIOD
from penstock.flow.places import AHEAD, RECOVERY
from penstock.flow.sharing import FADING, FLOOR, LIFE

_SCRIPT = """
-- KEYS: the members (a sorted set), until when the pool recovers, then a hash for each account.
-- ARGV: the member, whether it rejoins; then of each account: anew, calls, wanted, in_progress, and limit, total, taken
-- and level of requests and of tokens, and limit, number, held and needs of places; an empty limit: there is none, an
-- empty level: it is not known.
-- Returns: how many members there are, then of each account: requests, tokens, calls_share, tokens_share, others, places.
local LIFE, FADING, FLOOR, PERIOD, AHEAD, RECOVERY = {life}, {fading}, {floor}, {period}, {ahead}, {recovery}
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local member = ARGV[1]
local function text(number) return string.format('%.17g', number) end

local seen = redis.call('ZSCORE', KEYS[1], member)
if ARGV[2] == '1' and not (seen and math.abs(now - seen) <= LIFE) then
  redis.call('SET', KEYS[2], text(now + RECOVERY), 'EX', 60)
end
local recovers = tonumber(redis.call('GET', KEYS[2]) or '0') - now
recovers = recovers > 0 and recovers <= RECOVERY
redis.call('ZADD', KEYS[1], text(now), member)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. text(now - LIFE))
redis.call('ZREMRANGEBYSCORE', KEYS[1], '(' .. text(now + LIFE), '+inf')
redis.call('EXPIRE', KEYS[1], 60)
local answers = {{text(redis.call('ZCARD', KEYS[1]))}}

local function level(known, limit, total, was_total, taken, stated, anew)
  limit, stated = tonumber(limit), tonumber(stated)
  local left
  if not known then
    left = stated or limit - taken
  else
    local was, at = string.match(known, '(%S+) (%S+)')
    left = math.min(limit, was + math.max(0, now - at) * limit / PERIOD)
    if not anew then left = left - (was_total and total - was_total or taken)
    elseif stated then left = math.min(left, stated) end
  end
  return math.min(left, limit)
end

local function floor(number) return math.floor(number + 1e-6) end

local function granted(limit, own, share, others)
  local rest, held, before = limit - own.needs, own.held, 0
  for _, other in ipairs(others) do
    rest, held = rest - other.needs, held + other.held
    if other.hungry and not (own.hungry and own.hungry <= other.hungry) then before = before + 1 end
  end
  local wanted
  if rest >= 0 then
    wanted = own.needs + floor(rest * share * AHEAD)
  else
    local theirs = 0
    for _, other in ipairs(others) do
      theirs = theirs + math.min(other.needs, math.max(1, floor(limit * other.share)))
    end
    wanted = math.min(own.needs, math.max(0, limit - theirs))
  end
  if own.hungry then wanted = math.max(wanted, 1) end
  if wanted <= own.held then return wanted end
  if recovers then return own.held end
  return own.held + math.min(wanted - own.held, math.max(0, limit - held - before))
end

for i = 3, #KEYS do
  local key, from = KEYS[i], 16 * (i - 3) + 3
  local anew, calls, wanted, in_progress = ARGV[from] == '1', ARGV[from + 1], ARGV[from + 2], ARGV[from + 3]
  local stored, parts, gone = redis.call('HGETALL', key), {{}}, {{}}
  local levels = {{}}
  for j = 1, #stored, 2 do
    if stored[j] == 'requests' or stored[j] == 'tokens' then levels[stored[j]] = stored[j + 1]
    else parts[string.sub(stored[j], 3)] = stored[j + 1] end
  end
  local own, own_seen = parts[member], 0
  local totals, told = {{}}, {{'-', '-'}}
  local held = {{held = 0, needs = 0, number = -1}}
  local function holding(text)
    local has, needs, number, hungry = string.match(text, '%S+ %S+ %S+ %S+ %S+ %S+ (%S+) (%S+) (%S+) (%S+)')
    return {{held = tonumber(has or '0'), needs = tonumber(needs or '0'),
      number = tonumber(number or '-1'), hungry = tonumber(hungry or '-')}}
  end
  if own then
    own_seen, totals[1], totals[2] = string.match(own, '%S+ %S+ %S+ (%S+) (%S+) (%S+)')
    if math.abs(now - own_seen) > LIFE then totals = {{}} else held = holding(own) end
  end
  local lefts, longest = {{}}, PERIOD
  for k, kind in ipairs({{'requests', 'tokens'}}) do
    local at = from + 4 * k
    local limit, total, taken, stated = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
    lefts[k] = 0
    if limit ~= '' then
      lefts[k] = level(levels[kind], limit, total, tonumber(totals[k]), taken, stated, anew)
      told[k] = total
      redis.call('HSET', key, kind, text(lefts[k]) .. ' ' .. text(now))
      if tonumber(limit) > 0 then
        longest = math.max(longest, math.min(1000000, (limit - lefts[k]) * PERIOD / limit))
      end
    end
  end
  local own_calls, own_wanted, count, others = 0, 0, 1, 0
  local all_calls, all_wanted = 0, 0
  local elsewhere = {{}}
  for name, part in pairs(parts) do
    local asked, tokens, running, seen = string.match(part, '(%S+) (%S+) (%S+) (%S+)')
    local fading = math.exp(-math.max(0, now - seen) / FADING)
    if math.abs(now - seen) > LIFE then
      gone[#gone + 1] = 'm:' .. name
    elseif name == member then
      own_calls, own_wanted = asked * fading, tokens * fading
    else
      count = count + 1
      all_calls, all_wanted = all_calls + asked * fading, all_wanted + tokens * fading
      others = others + running
      local other = holding(part)
      other.calls = asked * fading
      elsewhere[#elsewhere + 1] = other
    end
  end
  if #gone > 0 then redis.call('HDEL', key, unpack(gone)) end
  own_calls, own_wanted = own_calls + calls, own_wanted + wanted
  all_calls, all_wanted = all_calls + own_calls, all_wanted + own_wanted
  local function share(own, whole)
    if whole > 0 then return FLOOR / count + (1 - FLOOR) * own / whole end
    return 1 / count
  end
  local limit, number = tonumber(ARGV[from + 12]), tonumber(ARGV[from + 13])
  local grant = 0
  if limit then
    grant = held.held
    if number > held.number then
      local has, needs, hungry = tonumber(ARGV[from + 14]), tonumber(ARGV[from + 15]), nil
      if needs > 0 and has == 0 then hungry = held.hungry or now end
      held = {{held = has, needs = needs, number = number, hungry = hungry}}
      for _, other in ipairs(elsewhere) do other.share = share(other.calls, all_calls) end
      grant = granted(limit, held, share(own_calls, all_calls), elsewhere)
      held.held = math.max(has, grant)
      if grant > 0 then held.hungry = nil end
    end
  end
  redis.call('HSET', key, 'm:' .. member, table.concat({{
    text(own_calls), text(own_wanted), in_progress, text(now), told[1], told[2],
    text(held.held), text(held.needs), text(held.number), held.hungry and text(held.hungry) or '-'}}, ' '))
  redis.call('EXPIRE', key, math.ceil(longest + PERIOD))
  answers[#answers + 1] = text(lefts[1])
  answers[#answers + 1] = text(lefts[2])
  answers[#answers + 1] = text(share(own_calls, all_calls))
  answers[#answers + 1] = text(share(own_wanted, all_wanted))
  answers[#answers + 1] = text(others)
  answers[#answers + 1] = text(grant)
end
return answers
"""

EXCHANGE = _SCRIPT.format(
    life=LIFE, fading=FADING, floor=FLOOR, period=PERIOD, ahead=AHEAD, recovery=RECOVERY
).encode()
