"""``penstock.flow.sharing.Pool.exchange`` in Lua, for a Redis that several machines share.

All keys have one hash tag, so that a Redis Cluster keeps them in one slot.  The server's own clock counts.
Numbers are returned as text: what Lua returns as a number Redis cuts to an integer.
"""

from __future__ import annotations

from penstock.flow.gcra import PERIOD
from penstock.flow.sharing import FADING, FLOOR, LIFE

_SCRIPT = """
-- KEYS: the members (a sorted set), then a hash for each account.
-- ARGV: the member; then of each account: anew, calls, wanted, in_progress, and limit, total, taken and level of
-- requests and of tokens; an empty limit: there is none, an empty level: it is not known.
-- Returns: how many members there are, then of each account: requests, tokens, calls_share, tokens_share, others.
local LIFE, FADING, FLOOR, PERIOD = {life}, {fading}, {floor}, {period}
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local member = ARGV[1]
local function text(number) return string.format('%.17g', number) end

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

for i = 2, #KEYS do
  local key, from = KEYS[i], 12 * (i - 2) + 2
  local anew, calls, wanted, in_progress = ARGV[from] == '1', ARGV[from + 1], ARGV[from + 2], ARGV[from + 3]
  local stored, parts, gone = redis.call('HGETALL', key), {{}}, {{}}
  local levels = {{}}
  for j = 1, #stored, 2 do
    if stored[j] == 'requests' or stored[j] == 'tokens' then levels[stored[j]] = stored[j + 1]
    else parts[string.sub(stored[j], 3)] = stored[j + 1] end
  end
  local own, own_seen = parts[member], 0
  local totals, told = {{}}, {{'-', '-'}}
  if own then
    own_seen, totals[1], totals[2] = string.match(own, '%S+ %S+ %S+ (%S+) (%S+) (%S+)')
    if math.abs(now - own_seen) > LIFE then totals = {{}} end
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
    end
  end
  if #gone > 0 then redis.call('HDEL', key, unpack(gone)) end
  own_calls, own_wanted = own_calls + calls, own_wanted + wanted
  all_calls, all_wanted = all_calls + own_calls, all_wanted + own_wanted
  redis.call('HSET', key, 'm:' .. member,
    text(own_calls) .. ' ' .. text(own_wanted) .. ' ' .. in_progress .. ' ' .. text(now) .. ' ' .. told[1] .. ' ' .. told[2])
  redis.call('EXPIRE', key, math.ceil(longest + PERIOD))
  local function share(own, whole)
    if whole > 0 then return FLOOR / count + (1 - FLOOR) * own / whole end
    return 1 / count
  end
  answers[#answers + 1] = text(lefts[1])
  answers[#answers + 1] = text(lefts[2])
  answers[#answers + 1] = text(share(own_calls, all_calls))
  answers[#answers + 1] = text(share(own_wanted, all_wanted))
  answers[#answers + 1] = text(others)
end
return answers
"""

EXCHANGE = _SCRIPT.format(life=LIFE, fading=FADING, floor=FLOOR, period=PERIOD).encode()
