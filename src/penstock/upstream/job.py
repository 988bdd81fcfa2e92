"""What is to be transferred for one attempt, and who hears of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from penstock.config.model import TimeoutConfig
from penstock.messages import Call, Endpoint, Headers
from penstock.upstream.inquiry import Form
from penstock.wire.splice import Splice
from penstock.wire.translate import Translation


class Job(msgspec.Struct, gc=False):
    """What is to be transferred.

    ``endpoint`` is that of the upstream's answer (the caller's may be another, then there is a
    ``translation``), ``prompt_tokens`` what is reserved for the prompt, by its size;
    ``callers_key``: the caller's own key was sent, so if it is wrong the caller is told; ``keyless``: the caller
    might have given one, and gave none;
    ``hold_back``: seconds that the first events wait; ``splice``: the answer goes on with one that broke,
    and ``sent`` is what was asked for it; ``keeps_runs``: the upstream is another Penstock; ``shared``: its
    request is that of others, too, and so its usage a share; ``herald``: hears of the answer's head whether
    the upstream goes away; ``trace``: the header lines that tell the upstream which trace this belongs to.
    """

    upstream: str
    call: Call
    endpoint: Endpoint
    translation: Translation | None
    prompt_tokens: int
    timeouts: TimeoutConfig
    callers_key: bool = False
    running_usage: bool = False  # the upstream is asked for its usage so far in every chunk
    hold_back: float = 0.0
    splice: Splice | None = None
    sent: bytes = b""
    keeps_runs: bool = False
    shared: bool = False  # several calls' request: the usage is a share of what the upstream tells
    cancel_grace: float = 0.0
    herald: Herald | None = None
    trace: bytes = b""
    keyless: bool = False


class Herald(Protocol):
    """Hears of an upstream's answers whether it goes away."""

    is_asked_soon: bool

    def on_head(self, status: int, headers: Headers) -> bool:
        """The head of an answer is there; whether it says so."""

    def on_probe(self, status: int, headers: Headers, asked_at: float) -> None:
        """The head of an answer to the question whether it is there."""


class Lookup(msgspec.Struct, frozen=True):
    """How it can be asked afterwards what an answer has cost, and who is to be told the answer's id."""

    form: Form
    found: Callable[[str], None]
