"""Grammars as llama.cpp and xgrammar write them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.engine.gbnf import read
from penstock.engine.pattern import MAX_DEPTH
from penstock.engine.productions import MAX_LETTERS, MAX_RULES, GrammarError

# Some of llama.cpp's own, in our words: what it has, another server may be asked for.
JSON = r"""
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::=
  "{" ws (
    string ":" ws value ("," ws string ":" ws value)*
  )? "}" ws
array  ::= "[" ws (value ("," ws value)*)? "]" ws
string ::= "\"" (
    [^"\\\x7F\x00-\x1F] |
    "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) # what stands behind a backslash
  )* "\"" ws
number ::= "-"? ([0-9] | [1-9] [0-9]{0,9}) ("." [0-9]+)? ws
# blanks, but not many
ws ::= | " " | "\n" [ \t]{0,4}
"""


@pytest.mark.parametrize(
    ("grammar", "yes", "no"),
    [
        ('root ::= "yes" | "no"', ["yes", "no"], ["", "yesno"]),
        ('root ::= "a"* b? "c"+\nb ::= "b"', ["c", "aabc", "cc"], ["ab", "bbc"]),
        ("root ::= [a-c]{2} [^x-z]{,2} .{1,}", ["ab!", "cc\n", "abqqq"], ["ab", "dd!"]),
        (r'root ::= "\"\\\n\x41\u00e9\U0001F600" [\]\-\^]', ['"\\\nAé😀]', '"\\\nAé😀-'], ['"\\\nAé😀a']),
        ('root ::= ("a" | ) "b"', ["b", "ab"], ["a"]),
        ('root-1 ::= "never"\nroot ::= x2_y # "no"\nx2_y ::= "a"\n  | "b"', ["a", "b"], ["never", "no"]),
        ('root ::= ("a"+)* "b"', ["b", "aab"], ["aa"]),
        ('root ::= [&&a~~-] "."', ["&.", "~.", "-.", "a."], ["b.", "&x"]),
        ('root ::= "" | "a"', ["", "a"], ["b"]),
    ],
)
def test_what_a_grammar_matches(grammar, yes, no):
    """Without a rule that needs itself it is one expression, and Python's own reading of that is the oracle."""
    expression = re.compile(read(grammar).regex())
    assert [text for text in yes if not expression.fullmatch(text)] == []
    assert [text for text in no if expression.fullmatch(text)] == []


@pytest.mark.parametrize(
    "grammar", [JSON, 'root ::= "(" root ")" | [^()]+', 'root ::= ["\\\\\\n] "\\"" | . {3}']
)
def test_what_is_written_anew_says_the_same(grammar):
    written = read(grammar).ebnf()
    assert read(written).ebnf() == written
    assert (read(written).regex(), read(written).lark()) == (read(grammar).regex(), read(grammar).lark())


def test_a_grammar_that_needs_itself_is_no_expression():
    grammar = read(JSON)
    assert grammar.regex() == ""
    assert "start: " in grammar.lark()
    assert repr(grammar) == "<Grammar root of 7 rules, 4 of them recursive>"


@pytest.mark.parametrize(
    ("grammar", "why"),
    [
        ("", "no rule of the name root"),
        ('answer ::= "a"', "no rule of the name root"),
        ('root ::= x\n\nx ::= "a" y', "line 3: there is no rule of the name y"),
        ('root ::= "a"\nroot ::= "b"', "line 2: there are two rules"),
        ("root ::= root", "line 1: the rule root never ends"),
        ('root ::= x\nx ::= "a" x', "line 2: the rule x never ends"),
        ('root ::= ""', "line 1: only an empty answer"),
        ('root ::= "a', "line 1: a text is not closed"),
        ('root ::= "a\n"', "line 1: a text is not closed"),
        ('root ::= ("a"\nx ::= "b"', "line 2: a parenthesis is not closed"),
        ('root ::= "a" )', "line 1: a parenthesis is closed"),
        ("root ::= [z-a]", "line 1: a span"),
        ("root ::= []", "line 1: a class of no letter"),
        ("root ::= [a", "line 1: it ends too early"),
        ('root ::= "a"{3,2}', "line 1: repetitions"),
        ('root ::= "a"{1001}', "line 1: repetitions"),
        ('root ::= "a"{}', "line 1: it does not say how often"),
        ('root ::= "a" (?= "b")', "line 1: looking around"),
        ("root ::= <think>", "line 1: tokens"),
        (r'root ::= "\q"', r"line 1: \\q"),
        (r'root ::= "\ud800"', "line 1: .* is no letter"),
        (r'root ::= "\u12"', "hexadecimal"),
        ('root ::= "a"\nand more', "line 2: "),
        ("start: x", "line 1: a rule is wanted"),
        ("root ::= " + "(" * (MAX_DEPTH + 1) + '"a"' + ")" * (MAX_DEPTH + 1), "deeper"),
        ('root ::= "' + "a" * MAX_LETTERS + '"', "letters"),
        ("root ::= ((.{1000}){1000}){1000}", "its rules have more"),
        ("root ::= x x x x x x x x x x x\nx ::= .{190}", "the grammar becomes more"),
        ("root ::= " + " ".join(f'r{n}\nr{n} ::= "a"' for n in range(MAX_RULES)), "more than 200 rules"),
        (
            "root ::= r0\n" + "\n".join(f"r{n} ::= r{n + 1} r{n + 1}" for n in range(60)) + '\nr60 ::= ""',
            "becomes more",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_its_line(grammar, why):
    with pytest.raises(GrammarError, match=why):
        read(grammar)


@given(st.text(st.sampled_from('rot:= "ab[]^-()|*+?{}1,.#\\nx\n'), max_size=30))
def test_whatever_is_asked_is_refused_or_can_be_written(text):
    try:
        grammar = read("root ::= " + text)
    except GrammarError:
        return
    assert read(grammar.ebnf()).ebnf() == grammar.ebnf()
    assert re.compile(grammar.regex())
