"""How long answers and conversations stay."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from penstock.config.model._section import Bytes, Seconds, Section
from penstock.config.secret import Secret


class GenerationsConfig(Section, frozen=True):
    """How long answers stay readable after their end, and what they outlive."""

    # after its end an answer can be resumed or replayed for so long; 0: not at all
    kept_for: Seconds = 3_600.0
    # what ended answers may hold in each worker's memory; the oldest make room
    kept_bytes: Bytes = 33_554_432
    # memory: the connection; disk: this process, in a file; shared: this machine, in Redis
    durability: Literal["memory", "disk", "shared"] = "memory"
    path: str = "penstock-generations.sqlite"  # of the file, which the workers of this machine share
    fsync: bool = False  # wait for the disk itself: an answer outlives a power cut, too
    redis: Secret | None = None  # redis://, rediss:// (TLS) or redis+sentinel://HOST,HOST/SERVICE
    stored_bytes: Bytes = 1_073_741_824  # what file or server may hold; the oldest ended answers make room
    # a process that has not been heard of for so long has died: another one takes its answers over
    lease: Annotated[float, msgspec.Meta(ge=0.5)] = 5.0


class ConversationsConfig(Section, frozen=True):
    """Conversations that callers keep here (`/v1/conversations`); where, `generations.durability` and the models' decide."""

    kept_for: Seconds = 2_592_000.0  # a conversation goes when it has not been added to for so long
    # what all may hold, in each worker's memory, in the file or in Redis; of whoever holds most, the oldest make room
    stored_bytes: Bytes = 268_435_456
