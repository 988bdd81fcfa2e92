"""A batch: what it is, and the states that it goes through.

::

    validating ──> in_progress ──> finalizing ──> completed
        │               │               ├───────> expired      its window ended; what was done is kept
        │               └─> cancelling ─┴───────> cancelled    its owner wants no more; the same
        └─────────────────> failed                             its input is no batch

Times are Unix seconds.
"""

from __future__ import annotations

import enum
import secrets

import msgspec

from penstock.messages import JSON, Tenant
from penstock.wire.batch import Fault


class Status(enum.Enum):
    VALIDATING = "validating"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


ENDED = frozenset({Status.FAILED, Status.COMPLETED, Status.EXPIRED, Status.CANCELLED})

OPENAI, ANTHROPIC = "batch_", "msgbatch_"
"""With what the ids of batches begin: by which API one was made is by which it is seen."""

TIER = "batch"  # of every call that a batch makes: the lowest


class Counts(msgspec.Struct, frozen=True):
    """Lines of a batch: all, those answered with 2xx, those that got anything else."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class Batch(msgspec.Struct, frozen=True):
    """One batch.  A change makes a new one; :class:`penstock.batches.store.BatchStore` keeps the last.

    ``output_file`` and ``error_file`` are the ids that the result files will have, fixed from the beginning,
    so that a file that was entered before a crash is not entered twice.
    """

    id: str
    tenant: str
    key_name: str
    models: tuple[str, ...]  # that the key may use; empty: every one
    endpoint: str
    input_file: str
    window: str
    created: float
    expires: float
    output_file: str
    error_file: str
    output_kept_for: float | None = None  # seconds; None: as long as any file
    metadata: dict[str, str] | None = None
    status: Status = Status.VALIDATING
    counts: Counts = Counts()
    faults: tuple[Fault, ...] = ()
    began: float | None = None
    finalizing: float | None = None
    cancelling: float | None = None
    ended: float | None = None
    outcome: Status | None = None  # while finalizing: what it will be
    has_output: bool = False
    has_errors: bool = False
    announced: bool = False  # its end was told to those who want to know
    unrun: int = 0  # of the lines that failed, once it is over: those that were never run
    betas: str = ""  # Anthropic's, that its lines ask for
    divided: bool = False  # it is settled which of its lines go to providers' own batches

    def __repr__(self) -> str:
        done = self.counts.completed + self.counts.failed
        return f"<Batch {self.id} {self.status.value}, {done} of {self.counts.total}>"

    @property
    def caller(self) -> Tenant:
        """On whose behalf its lines are called."""
        return Tenant(self.tenant, self.key_name, TIER, self.models)


def new_batch_id(prefix: str) -> str:
    """``prefix`` (:data:`OPENAI` or :data:`ANTHROPIC`) and 128 random bits."""
    return prefix + secrets.token_hex(16)


def shown(batch: Batch) -> dict[str, JSON]:
    """The object of OpenAI's API."""
    faults = [{"object": "error", **msgspec.to_builtins(fault)} for fault in batch.faults]
    ended_at = {
        f"{status.value}_at": _second(batch.ended) if batch.status is status else None for status in ENDED
    }
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "errors": {"object": "list", "data": faults} if faults else None,
        "input_file_id": batch.input_file,
        "completion_window": batch.window,
        "status": batch.status.value,
        "output_file_id": batch.output_file if batch.has_output else None,
        "error_file_id": batch.error_file if batch.has_errors else None,
        "created_at": int(batch.created),
        "in_progress_at": _second(batch.began),
        "expires_at": int(batch.expires),
        "finalizing_at": _second(batch.finalizing),
        "cancelling_at": _second(batch.cancelling),
        **ended_at,
        "request_counts": msgspec.to_builtins(batch.counts),
        "metadata": batch.metadata,
    }


def _second(time: float | None) -> int | None:
    return None if time is None else int(time)
