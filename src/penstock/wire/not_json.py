"""What msgspec raises at bytes that are no JSON, or JSON of another shape than expected, and what to call it."""

from __future__ import annotations

import re

import msgspec

NOT_JSON = (msgspec.MsgspecError, UnicodeError, RecursionError)
"""Text that is not UTF-8 is a ``UnicodeError``, and what is nested too deeply a ``RecursionError``."""

_HALF = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")  # an escape that is half of a pair (RFC 8259, 7)
_PLACE = re.compile(r"\(byte (\d+)\)\Z")
_BEFORE = 32  # bytes before the place of an error in which its cause is looked for


def why_not_json(body: bytes, error: Exception) -> str:
    """In a sentence for the caller, why ``body`` cannot be read as a JSON object.

    :param error: one of :data:`NOT_JSON`
    """
    if not body:
        return "the body is empty; it must be a JSON object"
    if isinstance(error, RecursionError):
        return "the body's JSON is nested too deeply"
    if isinstance(error, UnicodeError):
        return "the body is not UTF-8"
    if isinstance(error, msgspec.ValidationError) and "out of range" in str(error):
        return "the body has a number that is out of range"
    if isinstance(error, msgspec.ValidationError):
        return "the body must be a JSON object"
    if half := _half_a_pair(body, str(error)):
        return f"the body is not valid JSON: {half} is half of a surrogate pair; was the text cut within a character?"
    return f"the body is not valid JSON: {error}"


def _half_a_pair(body: bytes, told: str) -> str:
    """The one over which msgspec stumbled; empty: it was something else."""
    if not ("surrogate" in told or "hex escape" in told or "truncated" in told):
        return ""
    place = _PLACE.search(told)
    end = int(place[1]) if place else len(body)
    found = _HALF.findall(body, max(0, end - _BEFORE), end)
    return found[-1].decode() if found else ""
