"""What a batch needs of the rest of the gateway in order to hand lines on to providers' own batches."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec

from penstock.batches.batch import Batch
from penstock.batches.provider_batch import ProviderBatch
from penstock.messages import Endpoint
from penstock.wire.batch import Line
from penstock.wire.provider_batch import Form, Page, Result, Told


class Prepared(msgspec.Struct, frozen=True):
    """A line as its upstream is to be asked.

    :ivar endpoint: the upstream's own
    :ivar model: as the upstream names it, ``named``: as the line does
    :ivar inputs: texts of which vectors are to be made; 1 of every other call
    :ivar cost: the most that it may cost, in 1e-12 US dollars
    """

    upstream: str
    endpoint: Endpoint
    model: str
    named: str
    body: bytes
    inputs: int = 1
    cost: int = 0


class ProviderAPI(Protocol):
    """An upstream's own batches (:class:`penstock.upstream.provider_batches.ProviderBatches`)."""

    form: Form
    takes_files: bool

    async def upload(self, lines: bytes, name: str) -> str: ...

    async def create(self, requests: bytes, name: str, betas: str) -> Told: ...

    async def page(self, after: str) -> Page: ...

    async def look(self, batch_id: str) -> Told: ...

    async def cancel(self, batch_id: str) -> None: ...

    async def delete(self, batch_id: str) -> None: ...

    async def delete_file(self, file_id: str) -> None: ...

    async def download(self, results: str, write: Callable[[bytes], Awaitable[object]]) -> None: ...


class Aside(Protocol):
    """What budgets hold for a provider's batch that is under way."""

    def release(self) -> None:
        """It has ended, and what it has cost was counted; again does nothing."""


class Providers(Protocol):
    """The gateway, as far as providers' batches are concerned."""

    @property
    def is_any(self) -> bool:
        """Whether an upstream is configured for batches of its own."""

    def prepare(self, batch: Batch, endpoint: Endpoint, line: Line) -> Prepared | None:
        """None: the line is called by itself, whether that answers it or tells what is wrong with it."""

    def api(self, upstream: str, endpoint: str) -> ProviderAPI | None:
        """None: there is no such upstream any more."""

    async def set_aside(self, batch: Batch, record: ProviderBatch, *, bought: bool) -> Aside | None:
        """What it may cost.

        :param bought: it is under way already, so there is nothing to be refused
        :returns: None: there is not so much left just now
        """

    def deliver(
        self,
        batch: Batch,
        record: ProviderBatch,
        line: Line,
        result: Result,
        generation: str,
        *,
        is_entered: bool,
    ) -> tuple[int, bytes]:
        """Status and body of the answer that a result is; it is in the ledger when this returns.

        :param generation: the id that the answer has here
        :param is_entered: it has been in the ledger before
        """

    async def entered(self, generations: set[str], since: float) -> set[str]:
        """Of these generations, those that the ledger has a row of, whoever has written it, since a time.

        :raises penstock.errors.PenstockError: the ledger cannot be read now
        """

    async def flush(self) -> None:
        """Let :meth:`entered` tell of all that was delivered, whoever asks."""
