"""Which question follows which?

For each caller the last few questions are remembered; a new one is counted as a follower of each of them.  So it does
not matter much that the questions of several people with one key come in turns.  What is known fades, and is
bounded: the questions that were seen longest ago go first.
"""

from __future__ import annotations

from collections import OrderedDict, deque

WINDOW = 4  # questions that a new one may follow
MAX_FOLLOWERS = 8  # of one question
MAX_CALLERS = 1_000
_FADES = 64.0  # a question seen so often has its counts halved


class _Question:
    __slots__ = ("followers", "seen")

    def __init__(self) -> None:
        self.seen = 0.0
        self.followers: dict[bytes, float] = {}


class Successors:
    """Counts of followers.

    :param max_questions: that are remembered
    """

    def __init__(self, max_questions: int) -> None:
        self.max_questions = max_questions
        self._questions: OrderedDict[bytes, _Question] = OrderedDict()
        self._recent: OrderedDict[str, deque[bytes]] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Successors of {len(self._questions)} questions>"

    def saw(self, caller: str, key: bytes) -> None:
        """A caller asked this."""
        recent = self._recent.get(caller)
        if recent is None:
            recent = self._recent[caller] = deque(maxlen=WINDOW)
            if len(self._recent) > MAX_CALLERS:
                self._recent.popitem(last=False)
        else:
            self._recent.move_to_end(caller)
        for earlier in set(recent):
            question = self._questions.get(earlier)
            if question is not None and earlier != key:
                self._follow(question, key)
        question = self._questions.get(key)
        if question is None:
            question = self._questions[key] = _Question()
            if len(self._questions) > self.max_questions:
                self._questions.popitem(last=False)
        else:
            self._questions.move_to_end(key)
        question.seen += 1
        if question.seen >= _FADES:
            question.seen /= 2
            question.followers = {name: count / 2 for name, count in question.followers.items()}
        recent.append(key)

    def _follow(self, question: _Question, key: bytes) -> None:
        followers = question.followers
        if key not in followers and len(followers) >= MAX_FOLLOWERS:
            least = min(followers, key=followers.__getitem__)
            if followers[least] > 1:
                followers[least] -= 1  # a follower that is seen once must not displace one that is often seen
                return
            del followers[least]
        followers[key] = followers.get(key, 0.0) + 1

    def likely(self, key: bytes, least: float, seen: int) -> list[tuple[bytes, float]]:
        """The questions that follow this one, with their probabilities, the likeliest first.

        :param least: probability
        :param seen: how often a follower must have been seen
        """
        question = self._questions.get(key)
        if question is None:
            return []
        found = [
            (follower, min(count / question.seen, 1.0))
            for follower, count in question.followers.items()
            if count >= seen and count >= least * question.seen
        ]
        return sorted(found, key=lambda one: one[1], reverse=True)
