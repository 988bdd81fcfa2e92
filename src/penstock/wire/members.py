"""Reading a request's JSON member by member, so that nothing in it is overlooked.

A translation that met a member it does not know, and went on, would answer another question than the
caller asked.  So each object is read through :class:`Members`, which remembers what has not been read:
``done`` refuses the rest by name.  A member that is null counts as absent, as both APIs have it.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from penstock.errors import BadRequest, Untranslatable
from penstock.messages import JSON
from penstock.wire._json_values import check_asked
from penstock.wire.not_json import NOT_JSON, why_not_json

_decode = msgspec.json.Decoder(dict[str, JSON]).decode
encode = msgspec.json.Encoder().encode


class Members:
    """The members of one JSON object; ``path`` is where it stands, as errors name it."""

    __slots__ = ("_left", "path")

    def __init__(self, value: JSON, path: str) -> None:
        if not isinstance(value, dict):
            raise BadRequest(f"{path} must be an object", param=path, code="invalid_type")
        self._left: dict[str, JSON] = value.copy()
        self.path = path

    def __repr__(self) -> str:
        return f"<Members of {self.path or 'the body'}, unread: {', '.join(self._left) or 'none'}>"

    def where(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name

    def raw(self, name: str) -> JSON:
        """Whatever stands there; None if nothing does."""
        return self._left.pop(name, None)

    def string(self, name: str) -> str:
        """A string; empty if absent."""
        value = self.raw(name)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise self._wrong(name, "a string")
        return value

    def required_string(self, name: str) -> str:
        if self._left.get(name) is None:
            raise BadRequest(
                f"{self.where(name)} is missing", param=self.where(name), code="missing_parameter"
            )
        return self.string(name)

    def integer(self, name: str) -> int | None:
        value = self.raw(name)
        if value is None or (isinstance(value, int) and not isinstance(value, bool)):
            return value
        if isinstance(value, float) and value.is_integer():
            return int(value)
        raise self._wrong(name, "an integer")

    def number(self, name: str) -> float | None:
        value = self.raw(name)
        if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
            return value
        raise self._wrong(name, "a number")

    def boolean(self, name: str) -> bool | None:
        value = self.raw(name)
        if value is None or isinstance(value, bool):
            return value
        raise self._wrong(name, "a boolean")

    def array(self, name: str) -> list[JSON]:
        """A list; empty if absent."""
        value = self.raw(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self._wrong(name, "an array")
        return value

    def object(self, name: str) -> Members | None:
        value = self.raw(name)
        return None if value is None else Members(value, self.where(name))

    def objects(self, name: str) -> Iterable[Members]:
        """The objects of an array."""
        for index, value in enumerate(self.array(name)):
            yield Members(value, f"{self.where(name)}[{index}]")

    def strings(self, name: str) -> tuple[str, ...]:
        """One string, or an array of them."""
        value = self.raw(name)
        if value is None:
            return ()
        if isinstance(value, str):
            return (value,)
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        raise self._wrong(name, "a string or an array of strings")

    def leave_out(self, names: Iterable[str]) -> None:
        """Members that say nothing about the answer; the reason for each stands in ``wire.left_out``."""
        for name in names:
            self._left.pop(name, None)

    def only(self, name: str, *allowed: JSON, why: str) -> None:
        """A member of which the translation can honour only these values."""
        value = self.raw(name)
        if value is not None and value not in allowed:
            raise Untranslatable(f"{self.where(name)} cannot be translated: {why}", param=self.where(name))

    def refuse(self, name: str, why: str) -> Untranslatable:
        """The error for a member whose value cannot be translated."""
        return Untranslatable(f"{self.where(name)} cannot be translated: {why}", param=self.where(name))

    def done(self) -> None:
        """All has been read.

        :raises Untranslatable: something has not: no other API is known to have it
        """
        for name, value in self._left.items():
            if value is not None:
                raise Untranslatable(
                    f"{self.where(name)} cannot be translated for the upstream that answers this model",
                    param=self.where(name),
                )

    def _wrong(self, name: str, shape: str) -> BadRequest:
        where = self.where(name)
        return BadRequest(f"{where} must be {shape}", param=where, code="invalid_type")


def body_of(body: bytes) -> Members:
    """The members of a whole body.

    :raises BadRequest: it is not JSON, or no object, or holds too many values
    """
    check_asked(body)
    try:
        return Members(_decode(body), "")
    except NOT_JSON as error:
        raise BadRequest(why_not_json(body, error), code="invalid_json") from None
