"""What a running gateway keeps of its configuration, whatever a new one says."""

from __future__ import annotations

import msgspec

from penstock.config.model import Config

NEEDS_RESTART = (
    "listen",
    "control",
    "workers",
    "departures",
    "listener",
    "log",
    "ledger",
    "files",
    "uploads",
    "codings",
    "batches",
    "webhooks",
    "cache",
    "versions",
    "generations",
    "generations_bytes",
    "max_answer_bytes",
)
"""Sections that a running process keeps as they were; ``tls`` may change its files, but not come or go.  Of ``limits``
it keeps ``redis``."""


def keep_fixed(old: Config, new: Config) -> tuple[Config, tuple[str, ...]]:
    """``new``, with what cannot change while the process runs as in ``old``; and the names of what that was.

    An address with port 0, or one given on the command line, is the old one written otherwise; only what
    the two configurations *say* is compared.
    """
    kept = {key: getattr(old, key) for key in NEEDS_RESTART if getattr(old, key) != getattr(new, key)}
    if (old.tls is None) != (new.tls is None):
        kept["tls"] = old.tls
    named = tuple(kept)
    if old.limits.redis != new.limits.redis:
        kept["limits"] = msgspec.structs.replace(new.limits, redis=old.limits.redis)
        named += ("limits.redis",)
    return msgspec.structs.replace(new, **kept), named
