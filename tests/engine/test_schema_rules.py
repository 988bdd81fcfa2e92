"""A schema's grammar has the texts that keep to the schema, and no others; whoever reads along is the oracle."""

from __future__ import annotations

import json
import random

import pytest
from test_engine_schema import GOOD, TREE
from test_schema_work import CHEAP

from penstock.engine.backend import CannotTake
from penstock.engine.pattern import InTurn, Letter, Named, OneOf, Repeated, Text, in_turn
from penstock.engine.readings import MOST_WAYS, Readings
from penstock.engine.schema import compiled
from penstock.engine.schema_rules import BLOCK, START, grammar_of, rules_of

END = "\x04"  # stands in no JSON


def is_read(schema, text):
    """Whether the grammar of the schema has the text."""
    rules = rules_of(schema)
    readings = Readings({**rules, "whole": in_turn([Named(START, 0), Text(END)])}, "whole")
    readings.take(text)
    return any(part.pattern == Text(END) for part, _, _ in readings._row.reading)


def some_text(rules, chance):
    """One text of the grammar, drawn; deep ones end soon."""

    def of(pattern, depth):
        match pattern:
            case Text(text=text):
                return text
            case Letter(spans=spans, negated=negated):
                first, last = chance.choice(spans)
                return chance.choice("a é漢") if negated else chr(chance.randint(ord(first), ord(last)))
            case Named(name=name):
                return of(rules[name], depth + 1)
            case InTurn(parts=parts):
                return "".join(of(part, depth) for part in parts)
            case OneOf(parts=parts):
                return of(chance.choice(parts) if depth < 60 else min(parts, key=weight), depth)
            case Repeated(part=part, least=least, most=most):
                most = least + 3 if most is None else most
                return "".join(
                    of(part, depth) for _ in range(chance.randint(least, most) if depth < 60 else least)
                )

    def weight(pattern):
        """Of two parts, the one that is sooner at its end."""
        match pattern:
            case Text() | Letter():
                return 0
            case Repeated(part=part, least=least):
                return least and weight(part)
            case Named(name=name):
                return {"object": 9, "array": 9, "any": 9, "letters": 5}.get(name, 1)
        return max(map(weight, pattern.parts))

    return of(rules[START], 0)


def texts(least=None, most=None):
    bounds = {"minLength": least, "maxLength": most}
    return {"type": "string"} | {name: bound for name, bound in bounds.items() if bound is not None}


def numbers(least=None, most=None):
    bounds = {"minItems": least, "maxItems": most}
    said = {name: bound for name, bound in bounds.items() if bound is not None}
    return {"type": "array", "items": {"type": "integer"}} | said


def members(*names, required=(), **more):
    properties = {name: {"type": "integer"} for name in names}
    return {"type": "object", "properties": properties, "required": [*required]} | more


BOUNDS = [0, 1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 3]
READ = [
    ({"type": "integer"}, ["0", "-0", "12", "-7"], ["", "01", "1.0", "1e3", "+1", "-", "x"]),
    (
        {"type": "number"},
        ["0", "-1.50", "2e10", "2.5E-3", "1e+9"],
        [".5", "1.", "1e", "NaN", "00.1", "1e5.5"],
    ),
    ({"type": ["boolean", "null"]}, ["true", "false", "null"], ["True", "nul", '"true"', "truefalse"]),
    (
        {"type": "string"},
        ['""', '"a\\n\\u00e9"', '"漢 \x7f"', '"\\""'],
        ["a", '"', '"\n"', '"\\x"', '"\\u12"', '"""'],
    ),
    (texts(1, 2), ['"a"', '"\\u00e9b"', '"\\n\\n"', '"漢字"'], ['""', '"abc"', '"\\n\\n\\n"']),
    ({"maxLength": 1}, ['""', '"a"'], ['"ab"', "5"]),
    ({"const": {"a": [1, "é"]}}, ['{"a":[1,"é"]}'], ['{"a":[1,"e"]}', "{}"]),
    ({"enum": ["a b", 1, None, 'q"']}, ['"a b"', "1", "null", '"q\\""'], ["a b", "11", '""']),
    (numbers(), ["[]", "[ ]", "[1]", "[1, 2,3\n]"], ["[,]", "[1,]", "[1 2]", "1", "[true]"]),
    ({"type": "array"}, ["[]", '[{"a": [null]}, "b"]'], ["[", "[}"]),
    (
        members("a", "b", required="ab"),
        ['{"a":1,"b":2}', '{ "a" : 1 , "b" : 2 }'],
        ["{}", '{"a":1}', '{"b":2,"a":1}'],
    ),
    (
        members("a", "b", "c"),
        ["{}", '{"a":1}', '{"b":1}', '{"a":1,"c":3}', '{"a":1,"b":2,"c":3}'],
        ['{"b":1,"a":2}', '{,"b":1}', '{"a":1,}', '{"d":1}', '{"a":1,"a":1}'],
    ),
    (
        members("a", "b", "c", required="b"),
        ['{"b":1}', '{"a":1,"b":2}', '{"b":2,"c":3}'],
        ["{}", '{"a":1}', '{"a":1,"c":3}'],
    ),
    (
        members("a", required="a", additionalProperties={"type": "integer"}),
        ['{"a":1}', '{"a":1,"x":2}', '{"a":1,"x":2,"y":3}'],
        ["{}", '{"x":2}', '{"a":1,"x":null}'],
    ),
    (members("a", additionalProperties=True), ["{}", '{"x":[]}', '{"a":1,"x":{}}'], ['{"a":"b"', "[]"]),
    (members(), ["{}", "{ }"], ['{"a":1}']),
    ({"type": "object"}, ["{}", '{"a":{"b":[1]}}'], ["[]", '{"a"}']),
    ({"properties": {"a": {}}}, ["{}", '{"a":[{}]}'], ["5"]),
    ({"anyOf": [{"type": "integer"}, texts(1, 1)]}, ["5", '"a"'], ["true", '"ab"']),
    ({}, ["5", '"a"', "[[]]", "null"], ["", "nil", "[[]"]),
    (
        TREE,
        ['{"name":"a"}', '{"name":"a","nodes":[{"name":"b","nodes":[]}]}'],
        ["{}", '{"name":"a","nodes":[{}]}'],
    ),
]


@pytest.mark.parametrize(("schema", "good", "bad"), READ, ids=lambda value: json.dumps(value)[:40])
def test_a_grammar_has_the_texts_of_its_schema_and_no_others(schema, good, bad):
    assert [text for text in good if not is_read(schema, text)] == []
    assert [text for text in bad if is_read(schema, text)] == []


@pytest.mark.parametrize("make", [texts, numbers])
@pytest.mark.parametrize("least", [None, *BOUNDS])
@pytest.mark.parametrize("most", [None, *BOUNDS])
def test_what_is_bounded_is_counted(make, least, most):
    if most is not None and (least or 0) > most:
        pytest.skip("no text is as long")
    schema = make(least, most)
    for length in {
        0,
        1,
        *((least or 0) + step for step in (-1, 0)),
        *((most or BLOCK) + step for step in (0, 1)),
    }:
        text = f'"{"a" * length}"' if make is texts else f"[{','.join(['7'] * length)}]"
        fits = length >= (least or 0) and (most is None or length <= most)
        assert length < 0 or is_read(schema, text) == fits


@pytest.mark.parametrize("schema", [each for each, _, _ in READ], ids=lambda schema: json.dumps(schema)[:40])
def test_texts_of_a_grammar_keep_to_its_schema(schema):
    jsonschema = pytest.importorskip("jsonschema")
    rules = rules_of(schema)
    for seed in range(40):
        jsonschema.validate(json.loads(some_text(rules, random.Random(seed))), schema)


@pytest.mark.parametrize(
    "schema", [*GOOD, *(each for each, _, _ in READ)], ids=lambda schema: json.dumps(schema)[:40]
)
def test_a_text_has_few_readings_however_long_it_is(schema):
    """So nobody need count them while an answer is told."""
    rules = rules_of(schema)
    for seed in range(20):
        readings = Readings(rules, START)
        for letter in some_text(rules, random.Random(seed)):
            assert readings._take(letter) < MOST_WAYS // 100


@pytest.mark.parametrize("schema", CHEAP.values(), ids=CHEAP)
def test_a_grammar_is_no_longer_than_its_schema_is(schema):
    said = compiled(schema)
    assert len(grammar_of(said)) < 15 * len(said) + 20_000


@pytest.mark.parametrize(
    "schema",
    [
        {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
        {
            "$defs": {"a": members("x") | {"properties": {"x": {"$ref": "#/$defs/a"}}, "required": ["x"]}},
            "$ref": "#/$defs/a",
        },
        {
            "$defs": {"a": {"type": "array", "items": {"$ref": "#/$defs/a"}, "minItems": 1}},
            "$ref": "#/$defs/a",
        },
    ],
    ids=["itself", "a member", "an item"],
)
def test_a_schema_that_nothing_which_ends_keeps_to_is_refused(schema):
    with pytest.raises(CannotTake, match="never ends"):
        grammar_of(compiled(schema))
