"""Digests of contents: RFC 9530's fields and tus's, and the comparison."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from typing import TYPE_CHECKING

import msgspec

from penstock.errors import BadRequest

if TYPE_CHECKING:
    from hashlib import _Hash

_MEMBER = re.compile(r"\s*([a-z*][a-z0-9_.*-]*)\s*=\s*:([A-Za-z0-9+/=]*):\s*")
_NAMES = {"sha-512": "sha512", "sha-256": "sha256"}  # RFC 9530, the active ones; the stronger first
_TUS = ("sha256", "sha1")

TUS_ALGORITHMS = ",".join(_TUS).encode()


class Digest(msgspec.Struct, frozen=True):
    """What a content must come to; ``algorithm`` as ``hashlib`` calls it."""

    algorithm: str
    value: bytes

    def new(self) -> _Hash:
        """A hash of this kind, to be fed."""
        return hashlib.new(self.algorithm, usedforsecurity=False)

    def fits(self, computed: bytes) -> bool:
        return hmac.compare_digest(computed, self.value)


def from_field(name: str, value: bytes) -> Digest | None:
    """The strongest digest of a ``Content-Digest`` or ``Repr-Digest`` field that is understood here.

    None: there is none; RFC 9530, 2, lets unknown algorithms be ignored.

    :raises BadRequest: it is no such field
    """
    found: dict[str, bytes] = {}
    for member in value.decode("latin-1").split(","):
        match = _MEMBER.fullmatch(member)
        if match is None:
            raise BadRequest(f"{name} must be like sha-256=:BASE64:", param=name)
        found[match[1]] = _decoded(match[2], name)
    for known, algorithm in _NAMES.items():
        if known in found:
            return _checked(algorithm, found[known], name)
    return None


def from_checksum(value: bytes) -> Digest:
    """The digest of a tus ``Upload-Checksum``.

    :raises BadRequest: it is none, or of an algorithm that is not understood here
    """
    algorithm, _, encoded = value.decode("latin-1").strip().partition(" ")
    if algorithm not in _TUS:
        raise BadRequest(f"Upload-Checksum must be of {' or '.join(_TUS)}", param="upload-checksum")
    return _checked(algorithm, _decoded(encoded.strip(), "upload-checksum"), "upload-checksum")


def _decoded(encoded: str, name: str) -> bytes:
    try:
        return base64.b64decode(encoded, validate=True)
    except ValueError:  # binascii.Error is one, and so is what is not ASCII
        raise BadRequest(f"{name} holds something that is not Base64", param=name) from None


def _checked(algorithm: str, value: bytes, name: str) -> Digest:
    size = hashlib.new(algorithm, usedforsecurity=False).digest_size
    if len(value) != size:
        raise BadRequest(f"{name}: a {algorithm} has {size} bytes", param=name)
    return Digest(algorithm, value)
