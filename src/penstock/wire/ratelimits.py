"""Rate limits in header fields: what we tell our callers, and what providers tell us.

OpenAI: ``x-ratelimit-limit-requests: 60``, ``-remaining-``, and ``-reset-``, the time until the bucket is
full again, as ``6m0s`` or ``20ms``.  Anthropic: ``anthropic-ratelimit-requests-limit``, ``-remaining``, and
``-reset``, the moment at which it is full, in RFC 3339.  Either has the same for ``tokens``.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Sequence
from functools import lru_cache

import msgspec

from penstock.errors import Window
from penstock.messages import Dialect, Headers

_ANTHROPIC = Dialect.ANTHROPIC
_FOREVER = 1e9  # seconds; a header that says more is nonsense


def render(
    dialect: Dialect, requests: Window | None, tokens: Window | None, unix_time: float
) -> Sequence[tuple[bytes, bytes]]:
    """The header fields of an answer that say how much is left; ``(limit, left, seconds until full)`` each."""
    if dialect is not _ANTHROPIC:
        if (requests is not None and requests[2]) or (tokens is not None and tokens[2]):
            return [*_as_openai(b"requests", requests), *_as_openai(b"tokens", tokens)]
        return _of_full(requests, tokens)  # as a rule
    fields: list[tuple[bytes, bytes]] = []
    if requests is not None:
        fields += _as_anthropic(b"requests", *requests, unix_time)
    if tokens is not None:
        fields += _as_anthropic(b"tokens", *tokens, unix_time)
    return fields


@lru_cache(256)
def _of_full(requests: Window | None, tokens: Window | None) -> tuple[tuple[bytes, bytes], ...]:
    """OpenAI's fields of buckets of which nothing has been taken."""
    return (*_as_openai(b"requests", requests), *_as_openai(b"tokens", tokens))


def _as_openai(kind: bytes, window: Window | None) -> Sequence[tuple[bytes, bytes]]:
    if window is None:
        return ()
    limit, left, reset = window
    told, remaining, until = _names(kind, limit)
    return told, (remaining, b"%d" % left), (until, _duration(reset))


@lru_cache(256)
def _names(kind: bytes, limit: float) -> tuple[tuple[bytes, bytes], bytes, bytes]:
    """The field of the limit, and the names of the other two."""
    return (
        (b"x-ratelimit-limit-" + kind, b"%d" % limit),
        b"x-ratelimit-remaining-" + kind,
        b"x-ratelimit-reset-" + kind,
    )


def _as_anthropic(
    kind: bytes, limit: float, left: float, reset: float, unix_time: float
) -> Sequence[tuple[bytes, bytes]]:
    prefix = b"anthropic-ratelimit-" + kind
    return (
        (prefix + b"-limit", b"%d" % limit),
        (prefix + b"-remaining", b"%d" % left),
        (prefix + b"-reset", _moment(unix_time + reset)),
    )


def _duration(seconds: float) -> bytes:
    """As Go prints one, which is what OpenAI sends: ``1h2m3s``, ``6m0s``, ``1.5s``, ``20ms``."""
    milliseconds = math.ceil(seconds * 1000)
    if milliseconds < 1000:
        return b"%dms" % milliseconds
    whole, rest = divmod(milliseconds, 1000)
    hours, minutes, whole = whole // 3600, whole // 60 % 60, whole % 60
    text = f"{whole}.{rest:03}".rstrip("0").rstrip(".") + "s" if rest else f"{whole}s"
    return (f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else "").encode() + text.encode()


def _moment(unix_time: float) -> bytes:
    moment = dt.datetime.fromtimestamp(math.ceil(unix_time), dt.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ").encode()


class Told(msgspec.Struct, frozen=True):
    """What a provider says of one of its buckets.  ``reset``: seconds until it is full; None: it does not say."""

    limit: float
    left: float
    reset: float | None


def is_of_limits(name: bytes) -> bool:
    """Whether this is one of the fields in which a provider tells of its limits, also of those of a subscription."""
    return name.startswith((b"x-ratelimit-", b"anthropic-ratelimit-"))


def tells(headers: Headers) -> bool:
    """Whether a provider says anything of its buckets."""
    return (
        b"x-ratelimit-limit-requests" in headers
        or b"x-ratelimit-limit-tokens" in headers
        or b"anthropic-ratelimit-requests-limit" in headers
        or b"anthropic-ratelimit-tokens-limit" in headers
    )


def read(headers: Headers, kind: bytes, unix_time: float) -> Told | None:
    """A provider's bucket of this kind (``requests`` or ``tokens``); None: nothing, or nothing credible."""
    limit = _number(headers.get(b"x-ratelimit-limit-" + kind))
    if limit is not None:
        left = _number(headers.get(b"x-ratelimit-remaining-" + kind))
        reset = _read_duration(headers.get(b"x-ratelimit-reset-" + kind, b""))
    else:
        prefix = b"anthropic-ratelimit-" + kind
        limit = _number(headers.get(prefix + b"-limit"))
        if limit is None:  # most say nothing
            return None
        left = _number(headers.get(prefix + b"-remaining"))
        reset = _read_moment(headers.get(prefix + b"-reset", b""), unix_time)
    if limit is None or left is None or limit < 1 or left > limit:
        return None
    return Told(limit, left, reset)


def _number(text: bytes | None) -> float | None:
    return float(text) if text is not None and text.isdigit() and len(text) < 15 else None


_PART = re.compile(rb"(\d{1,12}(?:\.\d{1,9})?)(h|ms|m|s|us|\xc2\xb5s|ns)")
_SECONDS = {b"h": 3600.0, b"m": 60.0, b"s": 1.0, b"ms": 1e-3, b"us": 1e-6, b"\xc2\xb5s": 1e-6, b"ns": 1e-9}


def _read_duration(text: bytes) -> float | None:
    parts = _PART.findall(text)
    if parts and b"".join(number + unit for number, unit in parts) == text:
        seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    else:
        try:
            seconds = float(text)  # Groq and others send plain seconds
        except ValueError:
            return None
    return seconds if 0 <= seconds < _FOREVER else None


def _read_moment(text: bytes, unix_time: float) -> float | None:
    try:
        moment = dt.datetime.fromisoformat(text.decode("ascii"))
    except ValueError:
        return None
    if moment.tzinfo is None:
        return None
    seconds = moment.timestamp() - unix_time
    return max(0.0, seconds) if seconds < _FOREVER else None
