"""Who goes away, as gateways on several machines tell each other through a Redis server.  Needs the extra ``redis``.

A register for each upstream, in which the last word counts: what each gateway knows is written with the *stamp* that
it had, and news get a new one by the server's own clock, or a little more than the last, where that clock was set back.
Every exchange tells all that is known, so a server that has lost its memory has it back with the next one.

Nothing depends on a clock that the machines would share: seconds are told, not moments.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from penstock.config.redis_address import Address
from penstock.net.redis_client import Client

if TYPE_CHECKING:
    from collections.abc import Mapping

KEY = b"{penstock:limits}:departures"
REMEMBERED = 86_400  # seconds that it is known of one that it stays, and all of it without any gateway
_BUDGET = 1.0  # seconds for an answer
_OF_A_NOTE = 5

_EXCHANGE = f"""
-- KEYS: a hash of each upstream's stamp, whether it leaves, and moments: when it goes, when that is forgotten; or -.
-- ARGV: of each that is known: its name, stamp (empty: these are news), 1 if it leaves, seconds to these moments, or -.
-- Returns the same of all.
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local function text(number) return string.format('%.17g', number) end
local function moment(seconds) return seconds == '-' and '-' or text(now + seconds) end
local function seconds(moment) return moment == '-' and '-' or text(moment - now) end
local function past(stamp, leaves, forgotten)
  if leaves == '1' then return forgotten ~= '-' and now >= tonumber(forgotten) end
  return math.abs(now - stamp) > {REMEMBERED}
end
for i = 1, #ARGV, {_OF_A_NOTE} do
  local name, leaves, at, forgotten = ARGV[i], ARGV[i + 2], moment(ARGV[i + 3]), moment(ARGV[i + 4])
  local known = redis.call('HGET', KEYS[1], name)
  local was = known and tonumber(string.match(known, '%S+')) or 0
  local stamp = tonumber(ARGV[i + 1]) or math.max(now, was + 0.00001)
  if stamp > was and not past(stamp, leaves, forgotten) then
    redis.call('HSET', KEYS[1], name, table.concat({{text(stamp), leaves, at, forgotten}}, ' '))
  end
end
local answers, stored = {{}}, redis.call('HGETALL', KEYS[1])
for i = 1, #stored, 2 do
  local stamp, leaves, at, forgotten = string.match(stored[i + 1], '(%S+) (%S+) (%S+) (%S+)')
  if past(stamp, leaves, forgotten) then redis.call('HDEL', KEYS[1], stored[i])
  else
    for _, each in ipairs({{stored[i], stamp, leaves, seconds(at), seconds(forgotten)}}) do
      answers[#answers + 1] = each
    end
  end
end
redis.call('EXPIRE', KEYS[1], {REMEMBERED})
return answers
""".encode()


class Note(msgspec.Struct, frozen=True):
    """What is known of one upstream.

    :param stamp: the later counts; None: it has just been heard
    :param seconds: until it goes; None: it is not known
    :param until: seconds until that is forgotten; None: it is not
    """

    stamp: float | None
    leaves: bool
    seconds: float | None = None
    until: float | None = None


class DepartureBoard:
    """:param url: see :meth:`penstock.config.redis_address.Address.parse`

    :raises ValueError: the URL is none of Redis
    """

    def __init__(self, url: str) -> None:
        self._redis = Client(Address.parse(url), _BUDGET, (_EXCHANGE,), ConnectionError, ConnectionError)

    async def exchange(self, notes: Mapping[str, Note]) -> dict[str, Note]:
        """Tell what is known, and hear what all know.

        :raises ConnectionError: nobody answers in time, or not as they should
        """
        words: list[bytes] = []
        for name, note in notes.items():
            stamp = b"" if note.stamp is None else repr(note.stamp).encode()
            words += (
                name.encode(),
                stamp,
                b"1" if note.leaves else b"0",
                _text(note.seconds),
                _text(note.until),
            )
        return _read(await self._redis.run(_EXCHANGE, [KEY], *words))

    async def close(self) -> None:
        await self._redis.close()

    def __repr__(self) -> str:
        return f"<DepartureBoard, {self._redis!r}>"


def _text(seconds: float | None) -> bytes:
    return b"-" if seconds is None else repr(seconds).encode()


def _read(answer: Any) -> dict[str, Note]:
    """:raises ConnectionError: that was something else"""
    try:
        notes = {}
        for at in range(0, len(answer), _OF_A_NOTE):
            name, stamp, leaves, seconds, until = answer[at : at + _OF_A_NOTE]
            notes[name.decode()] = Note(float(stamp), leaves == b"1", _seconds(seconds), _seconds(until))
    except (AttributeError, TypeError, ValueError) as error:
        raise ConnectionError("Redis answered with something else") from error
    return notes


def _seconds(text: bytes) -> float | None:
    return None if text == b"-" else float(text)
