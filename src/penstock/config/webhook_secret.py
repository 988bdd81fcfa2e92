"""Secrets of webhooks as Standard Webhooks 1.0.0 writes them: ``whsec_`` and the key in base64."""

from __future__ import annotations

import base64
import binascii

PREFIX = "whsec_"
SHORTEST, LONGEST = 24, 64  # bytes of a key, by the specification


def key_of(secret: str) -> bytes:
    """The key that signs.

    :raises ValueError: this is no such secret; the message does not show it
    """
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"must be {PREFIX} and a key in base64") from None
    if not SHORTEST <= len(key) <= LONGEST:
        raise ValueError(f"must be {PREFIX} and a key of {SHORTEST} to {LONGEST} bytes in base64")
    return key
