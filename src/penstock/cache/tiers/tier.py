"""What a tier outside the process must do.

Neither the disk nor a server may hold up an answer.  So :meth:`Tier.get` calls back, whoever waits for that
decides for how long (``cache.guard``), and all else is told and not waited for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeAlias

import msgspec

Then: TypeAlias = Callable[[bytes | OSError | None], None]
"""Is told what is kept under a key, None: nothing, an ``OSError``: the tier is in trouble; it must not raise."""

Learn: TypeAlias = Callable[[dict[str, float]], None]
"""Is told the tags that were purged, and when, in seconds since 1970."""


def forget(_purges: dict[str, float]) -> None:
    """What has been purged does not matter."""


class TierStatistics(msgspec.Struct, frozen=True):
    """What a tier says of itself; ``held`` in bytes, -1 where only the tier's server knows."""

    entries: int = -1
    held: int = -1
    evicted: int = 0
    written: int = 0
    dropped: int = 0  # entries that were not written: too much waited already, or writing failed
    errors: int = 0
    trouble: str = ""  # why it cannot be used now; empty: it can


class Tier(Protocol):
    """Sealed entries by key, kept outside this process and shared with others."""

    name: str
    by_use: bool
    """Whether it keeps what is used, and so wants to know of uses that it does not see."""

    @property
    def answered(self) -> int:
        """Look-ups that were answered, in time or not: whether it lives."""

    def start(self, learn: Learn = forget) -> None:
        """Begin to work, in the running event loop.

        :param learn: is told what has been purged before anything is looked up, and again wherever more may have been
        """

    def get(self, key: bytes, then: Then) -> None:
        """Look for what is kept under a key; ``then`` is told, once, now or later, in the event loop's thread."""

    def put(self, key: bytes, sealed: bytes, kept_until: float) -> None:
        """Keep an entry until then (seconds since 1970), soon; dropped where that cannot be."""

    def remove(self, key: bytes) -> None:
        """Forget an entry, soon."""

    def used(self, keys: Sequence[bytes]) -> None:
        """These were asked for and found nearer, so that this tier was not asked: they are no older than what was."""

    def purged(self, tag: str, at: float) -> None:
        """What carries the tag and was asked before then counts no more, for all who share this tier."""

    def covered(self, tag: str, at: float) -> None:
        """As :meth:`purged`, of a tag that all entries have: what was purged before then need not be told any more."""

    def purges(self) -> Awaitable[dict[str, float]]:
        """The tags that were purged, and when."""

    def reset(self) -> None:
        """It has not answered for too long: let go of what may be stuck, and begin anew."""

    async def flush(self) -> None:
        """Wait until what was told has been done, or has failed."""

    async def close(self) -> None:
        """Do what was told, as far as that can be done quickly, and end."""

    def statistics(self) -> TierStatistics: ...
