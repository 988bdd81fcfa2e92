"""By which names generations are found in a store, beside their ids: keys, questions, ids of responses.

A store that does not tell in time whether a name is somebody else's holds no call up for longer than its budget.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from penstock.generation import reading
from penstock.generation.log import Generation
from penstock.generation.store import YOUNG, Claim, Naming, Record, Store, StoreUnavailable
from penstock.generation.trouble import Trouble, within
from penstock.generation.written import Name, Written
from penstock.net.clock import Clock

CLAIM_BUDGET = 0.5  # seconds that a call waits to learn whether its name is somebody else's
KEY_PATIENCE = 5.0  # the same, where its caller has named it: he would rather wait than pay twice
LASTING = 3_600.0  # seconds for which a running generation keeps a name, at least
_LOOK_AGAIN = 0.02  # seconds between two looks for who has a name
_TRY_AGAIN = 0.2  # seconds until a name is claimed again that the store did not hear of
# Generations whose names are to be claimed again; what is more is found by its id alone.
_MAX_UNNAMED = 10_000


class Names:
    """Those of one store, as one process claims them and asks for them.

    :param now: the store's time
    :param kept_for: seconds for which a name is claimed
    """

    def __init__(
        self, store: Store, now: Callable[[], float], clock: Clock, trouble: Trouble, kept_for: float
    ) -> None:
        self._store = store
        self._now = now
        self._clock = clock
        self._trouble = trouble
        self._kept_for = kept_for
        self._unclaimed = 0
        # To be claimed again, by generation; and which of these is its question.
        self._unnamed: dict[str, tuple[list[Name], Name | None]] = {}
        self._naming: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Names in {self._store!r}, of {len(self._unnamed)} generations to be claimed again>"

    @property
    def unclaimed(self) -> int:
        """Calls that were made without knowing whether their names were somebody else's."""
        return self._unclaimed

    @property
    def unnamed(self) -> int:
        """How many generations the store does not know by their names, as far as this process has heard."""
        return len(self._unnamed)

    async def close(self) -> None:
        """Claim nothing again."""
        if self._naming is not None:
            self._naming.cancel()
            await asyncio.wait([self._naming])

    # ---- of calls ----

    async def claim(self, name: Name, generation_id: str, old: str = "", *, patience: float = 0.0) -> Claim:
        """Say that a generation answers to a name.

        :param patience: seconds that the store may take, if that is more than :data:`CLAIM_BUDGET`
        :raises StoreUnavailable: the store does not answer in time
        """
        now = self._now()
        claiming = self._store.claim(
            *name, generation_id, now=now, until=now + self._kept_for, instead_of=old
        )
        return await within(max(CLAIM_BUDGET, patience), claiming)

    async def take(self, name: Name, generation_id: str, instead_of: str = "") -> Claim:
        """The same, of a name that ends with its generation.

        :raises StoreUnavailable: the store does not answer in time
        """
        now = self._now()
        naming = Naming(*name, now, now + self._kept_for + LASTING, recent=0.0)  # later than any end's time
        return await within(CLAIM_BUDGET, self._store.take(naming, generation_id, instead_of))

    async def add(self, name: Name, generation_id: str, recent: float) -> Claim:
        """Let a generation that runs have one name more, unless another one has it.

        :param recent: seconds after its end for which another one keeps it
        :raises StoreUnavailable: the store does not answer in time
        """
        now = self._now()
        naming = Naming(*name, now, now + self._kept_for, recent)
        return await within(CLAIM_BUDGET, self._store.take(naming, generation_id))

    async def release(self, name: Name, generation_id: str) -> None:
        """A generation does not answer to a name any more.

        :raises StoreUnavailable: the store does not answer in time
        """
        now = self._now()
        letting_go = self._store.claim(*name, generation_id, now=now, until=now, instead_of=generation_id)
        await within(CLAIM_BUDGET, letting_go)

    def patience(self, longest: float, *, named: bool) -> float:
        """How long a call waits to learn whether its name is somebody else's, in seconds.

        A store that has not answered somebody lately is not waited for by everybody.

        :param longest: seconds until the answer is of no use
        :param named: whether its caller gave it the name
        """
        return min(KEY_PATIENCE, longest) if named and not self._trouble.is_told else CLAIM_BUDGET

    def unheard(self, error: StoreUnavailable, *, named: bool) -> None:
        """A call is made though the store has not told in time whether its name is somebody else's."""
        self._unclaimed += 1
        if named:
            self._trouble.tell(error)

    async def claimed(
        self, claim: Claim, *, patience: float = 0.0, paused: Callable[[float], None] | None = None
    ) -> Record | None:
        """The generation that has a name.  It may have claimed it a moment before it is written down.

        :param patience: seconds for a store that is slow; one that is quick has told in :data:`CLAIM_BUDGET`
        :param paused: told before each pause how long it is, in seconds: that is no fault of the store's
        :returns: None: it was never written, or is kept no more
        :raises StoreUnavailable: the store does not answer in time
        """
        until = self._clock.now() + max(CLAIM_BUDGET, patience)
        left = YOUNG  # of pauses: what is slow for us is slow for who writes
        while True:
            record = await reading.load(self._store, claim.generation)
            if record is not None or left <= 0 or self._clock.now() >= until:
                return record
            pause = min(_LOOK_AGAIN, left)
            left -= pause
            if paused is not None:
                paused(pause)
            await asyncio.sleep(pause)

    def is_recent(self, record: Record, seconds: float) -> bool:
        """Whether a generation runs, or has ended within the last seconds."""
        return record.ending is None or record.expires_at - self._kept_for > self._now() - seconds

    # ---- of responses ----

    async def name_response(self, generation: Generation, response_id: str) -> None:
        """Let a response be found by the id that its upstream has given it."""
        name = _of_response(generation.tenant, response_id)
        if isinstance(generation.journal, Written):
            generation.journal.names.append(name)
        await self._trouble.told_of(self.claim(name, generation.id))

    async def find_response(self, tenant: str, response_id: str) -> str:
        """The id of the generation that a response is; empty: there is none.

        :raises StoreUnavailable: the store does not answer in time
        """
        now = self._now()
        claim = await reading.in_time(
            self._store.claim(*_of_response(tenant, response_id), "", now=now, until=now)
        )
        return claim.generation

    # ---- of what a store has lost ----

    def claim_again(self, generation_id: str, names: list[Name], question: Name | None) -> None:
        """Claim what a store lost, or did not hear of while it was away, as soon as it hears."""
        self._unnamed[generation_id] = names, question
        if len(self._unnamed) > _MAX_UNNAMED:
            del self._unnamed[next(iter(self._unnamed))]
        if self._naming is None or self._naming.done():
            self._naming = asyncio.get_running_loop().create_task(self._claim_again())

    async def _claim_again(self) -> None:
        # A name that somebody else has by now stays his.
        while self._unnamed:
            generation_id, (names, question) = next(iter(self._unnamed.items()))
            try:
                for name in list(names):
                    await (self.take if name is question else self.claim)(name, generation_id)
            except StoreUnavailable:
                await asyncio.sleep(_TRY_AGAIN)
            else:
                self._unnamed.pop(generation_id, None)


def _of_response(tenant: str, response_id: str) -> Name:
    return Name(tenant, "response " + response_id, b"")
