"""What an attempt tells of the upstream that it was made at: to strategies, and to the trial of a version."""

from __future__ import annotations

from penstock.errors import UpstreamError, UpstreamLeaving, UpstreamRefused
from penstock.flow.choose import Standing
from penstock.flow.prefix import Sent
from penstock.gateway.stages.candidate import Candidate
from penstock.gateway.versions import Sample
from penstock.generation.log import TOO_LARGE
from penstock.ledger.prices import UNITS_PER_DOLLAR, PriceTable
from penstock.messages import Attempt
from penstock.upstream.transfer import Transfer


def count_in(candidate: Candidate) -> Standing | Sent | None:
    """A call goes to this candidate; None: nobody wants to know."""
    standings = candidate.upstream.standings
    if standings is None:
        return None
    standing = standings.of(candidate.model)
    if candidate.prompt is not None:
        return Sent(standing, standings, candidate.prompt)
    standing.begin()
    return standing


def count_out(
    standing: Standing | Sent, transfer: Transfer, attempt: Attempt, failure: BaseException | None
) -> None:
    """It has ended, one way or another."""
    standing.end()
    now = transfer.now()
    if transfer.lost:
        standing.outlived(now - transfer.sent, now)
    elif failure is None and not transfer.cancelled:
        tokens = attempt.usage.output_tokens
        if transfer.job.call.stream and transfer.seen:
            took = now - transfer.seen
            pace = (tokens - 1) / took if tokens > 1 and took > 0 else None
            standing.answered(transfer.seen - transfer.sent, tokens, pace, now)
        else:
            standing.answered_whole(now - transfer.sent, tokens, now)
    elif _blames(transfer, failure):
        standing.failed(now - transfer.sent, now)
    elif isinstance(standing, Sent) and not transfer.seen:
        standing.withdrawn(now)


def _blames(transfer: Transfer, failure: BaseException | None) -> bool:
    """Whether it is the upstream that has done something wrong."""
    if isinstance(failure, UpstreamLeaving) or transfer.is_callers_own(failure):
        return False
    return isinstance(failure, UpstreamError) and not transfer.cancelled


def count_sample(
    sample: Sample, transfer: Transfer, attempt: Attempt, failure: BaseException | None, prices: PriceTable
) -> None:
    """An attempt at a version on trial, or at the one that it is compared with, has ended.

    What the upstream says to be wrong with a request counts, too: the one may refuse what the other takes.
    """
    if transfer.lost or transfer.cancelled or isinstance(failure, UpstreamLeaving):
        return
    if transfer.is_callers_own(failure):
        return
    if failure is not None:
        if isinstance(failure, UpstreamError | UpstreamRefused) and failure.code != TOO_LARGE:
            sample.fail()
        return
    now, tokens = transfer.now(), attempt.usage.output_tokens
    known = prices.knows(attempt.upstream, attempt.upstream_model)
    cost = attempt.cost / UNITS_PER_DOLLAR if known else None
    if transfer.job.call.stream and transfer.seen:
        took = now - transfer.seen
        pace = (tokens - 1) / took if tokens > 1 and took > 0 else None
        sample.answer(transfer.seen - transfer.sent, None, pace, cost)
    else:
        sample.answer(None, now - transfer.sent, None, cost)
