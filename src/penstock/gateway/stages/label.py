"""What a caller says a call is for: the ledger adds up by it."""

from __future__ import annotations

from penstock.messages import Headers

MAX_LABEL = 64  # characters; what is longer is cut


def label_of(headers: Headers) -> str:
    """The caller's own word for what this is done for, a feature or a user of its own; empty: it says none."""
    value = headers.get(b"penstock-label")
    return "" if value is None else value.decode("utf-8", "replace").strip()[:MAX_LABEL]
