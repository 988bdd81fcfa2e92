"""A request's body: JSON of a certain shape, or the caller's mistake."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec

from penstock.errors import BadRequest
from penstock.wire.not_json import NOT_JSON, why_not_json

_T = TypeVar("_T")


def decoded(body: bytes, decode: Callable[[bytes], _T]) -> _T:
    """What ``decode`` makes of a body.

    :param decode: of msgspec
    :raises BadRequest: it is no JSON (``invalid_json``), or of another shape, with the member in which that is
    """
    try:
        return decode(body)
    except msgspec.ValidationError as error:
        text = str(error)
        raise BadRequest(text, param=text.rpartition("at `$.")[2].rstrip("`") or None) from None
    except NOT_JSON as error:
        raise BadRequest(why_not_json(body, error), code="invalid_json") from None


__all__ = ["decoded"]
