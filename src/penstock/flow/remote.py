"""A provider's rate limit, as far as its answers tell of it, so that calls wait here instead of failing there.

The provider has a bucket of ``limit`` units that fills all the time.  With each answer it says how much was
left when it began to answer; what was sent after that call, and is not answered yet, has to be taken off.
Between two answers the bucket is reckoned on.  Nothing is limited before the provider has told of a limit, or
has said 429.

Some never tell, and some lie.  After a 429 from one that had not told, or had told of room, the rate is
*guessed*: what it had answered lately, spent evenly.  From a few answers that may be far too low, so it grows fast
until the next 429.  Each takes a little from it; from then on it grows slowly near what was too much, and faster the
longer nobody says 429, as CUBIC does in TCP (RFC 9438).  While not all of it is used, it does not grow.  Several
processes guess together (``penstock.flow.guessing``).  What a liar tells is not listened to for a while, and for twice
as long each time; that while begins anew with each 429 that comes although it tells of room: whoever waits here by then
would be sent at once on its word.  And nobody waits longer than :data:`MAX_PAUSE` for a provider's word alone: then one call goes, and
brings news.
"""

from __future__ import annotations

from math import exp, inf

from penstock.wire.ratelimits import Told

PERIOD = 60.0  # seconds: limits are per minute, where the provider does not say how soon they are whole
MAX_PAUSE = 60.0  # seconds
LEAST = 1.0 / MAX_PAUSE  # of a guessed rate, per second: however little was answered, then one call finds out
FIRST_PAUSE = 1.0  # seconds, after a 429 without a Retry-After; doubled with each that follows
DISTRUST = 600.0  # seconds, the first time: a guessed rate serves well meanwhile
MAX_DISTRUST = 86_400.0  # seconds
FASTEST, SLOWEST = 1.0, 86_400.0  # seconds in which a whole bucket fills: what is beyond is not believed
MARGIN = 0.01  # of the limit: not used, because clocks and estimates differ

LESS = 0.97  # of the rate that was too much, after a 429
SOON = 10.0  # seconds in which one 429 after the other takes the square of that
LEAST_LESS = 0.5  # but not less
START = 0.1  # growth of the first guess, per second of itself, until the next 429
GROWTH, NEAR_GROWTH = 0.03, 0.001  # afterwards: far from the last 429, and near it
NEWS = 0.99  # of what the rate of all seemed to be: less is no difference of growth
PLATEAU = 30.0  # seconds of growth near it, after which growth doubles
BURST = 1.0  # seconds' worth of a guessed rate that may come at once
LATELY = 10.0  # seconds over which answers are counted


class RemoteBucket:
    """One of a provider's buckets, of requests or of tokens."""

    __slots__ = (
        "_answered",
        "_answered_at",
        "_answered_since",
        "_at",
        "_ceiling",
        "_claimed",
        "_distrust",
        "_distrusted_until",
        "_grown",
        "_guessed",
        "_is_rough",
        "_less",
        "_lessened_at",
        "_level",
        "_limit",
        "_pause",
        "_paused_until",
        "_rate",
        "_sent",
        "_share",
        "_unanswered",
        "_whole",
    )

    def __init__(self) -> None:
        self._limit = 0.0  # 0: neither told nor guessed
        self._rate = 0.0  # units per second
        self._level = 0.0
        self._at = 0.0  # when the level was so
        # Units of calls that are not answered, in the order of their numbers, and their sum.
        self._sent: dict[int, float] = {}
        self._unanswered = 0.0
        self._answered = 0.0  # units per second, lately
        self._answered_at = 0.0
        self._answered_since: float | None = None
        self._guessed = False
        self._is_rough = False  # a first guess of one alone, until 429s no longer come one after the other
        self._ceiling = 0.0  # the guessed rate that brought the last 429
        self._grown = 0.0  # seconds of growth since then
        self._less = LESS  # what it was multiplied by
        self._lessened_at = 0.0
        self._paused_until = 0.0
        self._pause = FIRST_PAUSE
        self._distrusted_until = 0.0
        self._distrust = DISTRUST
        self._claimed = 0.0  # units that there would be if the liar were believed, more than the margin
        self._share = 1.0
        self._whole = 0.0  # the guessed rate of all processes together, as it was last told; 0: it was not

    def wait(self, units: float, now: float) -> float:
        """Seconds until a call of so many units may be sent; 0: now."""
        pause = self._paused_until - now if now < self._paused_until else 0.0
        if not self._limit:
            return min(MAX_PAUSE, pause)
        self._fill(now)
        rate = self._rate
        if self._guessed:
            wanted = min(units, self._limit)
            rate = max(rate, LEAST)
        else:
            wanted = min(units, self._limit * (1.0 - 2.0 * MARGIN)) + self._limit * MARGIN
        missing = (wanted - self._level) / rate
        return min(max(pause, missing if missing > 1e-9 else 0.0), MAX_PAUSE)

    def sent(self, number: int, units: float, now: float) -> None:
        """Call ``number`` goes out; numbers grow."""
        if self._limit:
            self._fill(now)
            self._level -= units
        if self._claimed:
            self._claimed -= units
        self._sent[number] = units
        self._unanswered += units

    def answered(self, number: int, told: Told | None, now: float) -> None:
        """Its answer begins, or there was none."""
        units = self._sent.get(number)
        if units is None:
            return
        later = 0.0
        if told is not None:
            later = self._unanswered - units
            for (
                other,
                earlier,
            ) in self._sent.items():  # most are answered in about the order in which they were sent
                if other >= number:
                    break
                later -= earlier
        del self._sent[number]
        self._unanswered = self._unanswered - units if self._sent else 0.0
        if told is None:
            return
        if now < self._distrusted_until:
            self._claimed = told.left - later - told.limit * MARGIN
            return
        self._learn_rate(told)
        self._guessed = self._is_rough = False
        self._whole = self._claimed = 0.0
        self._limit = told.limit
        self._level = told.left - later
        self._at = now
        self._pause = FIRST_PAUSE

    def accepted(self, units: float, now: float) -> None:
        """Calls of so many units were answered, and not refused."""
        if self._answered_since is None:
            self._answered_since = now
        self._answered = self._lately(now) + units / LATELY
        self._answered_at = now
        self._pause = FIRST_PAUSE

    def refused(self, retry_after: float | None, now: float, share: float = 1.0) -> bool:
        """The provider says that the bucket is empty; whether that is news.

        :param share: of what is sent there, that part goes from here: others find out, too, when it is too much, and
            growth is as much slower
        """
        if not self._whole:
            self._share = share
        if now < self._paused_until:  # the same again, from a call that was under way
            return False
        if self._limit:
            self._fill(now)
        if not self._limit or self._guessed:
            if self._claimed > 0.0:  # it goes on lying
                self._distrusted_until = now + self._distrust
            self._guess(now)
        elif self._level > self._limit * MARGIN:  # by what it had told, there was room
            self._distrusted_until = now + self._distrust
            self._distrust = min(MAX_DISTRUST, self._distrust * 2.0)
            self._guess(now)
        self._level = min(self._level, 0.0)
        if retry_after is None:
            retry_after = self._pause
            self._pause = min(MAX_PAUSE, self._pause * 2.0)
        self._paused_until = now + min(retry_after, MAX_PAUSE)
        return True

    def fullness(self, now: float) -> float:
        """Which part of it is left, 0 to 1; 1 if nothing is known."""
        if not self._limit:
            return 1.0
        self._fill(now)
        return max(0.0, self._level / self._limit)

    def guess(self) -> tuple[float, float]:
        """The rate of all processes together as it seems from here, and as it was last told; 0: it is not guessed."""
        return (self._rate / self._share, self._whole) if self._guessed else (0.0, 0.0)

    def use_guess(self, whole: float, share: float, now: float) -> None:
        """What all of them make of it; that part is for this process.  What the provider tells here counts more."""
        if self._limit and not self._guessed:
            return
        if self._guessed:
            self._fill(now)
            seemed = self._rate / self._share
            self._ceiling *= share / self._share
            if whole < seemed * NEWS:  # somebody else has been refused
                self._ceiling = seemed * share
                self._grown = 0.0
        else:
            self._guessed, self._is_rough = True, False
            self._ceiling = inf
            self._grown = self._level = 0.0
            self._at = now
        self._rate = whole * share
        self._share, self._whole = share, whole
        self._set_burst()

    def has(self, units: float, now: float) -> bool:
        """Whether the provider has told that there is room for so many."""
        if not self._limit or self._guessed:
            return False
        self._fill(now)
        return self._level >= units

    def _lately(self, now: float) -> float:
        """Units that were answered lately, per second of :data:`LATELY`: fewer for as long as that has not passed."""
        return self._answered * exp(min(0.0, self._answered_at - now) / LATELY)

    def _guess(self, now: float) -> None:
        lately = self._lately(now)
        if self._answered_since is not None:
            lately /= 1.0 - exp(-max(1.0, now - self._answered_since) / LATELY)
        if self._guessed:
            self._ceiling = self._rate
            again = now - self._lessened_at < SOON
            self._is_rough = self._is_rough and again
            self._less = self._less**2 if again else LESS
            self._rate *= max(self._less, LEAST_LESS)
        elif lately:
            self._rate, self._less, self._ceiling = lately, LESS, inf
            self._is_rough = self._share >= 1.0
        else:
            return  # nothing was answered lately: the pause must do
        self._grown = 0.0
        self._lessened_at = now
        self._rate = max(self._rate, LEAST * self._share)
        self._guessed = True
        self._set_burst()
        self._level = 0.0
        self._at = now

    def _set_burst(self) -> None:
        self._limit = max(1.0, self._rate * BURST)

    def _learn_rate(self, told: Told) -> None:
        usual = told.limit / PERIOD
        if not self._limit or self._guessed:
            self._rate = usual
        missing = told.limit - told.left
        if told.reset and missing > 0:
            rate = missing / told.reset
            if told.limit / SLOWEST <= rate <= told.limit / FASTEST:
                self._rate += 0.3 * (rate - self._rate)

    def _fill(self, now: float) -> None:
        since = self._at
        if self._is_rough and since < self._paused_until:
            since = self._paused_until  # what it takes for saved up would be sent at once
        passed = now - since
        self._at = now
        if passed <= 0:
            return
        level = self._level + passed * (max(self._rate, LEAST) if self._guessed else self._rate)
        self._level = min(self._limit, level)
        if self._guessed and now > self._paused_until and level < self._limit:
            self._grow(min(passed, 1.0))

    def _grow(self, seconds: float) -> None:
        growth = START if self._ceiling == inf else GROWTH
        if self._rate >= LESS * self._ceiling:
            self._grown += seconds
            grown = self._grown if self._whole else self._grown * self._share
            growth = min(GROWTH, NEAR_GROWTH * (1.0 + (grown / PLATEAU) ** 3))
        if self._whole:  # what the others add is added to it
            growth *= self._share
        self._rate *= 1.0 + growth * seconds
        self._set_burst()

    def __repr__(self) -> str:
        source = "guessed" if self._guessed else "told"
        return f"<RemoteBucket {self._level:g} of {self._limit:g}, {self._rate:g}/s {source}, {len(self._sent)} unanswered>"
