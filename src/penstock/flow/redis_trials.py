"""Where machines judge new versions together: a hash for each trial in a Redis server.  Needs the extra ``redis``.

It holds the last decision, with its stamp, and what each machine has counted under that stamp since it was made, all of
it each time: told twice it does no harm, and a server that has lost its memory has it back with the next exchange.  A
decision, or a look, is entered only by who knew the present one, so that there is one row of looks, as if one alone
judged.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import msgspec

from penstock.config.redis_address import Address
from penstock.flow.canary import Decision
from penstock.flow.verdict import Figures
from penstock.net.redis_client import Client

if TYPE_CHECKING:
    from penstock.flow.canary import Trial

PREFIX = b"{penstock:limits}:trial:"
REMEMBERED = 30 * 86_400  # seconds without a word of any gateway
MAX_MEMBERS = 1_000  # whose figures a trial holds; who comes later is heard at the next step
BUDGET = 1.0  # seconds for an answer

_EXCHANGE = f"""
-- KEYS: a trial.  ARGV: who asks, the stamp that it goes by, how many calls it has counted, and its figures; the
-- decision that it knows to be there, and what it wants there, if it does, with its stamp.
-- Returns the decision that is there now, and the figures of all others.
local key = KEYS[1]
local there = redis.call('HGET', key, 'decision') or ''
if ARGV[6] ~= '' and there == ARGV[5] then
  if redis.call('HGET', key, 'stamp') ~= ARGV[7] then redis.call('DEL', key) end
  redis.call('HSET', key, 'decision', ARGV[6], 'stamp', ARGV[7])
  there = ARGV[6]
end
local own = 'of:' .. ARGV[1]
if redis.call('HGET', key, 'stamp') == ARGV[2] then
  local known = redis.call('HGET', key, own)
  local calls = known and tonumber(string.match(known, '^%d+'))
  if calls and calls <= tonumber(ARGV[3]) or not known and redis.call('HLEN', key) < {MAX_MEMBERS + 2} then
    redis.call('HSET', key, own, ARGV[3] .. ' ' .. ARGV[4])
  end
end
redis.call('EXPIRE', key, {REMEMBERED})
local answer, fields = {{there}}, redis.call('HGETALL', key)
for i = 1, #fields, 2 do
  if string.sub(fields[i], 1, 3) == 'of:' and fields[i] ~= own then answer[#answer + 1] = fields[i + 1] end
end
return answer
""".encode()


class Heard(msgspec.Struct, frozen=True):
    """What is there: the last decision, None if there was none, and what the others have counted since."""

    encoded: bytes
    decision: Decision | None
    new: Figures
    old: Figures


NOTHING = Heard(b"", None, Figures(), Figures())


class TrialBoard:
    """:param url: see :meth:`penstock.config.redis_address.Address.parse`

    :raises ValueError: the URL is none of Redis
    """

    def __init__(self, url: str) -> None:
        self._redis = Client(Address.parse(url), BUDGET, (_EXCHANGE,), ConnectionError, ConnectionError)

    async def exchange(
        self, model: str, identity: str, trial: Trial, known: Heard = NOTHING, wanted: Decision | None = None
    ) -> Heard:
        """Tell what was counted here, and hear what is there.

        :param wanted: what is to be there instead of what is ``known``
        :raises ConnectionError: nobody answers in time, or not as they should
        """
        name = hashlib.blake2b(f"{model}\n{identity}".encode(), digest_size=16).hexdigest().encode()
        figures = msgspec.msgpack.encode((trial.own_new, trial.own_old))
        words = [trial.member.encode(), _text(trial.decision)]
        words += [b"%d" % (trial.own_new.calls + trial.own_old.calls), figures, known.encoded]
        words += [b"", b""] if wanted is None else [msgspec.msgpack.encode(wanted), _text(wanted)]
        return _read(await self._redis.run(_EXCHANGE, [PREFIX + name], *words))

    async def close(self) -> None:
        await self._redis.close()

    def __repr__(self) -> str:
        return f"<TrialBoard, {self._redis!r}>"


def _text(decision: Decision) -> bytes:
    return b" ".join(b"%d" % part for part in decision.stamp)


def _read(answer: Any) -> Heard:
    """:raises ConnectionError: that was something else"""
    new, old = Figures(), Figures()
    try:
        encoded, *told = answer
        decision = msgspec.msgpack.decode(encoded, type=Decision) if encoded else None
        for one in told:
            _, _, figures = one.partition(b" ")
            theirs, others = msgspec.msgpack.decode(figures, type=tuple[Figures, Figures])
            new.add(theirs)
            old.add(others)
    except (AttributeError, TypeError, ValueError) as error:  # msgspec's are the last
        raise ConnectionError("Redis answered with something else") from error
    return Heard(encoded, decision, new, old)
