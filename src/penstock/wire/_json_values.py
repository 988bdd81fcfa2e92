"""How many values a JSON text holds, found out without making them.

Who takes a text apart does some work for each value, and far more than for each byte: a million messages of a letter are
as many bytes as one picture, and took the event loop three to six seconds to translate.
"""

from __future__ import annotations

from penstock.errors import BadRequest, UpstreamBroken

MOST_ASKED = 200_000
"""In a request: 40,000 messages that are a text, or 8,000 calls of tools with their results; 0.2 s to translate."""

MOST_ANSWERED = 500_000
"""In an answer that is taken apart: 3,800 tokens, each with its 20 likeliest and their bytes."""

_SHORTEST = 2  # bytes: "", {} or []
ALWAYS_TAKEN = _SHORTEST * MOST_ASKED
"""A request of no more bytes cannot hold too many."""


def check_asked(body: bytes) -> None:
    """:raises BadRequest: the body holds more than :data:`MOST_ASKED` texts, objects and arrays"""
    if holds_more(body, MOST_ASKED):
        raise BadRequest(
            f"the body holds more than {MOST_ASKED:,} texts, objects and arrays", code="too_many_values"
        )


def check_answered(text: bytes) -> None:
    """:raises UpstreamBroken: an answer or event holds more than :data:`MOST_ANSWERED` texts, objects and arrays"""
    if holds_more(text, MOST_ANSWERED):
        raise UpstreamBroken(
            f"the upstream's answer holds more than {MOST_ANSWERED:,} texts, objects and arrays"
        )


def holds_more(text: bytes, most: int) -> bool:
    """Whether there are more texts, objects and arrays than that, the names of members included.

    Numbers and their like do not count: a million token ids are one prompt.  What is no JSON counts somehow.
    """
    if len(text) <= _SHORTEST * most:
        return False
    if text.count(b'"') // 2 + text.count(b"{") + text.count(b"[") <= most:
        return False
    # Maybe: texts may hold all of these.  Without what is escaped, each quotation mark begins or ends a text.
    bare = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    texts = bare.count(b'"') // 2
    if texts > most:
        return True
    outside = b"".join(bare.split(b'"')[::2])
    return texts + outside.count(b"{") + outside.count(b"[") > most
