"""Which replica has computed the beginning of this prompt already, and does it pay to go there?

A call goes to the replica from which its first token is likely to come soonest (:func:`by_prefix`)::

    line there  +  (tokens of the prompt - tokens that it has) ÷ tokens that it computes per second

So the longest known beginning (``flow.prefix_blocks``) wins, unless waiting there takes longer than computing it elsewhere.

What nobody has, nobody is taken to have but who is first in the order of weighted rendezvous hashing, who has all of it,
the next, who has half, and so on.  What is hashed is the first block that tells a prompt from many others, so it is the
same for all turns of a conversation.  All processes have that order without talking: a conversation that one of them has
never seen goes where the others sent it, and where its first replica is busy all of them choose the same second one.  A
replica that comes or goes moves its own share only.

The line is made of what was sent and is not yet worked off: tokens of prompts, which flow off at the replica's rate, and
calls under way, each of which costs some time.  Both figures are slopes, of first tokens by the tokens that were to be
computed before them, and of what they took beyond that by the calls under way; nobody has to configure them, and what
waits alike for all calls does not change a slope.  All replicas of a model count together, but for their weights: one with
twice the weight is taken to be twice as fast.  (Each by itself has too few calls to learn from, and one that is taken to
be faster than it is gets all of them.)
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from hashlib import blake2b
from math import log

import msgspec

from penstock.flow.choose import FADE, FAILED, Standing, Standings
from penstock.flow.prefix_blocks import Prompt, Record
from penstock.flow.slope import Slope, common_slope

RATE = 10_000.0  # tokens of prompts that a replica computes per second, as long as it is not known
EACH = 0.02  # seconds that a first token takes longer for each further call under way, as long as it is not known
_SLOWEST, _FASTEST = 50.0, 100_000.0  # tokens per second that are believed
_RATE_DOUBT = 1_000_000.0  # squared tokens: one call more or less by 1,000
_EACH_DOUBT = 10.0  # squared calls
_LATEST = 0.1  # weight of the latest call in how much time is lost by failures


class Replica(Standings):
    """An upstream's standings, and besides what it was sent lately, and how soon it works that off.

    :param now: monotonic seconds
    :ivar rate: tokens of prompts that it computes per second
    :ivar each: seconds that each call under way costs the next one
    :ivar speed: its share of the weights, times the number of replicas
    """

    __slots__ = (
        "_at",
        "_failed",
        "_line",
        "_lost",
        "calls",
        "each",
        "now",
        "rate",
        "record",
        "speed",
        "tokens",
    )

    def __init__(self, now: Callable[[], float]) -> None:
        super().__init__()
        self.now = now
        self.record = Record()
        self.tokens = Slope()  # of first tokens, by tokens that were to be computed, at speed 1
        self.calls = Slope()  # of what they took beyond that, by other calls under way, at speed 1
        self.rate, self.each, self.speed = RATE, EACH, 1.0
        self._line = 0.0  # tokens that are to be computed,
        self._at = 0.0  # at this moment
        self._lost = 0.0  # seconds that a call lately lost here by failures
        self._failed = 0.0  # when the last one failed

    def ahead(self, under_way: int, now: float) -> float:
        """Tokens that it is still to compute; none, if it has no calls."""
        return max(0.0, self._line - (now - self._at) * self.rate) if under_way else 0.0

    def wait(self, under_way: int, now: float) -> float:
        """Seconds until it begins to compute one more prompt.

        :param under_way: calls that it has
        """
        lost = self._lost if now - self._failed < FADE else 0.0  # then one call finds out
        return lost + self.each * under_way + self.ahead(under_way, now) / self.rate

    def lengthen(self, tokens: float, under_way: int, now: float) -> None:
        """So many tokens more are to be computed; less than 0: so many are not after all."""
        self._line = max(0.0, self.ahead(under_way, now) + tokens)
        self._at = now

    def succeeded(self) -> None:
        """A call was answered."""
        self._lost -= _LATEST * self._lost

    def failed(self, seconds: float, now: float) -> None:
        """A call was not, and lost so much time."""
        self._lost += _LATEST * (seconds - self._lost)
        self._failed = now

    def __repr__(self) -> str:
        return f"<Replica {self.record!r}, {self.rate:.0f} tokens/s>"


class Sent:
    """A call that a replica has; it tells its standing what others do, and the replica what it learns by prompts."""

    __slots__ = ("_ahead", "_at", "_new", "_others", "_replica", "_standing", "_unknown")

    def __init__(self, standing: Standing, replica: Replica, prompt: Prompt) -> None:
        now, others = replica.now(), standing.in_progress
        known = replica.record.known(prompt, now)
        self._standing = standing
        self._replica = replica
        self._at = now
        self._others = others
        self._unknown = prompt.chain[known:]
        self._new = prompt.beyond(known)  # tokens
        self._ahead = replica.ahead(others, now)
        replica.lengthen(self._new, others, now)
        replica.record.enter(prompt, now)
        standing.begin()

    def end(self) -> None:
        """See :class:`penstock.flow.choose.Standing`, as for all that follow."""
        self._standing.end()

    def answered(self, seconds: float, tokens: int, tokens_per_second: float | None, now: float) -> None:
        self._standing.answered(seconds, tokens, tokens_per_second, now)
        replica = self._replica
        replica.tokens.add(self._new / replica.speed, seconds)
        replica.calls.add(self._others / replica.speed, seconds - (self._ahead + self._new) / replica.rate)
        replica.succeeded()

    def answered_whole(self, seconds: float, tokens: int, now: float) -> None:
        self._standing.answered_whole(seconds, tokens, now)
        self._replica.succeeded()

    def outlived(self, seconds: float, now: float) -> None:
        self._standing.outlived(seconds, now)

    def failed(self, seconds: float, now: float) -> None:
        self._standing.failed(seconds, now)
        self.withdrawn(now)
        self._replica.failed(max(FAILED, seconds), now)

    def withdrawn(self, now: float) -> None:
        """It has ended before its prompt was computed, which need not be the replica's fault."""
        replica = self._replica
        replica.record.remove(self._unknown)
        worked_off = (now - self._at) * replica.rate - self._ahead  # of this prompt
        left = self._new - min(max(worked_off, 0.0), self._new)
        replica.lengthen(-left, self._standing.in_progress, now)

    def __repr__(self) -> str:
        return f"<Sent {self._new:.0f} new tokens to {self._replica!r}>"


class Place(msgspec.Struct, frozen=True, eq=False):
    """One who could be asked; ``name`` is the same in every process.

    :param wait: seconds until the call would be sent
    """

    name: str
    weight: float
    standing: Standing
    replica: Replica
    wait: float = 0.0


def by_prefix(places: Sequence[Place], prompt: Prompt, now: float) -> list[int]:
    """Indices: who is likely to answer first, first."""
    _learn(places)
    records = [place.replica.record for place in places]
    known = [record.known(prompt, now) for record in records]
    common = max(record.common(prompt, blocks) for record, blocks in zip(records, known, strict=True))
    scores = [_score(place, prompt.after(common)) for place in places]
    order = sorted(range(len(places)), key=lambda i: -scores[i])
    share = prompt.beyond(max(known))
    seconds = [0.0] * len(places)
    for i in order:
        place = places[i]
        replica = place.replica
        wait = place.wait + replica.wait(place.standing.in_progress, now)
        seconds[i] = wait + (prompt.beyond(known[i]) - share) / replica.rate
        share /= 2
    return sorted(order, key=lambda i: seconds[i])


def _learn(places: Sequence[Place]) -> None:
    """What all replicas have shown together."""
    slope = common_slope([place.replica.tokens for place in places], 1.0 / RATE, _RATE_DOUBT)
    rate = 1.0 / min(max(slope, 1.0 / _FASTEST), 1.0 / _SLOWEST)
    each = max(EACH, common_slope([place.replica.calls for place in places], EACH, _EACH_DOUBT))
    weights = sum(place.weight for place in places)
    for place in places:
        replica = place.replica
        replica.speed = place.weight * len(places) / weights
        replica.rate, replica.each = rate * replica.speed, each / replica.speed


def _score(place: Place, block: int) -> float:
    digest = blake2b(block.to_bytes(8), key=_key(place.name), digest_size=8).digest()
    # Above 0 and below 1: a float has 53 bits, so of more of them the highest would be rounded to 1.
    point = ((int.from_bytes(digest) >> 11) + 1) / (2**53 + 1)
    return -place.weight / log(point)


@functools.lru_cache(maxsize=1024)
def _key(name: str) -> bytes:
    """A key has 64 bytes at most, and names may have more in common."""
    return blake2b(name.encode()).digest()
