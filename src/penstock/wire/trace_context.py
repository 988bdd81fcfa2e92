"""``traceparent`` and ``tracestate``: which trace a request belongs to (W3C Trace Context, level 1); no I/O."""

from __future__ import annotations

import re

import msgspec

from penstock.messages import Headers

# 3.2.2: version, trace id, parent id, flags; a later version may have more behind them.
_FORM = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 1


class Parent(msgspec.Struct, frozen=True):
    """The span that a request came from: ids in hexadecimal, and ``state`` as its ``tracestate`` has it."""

    trace_id: str
    span_id: str
    sampled: bool
    state: bytes


def parent_in(headers: Headers) -> Parent | None:
    """None: the request belongs to no trace, or says so in a form that nobody may pass on (3.2.2.2, 4.2)."""
    value = headers.get(b"traceparent")
    found = _FORM.fullmatch(value) if value is not None else None
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == b"ff" or (version == b"00" and more) or not trace_id.strip(b"0") or not span_id.strip(b"0"):
        return None
    sampled = bool(int(flags, 16) & _SAMPLED)
    return Parent(trace_id.decode(), span_id.decode(), sampled, headers.get(b"tracestate", b""))


def passed_on(headers: Headers) -> bytes:
    """The header lines that tell the next server of the same parent, each with its end; none where there is none."""
    if parent_in(headers) is None:
        return b""
    return _lines(headers[b"traceparent"], headers.get(b"tracestate", b""))


def sampled(trace_id: str, span_id: str, state: bytes) -> bytes:
    """The same, of a span that is recorded."""
    return _lines(f"00-{trace_id}-{span_id}-01".encode(), state)


def without(headers: Headers) -> Headers:
    """What is asked on the gateway's own account belongs to nobody's trace."""
    if b"traceparent" not in headers:
        return headers
    return {name: value for name, value in headers.items() if name not in {b"traceparent", b"tracestate"}}


def _lines(parent: bytes, state: bytes) -> bytes:
    line = b"traceparent: %b\r\n" % parent
    return line + b"tracestate: %b\r\n" % state if state else line
