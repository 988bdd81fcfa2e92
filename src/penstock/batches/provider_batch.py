"""A provider's batch that has lines of ours: what is known of it, and how far it has come.

::

    written ──> uploaded ──> asked ──> running ──> ended ──> done
       ↑           (files)     │  └──────────────────┘
       └───────────────────────┘  it is certain that there is none

Each step is on the disk before the next one begins.  Money is spent by one request only, that for the batch; it is made
in the step *asked*, and whoever finds a record in that step looks for the batch at the provider before anything else.
"""

from __future__ import annotations

import enum
import secrets

import msgspec

from penstock.wire.provider_batch import Fate


class Step(enum.Enum):
    WRITTEN = "written"  # its requests are on our disk
    UPLOADED = "uploaded"  # and with the provider, as a file
    ASKED = "asked"  # the provider has been asked for the batch, or was about to be
    RUNNING = "running"  # it is known there as ``id``
    ENDED = "ended"  # and all that came of it is on our disk
    DONE = "done"  # each of its lines has its result, or is not run


class ProviderBatch(msgspec.Struct, frozen=True):
    """Lines of one batch that one upstream gets together.

    :ivar number: of those of the same batch, from 0
    :ivar upstream: its name in the configuration; ``endpoint``: its own, by the path; ``model``: its own name for it
    :ivar named: the model as our lines name it
    :ivar name: by which the provider may be asked for it, and nobody else's is called so
    :ivar cost: what all lines together cost at the most, in 1e-12 US dollars
    :ivar asked: when the provider was asked for it, Unix time
    :ivar fate: how it ended; ``why``: if it failed, in the provider's words
    :ivar not_ours: the ids of batches of others that looked like it
    """

    batch: str
    number: int
    upstream: str
    endpoint: str
    model: str
    named: str
    lines: int
    name: str
    cost: int = 0
    step: Step = Step.WRITTEN
    file: str = ""
    asked: float = 0.0
    id: str = ""
    results: tuple[str, ...] = ()
    fate: Fate = Fate.COMPLETED
    why: str = ""
    lost: bool = False  # the provider does not know it any more, though it made it
    not_ours: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<ProviderBatch {self.batch}/{self.number} at {self.upstream}, {self.step.value} {self.id}>"


def new_name() -> str:
    """128 random bits."""
    return f"penstock-{secrets.token_hex(16)}"
