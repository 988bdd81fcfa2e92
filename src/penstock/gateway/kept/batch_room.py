"""What the rooms of batches have in common, whichever API they speak."""

from __future__ import annotations

import time
from collections.abc import Callable

from penstock.batches.runner import Runner
from penstock.config.model import BatchesConfig
from penstock.errors import RateLimited


class BatchRoom:
    """The beginning of a :class:`penstock.gateway.kept.by_path.Room`.

    :param now: Unix time
    """

    decodes = False

    def __init__(
        self, runner: Runner, config: BatchesConfig, *, now: Callable[[], float] = time.time
    ) -> None:
        self._runner = runner
        self._config = config
        self._now = now

    def __repr__(self) -> str:
        return f"<{type(self).__name__} over {self._runner}>"

    async def _refuse_more(self, tenant: str) -> None:
        """:raises RateLimited: as many of a tenant's batches have not ended as it may have"""
        most = self._config.max_open
        if await self._runner.store.open_of(tenant) >= most:
            raise RateLimited(
                f"{most} of your batches have not ended; let some end first",
                code="too_many_batches",
                retry_after=60.0,
            )
