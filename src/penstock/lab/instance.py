"""An example value for a JSON Schema: the same one every time.

Covers what tools and structured outputs use: types, ``properties``, ``required``, ``items``, ``enum``,
``const``, ``$ref``, ``anyOf``/``oneOf``/``allOf``, the bounds of numbers, strings and arrays, and the usual
formats.  ``pattern`` is beyond it: a string with a pattern gets an ordinary word.
"""

from __future__ import annotations

import math
from typing import Any

from penstock.errors import BadRequest
from penstock.lab.text import tokens
from penstock.messages import JSON

_FORMATS = {
    "date": "2024-06-11",
    "date-time": "2024-06-11T09:30:00Z",
    "time": "09:30:00Z",
    "duration": "P3D",
    "email": "wota@example.com",
    "hostname": "sim.example.com",
    "ipv4": "192.0.2.7",
    "ipv6": "2001:db8::7",
    "uri": "https://example.com/wota",
    "url": "https://example.com/wota",
    "uuid": "6f9619ff-8b86-4011-b42d-00c04fc964ff",
}
_DEEPEST = 12  # a schema that refers to itself ends here: what is not required is left out before


def instance(schema: JSON, digest: int) -> JSON:
    """A value that ``schema`` admits; its free words depend on ``digest``.

    :raises BadRequest: it is no schema, or no finite value fits it
    """
    try:
        return _Maker(schema, digest).value(schema, 0)
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        # Schemas come from callers, and may hold anything anywhere.
        raise BadRequest("Invalid schema: nothing fits it.", param="schema", code="invalid_schema") from error


class _Maker:
    __slots__ = ("_digest", "_root", "_words")

    def __init__(self, root: JSON, digest: int) -> None:
        self._root = root
        self._digest = digest
        self._words = 0

    def value(self, schema: JSON, depth: int) -> JSON:
        if not isinstance(schema, dict):  # true: anything goes
            return self._word()
        schema = self._resolved(schema)
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return schema["enum"][self._digest % len(schema["enum"])]
        for name in ("anyOf", "oneOf"):
            if schema.get(name):
                options = schema[name]
                null = next((one for one in options if _is_null(one)), None)
                if depth >= _DEEPEST and null is not None:
                    return None
                first = next((one for one in options if not _is_null(one)), options[0])
                rest = {key: value for key, value in schema.items() if key != name}
                return self.value(_merged(rest, self._resolved(first)), depth)
        kind = schema.get("type")
        if isinstance(kind, list):
            if depth >= _DEEPEST and "null" in kind:
                return None
            kind = next((one for one in kind if one != "null"), "null")
        if kind is None:
            kind = "object" if "properties" in schema else "array" if "items" in schema else "string"
        if kind == "object":
            return self._object(schema, depth)
        if kind == "array":
            return self._array(schema, depth)
        if kind == "string":
            return self._string(schema)
        if kind in {"integer", "number"}:
            return _number(schema, whole=kind == "integer")
        return {"boolean": True}.get(kind)

    def _resolved(self, schema: dict[str, Any]) -> dict[str, Any]:
        """Follow ``$ref`` within the document and fold ``allOf``."""
        for _ in range(32):  # a chain of references that never ends is given up
            reference = schema.get("$ref")
            if not isinstance(reference, str):
                break
            target: JSON = self._root
            for step in reference.lstrip("#").split("/")[1:]:
                name = step.replace("~1", "/").replace("~0", "~")
                target = target.get(name, {}) if isinstance(target, dict) else {}
            rest = {key: value for key, value in schema.items() if key != "$ref"}
            schema = _merged(rest, target) if isinstance(target, dict) else rest
        for part in schema.get("allOf") or ():
            rest = {key: value for key, value in schema.items() if key != "allOf"}
            schema = _merged(rest, self._resolved(part)) if isinstance(part, dict) else rest
        return schema

    def _object(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        properties = schema.get("properties") or {}
        required = schema.get("required") or ()
        value = {
            name: self.value(inner, depth + 1)
            for name, inner in properties.items()
            if name in required or depth < _DEEPEST // 2
        }
        for name in required:
            value.setdefault(name, self._word())
        extra = schema.get("additionalProperties")
        if not properties and isinstance(extra, dict) and depth < _DEEPEST // 2:
            value[self._word()] = self.value(extra, depth + 1)
        return value

    def _array(self, schema: dict[str, Any], depth: int) -> list[Any]:
        fixed = [self.value(inner, depth + 1) for inner in schema.get("prefixItems") or ()]
        least = schema.get("minItems") or (0 if depth >= _DEEPEST // 2 else min(2, schema.get("maxItems", 2)))
        items = schema.get("items", True)
        while items is not False and len(fixed) < least:
            fixed.append(self.value(items, depth + 1))
        return fixed

    def _string(self, schema: dict[str, Any]) -> str:
        known = _FORMATS.get(schema.get("format", ""))
        if known is not None:
            return known
        text = self._word()
        while len(text) < schema.get("minLength", 0):
            text += " " + self._word()
        return text[: schema.get("maxLength", len(text))]

    def _word(self) -> str:
        self._words += 1
        return tokens(self._digest, self._words - 1, self._words)[0].decode().strip()


def _is_null(schema: JSON) -> bool:
    return isinstance(schema, dict) and schema.get("type") == "null"


def _merged(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    merged = second | first
    if "properties" in first and "properties" in second:
        merged["properties"] = second["properties"] | first["properties"]
    if "required" in first and "required" in second:
        merged["required"] = [*second["required"], *first["required"]]
    return merged


def _number(schema: dict[str, Any], *, whole: bool) -> float:
    low, high = schema.get("minimum"), schema.get("maximum")
    step = schema.get("multipleOf") or (1 if whole else 0.5)
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    if above is not None:
        low = above + (step if whole else min(step, ((below or high or above + 1) - above) / 2))
    if below is not None and low is None:
        low = below - step
    if low is None:
        low = min(7 if whole else 0.5, high) if high is not None else 7 if whole else 0.5
    if schema.get("multipleOf"):
        low = math.ceil(low / step) * step
    return math.ceil(low) if whole else low
