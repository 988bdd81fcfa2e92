"""What a client may be told: how often to try again, where, for how long, and what to keep."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import msgspec

from penstock.cache.neighbours import Function
from penstock.client.statistics import Notice
from penstock.config.model import PromptConfig, RetryConfig

ATTEMPTS = 6  # with the delays of RetryConfig these are spread over some eight seconds


class CacheOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Answers kept on the caller's side, of calls that ask for one answer rather than any.

    :param memory_bytes: what they may hold in this process
    :param path: a file in which they outlive it, shared by all processes that name it; None: there is none
    :param disk_bytes: of that file
    :param ttl: seconds for which an answer is good
    :param every_call: also of calls that ask for any answer, which then get the same one each time
    :param neighbours: which questions are probably asked soon, and so asked ahead: ``"numbers"``, of an application that
        goes in steps (page 4, page 5, page 6), or functions that are given a body, decoded, and give others
    :param neighbours_per_minute: so many of them at most
    """

    memory_bytes: int = 64 << 20
    path: Path | str | None = None
    disk_bytes: int = 1 << 30
    ttl: float = 3_600.0
    every_call: bool = False
    neighbours: tuple[Literal["numbers"] | Function, ...] = ()
    neighbours_per_minute: int = 60


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """All of it; the arguments of :func:`penstock.http_client`.

    :param gateways: URLs of gateways that serve the same, the preferred one first: a call to any of them is
        sent to the first that is well
    :param retry: attempts of one call, the delays between them, and the budget that all calls share
    :param deadline: seconds after which an answer is of no use any more: its first byte, if it is a stream,
        else all of it.  A call may have its own, as the header ``Penstock-Deadline``
    :param resume_for: seconds without any progress after which a broken stream is given up; one that fell silent, though
        it shows signs of life when asked to, not within 80 of silence
    :param stall_timeout: seconds of silence after which a stream of a gateway counts as broken; None: 5, then 10, 20
        and 40, of one that shows a sign of life every 2 seconds, as it is asked to; of others, that do so every 15, 40
    :param attempt_timeout: seconds of silence after which a gateway is asked again, under the same key, while
        the caller's own timeout still runs; None: it is asked once in that time
    :param rerun: a stream whose log is lost is asked for once more, if the call asks for one answer rather
        than any, and gone on with if it comes out the same
    :param upload_above: bytes of a body from which on a gateway is sent it so that a break does not cost all of it
    :param dictionary_bytes: bodies remembered for each gateway that remembers them too, so that the next one is
        sent as what is new in it; 0: none
    :param cache: None: nothing is kept
    :param prompts: what is left out of prompts, by the model's name or pattern
    :param on_notice: is told what happens to calls, in the thread or task of the call; what it raises is logged
    """

    gateways: tuple[str, ...] = ()
    retry: RetryConfig = RetryConfig(attempts=ATTEMPTS)
    deadline: float | None = None
    resume_for: float = 30.0
    stall_timeout: float | None = None
    attempt_timeout: float | None = None
    rerun: bool = True
    upload_above: int = 1_000_000
    dictionary_bytes: int = 16 << 20
    cache: CacheOptions | None = None
    prompts: Mapping[str, PromptConfig] = {}
    on_notice: Callable[[Notice], None] | None = None
