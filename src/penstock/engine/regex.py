"""Which regular expressions a local model's answer can be ruled by.

The library compiles one in the middle of a step, and one that it does not understand costs it its state, and
everybody else their answers.  So an expression is read here, and written anew in the few forms that every backend
reads alike: a class for each abbreviation, plain groups, no anchors, since the whole answer has to match.

What tells a match from another (names of groups, lazy repetition) means nothing to a grammar and is left out.  What
looks at the text around (anchors in the middle, look-around, references back) cannot be ruled, and is refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

from penstock.errors import BadRequest

MAX_LETTERS = 4_000
MAX_DEPTH = 32
MAX_REPEATS = 1_000
# Letters, those that are repeated as often: each is a state, which is compared with all tokens.
MAX_SIZE = 4_000
_OF_CLASS = 20  # letters that a class counts as: of these more tokens begin with one

_CLASSES = {"d": "0-9", "w": "A-Za-z0-9_", "s": " \\t\\n\\r"}
_LETTERS = {"n": "\n", "t": "\t", "r": "\r"}
_NAMES = {letter: f"\\{name}" for name, letter in _LETTERS.items()}
_SPECIAL = frozenset("\\^$.|?*+()[]{}")
_SPECIAL_IN_CLASS = frozenset("\\^-[]")
_COUNTS = re.compile(r"\{(\d{0,4})(,?)(\d{0,4})\}")
_GROUP = re.compile(r"\?(?::|P?<[A-Za-z_]\w*>)")


class _Part(NamedTuple):
    """``text`` as it is written anew; ``size`` of what it becomes; ``empty``: it may match nothing."""

    text: str
    size: int
    empty: bool


def compiled(expression: str, param: str = "regex") -> str:
    """The expression as a backend gets it.

    :param param: the member that says it
    :raises BadRequest: it says something that cannot be ruled
    """
    return _Reader(expression, param).whole()


def any_of(texts: Sequence[str], param: str = "choice") -> str:
    """An expression for one of several texts, as a backend gets it.

    :raises BadRequest: there are none, or one is empty
    """
    if not texts or not all(texts):
        raise BadRequest("a choice is of one text at least, and none of them is empty", param=param)
    return compiled("|".join(map(_escaped, texts)), param)


def _escaped(text: str) -> str:
    return "".join(f"\\{letter}" if letter in _SPECIAL else letter for letter in text)


class _Reader:
    """Reads one expression, from left to right."""

    def __init__(self, expression: str, param: str) -> None:
        self._text = expression
        self._param = param
        self._at = 0

    def __repr__(self) -> str:
        return f"<_Reader at {self._at} of {len(self._text)}>"

    def whole(self) -> str:
        if len(self._text) > MAX_LETTERS:
            self._fail(f"it has more than {MAX_LETTERS} letters")
        read = self._alternatives(0)
        if self._at < len(self._text):
            self._fail("a parenthesis is closed that was not opened")
        if not read.text:
            self._fail("only an empty answer matches it")
        return read.text

    def _fail(self, why: str) -> NoReturn:
        text = f"the regular expression cannot be used: {why} (at letter {self._at})"
        raise BadRequest(text, param=self._param)

    def _next(self) -> str:
        """The letter that comes; empty: that was all."""
        return self._text[self._at : self._at + 1]

    def _take(self) -> str:
        letter = self._next()
        if not letter:
            self._fail("it ends too early")
        self._at += 1
        return letter

    def _alternatives(self, depth: int) -> _Part:
        if depth > MAX_DEPTH:
            self._fail(f"it is deeper than {MAX_DEPTH}")
        parts = [self._sequence(depth)]
        while self._next() == "|":
            self._at += 1
            parts.append(self._sequence(depth))
        said = [part.text for part in parts if part.text]
        size, empty = self._bounded(sum(part.size for part in parts)), any(part.empty for part in parts)
        if len(said) == len(parts) == 1:
            return parts[0]
        text = "|".join(said)
        # One of the alternatives is nothing: then all may be left out.
        return _Part(f"({text})?" if said and len(said) < len(parts) else text, size, empty)

    def _sequence(self, depth: int) -> _Part:
        parts: list[_Part] = []
        if self._next() == "^" and depth == 0:
            self._at += 1
        while (letter := self._next()) and letter not in "|)":
            if letter == "$" and depth == 0 and self._text[self._at + 1 : self._at + 2] in {"", "|"}:
                self._at += 1
                break
            parts.append(self._repeated(self._atom(depth)))
            self._bounded(sum(part.size for part in parts))
        text = "".join(part.text for part in parts)
        return _Part(text, sum(part.size for part in parts), all(part.empty for part in parts))

    def _bounded(self, size: int) -> int:
        if size > MAX_SIZE:
            self._fail(f"it becomes more than {MAX_SIZE} letters, of which a class counts {_OF_CLASS}")
        return size

    def _repeated(self, part: _Part) -> _Part:
        least, most = self._counts()
        if (least, most) == (1, 1):
            return part
        if self._next() == "?":  # lazy
            self._at += 1
        if self._next() in {"*", "+", "?"} or _COUNTS.match(self._text, self._at):
            self._fail("what is repeated is repeated again")
        if part.empty:
            self._fail("what may be nothing is repeated")
        if most == 0:
            return _Part("", 0, empty=True)
        shown = {(0, None): "*", (1, None): "+", (0, 1): "?"}.get((least, most))
        if shown is None:
            shown = f"{{{least}}}" if least == most else f"{{{least},{'' if most is None else most}}}"
        return _Part(part.text + shown, part.size * max(least, most or 1), least == 0)

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

    def _atom(self, depth: int) -> _Part:
        letter = self._take()
        if letter == "(":
            return self._group(depth)
        if letter == "[":
            return _Part(self._class(), _OF_CLASS, empty=False)
        if letter == ".":
            return _Part("[^\\n]", _OF_CLASS, empty=False)
        if letter == "\\":
            return self._escape()
        if letter in {"*", "+", "?"}:
            self._fail("there is nothing to repeat")
        if letter in {"^", "$"}:
            self._fail("an anchor in the middle cannot be ruled")
        return _Part(self._literal(letter, _SPECIAL), 1, empty=False)

    def _group(self, depth: int) -> _Part:
        if self._next() == "?":
            said = _GROUP.match(self._text, self._at)
            if said is None:
                self._fail("flags and looking around cannot be ruled")
            self._at = said.end()
        read = self._alternatives(depth + 1)
        if self._next() != ")":
            self._fail("a parenthesis is not closed")
        self._at += 1
        return read._replace(text=f"({read.text})") if read.text else read

    def _escape(self) -> _Part:
        letter = self._take()
        if letter in _CLASSES:
            return _Part(f"[{_CLASSES[letter]}]", _OF_CLASS, empty=False)
        if letter.lower() in _CLASSES:
            return _Part(f"[^{_CLASSES[letter.lower()]}]", _OF_CLASS, empty=False)
        return _Part(self._literal(self._escaped(letter), _SPECIAL), 1, empty=False)

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

    def _class(self) -> str:
        negated = self._next() == "^"
        self._at += negated
        members: list[str] = []
        while not members or self._next() != "]":
            members.append(self._member())
        self._at += 1
        return f"[{'^' if negated else ''}{''.join(members)}]"

    def _member(self) -> str:
        """A letter of a class, a span of them, or a class in it."""
        letter = self._take()
        if letter == "\\":
            letter = self._take()
            if letter in _CLASSES:
                return _CLASSES[letter]
            letter = self._escaped(letter)
        first = self._literal(letter, _SPECIAL_IN_CLASS)
        if self._next() != "-" or self._text[self._at + 1 : self._at + 2] in {"]", ""}:
            return first
        self._at += 1
        last = self._take()
        if last == "\\":
            last = self._escaped(self._take())
        if last < letter:
            self._fail("a span's first letter comes after its last")
        return f"{first}-{self._literal(last, _SPECIAL_IN_CLASS)}"

    def _literal(self, letter: str, special: frozenset[str]) -> str:
        if letter in _NAMES:
            return _NAMES[letter]
        if not letter.isprintable():
            self._fail("a letter in it cannot be written")
        return f"\\{letter}" if letter in special else letter


__all__ = ["MAX_DEPTH", "MAX_LETTERS", "MAX_REPEATS", "MAX_SIZE", "any_of", "compiled"]
