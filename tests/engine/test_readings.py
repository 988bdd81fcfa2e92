"""How many readings a text has: none is counted where each text has one, however long it is."""

from __future__ import annotations

import json
import re

import pytest

from penstock.engine import gbnf
from penstock.engine.readings import MOST_WAYS, Readings

JSON = r"""
root   ::= value
value  ::= object | array | string | number | "true" | "null"
object ::= "{" (string ": " value (", " string ": " value)*)? "}"
array  ::= "[" (value (", " value)*)? "]"
string ::= "\"" ([^"\\] | "\\" ["\\n])* "\""
number ::= "-"? [0-9]+ ("." [0-9]{1,9})?
"""
CLEAR = {
    "the first letter, and the rest": ("root ::= [a-z] root | [a-z]", "ab"),
    "the rest, and the last letter": ("root ::= root [a-z] | [a-z]", "ab"),
    "a list from right to left": ('root ::= item "," root | item\nitem ::= [a-z]{1,3}', "abc,"),
    "parentheses": ('root ::= "(" root ")" root | ""', "(())"),
    "operators of two ranks": ('root ::= root "+" of | of\nof ::= of "*" one | one\none ::= [a-z]', "a*b+"),
    "counts": ('root ::= ("a"{2,3} "b"){1,9} ";" root?', "aabaaab;"),
}
AMBIGUOUS = {
    "two of itself": "root ::= root root | [a-z]",
    "three of itself": "root ::= root root root | root root | [a-z]",
    "operators of one rank": "root ::= root [a-y] root | [a-z]",
    "what may be nothing, beside itself": "root ::= x x x x x\nx ::= [a-z]* | root",
    "what may be nothing, again and again": "root ::= ([a-z]{1,3} root?){1,9}",
}


def readings(grammar) -> Readings:
    return gbnf.read(grammar).readings()


def read(counted, letters):
    """How many letters were taken until there were too many readings; None: there never were."""
    for number, letter in enumerate(letters, 1):
        if not counted.take(letter):
            return number
    return None


def waiting(counted):
    """How many parts of the grammar may go on with the next letter."""
    return int(re.search(r"(\d+) parts", repr(counted))[1])


@pytest.mark.parametrize("kind", CLEAR)
def test_a_grammar_that_reads_each_text_in_one_way_is_never_stopped(kind):
    grammar, piece = CLEAR[kind]
    counted = readings(grammar)
    assert read(counted, piece * (3 * MOST_WAYS // len(piece))) is None
    assert waiting(counted)  # it was read to its end


@pytest.mark.parametrize("kind", AMBIGUOUS)
def test_an_ambiguous_one_is_stopped_before_it_is_long(kind):
    stopped = read(readings(AMBIGUOUS[kind]), "a" * 1_000)
    assert stopped is not None
    assert stopped > 10  # short answers are let through


def test_what_is_read_at_once_is_what_is_read_letter_by_letter():
    grammar = AMBIGUOUS["two of itself"]
    last = read(readings(grammar), "a" * 1_000)
    assert readings(grammar).take("a" * (last - 1))
    assert not readings(grammar).take("a" * last)


def test_json_is_read_as_json():
    """Python's own writer is the oracle."""
    value = {"a": [1, -2.5, True, None, {"b": 'c"\\ d', "": []}, "{"], "e": {}}
    text = json.dumps(value)
    counted = readings(JSON)
    for letter in text:
        assert waiting(counted)
        assert counted.take(letter)
    assert not waiting(counted)


def test_what_is_no_json_is_not_read():
    """A line's end may stand within a text, and nowhere else."""
    text = json.dumps({"a": [1, -2.5, True, "b c"], "d": {}})
    for at in range(len(text) + 1):
        broken = readings(JSON)
        broken.take(text[:at] + "\n")
        assert bool(waiting(broken)) == bool(text[:at].count('"') % 2)


def test_what_the_grammar_does_not_read_has_no_readings():
    counted = readings('root ::= "a" root "b" | "c"')
    assert counted.take("aaxb")
    assert waiting(counted) == 0
    assert counted.take("b" * 100)
