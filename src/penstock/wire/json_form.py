"""Does an answer have the form that its call asks for?

The parts of JSON Schema (2020-12) that models are asked for: types, members, items, alternatives, constants, bounds and
references within the schema.  What is not known here counts as kept, and so do patterns: a caller's regular expression
could take for ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from penstock.messages import JSON
from penstock.wire.not_json import NOT_JSON

MAX_DEPTH = 64  # of references and values within each other, below which everything fits
MAX_STEPS = 20_000  # comparisons, after which a value counts as fitting

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}
_value = msgspec.json.Decoder().decode


class Form:
    """What a call demands of its answer's text: JSON, perhaps of a schema."""

    def __init__(self, schema: JSON) -> None:
        self._schema = schema  # None: any object
        self._steps = self._depth = 0

    def __repr__(self) -> str:
        return f"<Form {'of any object' if self._schema is None else 'of a schema'}>"

    def is_kept(self, text: str) -> bool:
        """Whether this text is JSON of the form."""
        try:
            value = _value(text)
        except NOT_JSON:
            return False
        self._steps = 0
        return isinstance(value, dict) if self._schema is None else self._fits(self._schema, value)

    def _fits(self, schema: JSON, value: JSON) -> bool:
        if self._depth >= MAX_DEPTH:
            return True
        self._depth += 1
        try:
            return self._compare(schema, value)
        finally:
            self._depth -= 1

    def _compare(self, schema: JSON, value: JSON) -> bool:
        self._steps += 1
        if not isinstance(schema, dict) or self._steps > MAX_STEPS:
            return schema is not False
        if isinstance(reference := schema.get("$ref"), str):
            found = self._referred(reference)
            if found is not None and not self._fits(found, value):
                return False
        return (
            self._is_of_type(schema.get("type"), value)
            and ("const" not in schema or _same(schema["const"], value))
            and (not isinstance(schema.get("enum"), list) or any(_same(one, value) for one in schema["enum"]))
            and self._fits_alternatives(schema, value)
            and (not isinstance(value, dict) or self._fits_object(schema, value))
            and (not isinstance(value, list) or self._fits_array(schema, value))
            and (not isinstance(value, str) or _within(schema, len(value), "minLength", "maxLength"))
            and (not _is_number(value) or _within(schema, value, "minimum", "maximum"))
        )

    @staticmethod
    def _is_of_type(kinds: JSON, value: JSON) -> bool:
        names = [kinds] if isinstance(kinds, str) else kinds
        if not isinstance(names, list) or not all(name in _TYPES for name in names if isinstance(name, str)):
            return True
        if isinstance(value, bool):
            return "boolean" in names
        if isinstance(value, float) and value.is_integer() and "integer" in names:
            return True
        return any(isinstance(value, _TYPES[name]) for name in names if isinstance(name, str))

    def _fits_alternatives(self, schema: Mapping[str, Any], value: JSON) -> bool:
        for name in ("anyOf", "oneOf"):
            options = schema.get(name)
            if isinstance(options, list) and not any(self._fits(option, value) for option in options):
                return False
        every = schema.get("allOf")
        return not isinstance(every, list) or all(self._fits(one, value) for one in every)

    def _fits_object(self, schema: Mapping[str, Any], value: dict[str, JSON]) -> bool:
        members = schema.get("properties")
        members = members if isinstance(members, dict) else {}
        required = schema.get("required")
        if isinstance(required, list) and any(name not in value for name in required):
            return False
        rest = schema.get("additionalProperties", True)
        return all(self._fits(members.get(name, rest), one) for name, one in value.items())

    def _fits_array(self, schema: Mapping[str, Any], value: list[JSON]) -> bool:
        if not _within(schema, len(value), "minItems", "maxItems"):
            return False
        return all(self._fits(schema.get("items", True), one) for one in value)

    def _referred(self, reference: str) -> JSON:
        """What ``#/$defs/name`` names in the schema; None: nothing that is known."""
        found = self._schema
        for name in reference.removeprefix("#").split("/")[1:]:
            found = found.get(name) if isinstance(found, dict) else None
        return found if reference.startswith("#") else None


def form_of(fields: Mapping[str, msgspec.Raw]) -> Form | None:
    """What a call demands; None: no form."""
    for name, inner in (
        ("response_format", ""),
        ("text", "format"),
        ("output_config", "format"),
        ("output_format", ""),
    ):
        try:
            told = _value(fields[name]) if name in fields else None
        except NOT_JSON:
            continue
        if inner and isinstance(told, dict):
            told = told.get(inner)
        if not isinstance(told, dict):
            continue
        if told.get("type") == "json_object":
            return Form(None)
        if told.get("type") == "json_schema":
            own = told.get("json_schema")
            return Form((own if isinstance(own, dict) else told).get("schema"))
    return None


def _within(schema: Mapping[str, Any], size: float, least: str, most: str) -> bool:
    low: Any = schema.get(least)
    high: Any = schema.get(most)
    return (not _is_number(low) or size >= low) and (not _is_number(high) or size <= high)


def _is_number(value: JSON) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _same(one: JSON, other: JSON) -> bool:
    """Equal, and of one kind: true is not 1."""
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)
