"""The text of a grammar, letter by letter, and what the ways to write one have in common."""

from __future__ import annotations

import re
from typing import NoReturn

from penstock.engine._letters import Letters
from penstock.engine.pattern import MAX_DEPTH, MAX_REPEATS, Pattern, repeated
from penstock.engine.productions import MAX_LETTERS, GrammarError

_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v", "b": "\b", "0": "\0"}
_DIGITS = {"x": 2, "u": 4, "U": 8}
_HEXADECIMAL = re.compile("[0-9a-fA-F]+")


class GrammarText(Letters):
    """Reads one text, from left to right.

    :raises GrammarError: it is too long
    """

    def __init__(self, text: str) -> None:
        if len(text) > MAX_LETTERS:
            raise GrammarError(f"it has more than {MAX_LETTERS} letters")
        super().__init__(text)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} in line {self._line()}>"

    def _line(self) -> int:
        return self._text.count("\n", 0, self._at) + 1

    def _fail(self, why: str) -> NoReturn:
        raise GrammarError(why, self._line())

    def _at_end(self) -> bool:
        return self._at >= len(self._text)

    def _comes(self, what: re.Pattern[str]) -> bool:
        return what.match(self._text, self._at) is not None

    def _pass(self, what: re.Pattern[str]) -> re.Match[str] | None:
        """Take it, if it comes."""
        found = what.match(self._text, self._at)
        if found is not None:
            self._at = found.end()
        return found

    def _check_depth(self, depth: int) -> None:
        if depth > MAX_DEPTH:
            self._fail(f"it is deeper than {MAX_DEPTH}")

    def _letter(self) -> str:
        """One letter of a text or a class, which may be written as a number."""
        letter = self._take()
        if letter != "\\":
            return letter
        letter = self._take()
        if letter in _ESCAPES:
            return _ESCAPES[letter]
        if letter in _DIGITS:
            digits = self._text[self._at : self._at + _DIGITS[letter]]
            if len(digits) != _DIGITS[letter] or not _HEXADECIMAL.fullmatch(digits):
                self._fail(f"\\{letter} wants {_DIGITS[letter]} hexadecimal digits")
            self._at += len(digits)
            code = int(digits, 16)
            if code > 0x10FFFF or 0xD800 <= code < 0xE000:
                self._fail(f"\\{letter}{digits} is no letter")
            return chr(code)
        if letter.isalnum():
            self._fail(f"\\{letter} means nothing here")
        return letter

    def _quoted(self, quote: str) -> str:
        """A text up to its last quote; the first one has been taken."""
        letters: list[str] = []
        while self._next() != quote:
            if self._next() in {"\n", ""}:
                self._fail("a text is not closed")
            letters.append(self._letter())
        self._take()
        return "".join(letters)

    def _repeated(self, part: Pattern, blanks: re.Pattern[str], counts: re.Pattern[str]) -> Pattern:
        """With what says how often it comes; ``counts`` has the groups least, a sign that there are two, and most."""
        while True:
            begin = self._at
            self._pass(blanks)
            simple: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}
            if (said := simple.get(self._next())) is not None:
                self._take()
                part = repeated(part, *said)
                continue
            found = self._pass(counts)
            if found is None:
                self._at = begin
                return part
            if not found[1] and not found[3]:
                self._fail("it does not say how often")
            least = int(found[1] or 0)
            most = int(found[3]) if found[3] else None if found[2] else least
            if max(least, most or 0) > MAX_REPEATS or (most is not None and most < least):
                self._fail(f"repetitions are 0 to {MAX_REPEATS}, the smaller number first")
            part = repeated(part, least, most)


__all__ = ["GrammarText"]
