"""A pattern's right-linear grammar has the same texts; what Python makes of the expression is the oracle."""

from __future__ import annotations

import itertools
import random
import re

import pytest
from test_engine_regex import RULED

from penstock.engine import gbnf, right_linear
from penstock.engine.pattern import InTurn, Letter, Named, OneOf, Text, in_turn
from penstock.engine.productions import of_pattern
from penstock.engine.readings import Readings
from penstock.engine.regex import read

END = "\x04"
BY_SUBSETS = [
    *RULED,
    "[ab]{2,3}([ab]?[^x]{1,4})*",
    "a?" * 20,
    "([a-c ]+b?)+([a-c ]+c?)+0",
    "[ab]*a[ab]{3}",
    "ab|abc|abcd|b",
    "(ab){2,}c{0,3}",
    "[a-cx][^b-y]",
    "漢?[а-я]+",
    "([^x]{1,10}[^y]?){9}",  # whose 537 subsets are put together to 192 rules
]
BY_PLACES = ["[ab]*a[ab]{9}", "[ab]*a[^xy]{8}c?[ab]"]
"""Of which there are too many subsets."""
TOO_LARGE = ["([^x]{1,10}[^y]{1,10}){9}", "[a-c ]*a[a-c ]{41}", "(a{1,60}){1,60}"]


def last_of(part):
    return part.parts[-1] if isinstance(part, InTurn) else part


def begin_of(part):
    return part.parts[0] if isinstance(part, InTurn) else part


def alternatives(rule):
    return rule.parts if isinstance(rule, OneOf) else (rule,)


def is_read(rules, text):
    readings = Readings({**rules, "whole": in_turn([Named(right_linear.START, 0), Text(END)])}, "whole")
    readings.take(text)
    return any(part.pattern == Text(END) for part, _, _ in readings._row.reading)


def texts(rules, letters):
    """Some that are of the grammar for the most part, and some that are nearly."""
    chance = random.Random(1)
    for _ in range(150):
        text, name = "", right_linear.START
        while name and len(text) < 40:
            part = chance.choice(alternatives(rules[name]))
            for each in part.parts if isinstance(part, InTurn) else (part,):
                if isinstance(each, Text):
                    text += each.text
                elif isinstance(each, Letter):
                    fitting = [
                        a
                        for a in letters
                        if any(first <= a <= last for first, last in each.spans) != each.negated
                    ]
                    text += chance.choice(fitting or [each.spans[0][0]])
            name = last_of(part).name if isinstance(last_of(part), Named) else ""
        yield text
        at = chance.randrange(len(text) + 1)
        yield text[:at] + chance.choice(letters) + text[at + chance.randrange(2) :]
        yield text[:at]


@pytest.mark.parametrize("expression", [*BY_SUBSETS, *BY_PLACES])
def test_it_has_the_texts_of_its_expression_and_no_others(expression):
    rules = right_linear.rules_of(read(expression))
    for text in texts(rules, "abcxyz0 1-漢я"):
        assert is_read(rules, text) == bool(re.fullmatch(expression, text, re.ASCII))


@pytest.mark.parametrize("expression", [*BY_SUBSETS, *BY_PLACES])
def test_each_rule_ends_with_another_or_with_none(expression):
    for rule in right_linear.rules_of(read(expression)).values():
        for part in alternatives(rule):
            *before, last = part.parts if isinstance(part, InTurn) else (part,)
            assert not any(isinstance(each, Named) for each in before)
            assert isinstance(last, Named | Text | Letter)


@pytest.mark.parametrize("expression", BY_SUBSETS)
def test_no_letter_leads_to_two_rules(expression):
    for rule in right_linear.rules_of(read(expression)).values():
        begins = [begin_of(part) for part in alternatives(rule)]
        spans = sorted(
            span
            for begin in begins
            for span in (begin.spans if isinstance(begin, Letter) else [(begin.text[:1],) * 2])
            if span != ("", "")
        )
        assert all(last < first for (_, last), (first, _) in itertools.pairwise(spans))


@pytest.mark.parametrize("expression", TOO_LARGE)
def test_what_is_too_large_has_none(expression):
    assert right_linear.rules_of(read(expression)) is None


def test_a_grammar_has_one_where_no_rule_needs_itself():
    plain = gbnf.read('root ::= x "," x\nx ::= [a-c]+ | "no"')
    assert plain.right_linear().startswith("root ::= ")
    assert gbnf.read('root ::= "(" root ")" | "x"').right_linear() == ""


@pytest.mark.parametrize(
    ("expression", "most"),
    [
        ("[a-z ]{0,150}", 1),  # after any letters, one place
        ("([a-z]+ ){1,40}[a-z]+", 1),
        ("[a-c ]*a[a-c ]{41}", 0),  # many readings, but none of them may end
        ("(a{1,60}){1,60}", 0),  # with few tokens each
        ("([a-z]{1,10}[b-z]{1,10}){9}", 0),  # with not many
        ("([^x]{1,9}[^y]?){4}", 27),
        ("([^x]{3,5}[^y]{2,4}){15}", 27),
        ("([^x]{1,10}[^y]{1,10}){9}", 139),
    ],
)
def test_how_many_ends_have_to_be_tried_at_once_is_known(expression, most):
    found = right_linear.open_ends(read(expression))
    assert found == most if most > right_linear.MOST_OPEN else found <= right_linear.MOST_OPEN
    assert of_pattern(read(expression)).open_ends() == found


def test_of_a_grammar_whose_rules_need_themselves_each_part_counts():
    nested = 'root ::= "(" root ")" | ([^()x]{1,9} [^()y]?){%d} | [a-z]{1,90} root?'
    assert gbnf.read(nested % 2).open_ends() <= right_linear.MOST_OPEN < gbnf.read(nested % 5).open_ends()
