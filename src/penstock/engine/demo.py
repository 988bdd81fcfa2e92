"""The model that comes with the package: a few million parameters, for a first answer without keys or network."""

from __future__ import annotations

from pathlib import Path


def path() -> Path:
    """Its directory; ``README.md`` in it is its model card."""
    return Path(__file__).parent / "models" / "demo"
