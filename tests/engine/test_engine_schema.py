"""What a schema may say before it gets to a library that would not survive it."""

from __future__ import annotations

import json

import pytest

from penstock.engine.schema import MAX_DEPTH, compiled
from penstock.errors import BadRequest

TREE = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "nodes": {"type": "array", "items": {"$ref": "#/$defs/node"}},
            },
            "required": ["name"],
            "additionalProperties": False,
        }
    },
    "$ref": "#/$defs/node",
}
GOOD = [
    {},
    {"type": "object"},
    {"type": ["string", "null"], "maxLength": 4},
    {"enum": ["yes", 1, None]},
    {"const": {"a": [1, 2]}},
    {"anyOf": [{"type": "integer"}, {"type": "boolean"}]},
    {"type": "array", "items": {"type": "number"}, "minItems": 1, "maxItems": 2},
    {
        "type": "object",
        "properties": {"a": {"type": "integer"}},
        "required": ["a"],
        "additionalProperties": False,
    },
    {"type": "object", "additionalProperties": {"type": "string"}},
    {"type": "object", "properties": {"a": {}}, "required": ["a"]},
    TREE,
]


@pytest.mark.parametrize("schema", GOOD)
def test_what_compiles_stays_as_it_is(schema):
    assert json.loads(compiled(schema)) == schema


def test_what_only_describes_is_left_out():
    described = {"type": "string", "title": "T", "description": "D", "format": "date", "default": "x"}
    assert json.loads(compiled(described)) == {"type": "string"}


def deep(levels):
    schema = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nonsense"},
        {"type": []},
        {"type": 5},
        {"pattern": "a*"},
        {"oneOf": [{}]},
        {"anyOf": []},
        {"enum": []},
        {"items": [{}]},
        {"items": 5},
        {"properties": []},
        {"required": ["a"]},
        {"required": "a"},
        {"minLength": 5, "maxLength": 4},
        {"minItems": -1},
        {"maxItems": 10**9},
        {"minLength": True},
        {"$ref": "#/$defs/none"},
        {"$ref": "https://example.org/schema"},
        {"if": {}},
        deep(MAX_DEPTH + 1),
        {"properties": {str(number): {} for number in range(3_000)}},
    ],
    ids=lambda schema: json.dumps(schema)[:40],
)
def test_what_might_not_is_refused(schema):
    with pytest.raises(BadRequest) as caught:
        compiled(schema)
    assert caught.value.param == "response_format"
