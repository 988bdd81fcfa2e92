"""Model names and patterns: which entry of ``models`` a name means.

A pattern holds one ``*``, which stands for any text, the empty one included.  An exact name wins over
every pattern; among patterns the one with the most literal characters wins, then the one that stands
first.  The same rule decides what a caller's model, a fallback and a key's permitted models mean.
"""

from __future__ import annotations

import re
from collections.abc import Collection

# What no name holds: names come into header fields, metrics and terminals.
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def match(pattern: str, name: str) -> str | None:
    """What the pattern's ``*`` stands for in ``name``: ``""`` for an exact name, None where it differs."""
    head, star, tail = pattern.partition("*")
    if not star:
        return "" if name == pattern else None
    if len(name) < len(head) + len(tail) or not name.startswith(head) or not name.endswith(tail):
        return None
    return name[len(head) : len(name) - len(tail)]


def resolve(names: Collection[str], name: str) -> str | None:
    """Which of ``names`` (exact names and patterns) answers ``name``; None: none does."""
    if name in names:
        return name
    for pattern in sorted((n for n in names if "*" in n), key=len, reverse=True):
        if match(pattern, name) is not None:
            return pattern
    return None
