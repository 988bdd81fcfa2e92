"""What the gateway's processes share: limits of callers, and the places at an upstream (``flow.lessee``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.flow.gate import Gate
from penstock.flow.learning import SharedLimit
from penstock.flow.leased import AccountLease
from penstock.flow.leased_places import LeasedPlaces
from penstock.flow.lessee import Board, Lessee
from penstock.flow.measures import measure_leases
from penstock.gateway import parts
from penstock.ledger.book import book_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.config.model import ConcurrencyConfig, Config, UpstreamConfig
    from penstock.metrics import Counter, Registry
    from penstock.net.clock import Clock
    from penstock.upstream.http import HTTPUpstream

JOINING = 1.0  # seconds at most to hear of those who share


class Sharing:
    """The leases of this process: on a board of this machine's workers, or on one of all machines.

    Where there is a Redis, limits are shared there, and an upstream's places where its ``shared`` says so; without, one
    lessee has both.

    :raises penstock.errors.ConfigError: an extra is missing
    """

    def __init__(self, config: Config, clock: Clock, metrics: Registry) -> None:
        self._clock = clock
        ledger = config.ledger.path
        self._redis = parts.redis_board(config)
        self._book = book_of(ledger) if ledger and self._redis is not None else ledger
        self._board: Board | None = None
        self._everywhere: Lessee | None = None  # None: this process has all limits to itself
        self._here: Lessee | None = None  # where limits are shared elsewhere
        self._upstreams: dict[tuple[Lessee, str], AccountLease] = {}
        self._counted = measure_leases(metrics, lambda: self._everywhere)

    def __repr__(self) -> str:
        return f"<Sharing {self._everywhere!r}, {self._here!r}>"

    def of_limits(self, config: Config) -> Lessee | None:
        """Who leases this process's part of limits; None: nobody shares them."""
        if self._everywhere is None and (config.workers > 1 or self._redis is not None):
            self._everywhere = self._lessee(config.workers, self._redis or self._board)
        return self._everywhere

    def of_upstream(self, name: str, wanted: ConcurrencyConfig, config: Config) -> AccountLease | None:
        """Places at an upstream; None: this process has its part of them, or nobody else uses any.

        Who takes no calls that wait cannot wait for a place either.  Over a reload the lease stays, for the calls that
        are under way.
        """
        if not wanted.max_waiting:
            return None
        if self._redis is None or wanted.shared == "machines":
            lessee = self.of_limits(config)
        elif config.workers > 1:
            lessee = self._here = self._here or self._lessee(config.workers, self._board)
        else:
            return None
        if lessee is None:
            return None
        lease = self._upstreams.get((lessee, name))
        if lease is None:
            # Beside the account of its limits, which is "upstream:" in all that share them.
            lease = self._upstreams[lessee, name] = lessee.account(f"gate:{name}")
            lease.in_line = True
            lease.share = lessee.even
            lease.places = LeasedPlaces(wanted.limit, lessee.even)
        learning, lease.learning = lease.learning, SharedLimit(wanted) if wanted.adaptive else None
        if lease.places is not None:
            lease.places.limit = wanted.limit
            if lease.learning is not None:
                if learning is not None:
                    lease.learning.value = min(learning.value, float(wanted.limit))
                lease.places.limit = int(lease.learning.value)
        return lease

    def gate(
        self,
        name: str,
        wanted: UpstreamConfig,
        config: Config,
        present: HTTPUpstream | None,
        cell: Callable[[str, str], Counter],
    ) -> Gate | None:
        """The way to an upstream; None: whoever comes may go.

        :param present: what it was until now: where only something else has changed, its gate stays, with the calls that
            are under way there and all that it has learnt
        :param cell: see :class:`penstock.flow.gate.Gate`
        """
        concurrency = wanted.concurrency
        if concurrency is None and wanted.breaker is None:
            return None
        if present is not None and present.gate is not None and _is_the_same_way(present.config, wanted):
            present.gate.use_tiers(config.tiers)
            return present.gate
        return Gate(
            name,
            concurrency,
            wanted.breaker,
            config.tiers,
            cell,
            lease=None if concurrency is None else self.of_upstream(name, concurrency, config),
            share=1.0 / config.workers,
        )

    async def join(self) -> None:
        """Hear of the others, and go on with them."""
        if self._everywhere is not None:
            await self._everywhere.use(self._redis or self._board)
            await self._everywhere.join(JOINING)
        if self._here is not None:
            await self._here.use(self._board)
            await self._here.join(JOINING)

    def use(self, board: Board | None) -> None:
        """Where the workers of this machine share; None: each has its part."""
        self._board = board

    async def close(self) -> None:
        for lessee in (self._everywhere, self._here):
            if lessee is not None:
                await lessee.use(None)

    def _lessee(self, workers: int, board: Board | None) -> Lessee:
        lessee = Lessee(workers, self._clock.now, self._counted, self._book)
        # The first limit of all may come with a reload: until :meth:`join` nobody takes an even part, of which the
        # others would not know.
        lessee.joins = board is not None
        self._clock.add(lessee)
        return lessee


def _is_the_same_way(one: UpstreamConfig, other: UpstreamConfig) -> bool:
    """Whether calls come to the same server, in the name of the same key, by the same rules."""
    return all(
        getattr(one, part) == getattr(other, part)
        for part in ("kind", "base_url", "api_key", "headers", "concurrency", "breaker")
    )
