"""Grammars as Lark has them: ``start: "yes" | "no " WORD``, and ``WORD: /[a-z]+/``.

Read are rules and terminals with their priorities passed over, texts (``"a"``, ``"a"i``,
``"a".."z"``), expressions between slashes as ``regex`` reads them, groups, ``[…]``, ``|``, ``*``, ``+``, ``?``,
``~ m..n``, aliases, ``%ignore``, and ``%import common.X`` of those in :data:`_COMMON`.  What is ignored may stand around each terminal.  Templates, other imports and ``%declare`` are refused.

A terminal is as long as the rest needs it to be, and not as long as it can be: nothing cuts the text into tokens
first.
"""

from __future__ import annotations

import re

from penstock.engine import regex
from penstock.engine._grammar_text import GrammarText
from penstock.engine.pattern import (
    Letter,
    Named,
    Pattern,
    Text,
    in_turn,
    one_of,
    repeated,
)
from penstock.engine.productions import Grammar, GrammarError, Rule
from penstock.errors import BadRequest

_COMMON = {
    "DIGIT": "[0-9]",
    "HEXDIGIT": "[0-9A-Fa-f]",
    "INT": "[0-9]+",
    "SIGNED_INT": "[+-]?[0-9]+",
    "DECIMAL": r"[0-9]+\.[0-9]*|\.[0-9]+",
    "FLOAT": r"[0-9]+[eE][+-]?[0-9]+|([0-9]+\.[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?",
    "NUMBER": r"[0-9]+([eE][+-]?[0-9]+)?|([0-9]+\.[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?",
    "SIGNED_NUMBER": r"[+-]?([0-9]+([eE][+-]?[0-9]+)?|([0-9]+\.[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?)",
    "ESCAPED_STRING": r'"([^"\\\n]|\\[^\n])*"',
    "LCASE_LETTER": "[a-z]",
    "UCASE_LETTER": "[A-Z]",
    "LETTER": "[A-Za-z]",
    "WORD": "[A-Za-z]+",
    "CNAME": "[A-Za-z_][A-Za-z0-9_]*",
    "WS_INLINE": r"[ \t]+",
    "WS": r"[ \t\n\r]+",
    "CR": r"\r",
    "LF": r"\n",
    "NEWLINE": r"(\r?\n)+",
}
"""Of Lark's own terminals, as https://github.com/lark-parser/lark/blob/master/lark/grammars/common.lark has them."""

_BLANKS = re.compile(r"(?:\s|//[^\n]*|#[^\n]*)*")
_IN_LINE = re.compile(r"[ \t]*")
_RULE = re.compile(r"[?!]{0,2}([A-Za-z_][A-Za-z0-9_]*)(?:\.-?\d+)?[ \t]*:")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ALIAS = re.compile(r"->\s*[A-Za-z_][A-Za-z0-9_]*")
_COUNTS = re.compile(r"~[ \t]*(\d{1,5})[ \t]*((?:\.\.)?)[ \t]*(\d{0,5})")
_DIRECTIVE = re.compile(r"%([a-z_]+)[ \t]*")
_IMPORT = re.compile(r"common[ \t]*\.[ \t]*([A-Z_]+)(?:[ \t]*->[ \t]*([A-Z_][A-Z0-9_]*))?")
_IMPORTS = re.compile(r"common[ \t]*\(([A-Z_, \t]+)\)")
_EXPRESSION = re.compile(r"/((?:[^/\\\n]|\\.)+)/([a-z]*)")
_IGNORE = re.compile(r"^[ \t]*%ignore\b", re.MULTILINE)
_IGNORED = "%ignore"  # the name of what is; no rule can have it
_START = "%start"
_SPAN = re.compile(r"[ \t]*\.\.[ \t]*\"")


def read(text: str) -> Grammar:
    """What a grammar says.

    :raises GrammarError: it cannot be used
    """
    return _Reader(text).whole()


def comes_in(text: str) -> bool:
    """Whether a grammar is written so, and not in GBNF: by what it begins with."""
    begin = _BLANKS.match(text)
    at = begin.end() if begin else 0
    if text[at : at + 1] == "%":
        return True
    rule = _RULE.match(text, at)
    return rule is not None and not text.startswith(":=", rule.end())


class _Reader(GrammarText):
    """Reads one grammar, from left to right."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._has_ignored = _IGNORE.search(text) is not None
        self._in_rule = False  # and not in a terminal

    def whole(self) -> Grammar:
        rules: dict[str, Rule] = {}
        ignored: list[Pattern] = []
        self._pass(_BLANKS)
        while not self._at_end():
            line = self._line()
            self._in_rule = False
            if (directive := self._pass(_DIRECTIVE)) is not None:
                if directive[1] == "ignore":
                    ignored.append(self._alternatives(0))
                elif directive[1] == "import":
                    self._import(rules)
                else:
                    self._fail(f"%{directive[1]} cannot be ruled")
            else:
                found = self._pass(_RULE)
                if found is None:
                    self._fail("a rule is wanted, as in: name: ...")
                self._in_rule = not found[1].isupper()
                self._enter(rules, found[1], Rule(self._body(), line))
            self._pass(_BLANKS)
            if self._next() in {")", "]"}:
                self._fail("something is closed that was not opened")
        if not self._has_ignored or "start" not in rules:
            return Grammar(rules, "start")
        line = rules["start"].line
        rules[_IGNORED] = Rule(repeated(one_of(ignored), 0, None), line)
        rules[_START] = Rule(in_turn([Named(_IGNORED, line), Named("start", line)]), line)
        return Grammar(rules, _START)

    def _enter(self, rules: dict[str, Rule], name: str, rule: Rule) -> None:
        if name in rules:
            raise GrammarError(f"there are two rules of the name {name}", rule.line)
        rules[name] = rule

    def _import(self, rules: dict[str, Rule]) -> None:
        line = self._line()
        if (several := self._pass(_IMPORTS)) is not None:
            wanted = [(name.strip(), name.strip()) for name in several[1].split(",")]
        elif (one := self._pass(_IMPORT)) is not None:
            wanted = [(one[1], one[2] or one[1])]
        else:
            self._fail("only terminals of common can be imported")
        for name, called in wanted:
            if name not in _COMMON:
                self._fail(f"common.{name} is not known")
            self._enter(rules, called, Rule(regex.read(_COMMON[name]), line))

    def _body(self) -> Pattern:
        self._pass(_BLANKS)
        if self._next() == "|":
            self._take()
        return self._alternatives(0)

    def _alternatives(self, depth: int) -> Pattern:
        self._check_depth(depth)
        parts = [self._sequence(depth)]
        while self._next() == "|":
            self._take()
            parts.append(self._sequence(depth))
        return one_of(parts)

    def _sequence(self, depth: int) -> Pattern:
        parts: list[Pattern] = []
        self._pass(_BLANKS)
        while (letter := self._next()) and letter not in "|)]%" and not self._comes(_RULE):
            if self._pass(_ALIAS) is None:
                parts.append(self._repeated(self._atom(depth), _IN_LINE, _COUNTS))
            self._pass(_BLANKS)
        return in_turn(parts)

    def _atom(self, depth: int) -> Pattern:
        line = self._line()
        if (name := self._pass(_NAME)) is not None:
            if self._next() in {"{", "["}:
                self._fail("templates and attributes cannot be ruled")
            return self._spaced(Named(name[0], line)) if name[0].isupper() else Named(name[0], line)
        if (said := self._pass(_EXPRESSION)) is not None:
            return self._spaced(self._expression(said[1], said[2], line))
        letter = self._take()
        if letter == '"':
            return self._spaced(self._string())
        closing = {"(": ")", "[": "]"}.get(letter)
        if closing is None:
            self._fail(f"{letter!r} means nothing here")
        pattern = self._alternatives(depth + 1)
        if self._next() != closing:
            self._fail("a parenthesis is not closed")
        self._take()
        return pattern if letter == "(" else repeated(pattern, 0, 1)

    def _spaced(self, terminal: Pattern) -> Pattern:
        """With what is ignored behind it."""
        if not (self._in_rule and self._has_ignored):
            return terminal
        return in_turn([terminal, Named(_IGNORED, self._line())])

    def _expression(self, said: str, flags: str, line: int) -> Pattern:
        if flags:
            raise GrammarError("flags of an expression cannot be ruled", line)
        try:
            return regex.read(said)
        except BadRequest as error:
            raise GrammarError(str(error), line) from None

    def _string(self) -> Pattern:
        text = self._quoted('"')
        if self._pass(_SPAN) is not None:
            last = self._quoted('"')
            if len(text) != 1 or len(last) != 1 or last < text:
                self._fail("a span is of one letter to one that comes after it")
            return Letter(((text, last),))
        if self._next() == "i":
            self._take()
            return in_turn(map(_in_any_case, text))
        return Text(text)


def _in_any_case(letter: str) -> Pattern:
    cases = {case for case in (letter.lower(), letter.upper()) if len(case) == 1} or {letter}
    return Text(letter) if len(cases) == 1 else Letter(tuple((case, case) for case in sorted(cases)))


__all__ = ["comes_in", "read"]
