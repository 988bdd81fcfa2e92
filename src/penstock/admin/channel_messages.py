"""What the supervisor and a worker say to each other, over their :class:`penstock.admin.channel.Channel`."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from penstock.flow import canary, sharing


class _Message(msgspec.Struct, frozen=True, tag=str.lower, tag_field="say"):
    pass


# ---- supervisor to worker ------------------------------------------------------------------------


class Configure(_Message, frozen=True):
    """The first message: what to run with."""

    config: msgspec.Raw
    version: int


class Reload(_Message, frozen=True):
    """Swap to this configuration; answered by :class:`Reloaded`."""

    config: msgspec.Raw
    version: int


class Ask(_Message, frozen=True):
    """Answered by :class:`Told` with the same id."""

    id: int


class Ping(_Message, frozen=True):
    """Answered by :class:`Pong`, as soon as the worker's event loop has its turn."""


class Drain(_Message, frozen=True):
    """Close the port after ``delay``, finish what is in flight within ``seconds`` from then on, exit.

    Until the port closes, each answer ends its connection.  Sent again, the later counts.
    """

    seconds: float
    delay: float = 0.0


class Adopt(_Message, frozen=True):
    """Accept connections for the worker in this place too: it is not there."""

    index: int


class Release(_Message, frozen=True):
    """The worker in this place is back; connections that were accepted for it stay."""

    index: int


class Purge(_Message, frozen=True):
    """Let kept answers with these tags, or of these keys, count no more."""

    tags: tuple[str, ...]
    keys: tuple[str, ...]  # hexadecimal


class Depart(_Message, frozen=True):
    """An upstream goes away in so many seconds; None: some time.

    ``holds``: how long after that, or from now on, this is remembered; None: until it is taken back.
    """

    upstream: str
    seconds: float | None
    holds: float | None = None


class Stay(_Message, frozen=True):
    """An upstream stays."""

    upstream: str


class Health(_Message, frozen=True):
    """What the worker that asks an upstream how it is has found out; it tells, and the others are told."""

    upstream: str
    well: bool


class Leased(_Message, frozen=True):
    """The worker's part of the limits that it has reported of."""

    id: int
    leases: sharing.Leases


class Explain(_Message, frozen=True):
    """What would this request come to?  Answered by :class:`Explained` with the same id."""

    id: int
    path: str
    headers: dict[str, str]
    body: str


class Decide(_Message, frozen=True):
    """What is to become of a model's new version, by hand; answered by :class:`Decided` with the same id."""

    id: int
    model: str
    action: canary.Action
    wholly: bool
    reason: str


# ---- worker to supervisor ------------------------------------------------------------------------


class Report(_Message, frozen=True):
    """What was taken of limits that the workers share; answered by :class:`Leased` with the same id."""

    id: int
    reports: list[sharing.Report]
    rejoins: bool  # this worker has been leased before


class Leaves(_Message, frozen=True):
    """An upstream has said that it goes away in so many seconds (None: some time); ``holds``: see :class:`Depart`."""

    upstream: str
    seconds: float | None
    holds: float


class IsBack(_Message, frozen=True):
    """An upstream that had said so has said that it is there."""

    upstream: str


class Ready(_Message, frozen=True):
    """The worker accepts connections."""


class Failed(_Message, frozen=True):
    """The worker could not start; it exits after this."""

    message: str
    mistakes: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        return "; ".join((self.message, *self.mistakes))


class Reloaded(_Message, frozen=True):
    """The outcome of a :class:`Reload`; ``mistakes`` is empty where the configuration was taken."""

    version: int
    mistakes: tuple[str, ...] = ()


class Told(_Message, frozen=True):
    """The worker's state; see :func:`penstock.admin.worker.Worker.state`."""

    id: int
    state: msgspec.Raw


class Explained(_Message, frozen=True):
    """See :func:`penstock.gateway.explain.explain`."""

    id: int
    found: msgspec.Raw


class Decided(_Message, frozen=True):
    """How the trial stands now; or ``status`` and ``detail``, why it could not be decided."""

    id: int
    found: msgspec.Raw


class Pong(_Message, frozen=True):
    """The worker's event loop runs."""


class Draining(_Message, frozen=True):
    """The worker begins to end: told to by a :class:`Drain`, or by a signal of its own."""


class Drained(_Message, frozen=True):
    """Everything has ended; ``cut`` calls were hung up at the deadline.  The worker exits after this."""

    cut: int


ToWorker: TypeAlias = (
    Configure
    | Reload
    | Ask
    | Ping
    | Drain
    | Adopt
    | Release
    | Purge
    | Depart
    | Stay
    | Health
    | Leased
    | Explain
    | Decide
)
ToSupervisor: TypeAlias = (
    Ready
    | Failed
    | Reloaded
    | Told
    | Pong
    | Draining
    | Drained
    | Report
    | Explained
    | Decided
    | Leaves
    | IsBack
    | Health
)
