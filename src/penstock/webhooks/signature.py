"""Signatures of Standard Webhooks 1.0.0: HMAC-SHA256 over ``id.timestamp.body``; no I/O."""

from __future__ import annotations

import base64
import hashlib
import hmac


def signed(key: bytes, message_id: str, timestamp: int, body: bytes) -> list[tuple[bytes, bytes]]:
    """The three header fields.

    :param timestamp: of this delivery, Unix seconds: receivers refuse what is old
    """
    text = b"%b.%d.%b" % (message_id.encode(), timestamp, body)
    digest = hmac.new(key, text, hashlib.sha256).digest()
    return [
        (b"webhook-id", message_id.encode()),
        (b"webhook-timestamp", b"%d" % timestamp),
        (b"webhook-signature", b"v1," + base64.b64encode(digest)),
    ]
