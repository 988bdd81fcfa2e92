"""Under what a batch is known to whoever creates it once more, because the answer was lost."""

from __future__ import annotations

import msgspec

RECENT = 900.0  # seconds in which an SDK's retry may follow: its patience for one try is ten minutes


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What the head of a request that creates a batch says of its coming again.

    :ivar is_key: its caller named it: it leads to its batch for as long as that is kept
    :ivar is_retry: its SDK says that it asks once more; so without a key it leads to a batch that was made lately
    """

    is_key: bool
    is_retry: bool

    @property
    def may_repeat(self) -> bool:
        """Whether it may be a request that came before."""
        return self.is_key or self.is_retry


class Naming(Asked, frozen=True):
    """Of one request that creates a batch.

    :ivar name: of its owner, its API, and its ``Idempotency-Key``, or of what it says
    :ivar fingerprint: of its body
    """

    name: str
    fingerprint: str

    @property
    def overtaken(self) -> str:
        """Under what a retry is known to the request that it repeats, where it is entered before that one."""
        return self.name + " retried"
