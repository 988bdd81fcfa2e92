"""Objects of a request for a response, read so that nothing in them is overlooked: what is not known is refused by name."""

from __future__ import annotations

import re
from typing import Any, Final, TypeVar

import msgspec

from penstock.errors import BadRequest, Untranslatable

Object = dict[str, Any]


class Strict(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    pass


_T = TypeVar("_T")
_PATH: Final = re.compile(r"^(?P<what>.*?)(?: - at `\$(?P<path>.*)`)?$", re.DOTALL)
_UNKNOWN: Final = re.compile(r"unknown field `(?P<name>[^`]*)`")
_MISSING: Final = re.compile(r"missing required field `(?P<name>[^`]*)`")


def converted(kind: type[_T], value: Object, where: str) -> _T:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise refusal(error, where) from None


def no_equivalent(where: str) -> Untranslatable:
    return Untranslatable(f"the upstream of this model has no equivalent of {where}", param=where)


def refusal(error: msgspec.ValidationError, where: str) -> BadRequest:
    """A refusal that names the member in the caller's words, not in those of the decoder."""
    found = _PATH.match(str(error))
    what, path = (found["what"], found["path"] or "") if found else (str(error), "")
    at = (where + path).lstrip(".")
    if unknown := _UNKNOWN.search(what):
        return no_equivalent(f"{at}.{unknown['name']}".lstrip("."))
    if missing := _MISSING.search(what):
        name = f"{at}.{missing['name']}".lstrip(".")
        return BadRequest(f"the body must have {name}", param=name, code="missing_parameter")
    return BadRequest(f"{at or 'the body'}: {what}", param=at or None, code="invalid_type")
