"""Reads a text letter by letter: what the readers of expressions and grammars have in common."""

from __future__ import annotations

from typing import NoReturn


class Letters:
    """One text, from left to right; those who know what it is derive, and say what is wrong with it."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def _fail(self, why: str) -> NoReturn:
        raise NotImplementedError(why)

    def _next(self) -> str:
        """The letter that comes; empty: that was all."""
        return self._text[self._at : self._at + 1]

    def _take(self) -> str:
        letter = self._next()
        if not letter:
            self._fail("it ends too early")
        self._at += 1
        return letter
