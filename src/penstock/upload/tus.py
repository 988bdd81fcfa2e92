"""tus 1.0.0: creation (with upload, of deferred length), checksum, concatenation, expiration, termination.  No I/O.

https://tus.io/protocols/resumable-upload; a field's section there is named where its branch is.
"""

from __future__ import annotations

import base64
from email.utils import formatdate
from urllib.parse import urlsplit

from penstock.errors import BadRequest, UnsupportedMedia, UnsupportedVersion
from penstock.messages import Headers
from penstock.upload.asked import Append, Concat, Creation, UploadDialect, content_length_of, number_in
from penstock.upload.digests import TUS_ALGORITHMS, Digest, from_checksum

Fields = list[tuple[bytes, bytes]]

VERSION = b"1.0.0"
RESUMABLE = (b"tus-resumable", VERSION)
MEDIA_TYPE = b"application/offset+octet-stream"
MISMATCH = 460  # "Checksum Mismatch", the checksum extension's own status
MAX_PARTS = 1_000
MAX_METADATA = 64  # pairs

_EXTENSIONS = (
    b"creation,creation-with-upload,creation-defer-length,checksum,concatenation,expiration,termination"
)


def speaks(headers: Headers) -> bool:
    """Whether a request is in this dialect.

    :raises UnsupportedVersion: it is in another version of it (core: 412, with ``Tus-Version``)
    """
    value = headers.get(b"tus-resumable")
    if value is None:
        return False
    if value.strip() != VERSION:
        raise UnsupportedVersion("the version of tus that is spoken here is 1.0.0")
    return True


def creation(headers: Headers) -> Creation:
    """What a ``POST`` creates.

    :raises BadRequest: a field is missing, or has a value that cannot be
    """
    length = number_in(headers, b"upload-length")
    deferred = headers.get(b"upload-defer-length")
    concat, parts = _concat(headers.get(b"upload-concat", b"").strip())
    if deferred is not None and (deferred.strip() != b"1" or length is not None):
        raise BadRequest(
            "Upload-Defer-Length must be 1, and without Upload-Length", param="upload-defer-length"
        )
    if concat is Concat.FINAL:
        if length is not None:  # concatenation: "MUST NOT include the Upload-Length header"
            raise BadRequest("a final upload has no Upload-Length of its own", param="upload-length")
        if content_length_of(headers):
            raise BadRequest("a final upload has no content of its own", param="upload-concat")
    elif length is None and deferred is None:
        raise BadRequest("Upload-Length is missing", param="upload-length", code="missing_parameter")
    return Creation(
        UploadDialect.TUS,
        None,
        length,
        _checksum(headers),
        None,
        _metadata(headers.get(b"upload-metadata", b"")),
        concat,
        parts,
    )


def append(headers: Headers) -> Append:
    """What a ``PATCH`` appends.

    :raises BadRequest: a field is missing, or has a value that cannot be
    :raises UnsupportedMedia: it is of another type than the protocol wants
    """
    check_type(headers)
    offset = number_in(headers, b"upload-offset")
    if offset is None:
        raise BadRequest("Upload-Offset is missing", param="upload-offset", code="missing_parameter")
    return Append(
        offset,
        None,
        number_in(headers, b"upload-length"),  # creation: of a deferred length, once it is known
        _checksum(headers),
    )


def check_type(headers: Headers) -> None:
    """:raises UnsupportedMedia: the content is of another type than the protocol wants"""
    if headers.get(b"content-type", b"").strip().lower() != MEDIA_TYPE:
        raise UnsupportedMedia(f"an append must be of the type {MEDIA_TYPE.decode()}")


def state(offset: int, length: int | None, *, concat: Concat, parts: tuple[str, ...]) -> Fields:
    """The fields with which ``HEAD`` is answered; ``parts``: where those of a final upload are."""
    fields = [(b"upload-offset", b"%d" % offset)]
    if length is None:
        fields.append((b"upload-defer-length", b"1"))
    else:
        fields.append((b"upload-length", b"%d" % length))
    if concat is Concat.PARTIAL:
        fields.append((b"upload-concat", b"partial"))
    elif concat is Concat.FINAL:
        fields.append((b"upload-concat", b"final;" + " ".join(parts).encode()))
    return fields


def expires(moment: float) -> tuple[bytes, bytes]:
    """``Upload-Expires``; Unix seconds."""
    return (b"upload-expires", formatdate(moment, usegmt=True).encode())


def abilities(max_size: int) -> Fields:
    """The fields with which ``OPTIONS`` is answered."""
    return [
        RESUMABLE,
        (b"tus-version", VERSION),
        (b"tus-extension", _EXTENSIONS),
        (b"tus-max-size", b"%d" % max_size),
        (b"tus-checksum-algorithm", TUS_ALGORITHMS),
    ]


def _checksum(headers: Headers) -> Digest | None:
    if b"upload-checksum" in headers.get(b"trailer", b"").lower():  # the content would be taken unverified
        raise BadRequest("Upload-Checksum is not read from a trailer here", param="upload-checksum")
    value = headers.get(b"upload-checksum")
    return None if value is None else from_checksum(value)


def _concat(value: bytes) -> tuple[Concat, tuple[str, ...]]:
    if not value:
        return Concat.NONE, ()
    if value == b"partial":
        return Concat.PARTIAL, ()
    kind, _, urls = value.decode("latin-1").partition(";")
    try:
        parts = tuple(urlsplit(url).path.rpartition("/")[2] for url in urls.split())
    except ValueError:  # "http://[" is no URL
        parts = ()
    if kind != "final" or not parts or len(parts) > MAX_PARTS:
        message = f"Upload-Concat must be partial, or final; and 1 to {MAX_PARTS} URLs"
        raise BadRequest(message, param="upload-concat")
    return Concat.FINAL, parts


def _metadata(value: bytes) -> dict[str, str]:
    """``Upload-Metadata``: pairs of a key and a Base64 value, which may be empty."""
    found: dict[str, str] = {}
    if not value.strip():
        return found
    for pair in value.decode("latin-1").split(","):
        key, _, encoded = pair.strip().partition(" ")
        if key in found:  # creation: "All keys MUST be unique"
            raise BadRequest("Upload-Metadata has a key twice", param="upload-metadata")
        try:
            found[key] = base64.b64decode(encoded.strip(), validate=True).decode()
        except ValueError:  # binascii.Error is one, and so is what is not ASCII
            raise BadRequest(
                "Upload-Metadata holds a value that is no Base64 of UTF-8", param="upload-metadata"
            ) from None
        if not key or len(found) > MAX_METADATA:
            raise BadRequest("Upload-Metadata has a pair without a key, or too many", param="upload-metadata")
    return found
