"""How a transfer can fail, whatever the library that noticed it calls it."""

from __future__ import annotations

import enum
import ssl


class Break(enum.Enum):
    """What is known when there is no answer, or not all of it."""

    UNREACHED = "the server could not be reached"  # nothing of the request went out
    SILENT = "a clock ran out"  # the server may be at work on it, and may be gone
    BROKEN = "the connection broke"
    HANDED_OVER = "the server goes away"  # and has said that another goes on
    FATAL = "it would fail again"  # no valid request, no trusted server, no free place in the pool


_KINDS = {
    "ConnectTimeout": Break.UNREACHED,
    "ConnectError": Break.UNREACHED,
    "ProxyError": Break.UNREACHED,
    "ReadTimeout": Break.SILENT,
    "WriteTimeout": Break.SILENT,
    "ReadError": Break.BROKEN,
    "WriteError": Break.BROKEN,
    "CloseError": Break.BROKEN,
    "RemoteProtocolError": Break.BROKEN,
    "DecodingError": Break.BROKEN,
    "HandedOver": Break.HANDED_OVER,
    "Cut": Break.BROKEN,
    "UpstreamBroken": Break.FATAL,  # an event beyond all measure, which would come again
}


def kind_of(error: BaseException) -> Break:
    """Of an exception of httpx or httpx2, by its name, which both have in common."""
    kind = next(
        (_KINDS[base.__name__] for base in type(error).__mro__ if base.__name__ in _KINDS), Break.FATAL
    )
    if kind is Break.UNREACHED and _is_distrust(error):
        return Break.FATAL
    return kind


def reason_of(error: BaseException) -> str:
    """In words."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _is_distrust(error: BaseException | None) -> bool:
    """Whether a certificate was refused, somewhere among the causes."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False
