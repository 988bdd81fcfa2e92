"""The IETF's dialect: draft-ietf-httpbis-resumable-upload, interop versions 5, 6, 8 and 9.  No I/O.

Version 6 brought the media type of appends and ``Upload-Length``; from 6 to 9 creating, asking, appending and
cancelling are the same on the wire.  Integrity is the draft's to leave open and ours to say: ``Content-Digest``
of each append and ``Repr-Digest`` of the whole, RFC 9530.
"""

from __future__ import annotations

import msgspec

from penstock.errors import (
    BadRequest,
    InconsistentLength,
    OffsetMismatch,
    PenstockError,
    UnsupportedMedia,
    UploadCompleted,
)
from penstock.messages import JSON, Headers
from penstock.upload.asked import Append, Creation, UploadDialect, cuts_in, number_in
from penstock.upload.digests import Digest, from_field

Fields = list[tuple[bytes, bytes]]

INTEROP_VERSIONS = frozenset({b"5", b"6", b"8", b"9"})
MEDIA_TYPE = b"application/partial-upload"
PROBLEM_TYPE = (b"content-type", b"application/problem+json")

_PROBLEMS = "https://iana.org/assignments/http-problem-types#"
_BOOLEANS = {b"?0": False, b"?1": True}


def creation(headers: Headers) -> Creation | None:
    """What a request creates; None: it is not resumable.

    :raises BadRequest: a field has a value that cannot be
    """
    closes = _complete(headers)
    if closes is None:
        return None
    return Creation(
        UploadDialect.RUFH,
        closes,
        number_in(headers, b"upload-length"),
        _digest(headers, b"content-digest"),
        _digest(headers, b"repr-digest"),
        cuts=cuts_in(headers),
    )


def append(headers: Headers) -> Append:
    """What a ``PATCH`` appends.

    :raises BadRequest: a field is missing, or has a value that cannot be
    :raises UnsupportedMedia: it is of another type than the draft wants
    """
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if kind != MEDIA_TYPE and headers.get(b"upload-draft-interop-version") != b"5":
        raise UnsupportedMedia(f"an append must be of the type {MEDIA_TYPE.decode()}")
    offset = number_in(headers, b"upload-offset")
    if offset is None:
        raise BadRequest("Upload-Offset is missing", param="upload-offset", code="missing_parameter")
    closes = _complete(headers)
    if closes is None:
        raise BadRequest("Upload-Complete is missing", param="upload-complete", code="missing_parameter")
    return Append(
        offset,
        closes,
        number_in(headers, b"upload-length"),
        _digest(headers, b"content-digest"),
        _digest(headers, b"repr-digest"),
        cuts_in(headers),
    )


def interim(headers: Headers) -> bool:
    """Whether the client may be sent a 104: it speaks a version that we do ("MUST NOT" otherwise)."""
    return headers.get(b"upload-draft-interop-version") in INTEROP_VERSIONS


def version(headers: Headers) -> Fields:
    """The field that a 104 repeats."""
    return [(b"upload-draft-interop-version", headers[b"upload-draft-interop-version"])]


def state(offset: int, length: int | None, *, complete: bool) -> Fields:
    """The fields that tell how far an upload is."""
    fields = [(b"upload-offset", b"%d" % offset), completeness(complete=complete)]
    if length is not None:
        fields.append((b"upload-length", b"%d" % length))
    return fields


def completeness(*, complete: bool) -> tuple[bytes, bytes]:
    return (b"upload-complete", b"?1" if complete else b"?0")


def limits(max_size: int, max_age: float | None) -> tuple[bytes, bytes]:
    """``Upload-Limit``; the age in seconds."""
    age = b"" if max_age is None else b", max-age=%d" % max(0, max_age)
    return (b"upload-limit", b"max-size=%d%b" % (max_size, age))


def problem(error: PenstockError) -> dict[str, JSON] | None:
    """The problem document (RFC 9457) that the draft has for an error; None: it has none."""
    match error:
        case OffsetMismatch(expected=expected, provided=provided):
            kind = "mismatching-upload-offset"
            more = {"expected-offset": expected, "provided-offset": provided}
        case InconsistentLength():
            kind, more = "inconsistent-upload-length", {}
        case UploadCompleted():
            kind, more = "completed-upload", {}
        case _:
            return None
    return {
        "type": _PROBLEMS + kind,
        "title": error.message,
        "status": error.status,
        "code": error.code,
        **more,
    }


def encoded_problem(error: PenstockError) -> bytes | None:
    told = problem(error)
    return None if told is None else msgspec.json.encode(told)


def _complete(headers: Headers) -> bool | None:
    value = headers.get(b"upload-complete")
    if value is None:
        return None
    closes = _BOOLEANS.get(value.strip())
    if closes is None:
        raise BadRequest("Upload-Complete must be ?0 or ?1", param="upload-complete")
    return closes


def _digest(headers: Headers, name: bytes) -> Digest | None:
    value = headers.get(name)
    return None if value is None else from_field(name.decode(), value)
