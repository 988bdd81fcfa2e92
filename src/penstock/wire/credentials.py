"""How a key travels: ``Authorization: Bearer`` (OpenAI) or ``x-api-key`` (Anthropic)."""

from __future__ import annotations

from collections.abc import Iterable

from penstock.messages import Dialect, Headers

ACCOUNTS = (b"openai-organization", b"openai-project")
"""What goes on with a caller's own key, and never without it."""


def key_in(headers: Headers) -> bytes:
    """The key that a caller presents, in either form; empty when there is none."""
    return bearer(headers.get(b"authorization", b"")) or headers.get(b"x-api-key", b"")


def bearer(value: bytes) -> bytes:
    """The key in an ``Authorization`` field's value; empty for any other scheme than Bearer."""
    scheme, _, key = value.partition(b" ")
    return key.strip() if scheme.lower() == b"bearer" else b""


def field_for(key: bytes, dialect: Dialect) -> bytes:
    """The header line, without its end, that presents a key to a server of this dialect."""
    return b"x-api-key: " + key if dialect is Dialect.ANTHROPIC else bearer_field(key)


def bearer_field(key: bytes) -> bytes:
    return b"authorization: Bearer " + key


def account_lines(headers: Headers, configured: Iterable[str]) -> bytes:
    """The header lines by which a caller says for which of its accounts at OpenAI its own key is used.

    :param configured: names of fields that the upstream gets anyhow
    """
    said = [name for name in ACCOUNTS if name in headers]
    if not said:
        return b""
    taken = {name.lower().encode() for name in configured}
    return b"".join(name + b": " + headers[name] + b"\r\n" for name in said if name not in taken)
