"""How long a call may take, and say nothing: the caller's clocks, over all of its attempts.

An SDK's ``timeout`` is, for its caller, the longest silence to put up with before the exception comes.  The libraries
below know it as a clock of one exchange; a call that is sent again by itself would multiply it.  So here it runs on
over attempts, from the last byte that came, or was confirmed: an attempt begins only while there is some of it left,
and gets no more than that.  Then the exception goes to the SDK, and its own ``max_retries`` decides, as it would
without us.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

STALL = 40.0  # seconds of silence of a gateway's stream, which shows a sign of life every 15
LEAST_STALL = 20.0  # of it, where the caller has little time
HEARTBEAT = 2  # seconds between the signs of life that a gateway is asked for
HURRIED_STALL = 5.0  # seconds, where it shows them; twice as many after each time
UPLOAD_STALL = 4.0  # seconds of silence after which an upload is asked for; twice as many after each time
_MOMENT = 1e8  # a deadline above this is seconds since 1970


class Clocks:
    """Those of one call; all times are monotonic seconds.

    :param given: seconds by what is waited for, as httpx has them: ``connect``, ``read``, ``write``, ``pool``;
        one that is None never runs out
    :param deadline: after which an answer is of no use; None: it always is
    """

    __slots__ = (
        "_deadline",
        "_given",
        "_silence",
        "began",
        "has_heartbeats",
        "progress",
        "silences",
        "upload_stall",
    )

    def __init__(self, given: Mapping[str, float | None], began: float, deadline: float | None) -> None:
        self.began = began
        self.progress = began  # when something came last
        self._given = given
        self.upload_stall = UPLOAD_STALL
        self.has_heartbeats = False  # the stream, as it was asked to
        self.silences = 0  # that broke it since something came last
        self._deadline = deadline
        self._silence = given.get("read")

    def __repr__(self) -> str:
        return f"<Clocks of {self._silence} s, deadline {self._deadline}>"

    def left(self, now: float) -> float | None:
        """Seconds until the deadline; None: there is none."""
        return None if self._deadline is None else self._deadline - now

    def patience(self, now: float) -> float | None:
        """Seconds of silence that are left; None: there is no limit."""
        return None if self._silence is None else self.progress + self._silence - now

    def allow(self, wait: float, now: float) -> bool:
        """Whether something can be begun after so many seconds."""
        left, patience = self.left(now), self.patience(now)
        return (left is None or wait < left) and (patience is None or wait < patience)

    def limits(self, now: float, *, again: bool, attempt: float | None = None) -> dict[str, float | None]:
        """The clocks of the next exchange.

        :param again: it is not the call's first: it has what is left of the caller's silence
        :param attempt: seconds of silence after which it is better begun anew
        """
        limits = dict(self._given)
        if attempt is not None:
            limits["read"] = least(limits.get("read"), attempt)
            limits["write"] = least(limits.get("write"), attempt)
        most = least(self.left(now), self.patience(now)) if again else self.left(now)
        if most is not None:
            for name in ("connect", "read", "write", "pool"):
                limits[name] = least(limits.get(name), max(most, 0.001))
        return limits

    def shorten_for_upload(self, limits: dict[str, float | None], *, answer: bool) -> None:
        """Let the clocks of an exchange be those of a body of which nothing that has arrived is sent again.

        To give its connection up costs two round trips, so that is done sooner than otherwise.

        :param answer: also the one that waits for the answer, which may just take long: then it is asked for again
        """
        limits["write"] = least(limits.get("write"), self.upload_stall)
        if answer:
            limits["read"] = least(limits.get("read"), self.upload_stall)

    def began_to_stream(self) -> None:
        """A stream is in time when it begins."""
        self._deadline = None

    def stall(self, told: float | None) -> float:
        """Seconds of silence after which a gateway's stream counts as broken.

        :param told: by the application
        """
        if told is not None:
            return told
        return min(HURRIED_STALL * 2**self.silences, STALL) if self.has_heartbeats else STALL

    def counted_from(self, broken: float, resume_for: float) -> float:
        """When the time begins after which a stream is given up.

        A silence that is noticed soon is given up no sooner than one that is not: noticed after ``STALL`` seconds, and
        asked for once more for as long.

        :param broken: when the first break was noticed
        :param resume_for: seconds of that time
        """
        if not self.has_heartbeats or not self.silences:
            return broken
        return max(broken, self.progress + STALL + max(STALL - resume_for, 0.0))

    def limits_of_stream(self, stall: float | None) -> dict[str, float | None]:
        """The clocks of a stream that has begun.

        :param stall: seconds of silence after which it counts as broken; None: only by the caller's own clock.
            Where that is short, some of it is left to take the stream up again
        """
        silence = self._silence
        if stall is not None and silence is not None:
            stall = min(stall, silence, max(silence / 2, LEAST_STALL))
        return {**self._given, "read": silence if stall is None else stall}


def deadline(told: str | None, usual: float | None, began: float, wall: float) -> float | None:
    """When an answer is of no use any more, in monotonic seconds.

    :param told: the call's own header: seconds, or a moment since 1970
    :param usual: seconds that it has otherwise
    :param wall: seconds since 1970
    """
    if told is None:
        return None if usual is None else began + usual
    try:
        value = float(told)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        return None  # the gateway will say so
    return began + (value - wall if value > _MOMENT else value)


def least(one: float | None, other: float | None) -> float | None:
    """The shorter of two times, of which None is none."""
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)
