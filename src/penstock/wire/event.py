"""The body of a webhook, as OpenAI's SDK reads it."""

from __future__ import annotations

import hashlib

import msgspec


def event_id(kind: str, subject: str) -> str:
    """The same for the same event, however often it is announced."""
    return "evt_" + hashlib.blake2b(f"{kind}\n{subject}".encode(), digest_size=16).hexdigest()


def event_body(kind: str, subject: str, created: float) -> bytes:
    """:param kind: such as ``batch.completed``
    :param subject: the id of what it happened to
    :param created: Unix seconds
    """
    event = {
        "id": event_id(kind, subject),
        "object": "event",
        "created_at": int(created),
        "type": kind,
        "data": {"id": subject},
    }
    return msgspec.json.encode(event)
