"""How a call is made: its clocks, how often it is tried again, and what becomes of one that breaks."""

from __future__ import annotations

from typing import Annotated

import msgspec

from penstock.config.model._section import Positive, Seconds, Section


class TimeoutConfig(Section, frozen=True):
    """The four clocks of a call, and the slowest pace of a stream; 0 switches one off."""

    connect: Seconds = 5.0  # until the connection, with TLS, stands
    # from the request to the first byte of the answer's body; a stream may be silent for so long before its first token
    first_token: Seconds = 120.0
    between_tokens: Seconds = 60.0  # the longest silence within an answer; keep-alives break it
    total: Seconds = 600.0  # from an attempt's start to the end of its answer
    # tokens per second, over 10 s from the first one on, below which a stream counts as broken; 0: any pace will do
    min_token_rate: Seconds = 0.0


class RetryConfig(Section, frozen=True):
    """Full-jitter exponential back-off, and the budget that keeps retries from multiplying."""

    attempts: Positive = 3  # at one candidate, the first included
    first_delay: Seconds = 0.5  # before the first retry at most; each delay is random between 0 and its limit
    factor: Annotated[float, msgspec.Meta(ge=1)] = 2.0  # by which the limit grows with each retry
    max_delay: Seconds = 10.0  # the limit grows no further
    max_retry_after: Seconds = 30.0  # an upstream that asks for more is left for the next candidate
    budget_ratio: Annotated[float, msgspec.Meta(ge=0)] = 0.1  # retries per call, over all calls
    budget_floor: Annotated[float, msgspec.Meta(ge=0)] = 10.0  # retries that are always allowed, per 10 s


class ContinuationConfig(Section, frozen=True):
    """What becomes of a streamed answer that breaks after its first event."""

    # how often one answer is gone on with, each try counted; 0: a break is an error at once
    attempts: Annotated[int, msgspec.Meta(ge=0)] = 4
    # an answer's first events wait so long, so that a break in that time is repaired unseen; 0: not at all
    hold_back: Seconds = 0.0
    # as the last resort, ask the model in words to go on, where nothing better is to be had
    prompt: bool = False
