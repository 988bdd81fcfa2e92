"""What the control API shows and changes: a gateway, as who runs it lets it be seen."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec

from penstock.admin.address import Address
from penstock.admin.departures import Departures
from penstock.admin.process import WorkerProcess
from penstock.admin.slot import Slot
from penstock.config.model import Config
from penstock.metrics import Families


class ReloadOutcome(msgspec.Struct, frozen=True):
    """``mistakes`` is empty where the new configuration was taken; ``needs_restart`` names what was not."""

    version: int
    mistakes: tuple[str, ...] = ()
    needs_restart: tuple[str, ...] = ()


class Controlled(Protocol):
    """One gateway, with all its workers."""

    config: Config  # the one in use
    version: int  # of it
    listen: Address  # where its callers connect
    slots: list[Slot]
    departures: Departures

    def readiness(self) -> tuple[bool, list[str]]:
        """Whether every worker takes calls, and if not, why."""

    async def states(self) -> list[tuple[Slot, dict[str, Any] | None]]:
        """What every worker says of itself; None where one did not answer in time."""

    async def first(self, ask: Callable[[WorkerProcess], Awaitable[Any]]) -> tuple[int, Any] | None:
        """What the first worker answers that does, and which that is."""

    def purge(self, tags: tuple[str, ...], keys: tuple[str, ...]) -> None:
        """Tell every worker that these kept answers count no more."""

    async def metrics(self) -> Families:
        """All workers together, and who runs them."""

    async def reload(self) -> ReloadOutcome:
        """Read the configuration again, and have every worker take it; or keep what there is."""
