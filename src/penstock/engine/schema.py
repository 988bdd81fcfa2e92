"""Which JSON Schemas a local model's answer can be ruled by.

A library makes a grammar of a schema, and passes over what it does not know: the answer would keep to less than was
asked for.  So only what every library rules by gets there, and all else is the caller's to change.  What only describes (titles, defaults, formats) is left out.
"""

from __future__ import annotations

import msgspec

from penstock.errors import BadRequest
from penstock.messages import JSON

MAX_DEPTH = 32
MAX_PARTS = 2_000

_TYPES = frozenset({"object", "array", "string", "integer", "number", "boolean", "null"})
_DESCRIBES = frozenset(
    {
        *("$schema", "$id", "$comment", "title", "description", "default", "examples", "deprecated"),
        *("readOnly", "writeOnly", "format", "strict"),
    }
)
_DEFINITIONS = ("$defs", "definitions")
_PAIRS = (("minLength", "maxLength"), ("minItems", "maxItems"))


def compiled(schema: JSON, param: str = "response_format") -> str:
    """The schema as JSON text, as the library gets it.

    :param param: the member that says it
    :raises BadRequest: it says something that cannot be ruled
    """
    try:
        return msgspec.json.encode(_Reader(schema).read(schema, 0)).decode()
    except _CannotBeRuledError as error:
        raise BadRequest(f"the schema cannot be used: {error}", param=param) from None


class _CannotBeRuledError(Exception):
    """Why not."""


class _Reader:
    """Reads one schema; parts of it may refer to each other."""

    def __init__(self, root: JSON) -> None:
        self._names: set[str] = set()
        for section in _DEFINITIONS:
            found = root.get(section) if isinstance(root, dict) else None
            if isinstance(found, dict):
                self._names |= {f"#/{section}/{name}" for name in found}
        self._left = MAX_PARTS

    def __repr__(self) -> str:
        return f"<_Reader {len(self._names)} definitions>"

    def read(self, schema: JSON, depth: int) -> JSON:
        self._left -= 1
        if depth > MAX_DEPTH or self._left < 0:
            raise _CannotBeRuledError(f"it is deeper than {MAX_DEPTH}, or has more than {MAX_PARTS} parts")
        if schema is True or schema == {}:
            return {}
        if not isinstance(schema, dict):
            raise _CannotBeRuledError("a part of it is no object")
        read: dict[str, JSON] = {}
        for key, value in schema.items():
            if key not in _DESCRIBES:
                read[key] = self._member(key, value, depth)
        _check_pairs(read)
        missing = set(read.get("required", ())) - set(read.get("properties", ()))
        if missing:
            raise _CannotBeRuledError(f"required names {min(missing)!r}, which is not in properties")
        return read

    def _member(self, key: str, value: JSON, depth: int) -> JSON:
        if key == "type":
            return _type(value)
        if key in {"properties", *_DEFINITIONS}:
            if not isinstance(value, dict):
                raise _CannotBeRuledError(f"{key} is no object")
            return {name: self.read(part, depth + 1) for name, part in value.items()}
        if key == "required":
            if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
                raise _CannotBeRuledError("required is no list of names")
            return value
        if key == "additionalProperties":
            return value if isinstance(value, bool) else self.read(value, depth + 1)
        if key == "items":
            return self.read(value, depth + 1)
        if key == "anyOf":
            if not isinstance(value, list) or not value:
                raise _CannotBeRuledError("anyOf is no list of schemas")
            return [self.read(part, depth + 1) for part in value]
        if key == "enum":
            if not isinstance(value, list) or not value:
                raise _CannotBeRuledError("enum is no list of values")
            return value
        if key == "const":
            return value
        if key in {"minLength", "maxLength", "minItems", "maxItems"}:
            if type(value) is not int or not 0 <= value <= 10_000:
                raise _CannotBeRuledError(f"{key} is no number from 0 to 10000")
            return value
        if key == "$ref":
            if value not in self._names:
                raise _CannotBeRuledError(f"$ref must name one of its own definitions, and {value!r} is none")
            return value
        raise _CannotBeRuledError(f"{key} is not supported")


def _type(value: JSON) -> JSON:
    names = value if isinstance(value, list) else [value]
    if not names or not all(isinstance(name, str) and name in _TYPES for name in names):
        raise _CannotBeRuledError(f"{value!r} is no type")
    return value


def _check_pairs(schema: dict[str, JSON]) -> None:
    for least, most in _PAIRS:
        if least in schema and most in schema and schema[least] > schema[most]:
            raise _CannotBeRuledError(f"{least} is more than {most}")
