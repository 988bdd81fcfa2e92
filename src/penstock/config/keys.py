"""Callers' keys: made here, shown once, and kept as a hash only.

A password needs a slow, salted hash because people choose it; a key from :func:`new_key` has 256 random
bits, which no amount of guessing finds, so that one SHA-256 is enough, and cheap enough for every call.
That holds only for keys made like this: do not hash a word that a person thought of.
"""

from __future__ import annotations

import hashlib
import re
import secrets

PREFIX = "pk-"
HASH = re.compile(r"sha256:[0-9a-f]{64}\Z")


def new_key() -> str:
    """A new key: ``pk-`` and 32 random bytes, URL-safe."""
    return PREFIX + secrets.token_urlsafe(32)


def hash_key(key: str) -> str:
    """What the configuration holds of a key: ``sha256:`` and 64 hexadecimal digits."""
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()
