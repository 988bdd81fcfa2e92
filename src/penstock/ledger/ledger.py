"""The book of attempts: each is opened before a byte leaves, and settled exactly once.

The book in memory is what the hot path touches, and it is exact: the totals are sums of integers, and
never lose a row.  A store, if there is one, is told of each opening and settling, and writes behind.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import Protocol

import msgspec

from penstock.errors import InternalError
from penstock.ledger.prices import PriceTable
from penstock.ledger.template import RowTemplate
from penstock.messages import SAVING, Attempt, Outcome, Usage

_COMPLETED = Outcome.COMPLETED


class LedgerStore(Protocol):
    """Keeps rows for longer than the process lives.

    All methods are called on the hot path: they must neither block nor raise.
    """

    def opened(self, attempt: Attempt) -> None:
        """The attempt begins; only its fields up to ``reserved`` may be read until it is settled."""

    def noted(self, attempt: Attempt) -> None:
        """The attempt, still under way, has come by its answer's id."""

    def settled(self, attempt: Attempt) -> None:
        """The attempt is over, and nobody changes it any more."""

    def entered(self, attempt: Attempt) -> None:
        """The same, of one that was never open."""

    def saved(self, attempt: Attempt, template: RowTemplate | None = None) -> None:
        """The same, of a call that no upstream was asked for: it has reserved nothing, and costs nothing.

        :param template: by which it was made
        """


class Totals(msgspec.Struct, frozen=True):
    """The sum of some attempts; ``cost`` in 1e-12 US dollars, and so are ``prompt_cache_saved`` and ``…_missed``."""

    attempts: int = 0
    estimated: int = 0  # attempts whose usage has at least one figure counted by us
    usage: Usage = Usage()
    cost: int = 0
    left_out_tokens: int = 0  # of prompts
    prompt_cache_saved: int = 0  # by providers' prompt caches, less what these took to write
    prompt_cache_missed: int = 0  # what they could have saved besides


class Statistics(msgspec.Struct, frozen=True):
    open: int
    settled: int
    defects: int
    unpriced: int


class _Sum:
    """Totals while they grow."""

    __slots__ = (
        "attempts",
        "audio_in",
        "audio_out",
        "cache_missed",
        "cache_saved",
        "cached",
        "cost",
        "estimated",
        "input",
        "left_out",
        "output",
        "reasoning",
        "written",
        "written_1h",
    )

    def __init__(self) -> None:
        self.attempts = self.estimated = self.cost = 0
        self.input = self.output = self.cached = self.written = self.written_1h = 0
        self.reasoning = self.audio_in = self.audio_out = 0
        self.left_out = self.cache_saved = self.cache_missed = 0

    def add(self, usage: Usage, cost: int) -> None:
        self.attempts += 1
        self.cost += cost
        self.input += usage.input_tokens
        self.output += usage.output_tokens
        # The rest is nought in most answers, and to ask is cheaper than to add.
        if usage.cached_input_tokens:
            self.cached += usage.cached_input_tokens
        if usage.cache_write_tokens:
            self.written += usage.cache_write_tokens
            self.written_1h += usage.cache_write_1h_tokens
        if usage.reasoning_tokens:
            self.reasoning += usage.reasoning_tokens
        if usage.audio_input_tokens:
            self.audio_in += usage.audio_input_tokens
        if usage.audio_output_tokens:
            self.audio_out += usage.audio_output_tokens
        if usage.estimated:
            self.estimated += 1

    def add_of_prompt(self, attempt: Attempt) -> None:
        """What few attempts have."""
        self.left_out += attempt.left_out
        self.cache_saved += attempt.cache_saved
        self.cache_missed += attempt.cache_missed

    def correct(self, before: Usage, told: Usage, cost: int, cache_saved: int) -> None:
        """:param cost: by so much more; ``cache_saved`` likewise"""
        self.cost += cost
        self.cache_saved += cache_saved
        self.input += told.input_tokens - before.input_tokens
        self.output += told.output_tokens - before.output_tokens
        self.cached += told.cached_input_tokens - before.cached_input_tokens
        self.written += told.cache_write_tokens - before.cache_write_tokens
        self.written_1h += told.cache_write_1h_tokens - before.cache_write_1h_tokens
        self.reasoning += told.reasoning_tokens - before.reasoning_tokens
        self.audio_in += told.audio_input_tokens - before.audio_input_tokens
        self.audio_out += told.audio_output_tokens - before.audio_output_tokens
        self.estimated += told.estimated - before.estimated

    def totals(self) -> Totals:
        usage = Usage(
            self.input,
            self.output,
            self.cached,
            self.written,
            self.reasoning,
            self.audio_in,
            self.audio_out,
            estimated=self.estimated > 0,
            cache_write_1h_tokens=self.written_1h,
        )
        return Totals(
            self.attempts,
            self.estimated,
            usage,
            self.cost,
            self.left_out,
            self.cache_saved,
            self.cache_missed,
        )


class Ledger:
    """The attempts of one process.  Belongs to one event loop.

    :param prices: what tokens cost
    :param store: where rows outlive the process; None keeps them in memory only
    :param max_rows: settled rows kept for :meth:`recent`; the totals know the older ones too
    """

    def __init__(
        self, prices: PriceTable, store: LedgerStore | None = None, *, max_rows: int = 1_000
    ) -> None:
        self.prices = prices
        self.store = store
        self.defects = 0
        self._open: dict[str, Attempt] = {}
        self._recent: deque[Attempt] = deque(maxlen=max_rows)
        self._completed = _Sum()
        self._sums = {outcome: _Sum() for outcome in Outcome}
        self._sums[_COMPLETED] = self._completed

    def open(self, attempt: Attempt) -> None:
        """Before a byte leaves: the attempt exists from here on, whatever becomes of this process.

        :raises InternalError: its id is open already
        """
        if attempt.id in self._open:
            raise self._defect(f"attempt {attempt.id} is opened twice")
        self._open[attempt.id] = attempt
        store = self.store
        if store is not None:
            store.opened(attempt)

    def note(self, attempt: Attempt, answer: str) -> None:
        """The attempt's answer has this id at its upstream, which tells afterwards what it has cost."""
        attempt.answer = answer
        if self.store is not None and self._open.get(attempt.id) is attempt:
            self.store.noted(attempt)

    def settle(self, attempt: Attempt) -> None:
        """The attempt is over: the caller has set outcome, usage, status and times, ``cost`` is set here.

        :raises InternalError: it has no outcome, was never opened, or is settled already; nothing is
            counted twice
        """
        outcome = attempt.outcome
        if outcome is None or self._open.get(attempt.id) is not attempt:
            raise self._defect(self._why_not(attempt))
        del self._open[attempt.id]
        usage = attempt.usage
        if outcome is _COMPLETED:
            attempt.cost = cost = self.prices.cost(attempt.upstream, attempt.upstream_model, usage)
            self._completed.add(usage, cost)
        else:
            if outcome not in SAVING:
                attempt.cost = self.prices.cost(attempt.upstream, attempt.upstream_model, usage)
            self._sums[outcome].add(usage, attempt.cost)
        # Nought in most attempts, as above.
        if (
            usage.cached_input_tokens or usage.cache_write_tokens or attempt.left_out or attempt.cache_missed
        ) and outcome not in SAVING:
            self._see_to_prompt(attempt, self._sums[outcome])
        self._recent.append(attempt)
        store = self.store
        if store is not None:
            store.settled(attempt)

    def enter(self, attempt: Attempt, *, batched: bool = False) -> None:
        """What is over already when it is heard of: opened and settled in one.

        :param batched: it was part of a provider's own batch, and costs what such parts do
        :raises InternalError: it has no outcome, or its id is open
        """
        outcome = attempt.outcome
        if outcome is None or attempt.id in self._open:
            raise self._defect(f"attempt {attempt.id} is entered, but not over")
        store = self.store
        if outcome in SAVING:
            total = self._sums[outcome]
            total.add(attempt.usage, 0)
            self._recent.append(attempt)
            if attempt.left_out:
                if not attempt.usage.input_tokens:
                    attempt.left_out = 0
                total.add_of_prompt(attempt)
            if store is None:
                return
            if attempt.left_out:  # groups of savings tell nothing of prompts
                store.entered(attempt)
            else:
                store.saved(attempt)
        else:
            cost = self.prices.cost(attempt.upstream, attempt.upstream_model, attempt.usage)
            if batched:
                cost = self.prices.in_batch(attempt.upstream, attempt.upstream_model, cost)
            attempt.cost = cost
            self._sums[outcome].add(attempt.usage, cost)
            self._see_to_prompt(attempt, self._sums[outcome])
            self._recent.append(attempt)
            if store is not None:
                store.entered(attempt)

    def repeat(self, template: RowTemplate, generation: str) -> None:
        """The same, of one more call that no upstream was asked for: its row is known but for its generation."""
        attempt = template.row(generation)
        outcome = attempt.outcome
        assert outcome is not None
        self._sums[outcome].add(attempt.usage, 0)
        self._recent.append(attempt)
        if self.store is not None:
            self.store.saved(attempt, template)

    def correct(self, outcome: Outcome, before: Usage, told: Usage, cost: int, cache_saved: int = 0) -> None:
        """A row of this process that is over has had its figures from its provider.

        :param cost: by so much it was more than the row had said, in 1e-12 US dollars; ``cache_saved`` likewise
        """
        self._sums[outcome].correct(before, told, cost, cache_saved)

    def _see_to_prompt(self, attempt: Attempt, total: _Sum) -> None:
        """What the provider's prompt cache was worth, and whether there was a prompt to leave anything out of."""
        usage = attempt.usage
        if not usage.input_tokens:  # nobody has read it
            attempt.left_out = 0
        if usage.cached_input_tokens or usage.cache_write_tokens:
            prices = self.prices
            attempt.cache_saved = prices.saved_by_cache(attempt.upstream, attempt.upstream_model, usage)
        total.add_of_prompt(attempt)

    def use_prices(self, prices: PriceTable) -> None:
        """Cost what is settled from now on by another table; what could not be priced stays counted."""
        prices.unpriced += self.prices.unpriced
        self.prices = prices

    def totals(self) -> dict[Outcome, Totals]:
        """The sums over everything that was settled, by outcome; every outcome is there."""
        return {outcome: total.totals() for outcome, total in self._sums.items()}

    def recent(self, limit: int = 100) -> list[Attempt]:
        """What was settled last, newest first."""
        return list(islice(reversed(self._recent), limit))

    def open_attempts(self) -> list[Attempt]:
        """What is under way, oldest first."""
        return list(self._open.values())

    def statistics(self) -> Statistics:
        settled = sum(total.attempts for total in self._sums.values())
        return Statistics(len(self._open), settled, self.defects, self.prices.unpriced)

    def _why_not(self, attempt: Attempt) -> str:
        if attempt.outcome is None:
            return f"attempt {attempt.id} is settled without an outcome"
        if attempt.id in self._open:
            return f"attempt {attempt.id} is settled through another object than the one that was opened"
        if any(settled is attempt for settled in self._recent):
            return f"attempt {attempt.id} is settled twice"
        return f"attempt {attempt.id} is settled, but not open"

    def _defect(self, message: str) -> InternalError:
        self.defects += 1
        return InternalError(message)

    def __repr__(self) -> str:
        settled = sum(total.attempts for total in self._sums.values())
        return f"<Ledger {len(self._open)} open, {settled} settled, {self.defects} defects, store {self.store!r}>"
