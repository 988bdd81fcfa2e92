"""Grammars as llama.cpp's GBNF and xgrammar's EBNF have them: ``root ::= "yes" | "no " [a-z]+``.

Rules are ``name ::= …``; a line's end means nothing, and ``#`` begins a comment.  There are texts in double quotes, classes,
``.``, groups, ``|``, ``*``, ``+``, ``?`` and ``{m,n}``; the answer begins with ``root``.  Tokens, looking ahead and tags
are refused.
"""

from __future__ import annotations

import re

from penstock.engine._grammar_text import GrammarText
from penstock.engine.pattern import ANY, Letter, Named, Pattern, Text, in_turn, one_of
from penstock.engine.productions import Grammar, GrammarError, Rule

_BLANKS = re.compile(r"(?:\s|#[^\n]*)*")
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_RULE = re.compile(r"([A-Za-z0-9_-]+)\s*::=")
_COUNTS = re.compile(r"\{\s*(\d{0,5})\s*(,?)\s*(\d{0,5})\s*\}")


def read(text: str) -> Grammar:
    """What a grammar says.

    :raises GrammarError: it cannot be used
    """
    return _Reader(text).whole()


class _Reader(GrammarText):
    """Reads one grammar, from left to right."""

    def whole(self) -> Grammar:
        rules: dict[str, Rule] = {}
        self._pass(_BLANKS)
        while not self._at_end():
            line = self._line()
            found = self._pass(_RULE)
            if found is None:
                self._fail("a rule is wanted, as in: name ::= ...")
            if found[1] in rules:
                raise GrammarError(f"there are two rules of the name {found[1]}", line)
            self._pass(_BLANKS)
            rules[found[1]] = Rule(self._alternatives(0), line)
            if self._next() == ")":
                self._fail("a parenthesis is closed that was not opened")
        return Grammar(rules, "root")

    def _alternatives(self, depth: int) -> Pattern:
        self._check_depth(depth)
        parts = [self._sequence(depth)]
        while self._next() == "|":
            self._take()
            self._pass(_BLANKS)
            parts.append(self._sequence(depth))
        return one_of(parts)

    def _sequence(self, depth: int) -> Pattern:
        parts: list[Pattern] = []
        while (letter := self._next()) and letter not in "|)" and not self._comes(_RULE):
            part = self._atom(depth)
            parts.append(self._repeated(part, _BLANKS, _COUNTS))
            self._pass(_BLANKS)
        return in_turn(parts)

    def _atom(self, depth: int) -> Pattern:
        line = self._line()
        if (name := self._pass(_NAME)) is not None:
            return Named(name[0], line)
        letter = self._take()
        if letter == '"':
            return Text(self._quoted('"'))
        if letter == "[":
            return self._class()
        if letter == ".":
            return ANY
        if letter in "<!":
            self._fail("tokens cannot be ruled: say their text")
        if letter != "(":
            self._fail(f"{letter!r} means nothing here")
        self._pass(_BLANKS)
        if self._next() == "?":
            self._fail("looking around cannot be ruled")
        pattern = self._alternatives(depth + 1)
        if self._next() != ")":
            self._fail("a parenthesis is not closed")
        self._take()
        return pattern

    def _class(self) -> Pattern:
        negated = self._next() == "^"
        if negated:
            self._take()
        spans: list[tuple[str, str]] = []
        while self._next() != "]":
            first = last = self._letter()
            if self._next() == "-" and not self._comes(_LAST_DASH):
                self._take()
                last = self._letter()
            if last < first:
                self._fail("a span's first letter comes after its last")
            spans.append((first, last))
        self._take()
        if not spans:
            if negated:
                return ANY
            self._fail("a class of no letter matches nothing")
        return Letter(tuple(spans), negated)


_LAST_DASH = re.compile(r"-\]")

__all__ = ["read"]
