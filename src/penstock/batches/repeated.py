"""Under what a batch is known to whoever creates it once more, because the answer was lost."""

from __future__ import annotations

import msgspec

RECENT = 900.0  # seconds in which an SDK's retry may follow: its patience for one try is ten minutes


class Naming(msgspec.Struct, frozen=True):
    """Of one request that creates a batch.

    :ivar name: of its owner, its API, and its ``Idempotency-Key``, or of what it says
    :ivar fingerprint: of its body
    :ivar is_key: its caller gave the name: it leads to its batch for as long as that is kept
    :ivar is_retry: its SDK says that it asks once more; so without a key it leads to a batch that was made lately
    """

    name: str
    fingerprint: str
    is_key: bool
    is_retry: bool

    @property
    def may_repeat(self) -> bool:
        return self.is_key or self.is_retry

    @property
    def overtaken(self) -> str:
        """Under what a retry is known to the request that it repeats, where it is entered before that one."""
        return self.name + " retried"
