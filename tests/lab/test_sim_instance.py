from __future__ import annotations

import datetime as dt
import enum
import uuid
from typing import Annotated, Literal

import msgspec
import pytest
from pydantic import BaseModel, Field, TypeAdapter

from penstock.errors import BadRequest
from penstock.lab.instance import instance


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Address(BaseModel):
    street: str = Field(min_length=20, max_length=40)
    zip: Annotated[str, Field(max_length=3)]


class Person(BaseModel):
    name: str
    age: int = Field(ge=18, lt=19)
    height: float = Field(gt=1, lt=1.25)
    odd: int = Field(multiple_of=7, ge=50)
    colour: Colour
    kind: Literal["cat", "dog"]
    addresses: list[Address] = Field(min_length=3, max_length=4)
    few: list[int] = Field(max_length=1)
    nickname: str | None
    born: dt.date
    seen: dt.datetime
    id: uuid.UUID
    pair: tuple[int, str]
    scores: dict[str, float]
    either: int | str
    yes: bool
    nothing: None


class Node(BaseModel):
    value: int
    next: Node | None = None
    children: list[Node] = []


@pytest.mark.parametrize(
    "type_", [Person, Node, list[Address], dict[str, Node], Colour, int, str | None, bool]
)
@pytest.mark.parametrize("digest", [0, 0x0123456789ABCDEF, 2**64 - 1])
def test_a_value_fits_the_schema_that_pydantic_made(type_, digest):
    adapter = TypeAdapter(type_)
    value = instance(adapter.json_schema(), digest)
    adapter.validate_json(msgspec.json.encode(value), strict=False)


@pytest.mark.parametrize(
    ("schema", "fits"),
    [
        ({}, lambda value: isinstance(value, str)),
        (True, lambda value: isinstance(value, str)),
        ({"const": 5}, lambda value: value == 5),
        ({"type": "null"}, lambda value: value is None),
        ({"type": ["null", "integer"]}, lambda value: isinstance(value, int)),
        ({"type": "integer", "maximum": -3}, lambda value: value <= -3),
        ({"type": "integer", "exclusiveMaximum": 3}, lambda value: value < 3),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 0.1}, lambda value: 0 < value <= 0.1),
        (
            {"type": "array", "prefixItems": [{"type": "integer"}], "items": False},
            lambda value: len(value) == 1,
        ),
        (
            {"allOf": [{"properties": {"a": {"type": "integer"}}}, {"required": ["a", "b"]}]},
            lambda value: isinstance(value["a"], int) and "b" in value,
        ),
        (
            {"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "boolean"}}},
            lambda value: value is True,
        ),
    ],
)
def test_corners(schema, fits):
    assert fits(instance(schema, 3))


def test_a_value_is_the_same_every_time_and_another_for_another_prompt():
    schema = Person.model_json_schema()
    assert instance(schema, 5) == instance(schema, 5)
    assert instance(schema, 5) != instance(schema, 6)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": [1]},
        {"type": "array", "minItems": "two", "items": {}},
        {"enum": 5},
        {"type": "string", "minLength": "x"},
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},  # no finite value
        {"allOf": 3},
        {"type": "integer", "multipleOf": 0.0, "minimum": []},
    ],
)
def test_what_is_no_schema_is_the_callers_mistake(schema):
    with pytest.raises(BadRequest):
        instance(schema, 1)
