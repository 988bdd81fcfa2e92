"""What sections are made of: their common form, and the types of their values, which carry bounds."""

from __future__ import annotations

from typing import Annotated

import msgspec

Seconds = Annotated[float, msgspec.Meta(ge=0)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
OutputTokens = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]  # what a call may ask for
Bytes = Annotated[int, msgspec.Meta(ge=1)]
CachedSeconds = Annotated[float, msgspec.Meta(ge=0, le=2_592_000)]  # 30 days
NotNegative = Annotated[int, msgspec.Meta(ge=0)]
Amount = Annotated[float, msgspec.Meta(ge=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Neighbour = Annotated[str, msgspec.Meta(pattern=r"^(numbers|[A-Za-z_][\w.]*:[A-Za-z_]\w*)$")]
HalfToOne = Annotated[float, msgspec.Meta(ge=0.5, le=1)]
Above = Annotated[float, msgspec.Meta(gt=0)]
Dollars = Annotated[float, msgspec.Meta(ge=0)]
Within = Annotated[float, msgspec.Meta(gt=0, lt=1)]
Times = Annotated[float, msgspec.Meta(ge=1)]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A section of the file; keys that it does not know are refused."""
