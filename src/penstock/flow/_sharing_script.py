"""``penstock.flow.sharing.Pool.exchange`` in Lua, for a Redis that several machines share.

All keys have one hash tag, so that a Redis Cluster keeps them in one slot.  The server's own clock counts.
Numbers are returned as text: what Lua returns as a number Redis cuts to an integer.
"""

from __future__ import annotations

from penstock.flow import credit, funds
from penstock.flow.budget import BACK
from penstock.flow.concurrency import (
    COLLAPSE,
    CREEP,
    DECREASE,
    GROWTH,
    INCREASE,
    LEAST_WINDOW,
    MOST_CREPT,
    PAUSE,
)
from penstock.flow.gcra import PERIOD
from penstock.flow.guessing import QUIET
from penstock.flow.places import AHEAD, RECOVERY
from penstock.flow.sharing import FADING, FLOOR, LIFE

KEPT = 40 * 86_400  # seconds for which sums of money are remembered: more than a month

_SCRIPT = """
-- KEYS: the members (a sorted set), until when the pool recovers, then three hashes for each account: its limits, and its
-- money of this day and of this month.
-- ARGV: the member, whether it rejoins; then of each account: anew, calls, wanted, in_progress, and limit, total, taken
-- and level of requests and of tokens, and limit, number, held and needs of places, and value, least, most, usual,
-- first_tokens, late, used and overloads of what was seen, and two rates that are guessed, each with what was told of it, and
-- limit, period, number, spent, held, needs, wants, known and book of the day's money and of the month's, and number,
-- held, wants and least of what is granted of requests and of tokens; an empty limit or value: there is none, an empty
-- level: it is not known.
-- Returns: how many members there are, and the time; then of each account: requests, tokens, calls_share, tokens_share, others, places,
-- learnt, usual, guessed_requests, guessed_tokens, day, day_free, month, month_free, requests_held, tokens_held.
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
local answers = {{text(redis.call('ZCARD', KEYS[1])), text(now)}}

local function level(known, limit, total, was_total, taken, stated, anew)
  limit, stated = tonumber(limit), tonumber(stated)
  local left
  if not known then
    left = stated or limit - taken
  else
    local was, at, before = string.match(known, '(%S+) (%S+) ?(%S*)')
    before = tonumber(before) or limit
    if before ~= 0 then was = was * limit / before else was = limit end
    left = math.min(limit, was + math.max(0, now - at) * limit / PERIOD)
    if not anew then left = left - (was_total and total - was_total or taken)
    elseif stated then left = math.min(left, stated) end
  end
  return math.min(left, limit)
end

local function lessen(learnt, factor, least, most)
  local left = learnt.quiet_until - now
  if left > 0 and left <= {pause} then return end
  learnt.quiet_until, learnt.congested = now + {pause}, 1
  learnt.value = math.max(math.min(least, most), learnt.value * factor)
end

local function learn(known, seen, before)
  local learnt, fields = {{}}, {{'value', 'usual', 'since', 'congested', 'quiet_until', 'first_tokens', 'late', 'used'}}
  if known then
    local k = 0
    for figure in string.gmatch(known, '%S+') do k = k + 1; learnt[fields[k]] = tonumber(figure) end
  else
    for _, field in ipairs(fields) do learnt[field] = 0 end
    learnt.value = seen[1]
  end
  local least, most, usual = seen[2], seen[3], seen[4]
  learnt.value = math.min(learnt.value, most)
  local since = {{}}
  for k = 1, 4 do since[k] = math.max(0, seen[k + 4] - (before[k] or seen[k + 4])) end
  learnt.first_tokens, learnt.late = learnt.first_tokens + since[1], learnt.late + since[2]
  learnt.used = learnt.used + since[3]
  if usual > 0 then
    local crept = learnt.usual * 2 ^ math.min(math.max(0, now - learnt.since) / {creep}, {crept})
    learnt.usual = learnt.usual > 0 and math.min(crept, usual) or usual
    learnt.since = now
  end
  if since[4] > 0 then lessen(learnt, {collapse}, least, most) end
  if learnt.usual > 0 and learnt.first_tokens >= math.max({window}, learnt.value) then
    if learnt.late * 2 > learnt.first_tokens then lessen(learnt, {decrease}, least, most)
    elseif learnt.used * 2 > learnt.first_tokens then
      local more = learnt.value * ({growth} - 1)
      if learnt.congested == 1 then more = math.max(1, learnt.value * {increase}) end
      learnt.value = math.min(most, learnt.value + more)
    end
    learnt.first_tokens, learnt.late, learnt.used = 0, 0, 0
  end
  local words = {{}}
  for k, field in ipairs(fields) do words[k] = text(learnt[field]) end
  return learnt, table.concat(words, ' ')
end

local function heard(rate, quiet_until, opinion, told)
  if opinion == 0 then return rate, quiet_until end
  if rate == 0 then return opinion, quiet_until end
  if told == 0 then return rate, quiet_until end
  if opinion >= told then return rate + opinion - told, quiet_until end
  local left = quiet_until - now
  if left > 0 and left <= {quiet} then return rate, quiet_until end
  return rate * opinion / told, now + {quiet}
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

-- The months since the year 0, of a day since 1970: years begin with March here, four centuries are 146,097 days.
local function month(day)
  local days = day + 719468
  local centuries = math.floor(days / 146097)
  days = days - centuries * 146097
  local years = days - math.floor(days / 1460) + math.floor(days / 36524) - math.floor(days / 146096)
  years = math.floor(years / 365)
  days = days - 365 * years - math.floor(years / 4) + math.floor(years / 100)
  return (centuries * 400 + years) * 12 + math.floor((5 * days + 2) / 153) + 3
end
local today, soon = math.floor(now / 86400), math.floor((now + {back}) / 86400)
local periods, begun = {{today, month(today)}}, {{soon, month(soon)}}

local function money(key, at, latest, may_have_begun, own_share, elsewhere)
  if ARGV[at] == '' then return 0, 0 end
  local told, book = {{}}, ARGV[at + 8]
  for k = 0, 7 do told[k] = tonumber(ARGV[at + k]) end
  local left, period, number, spent, has, needs = told[0], told[1], told[2], told[3], told[4], told[5]
  local present = tonumber(redis.call('HGET', key, 'period') or '-1')
  if period < present then
    if may_have_begun >= present then return 0, 0 end
    present = period  -- who began another, when the clock was wrong, has spent in this one
    redis.call('HSET', key, 'period', ARGV[at + 1])
  end
  if period > present then
    if period > latest then return 0, 0 end  -- where the clock is wrong, a day does not begin for all
    redis.call('DEL', key)
    redis.call('HSET', key, 'period', ARGV[at + 1])
  end
  local stored, base, before, purses = redis.call('HGETALL', key), nil, nil, {{}}
  for j = 1, #stored, 2 do
    local field, value = stored[j], stored[j + 1]
    if field == book then base = tonumber(value)
    elseif string.sub(field, 1, 2) == 'b:' then left = left - value
    elseif string.sub(field, 1, 2) == 'm:' then
      local sum, holds, asked, last = string.match(value, '(%S+) (%S+) (%S+) (%S+)')
      local name = string.sub(field, 3)
      purses[name] = {{held = tonumber(holds), asked = tonumber(asked), number = tonumber(last)}}
      if name == member then before = sum else left = left - sum end
    end
  end
  if not base then base = math.max(0, told[7] - spent)
  elseif not before then base = math.max(0, base - spent) end
  redis.call('HSET', key, book, text(base))
  left = left - base - spent
  local own, held, theirs = purses[member] or {{held = 0, asked = 0, number = -1}}, 0, 0
  for _, other in ipairs(elsewhere) do
    local purse = purses[other.name]
    if purse then held, theirs = held + purse.held, theirs + purse.asked end
  end
  local grant = own.held
  if number > own.number then
    local most, asked = has, needs + told[6]
    if not recovers then most = has + math.max(0, left - has - held) end
    if asked > most then grant = math.min(needs, most)
    else grant = math.min(most, asked + math.max(0, math.floor((left - asked - theirs) * own_share * {funds_ahead}))) end
    own = {{held = math.max(has, grant), asked = asked, number = number}}
  end
  redis.call('HSET', key, 'm:' .. member, table.concat({{text(spent), text(own.held), text(own.asked), text(own.number)}}, ' '))
  redis.call('EXPIRE', key, {kept})
  return grant, left - held - own.held
end

-- What a member was granted of requests and of tokens: how much, and by which report.
local function credits(part)
  local requests, one, tokens, other = string.match(part or '', '| (%S+) (%S+) (%S+) (%S+)')
  return {{
    {{held = tonumber(requests or '0'), number = tonumber(one or '-1')}},
    {{held = tonumber(tokens or '0'), number = tonumber(other or '-1')}}}}
end

local function credited(free, at, known)
  local number, has, wants, least = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  if recovers or not number or number <= known.number then return known end
  local more = math.min(wants, math.max(0, free - has))
  if has + more < least - {rounding} then more = 0 end
  return {{held = has + more, number = number}}
end

for i = 3, #KEYS, 3 do
  local key, from = KEYS[i], 54 * (i - 3) / 3 + 3
  local anew, calls, wanted, in_progress = ARGV[from] == '1', ARGV[from + 1], ARGV[from + 2], ARGV[from + 3]
  local stored, parts, gone = redis.call('HGETALL', key), {{}}, {{}}
  local levels = {{}}
  for j = 1, #stored, 2 do
    if string.sub(stored[j], 1, 2) ~= 'm:' then levels[stored[j]] = stored[j + 1]
    else parts[string.sub(stored[j], 3)] = stored[j + 1] end
  end
  local own, own_seen = parts[member], 0
  local totals, told = {{}}, {{'-', '-'}}
  local held, before, credit = {{held = 0, needs = 0, number = -1}}, {{}}, credits()
  local function holding(text)
    local has, needs, number, hungry = string.match(text, '%S+ %S+ %S+ %S+ %S+ %S+ (%S+) (%S+) (%S+) (%S+)')
    return {{held = tonumber(has or '0'), needs = tonumber(needs or '0'),
      number = tonumber(number or '-1'), hungry = tonumber(hungry or '-')}}
  end
  if own then
    own_seen, totals[1], totals[2] = string.match(own, '%S+ %S+ %S+ (%S+) (%S+) (%S+)')
    if math.abs(now - own_seen) > LIFE then totals = {{}}
    else
      held, credit = holding(own), credits(own)
      local counts = string.match(own, string.rep('%S+ ', 10) .. '([^|]*)')
      for count in string.gmatch(counts or '', '%d+') do before[#before + 1] = tonumber(count) end
    end
  end
  local guessed = {{0, 0, 0, 0}}
  if levels.guessed then
    local k = 0
    for figure in string.gmatch(levels.guessed, '%S+') do k = k + 1; guessed[k] = tonumber(figure) end
  end
  if ARGV[from + 24] ~= '' then
    for k = 1, 3, 2 do
      guessed[k], guessed[k + 1] = heard(guessed[k], guessed[k + 1], tonumber(ARGV[from + 23 + k]), tonumber(ARGV[from + 24 + k]))
    end
    if guessed[1] + guessed[3] > 0 then
      redis.call('HSET', key, 'guessed', table.concat({{text(guessed[1]), text(guessed[2]), text(guessed[3]), text(guessed[4])}}, ' '))
    end
  end
  local lefts, longest = {{}}, PERIOD
  for k, kind in ipairs({{'requests', 'tokens'}}) do
    local at = from + 4 * k
    local limit, total, taken, stated = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
    lefts[k] = 0
    if limit ~= '' then
      lefts[k] = level(levels[kind], limit, total, tonumber(totals[k]), taken, stated, anew)
      told[k] = total
      redis.call('HSET', key, kind, text(lefts[k]) .. ' ' .. text(now) .. ' ' .. limit)
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
      local theirs = credits(part)
      for k = 1, 2 do
        if ARGV[from + 4 * k] ~= '' then lefts[k] = lefts[k] - theirs[k].held end
      end
      local other = holding(part)
      other.calls, other.name = asked * fading, name
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
  local learnt, counts = {{value = 0, usual = 0}}, '-'
  if ARGV[from + 16] ~= '' then
    local seen, words = {{}}, ''
    for k = 1, 8 do seen[k] = tonumber(ARGV[from + 15 + k]) end
    learnt, words = learn(levels.learnt, seen, before)
    redis.call('HSET', key, 'learnt', words)
    if limit then limit = math.floor(learnt.value) end
    counts = table.concat({{ARGV[from + 20], ARGV[from + 21], ARGV[from + 22], ARGV[from + 23]}}, ' ')
  end
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
  credit[1] = credited(lefts[1], from + 46, credit[1])
  credit[2] = credited(lefts[2], from + 50, credit[2])
  redis.call('HSET', key, 'm:' .. member, table.concat({{
    text(own_calls), text(own_wanted), in_progress, text(now), told[1], told[2],
    text(held.held), text(held.needs), text(held.number), held.hungry and text(held.hungry) or '-', counts,
    '|', text(credit[1].held), text(credit[1].number), text(credit[2].held), text(credit[2].number)}}, ' '))
  redis.call('EXPIRE', key, math.ceil(longest + PERIOD))
  answers[#answers + 1] = text(lefts[1])
  answers[#answers + 1] = text(lefts[2])
  answers[#answers + 1] = text(share(own_calls, all_calls))
  answers[#answers + 1] = text(share(own_wanted, all_wanted))
  answers[#answers + 1] = text(others)
  answers[#answers + 1] = text(grant)
  answers[#answers + 1] = text(learnt.value)
  answers[#answers + 1] = text(learnt.usual)
  answers[#answers + 1] = text(guessed[1])
  answers[#answers + 1] = text(guessed[3])
  for k = 1, 2 do
    local may_hold, free = money(KEYS[i + k], from + 19 + 9 * k, periods[k], begun[k], share(own_calls, all_calls), elsewhere)
    answers[#answers + 1] = text(may_hold)
    answers[#answers + 1] = text(free)
  end
  answers[#answers + 1] = text(recovers and {not_yet} or credit[1].held)
  answers[#answers + 1] = text(recovers and {not_yet} or credit[2].held)
end
return answers
"""

EXCHANGE = _SCRIPT.format(
    life=LIFE,
    fading=FADING,
    floor=FLOOR,
    period=PERIOD,
    ahead=AHEAD,
    recovery=RECOVERY,
    window=LEAST_WINDOW,
    growth=GROWTH,
    increase=INCREASE,
    decrease=DECREASE,
    collapse=COLLAPSE,
    pause=PAUSE,
    quiet=QUIET,
    creep=CREEP,
    crept=MOST_CREPT,
    kept=KEPT,
    back=BACK,
    funds_ahead=funds.AHEAD,
    not_yet=credit.NOT_YET,
    rounding=credit.ROUNDING,
).encode()
