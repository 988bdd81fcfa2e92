"""Calls of tools, as models write them into their text.

Two forms are read, those of most open models::

    <tool_call>{"name": ..., "arguments": {...}}</tool_call>     Hermes, Qwen; anywhere, any number
    {"name": ..., "parameters": {...}}                           Llama; the whole answer

Text is held as long as it may be part of a call.  What turns out to be none (no JSON, a tool that was not offered, an
answer that was cut) is told as the text that the model wrote: nothing is guessed, and nothing is lost.  The ids and
log probabilities of what a call was written in are told with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import msgspec

from penstock.engine.text import Piece
from penstock.messages import JSON
from penstock.wire.not_json import NOT_JSON

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"


class Called(msgspec.Struct, frozen=True):
    """One call; ``arguments`` is JSON text, ``piece`` what it was written in, without its text.

    ``is_custom``: of a custom tool; ``arguments`` is its input then, which may be any text.
    """

    name: str
    arguments: str
    piece: Piece
    is_custom: bool = False


Said: TypeAlias = Piece | Called


class _Written(msgspec.Struct):
    name: str
    arguments: dict[str, JSON] | None = None
    parameters: dict[str, JSON] | None = None


class ToolText:
    """One answer: pieces in, pieces and calls out.

    :param names: of the tools that were offered
    """

    __slots__ = ("_held", "_in_text", "_is_begun", "_names", "calls")

    def __init__(self, names: Sequence[str]) -> None:
        self._names = frozenset(names)
        self._held: list[Piece] = []
        self._is_begun = False  # something was told: the whole is no call any more
        self._in_text = False  # what was told last is text
        self.calls = 0

    def __repr__(self) -> str:
        return f"<ToolText {self.calls} calls, {len(self._held)} pieces held>"

    def feed(self, pieces: Sequence[Piece]) -> list[Said]:
        """What is certain now."""
        told: list[Said] = []
        for piece in pieces:
            self._held.append(piece)
            told += self._certain()
        return told

    def end(self, *, whole: bool) -> list[Said]:
        """What is left when no more comes.

        :param whole: the answer came to its own end, and was not cut
        """
        held, self._held = self._held, []
        text = _text(held)
        if whole and not self._is_begun and text.lstrip().startswith("{"):
            call = self._call(text, held)
            if call is not None:
                return [call]
        return self._told(held)

    def _certain(self) -> list[Said]:
        told: list[Said] = []
        while True:
            text = _text(self._held)
            if not self._is_begun and text.lstrip().startswith("{"):
                return told  # the whole answer may be one
            at = text.find(_OPEN)
            if at < 0:
                certain = len(text) - _overlap(text)
                if not self._in_text and not text[:certain].strip():
                    return told  # perhaps the space around a call
                return told + self._told(self._take(certain))
            if at:
                told += self._told(self._take(at))
                continue
            end = text.find(_CLOSE)
            if end < 0:
                return told
            written = self._take(end + len(_CLOSE))
            call = self._call(text[len(_OPEN) : end], written)
            told += self._told(written) if call is None else [call]

    def _take(self, letters: int) -> list[Piece]:
        """So much of what is held; where a piece is divided, its ids stay with its end."""
        taken = []
        while self._held and len(self._held[0].text) <= letters:
            taken.append(self._held.pop(0))
            letters -= len(taken[-1].text)
        if letters > 0:
            first = self._held[0]
            taken.append(Piece(first.text[:letters], [], []))
            self._held[0] = Piece(first.text[letters:], first.ids, first.logprobs)
        return taken

    def _told(self, pieces: list[Piece]) -> list[Said]:
        if not pieces:
            return []
        text = _text(pieces)
        if text.strip():
            self._in_text = self._is_begun = True
        elif not self._in_text:
            text = ""
        return [_joined(pieces, text)]

    def _call(self, text: str, held: list[Piece]) -> Called | None:
        try:
            written = msgspec.json.decode(text.strip(), type=_Written)
        except NOT_JSON:
            return None
        arguments = written.arguments if written.arguments is not None else written.parameters
        if written.name not in self._names or arguments is None:
            return None
        self.calls += 1
        self._is_begun, self._in_text = True, False
        return Called(written.name, msgspec.json.encode(arguments).decode(), _joined(held, ""))


def _overlap(text: str) -> int:
    """How many letters at the end may begin a call."""
    for length in range(min(len(_OPEN) - 1, len(text)), 0, -1):
        if text.endswith(_OPEN[:length]):
            return length
    return 0


def _text(pieces: Sequence[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def _joined(pieces: Sequence[Piece], text: str) -> Piece:
    return Piece(
        text,
        [token for piece in pieces for token in piece.ids],
        [value for piece in pieces for value in piece.logprobs],
    )
