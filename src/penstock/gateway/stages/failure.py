"""What the failure of an attempt means: when the same is asked again, and what the caller is told in the end."""

from __future__ import annotations

from collections.abc import Sequence

from penstock.config.model import RetryConfig
from penstock.errors import (
    PenstockError,
    RateLimited,
    UpstreamError,
    UpstreamFailed,
    UpstreamTimeout,
    UpstreamUnreachable,
    UpstreamUntrusted,
)
from penstock.flow.retry import delay
from penstock.gateway.stages.candidate import Candidate
from penstock.wire import problems

_MOST_OTHERS = 5  # in a message


class Abandoned(PenstockError):
    """The last reader has left; no caller ever sees this."""

    status = 499
    code = "cancelled"


def has_another(candidates: Sequence[Candidate], candidate: Candidate, error: UpstreamError) -> bool:
    """Whether nobody is there, and a replica is yet to be asked: that is no reason to wait for this one."""
    return (
        isinstance(error, UpstreamUnreachable)
        or (isinstance(error, UpstreamTimeout) and error.clock == "connect")
    ) and any(one.route == candidate.route for one in candidates[candidates.index(candidate) + 1 :])


def with_others(failure: PenstockError, failures: Sequence[tuple[str, PenstockError]]) -> PenstockError:
    """The failure that the caller gets, of which it says who else was asked."""
    failure.message += _others(failures, failure)
    return failure


def _others(failures: Sequence[tuple[str, PenstockError]], told: PenstockError) -> str:
    """Who else was asked, and how that failed, for the end of the message of the failure that is told.

    Of upstreams only what the configuration calls them, and our own word for what happened.
    """
    mine = {name for name, failure in failures if failure is told}
    place = max((i for i, (_, failure) in enumerate(failures) if failure is told), default=len(failures))
    parts = []
    for when, some in (("before", failures[:place]), ("after", failures[place + 1 :])):
        others = [*dict.fromkeys(f"{name} ({failure.code})" for name, failure in some if name not in mine)]
        if others:
            parts.append(f"{when} that: {', '.join(others[:_MOST_OTHERS])}")
    return f" [{'; '.join(parts)}]" if parts else ""


def sooner(one: RateLimited | None, other: RateLimited) -> RateLimited:
    """Which of the two limits lets a call in before the other does."""
    if one is None or other.retry_after is None:
        return one or other
    return other if one.retry_after is None or other.retry_after < one.retry_after else one


def wait_before_retry(error: UpstreamError, attempt: int, config: RetryConfig) -> float | None:
    """Seconds until the same candidate may be tried again; None: not worth it."""
    if isinstance(error, UpstreamTimeout) and error.clock != "connect":
        return None  # it had its time; another candidate may be quicker
    return wait_after_break(error, attempt, config)


def wait_after_break(error: UpstreamError, attempt: int, config: RetryConfig) -> float | None:
    """The same, after a break: one that was silent may be asked again, if nobody else can go on."""
    if isinstance(error, UpstreamUntrusted) or (
        isinstance(error, UpstreamFailed) and error.code in problems.NOT_MENDED_SOON
    ):
        return None
    wait = delay(config, attempt)
    if error.retry_after is not None:
        if error.retry_after > config.max_retry_after:
            return None
        wait = max(wait, error.retry_after)
    return wait
