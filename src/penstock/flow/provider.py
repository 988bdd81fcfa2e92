"""Both buckets of a provider, of requests and of tokens, as far as its answers tell of them."""

from __future__ import annotations

from penstock.flow.guessing import Guess
from penstock.flow.remote import RemoteBucket
from penstock.wire.ratelimits import Told

AT_ONCE = 0.1  # seconds in which what was accepted is counted as one


class Provider:
    """What calls of one key have left there.

    Many providers never say a word of it.  Until one has, it is only noted what it has been sent, so that its first
    word can be understood.

    :ivar has_spoken: whether it has
    :ivar unanswered: until then, the tokens of the calls that went out and have no answer yet, by number
    """

    __slots__ = (
        "_counted_at",
        "_new_calls",
        "_new_tokens",
        "_requests",
        "_tokens",
        "has_spoken",
        "unanswered",
    )

    def __init__(self) -> None:
        self._requests = RemoteBucket()
        self._tokens = RemoteBucket()
        self.has_spoken = False
        self.unanswered: dict[int, float] = {}
        self._new_calls = 0  # accepted since then:
        self._new_tokens = 0.0
        self._counted_at = 0.0

    def wait(self, tokens: float, now: float) -> float:
        """Seconds until a call of so many tokens may be sent; 0: now."""
        if not self.has_spoken:
            return 0.0
        return max(self._requests.wait(1.0, now), self._tokens.wait(tokens, now))

    def sent(self, number: int, tokens: float, now: float) -> None:
        """Call ``number`` goes out; numbers grow."""
        if self.has_spoken:
            self._requests.sent(number, 1.0, now)
            self._tokens.sent(number, tokens, now)
        else:
            self.unanswered[number] = tokens

    def answered(
        self, number: int, requests: Told | None, tokens: Told | None, now: float, share: float = 1.0
    ) -> None:
        """Its answer begins, and tells so much of the two buckets; or there was none.

        :param share: of what is told, that part is for this process: others spend of the same buckets
        """
        if not self.has_spoken:
            if requests is None and tokens is None:
                self.unanswered.pop(number, None)
                return
            self._speaks(now)
        self._requests.answered(number, _part(requests, share), now)
        self._tokens.answered(number, _part(tokens, share), now)

    def accepted(self, tokens: float, now: float) -> None:
        """A call of so many tokens was answered, and not refused."""
        self._new_calls += 1
        self._new_tokens += tokens
        if now > self._counted_at + AT_ONCE:
            self._count(now)

    def refused(self, retry_after: float | None, now: float, share: float = 1.0) -> bool:
        """A bucket is empty; whether that is news.  Which of the two is not always said: the one that is nearer to it.

        :param share: see :meth:`penstock.flow.remote.RemoteBucket.refused`
        """
        if self._new_calls:
            self._count(now)
        if not self.has_spoken:
            self._speaks(now)
        emptier = min(self._requests, self._tokens, key=lambda bucket: bucket.fullness(now))
        return emptier.refused(retry_after, now, share)

    def guess(self) -> Guess | None:
        """What is made of rates that it does not tell, if anything."""
        guess = Guess(*self._requests.guess(), *self._tokens.guess())
        return guess if guess.requests or guess.tokens else None

    def use_guess(self, requests: float, tokens: float, share: float, now: float) -> None:
        """What all processes make of them together, per second; 0: nothing.

        :param share: that part is for this process
        """
        if not self.has_spoken:
            self._speaks(now)
        if requests:
            self._requests.use_guess(requests, share, now)
        if tokens:
            self._tokens.use_guess(tokens, share, now)

    def has(self, tokens: float, now: float) -> bool:
        """Whether it has told that both buckets have room for a call of so many tokens."""
        return self._requests.has(1.0, now) and self._tokens.has(tokens, now)

    def _count(self, now: float) -> None:
        self._requests.accepted(self._new_calls, now)
        self._tokens.accepted(self._new_tokens, now)
        self._new_calls, self._new_tokens, self._counted_at = 0, 0.0, now

    def _speaks(self, now: float) -> None:
        self.has_spoken = True
        for number, tokens in self.unanswered.items():
            self._requests.sent(number, 1.0, now)
            self._tokens.sent(number, tokens, now)
        self.unanswered.clear()

    def __repr__(self) -> str:
        if not self.has_spoken:
            return f"<Provider that has told nothing, {len(self.unanswered)} unanswered>"
        return f"<Provider, requests {self._requests}, tokens {self._tokens}>"


def _part(told: Told | None, share: float) -> Told | None:
    if told is None or share >= 1.0:
        return told
    return Told(told.limit * share, told.left * share, told.reset)
