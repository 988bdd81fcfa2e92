"""Penstock: a gateway for LLM APIs that is cheap to run and never loses or pays twice for a token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from penstock.client import async_http_client, http_client

__version__ = "0.1.0"

__all__ = ["__version__", "async_http_client", "http_client"]


def __getattr__(name: str) -> Any:
    """The client's functions, imported when they are asked for: its libraries are an extra."""
    if name in ("async_http_client", "http_client"):
        from penstock import client  # noqa: PLC0415

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
