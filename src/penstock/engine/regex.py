"""Which regular expressions a local model's answer can be ruled by.

Each library understands others, and in its own way.  So an expression is read here, and becomes a tree (``pattern``) that
is written anew in the few forms which every backend reads alike: a class for each abbreviation, plain groups, no anchors,
since the whole answer has to match.

What tells a match from another (names of groups, lazy repetition) means nothing to a grammar and is left out.  What
looks at the text around (anchors in the middle, look-around, references back) cannot be ruled, and is refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NoReturn

from penstock.engine._letters import Letters
from penstock.engine.pattern import (
    MAX_DEPTH,
    MAX_REPEATS,
    MAX_SIZE,
    NOTHING,
    OF_CLASS,
    Letter,
    Pattern,
    Text,
    in_turn,
    may_be_nothing,
    one_of,
    repeated,
    size,
)
from penstock.errors import BadRequest

MAX_LETTERS = 4_000

_CLASSES = {
    "d": (("0", "9"),),
    "w": (("A", "Z"), ("a", "z"), ("0", "9"), ("_", "_")),
    "s": ((" ", " "), ("\t", "\t"), ("\n", "\n"), ("\r", "\r")),
}
_LETTERS = {"n": "\n", "t": "\t", "r": "\r"}
_SPECIAL = frozenset("\\^$.|?*+()[]{}")
_COUNTS = re.compile(r"\{(\d{0,4})(,?)(\d{0,4})\}")
_GROUP = re.compile(r"\?(?::|P?<[A-Za-z_]\w*>)")


def read(said: str, param: str = "regex") -> Pattern:
    """What it matches.

    :param param: the member that says it
    :raises BadRequest: it says something that cannot be ruled
    """
    return _Reader(said, param).whole()


def any_of(texts: Sequence[str], param: str = "choice") -> Pattern:
    """One of several texts.

    :raises BadRequest: there are none, or one is empty
    """
    if not texts or not all(texts):
        raise BadRequest("a choice is of one text at least, and none of them is empty", param=param)
    return read("|".join("".join(_plain(letter) for letter in text) for text in texts), param)


def _plain(letter: str) -> str:
    return f"\\{letter}" if letter in _SPECIAL else letter


class _Reader(Letters):
    """Reads one expression, from left to right."""

    def __init__(self, expression: str, param: str) -> None:
        super().__init__(expression)
        self._param = param

    def __repr__(self) -> str:
        return f"<_Reader at {self._at} of {len(self._text)}>"

    def whole(self) -> Pattern:
        if len(self._text) > MAX_LETTERS:
            self._fail(f"it has more than {MAX_LETTERS} letters")
        read = self._alternatives(0)
        if self._at < len(self._text):
            self._fail("a parenthesis is closed that was not opened")
        if read == NOTHING:
            self._fail("only an empty answer matches it")
        return read

    def _fail(self, why: str) -> NoReturn:
        text = f"the regular expression cannot be used: {why} (at letter {self._at})"
        raise BadRequest(text, param=self._param)

    def _alternatives(self, depth: int) -> Pattern:
        if depth > MAX_DEPTH:
            self._fail(f"it is deeper than {MAX_DEPTH}")
        parts = [self._sequence(depth)]
        while self._next() == "|":
            self._at += 1
            parts.append(self._sequence(depth))
        return self._bounded(one_of(parts))

    def _sequence(self, depth: int) -> Pattern:
        parts: list[Pattern] = []
        if self._next() == "^" and depth == 0:
            self._at += 1
        while (letter := self._next()) and letter not in "|)":
            if letter == "$" and depth == 0 and self._text[self._at + 1 : self._at + 2] in {"", "|"}:
                self._at += 1
                break
            parts.append(self._bounded(self._repeated(self._atom(depth))))
        return in_turn(parts)

    def _bounded(self, pattern: Pattern) -> Pattern:
        if size(pattern) > MAX_SIZE:
            self._fail(f"it becomes more than {MAX_SIZE} letters, of which a class counts {OF_CLASS}")
        return pattern

    def _repeated(self, part: Pattern) -> Pattern:
        least, most = self._counts()
        if (least, most) == (1, 1):
            return part
        if self._next() == "?":  # lazy
            self._at += 1
        if self._next() in {"*", "+", "?"} or _COUNTS.match(self._text, self._at):
            self._fail("what is repeated is repeated again")
        if may_be_nothing(part):
            self._fail("what may be nothing is repeated")
        return repeated(part, least, most)

    def _counts(self) -> tuple[int, int | None]:
        """How often the last part may come; None: as often as it pleases."""
        simple: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}
        if (found := simple.get(self._next())) is not None:
            self._at += 1
            return found
        counts = _COUNTS.match(self._text, self._at)
        if counts is None or not (counts[1] or counts[3]):
            return 1, 1
        self._at = counts.end()
        least = int(counts[1] or 0)
        most = int(counts[3]) if counts[3] else None if counts[2] else least
        if max(least, most or 0) > MAX_REPEATS or (most is not None and most < least):
            self._fail(f"repetitions are 0 to {MAX_REPEATS}, the smaller number first")
        return least, most

    def _atom(self, depth: int) -> Pattern:
        letter = self._take()
        if letter == "(":
            return self._group(depth)
        if letter == "[":
            return self._class()
        if letter == ".":
            return Letter((("\n", "\n"),), negated=True)
        if letter == "\\":
            return self._escape()
        if letter in {"*", "+", "?"}:
            self._fail("there is nothing to repeat")
        if letter in {"^", "$"}:
            self._fail("an anchor in the middle cannot be ruled")
        return Text(self._literal(letter))

    def _group(self, depth: int) -> Pattern:
        if self._next() == "?":
            said = _GROUP.match(self._text, self._at)
            if said is None:
                self._fail("flags and looking around cannot be ruled")
            self._at = said.end()
        read = self._alternatives(depth + 1)
        if self._next() != ")":
            self._fail("a parenthesis is not closed")
        self._at += 1
        return read

    def _escape(self) -> Pattern:
        letter = self._take()
        if letter.lower() in _CLASSES:
            return Letter(_CLASSES[letter.lower()], negated=letter.isupper())
        return Text(self._literal(self._escaped(letter)))

    def _escaped(self, letter: str) -> str:
        """The letter that stands behind a backslash."""
        if letter in _LETTERS:
            return _LETTERS[letter]
        if letter in {"x", "u"}:
            digits = self._text[self._at : self._at + (2 if letter == "x" else 4)]
            if not re.fullmatch(r"[0-9a-fA-F]{2}|[0-9a-fA-F]{4}", digits):
                self._fail(f"\\{letter} wants hexadecimal digits")
            self._at += len(digits)
            return chr(int(digits, 16))
        if letter.isalnum():
            self._fail(f"\\{letter} cannot be ruled")
        return letter

    def _class(self) -> Pattern:
        negated = self._next() == "^"
        self._at += negated
        spans: list[tuple[str, str]] = []
        while not spans or self._next() != "]":
            spans += self._member()
        self._at += 1
        return Letter(tuple(spans), negated)

    def _member(self) -> Sequence[tuple[str, str]]:
        """A letter of a class, a span of them, or a class in it."""
        first = self._take()
        if first == "\\":
            first = self._take()
            if first in _CLASSES:
                return _CLASSES[first]
            first = self._escaped(first)
        last = self._literal(first)
        if self._next() == "-" and self._text[self._at + 1 : self._at + 2] not in {"]", ""}:
            self._at += 1
            last = self._take()
            last = self._literal(self._escaped(self._take()) if last == "\\" else last)
        if last < first:
            self._fail("a span's first letter comes after its last")
        return ((first, last),)

    def _literal(self, letter: str) -> str:
        if letter not in _LETTERS.values() and not letter.isprintable():
            self._fail("a letter in it cannot be written")
        return letter


__all__ = ["MAX_LETTERS", "any_of", "read"]
