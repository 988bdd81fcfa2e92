"""Grammars as Lark has them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.engine.lark import comes_in, read
from penstock.engine.productions import GrammarError

CALC = """
// what OpenAI's own example of a custom tool is like
start: expr
expr: term (SP ADD SP term)* -> add
    | term
term: factor (SP MUL SP factor)* -> mul
    | factor
factor: INT
SP: " "
ADD: "+"
MUL: "*"
%import common.INT
"""


@pytest.mark.parametrize(
    ("grammar", "yes", "no"),
    [
        ('start: "yes" | "no"', ["yes", "no"], ["", "yesno"]),
        ("?start: word\n!word.2: WORD\nWORD.-1: /[a-z]+/", ["abc"], ["", "a b"]),
        (CALC, ["1", "1 + 22 * 3"], ["1+2", "x"]),
        ('start: ["a"] "b"? "c"~2 "d"~1..2', ["accd", "ccdd", "bccd"], ["cd", "ccddd"]),
        ('start: "Ab"i "x".."z"', ["aBx", "ABz"], ["abA"]),
        ('start: "a" "b"\n%import common.WS\n%ignore WS', ["ab", " a\n b "], ["a", "abc"]),
        ('%ignore " "\nstart: WORD "."\nWORD: "x" "y"', ["xy.", " xy . "], ["x y."]),
        ("start: /a\\/b[^\\n]/", ["a/bc"], ["a/b"]),
        ("%import common (INT, LETTER)\nstart: INT LETTER", ["12a"], ["a"]),
        ("%import common.INT -> NUM\nstart: NUM # and more", ["12"], ["a"]),
        ('start:\n   | "a"\n   | "b" // c\n', ["a", "b"], ["", "c"]),
        ('start: x\nx: ("a" | "b")+\ny: nothing', ["abba"], ["c"]),
    ],
)
def test_what_a_grammar_matches(grammar, yes, no):
    try:
        expression = re.compile(read(grammar).regex())
    except GrammarError as error:  # a rule that nobody needs may name what is not there
        raise AssertionError(error) from None
    assert [text for text in yes if not expression.fullmatch(text)] == []
    assert [text for text in no if expression.fullmatch(text)] == []


def test_a_rule_that_needs_itself_stays_one():
    grammar = read('start: "(" start ")" | NUMBER\n%import common.NUMBER\n%ignore " "')
    assert grammar.regex() == ""
    assert grammar.ebnf().startswith("root ::= ")


@pytest.mark.parametrize(
    ("grammar", "why"),
    [
        ('answer: "a"', "no rule of the name start"),
        ('start: x\nx: "a" Y', "line 2: there is no rule of the name Y"),
        ("start: start", "line 1: the rule start never ends"),
        ('start: "a"\nstart: "b"', "line 2: there are two rules"),
        ("start: /a(?=b)/", "line 1: .*looking around"),
        ("start: /a/i", "line 1: flags"),
        ("start: x{a}", "line 1: templates"),
        ("%import python.NAME\nstart: NAME", "line 1: only terminals of common"),
        ("%import common.NOPE\nstart: NOPE", "line 1: common.NOPE"),
        ('%declare A\nstart: "a"', "line 1: %declare"),
        ('start: "a" ~ 3..2', "line 1: repetitions"),
        ('start: "z".."a"', "line 1: a span"),
        ('start: ("a"', "line 1: .*(closed|early)"),
        ('start: "a" ]', "line 1: something is closed"),
        ('start: "a', "line 1: a text is not closed"),
        ("start: <tool>", "line 1: '<'"),
        ('start: "a"\nand more', "line 2: "),
    ],
)
def test_what_cannot_be_is_refused_with_its_line(grammar, why):
    with pytest.raises(GrammarError, match=why):
        read(grammar)


@pytest.mark.parametrize(
    ("grammar", "is_lark"),
    [
        ('start: "a"', True),
        ('\n// c\n?start : "a"', True),
        ("%import common.INT\nstart: INT", True),
        ('root ::= "a"', False),
        ('# c\nroot ::= "a"', False),
        ('root::="a"', False),
        ("", False),
    ],
)
def test_a_grammar_is_told_by_how_it_begins(grammar, is_lark):
    assert comes_in(grammar) == is_lark


@given(st.text(st.sampled_from('start:= "abI[]/^-()|*+?~{}1.#%>\\n\n'), max_size=30))
def test_whatever_is_asked_is_refused_or_can_be_written(text):
    try:
        grammar = read('I: "i"\nstart: ' + text)
    except GrammarError:
        return
    assert re.compile(grammar.regex())
    assert grammar.ebnf()
    assert grammar.lark()
