"""Whether an answer has the form that its call asks for."""

from __future__ import annotations

import json

import msgspec
import pytest

from penstock.wire.json_form import Form, form_of

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1},
        "age": {"type": "integer", "minimum": 0},
        "kind": {"enum": ["friend", "foe"]},
        "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 2},
        "boss": {"anyOf": [{"$ref": "#/$defs/boss"}, {"type": "null"}]},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
    "$defs": {"boss": {"type": "object", "required": ["name"]}},
}


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ({"name": "Ann", "age": 3}, True),
        ({"name": "Ann", "age": 3.0}, True),
        ({"name": "Ann", "age": 3.5}, False),
        ({"name": "Ann", "age": True}, False),
        ({"name": "Ann", "age": -1}, False),
        ({"name": "", "age": 1}, False),
        ({"name": "Ann"}, False),
        ({"name": "Ann", "age": 3, "more": 1}, False),
        ({"name": "Ann", "age": 3, "kind": "foe"}, True),
        ({"name": "Ann", "age": 3, "kind": "other"}, False),
        ({"name": "Ann", "age": 3, "tags": ["a", "b"]}, True),
        ({"name": "Ann", "age": 3, "tags": ["a", 1]}, False),
        ({"name": "Ann", "age": 3, "tags": ["a", "b", "c"]}, False),
        ({"name": "Ann", "age": 3, "boss": None}, True),
        ({"name": "Ann", "age": 3, "boss": {"name": "Bo"}}, True),
        ({"name": "Ann", "age": 3, "boss": {}}, False),
        ([], False),
    ],
)
def test_a_schema_is_kept_or_not(value, kept):
    assert Form(PERSON).is_kept(json.dumps(value)) is kept


def test_what_is_no_json_is_not():
    assert not Form(PERSON).is_kept("Here you are: {}")
    assert not Form(None).is_kept("[1]")
    assert Form(None).is_kept(' {"a": 1} ')


def test_true_is_not_one():
    assert not Form({"const": 1}).is_kept("true")
    assert Form({"const": 1}).is_kept("1")


@pytest.mark.parametrize(
    "schema", [True, {}, {"unheard": 1}, {"type": "unheard"}, {"pattern": "(a+)+$"}, {"type": 3}]
)
def test_what_is_not_known_counts_as_kept(schema):
    assert Form(schema).is_kept('"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!"')


def test_a_schema_without_end_comes_to_one():
    assert Form({"$ref": "#"}).is_kept("1")
    deep = Form({"anyOf": [{"$ref": "#"}, {"$ref": "#"}]})
    assert deep.is_kept("1")


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": PERSON}}},
        {"text": {"format": {"type": "json_schema", "name": "n", "schema": PERSON}}},
        {"output_config": {"format": {"type": "json_schema", "schema": PERSON}}},
        {"output_format": {"type": "json_schema", "schema": PERSON}},
    ],
)
def test_the_form_is_found_where_each_api_has_it(fields):
    form = form_of({name: msgspec.Raw(json.dumps(value).encode()) for name, value in fields.items()})
    assert form.is_kept('{"name": "Ann", "age": 3}')
    assert not form.is_kept('{"name": "Ann"}')


def test_a_call_may_ask_for_no_form():
    assert form_of({}) is None
    assert form_of({"response_format": msgspec.Raw(b'{"type": "text"}')}) is None
    assert form_of({"response_format": msgspec.Raw(b'{"type": "json_object"}')}).is_kept("{}")
