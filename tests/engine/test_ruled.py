"""What rules an answer's form, by all the names that it has."""

from __future__ import annotations

import json

import msgspec
import pytest

from penstock.engine.ruled import RuledBody, ruling
from penstock.errors import BadRequest

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
TEXT = json.dumps(SCHEMA)


def ruled(**members):
    return ruling(msgspec.convert(members, RuledBody))


@pytest.mark.parametrize(
    "members",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}},
        {"structured_outputs": {"json": SCHEMA}},
        {"structured_outputs": {"json": TEXT, "disable_any_whitespace": True}},
        {"guided_json": SCHEMA},
        {"guided_json": TEXT},
        {"json_schema": SCHEMA},
    ],
)
def test_a_schema_by_any_name(members):
    found = ruled(**members)
    assert (found.param, json.loads(found.schema), found.grammar) == (next(iter(members)), SCHEMA, None)


@pytest.mark.parametrize(
    ("members", "regex"),
    [
        ({"structured_outputs": {"regex": r"\d+"}}, "[0-9]+"),
        ({"guided_regex": r"^\d+$"}, "[0-9]+"),
        ({"regex": r"\d+"}, "[0-9]+"),
        ({"structured_outputs": {"choice": ["yes", "no?"]}}, r"yes|no\?"),
        ({"guided_choice": ["yes", "no?"]}, r"yes|no\?"),
    ],
)
def test_an_expression_or_a_choice_by_any_name(members, regex):
    found = ruled(**members)
    assert (found.param, found.schema, found.grammar.regex()) == (next(iter(members)), "", regex)


@pytest.mark.parametrize(
    "members",
    [{"response_format": {"type": "json_object"}}, {"structured_outputs": {"json_object": True}}],
)
def test_any_object(members):
    assert json.loads(ruled(**members).schema) == {"type": "object"}


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"grammar": ""},
        {"response_format": {"type": "text"}},
        {"structured_outputs": {}},
        {"guided_regex": None},
    ],
)
def test_nothing_that_rules(members):
    assert ruled(**members).param == ""


@pytest.mark.parametrize("grammar", ['root ::= "a" | "b"', '// as Lark\nstart: "a" | "b"'])
@pytest.mark.parametrize(
    "name", ["guided_grammar", "grammar", "ebnf", "structured_outputs", "response_format"]
)
def test_a_grammar_by_any_name_in_either_form(name, grammar):
    said = {
        "structured_outputs": {"grammar": grammar},
        "response_format": {"type": "grammar", "grammar": grammar},
    }
    found = ruled(**{name: said.get(name, grammar)})
    assert (found.param, found.grammar.ebnf()) == (name, 'root ::= "a" | "b"')


def test_a_grammar_that_cannot_be_is_refused_with_its_line():
    with pytest.raises(BadRequest, match="line 2: there is no rule of the name y"):
        ruled(guided_grammar='root ::= x\nx ::= "a" y')


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"guided_grammar": "root ::= x"}, "guided_grammar"),
        ({"structured_outputs": {"grammar": "root ::= x"}}, "structured_outputs"),
        ({"response_format": {"type": "grammar", "grammar": "root ::= x"}}, "response_format"),
        ({"guided_grammar": 'root ::= "x"', "guided_choice": ["a"]}, "guided_grammar"),
        ({"structured_outputs": {"structural_tag": "{}"}}, "structural_tag"),
        ({"grammar": "root ::= x"}, "grammar"),
        ({"ebnf": "root ::= x"}, "ebnf"),
        (
            {
                "guided_regex": "(",
            },
            "guided_regex",
        ),
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_json": {"pattern": "a"}}, "guided_json"),
        ({"response_format": {"type": "grammar"}}, "response_format"),
        ({"response_format": {"type": "json_object"}, "guided_choice": ["a"]}, "guided_choice"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs"),
    ],
)
def test_what_cannot_be_is_refused_by_name(members, param):
    with pytest.raises(BadRequest) as caught:
        ruled(**members)
    assert caught.value.param == param
