"""What backends must do whose tokens we draw, when an answer has a schema: to be inherited by a class of tests."""

from __future__ import annotations

import json
import re

import pytest
from backend_suite import NUMBERS, compute
from test_engine_regex import RULED
from test_engine_schema import GOOD, TREE
from test_gbnf import JSON

from penstock.engine import gbnf, lark
from penstock.engine.backend import CannotTake, Sampling
from penstock.engine.productions import of_pattern
from penstock.engine.regex import any_of, read
from penstock.engine.schema import compiled

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 12},
        "kind": {"enum": ["penstock", "turbine", None]},
        "flows": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
        "place": {"anyOf": [{"const": {"lake": True}}, {"type": "null"}]},
    },
    "required": ["name", "kind", "flows", "place"],
    "additionalProperties": False,
}
IMPOSSIBLE = '{"type": "object", "properties": {"a": false}, "required": ["a"]}'
LONG = 400
NESTED = gbnf.read('root ::= "(" x ")"\nx ::= root | [a-z]{1,3} | x "+" x')
PLAIN = {
    "gbnf": gbnf.read('root ::= "\\"yes\\" \\\\ " x{2} | "漢" [^a-z\\n]{1,3}\nx ::= [&-~] | "\\u00e9" | ""'),
    "lark": lark.read('start: NAME ("," NAME)~1..3\nNAME: /[a-z]{1,3}/\n%ignore /[ \\/]/'),
    "any": gbnf.read('root ::= .{4} "\\x07"'),
}
"""Grammars without a rule that needs itself: what Python makes of them is the oracle."""


def is_nested(text):
    begins = text.startswith("(")
    while (shorter := re.sub(r"\([a-z]{1,3}(\+[a-z]{1,3})*\)", "a", text)) != text:
        text = shorter
    return begins and text == "a"


def ruled(schema, seed=None, limit=LONG, **more):
    sampling = {"temperature": 0.0} if seed is None else {"temperature": 1.0, "seed": seed}
    return Sampling(max_tokens=limit, schema=compiled(schema), **sampling, **more)


def said(backend, *asked):
    """The answers to a prompt: text, log probabilities, finish."""
    prompt = backend.tokenizer.encode("<|user|>the penstock<|assistant|>", special=False)
    told = compute(backend, *((prompt, sampling) for sampling in asked))
    return [(backend.tokenizer.decode(ids), logprobs, finish) for ids, logprobs, finish in told]


class SchemaSuite:
    """Who inherits has the fixture ``backend``."""

    def test_every_answer_keeps_to_its_schema(self, backend):
        jsonschema = pytest.importorskip("jsonschema")
        for text, _, finish in said(backend, ruled(PERSON), *(ruled(PERSON, seed) for seed in range(20))):
            assert finish == "stop"
            jsonschema.validate(json.loads(text), PERSON)

    @pytest.mark.parametrize("schema", [*GOOD, TREE], ids=lambda schema: json.dumps(schema)[:40])
    def test_every_kind_of_schema_that_is_let_through(self, backend, schema):
        """What it does not bound may go on until the limit; what ends by itself is right."""
        jsonschema = pytest.importorskip("jsonschema")
        for text, _, finish in said(backend, *(ruled(schema, seed, 60) for seed in range(4))):
            if finish == "stop":
                jsonschema.validate(json.loads(text), schema)

    @pytest.mark.parametrize("expression", RULED)
    def test_every_kind_of_expression_that_is_let_through(self, backend, expression):
        rule = of_pattern(read(expression))
        asked = [Sampling(max_tokens=60, temperature=1.0, seed=seed, grammar=rule) for seed in range(4)]
        for text, _, finish in said(backend, *asked):
            assert finish == "length" or re.fullmatch(expression, text, re.ASCII)

    @pytest.mark.parametrize("kind", PLAIN)
    def test_every_kind_of_grammar(self, backend, kind):
        rule = PLAIN[kind]
        asked = [Sampling(max_tokens=80, temperature=1.0, seed=seed, grammar=rule) for seed in range(6)]
        for text, _, finish in said(backend, *asked):
            assert finish == "length" or re.fullmatch(rule.regex(), text)

    def test_a_grammar_that_needs_itself(self, backend):
        asked = [Sampling(max_tokens=60, temperature=1.0, seed=seed, grammar=NESTED) for seed in range(8)]
        told = said(backend, *asked)
        assert all(finish == "length" or is_nested(text) for text, _, finish in told)
        assert any(finish == "stop" for _, _, finish in told)

    def test_a_grammar_for_json(self, backend):
        rule = gbnf.read(JSON)
        asked = [Sampling(max_tokens=80, temperature=1.0, seed=seed, grammar=rule) for seed in range(6)]
        for text, _, finish in said(backend, *asked):
            assert text.startswith("{")
            assert finish == "length" or isinstance(json.loads(text), dict)

    def test_a_rule_is_prepared_once_and_used_by_several_from_their_beginning(self, backend):
        rule = Sampling(max_tokens=20, temperature=0.0, grammar=gbnf.read('root ::= "penstock"'))
        backend.prepare(rule)
        assert [text for text, _, _ in said(backend, rule, rule)] == ["penstock"] * 2

    def test_what_cannot_be_prepared_costs_nobody_anything(self, backend):
        with pytest.raises(CannotTake, match="cannot be used"):
            backend.prepare(Sampling(max_tokens=4, schema=IMPOSSIBLE))
        assert said(backend, ruled({"const": 1}))[0][0] == "1"

    def test_a_choice(self, backend):
        texts = ["yes", "no (really)", "漢 a.b|c"]
        rule = of_pattern(any_of(texts))
        asked = [Sampling(max_tokens=60, temperature=1.0, seed=seed, grammar=rule) for seed in range(9)]
        assert {text for text, _, _ in said(backend, *asked)} <= set(texts)

    def test_who_has_a_schema_and_who_has_none_are_computed_together(self, backend):
        free = Sampling(max_tokens=30, temperature=0.0, ignore_eos=True)
        asked = [ruled(PERSON, 1), free, ruled({"enum": ["yes", "no"]}), free]
        assert said(backend, *asked) == [said(backend, one)[0] for one in asked]

    def test_log_probabilities_are_the_models_own(self, backend):
        """Not those of what the schema has left: a choice of one would be certain."""
        ((text, logprobs, _),) = said(backend, ruled({"const": "penstock"}, logprobs=True))
        assert json.loads(text) == "penstock"
        assert min(logprob.value for logprob in logprobs) < -0.5

    def test_an_answer_ends_with_its_schema_whatever_else_is_said(self, backend):
        ((text, _, finish),) = said(backend, ruled({"const": "penstock"}, ignore_eos=True, min_tokens=30))
        assert (json.loads(text), finish) == ("penstock", "stop")

    def test_a_limit_cuts_it(self, backend):
        ((text, _, finish),) = said(backend, ruled(PERSON, limit=3))
        assert finish == "length"
        assert text

    def test_a_schema_that_nothing_can_keep_to_is_refused(self, backend):
        with pytest.raises(CannotTake, match="schema"):
            backend.add(next(NUMBERS), [5], Sampling(max_tokens=4, schema=IMPOSSIBLE))
        assert said(backend, ruled({"const": 1}))[0][0] == "1"

    def test_a_rule_that_has_failed_leaves_nothing(self, backend):
        rule = backend._grammars.rule(ruled({"const": 1}))
        (wrong,) = backend.tokenizer.encode("x", special=False)
        assert not rule.allowed(backend.card.vocabulary)[wrong]
        assert not rule.take(wrong)
        assert not rule.allowed(backend.card.vocabulary).any()
