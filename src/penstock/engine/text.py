"""Token ids to text, piece by piece, so that an answer can be cut between any two pieces and gone on with.

A token is not a letter: three of them may make one 漢, and a stop sequence may begin in the middle of one.  So
text is told only together with all the ids that it was made of, and an id only when the text before the next one
is certain.  Whoever has received some pieces then knows exactly the ids to go on from, and a model that goes on
from them, here or elsewhere, says the rest to the letter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from penstock.engine.backend import Logprob

_REPLACEMENT = "\ufffd"  # what stands in a decoded text for bytes that are no letter (yet)
_LONGEST_LETTER = 4  # bytes of UTF-8
_WINDOW = 6  # token ids before a text that decide how it begins, a space before a word above all
_MOST_HELD = 8  # tokens; what makes no letter by then is none


class Piece(msgspec.Struct, gc=False):
    """Text, with the ids that it was made of and, where they were asked for, their log probabilities."""

    text: str
    ids: list[int]
    logprobs: list[Logprob]


class TextOf:
    """How the ids of one answer become text; ``take`` gives the text of an id, or None: it is not certain yet."""

    def take(self, token: int) -> str | None:
        raise NotImplementedError

    def rest(self) -> str:
        """What was held, although it never became certain."""
        raise NotImplementedError


class _OfBytes(TextOf):
    """Where every id has its bytes, and the text is all of them: a microsecond for a token."""

    __slots__ = ("_held", "_pieces")

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = pieces
        self._held = b""

    def take(self, token: int) -> str | None:
        data = self._held + self._pieces[token]
        if _is_whole(data):
            self._held = b""
            return data.decode("utf-8", "replace")
        self._held = data
        return None

    def rest(self) -> str:
        data, self._held = self._held, b""
        return data.decode("utf-8", "replace")


def _is_whole(data: bytes) -> bool:
    """Whether no letter is incomplete at the end; what can become none counts as complete."""
    if not data or data[-1] < 0x80:
        return True
    for back in range(1, min(_LONGEST_LETTER, len(data)) + 1):
        byte = data[-back]
        if byte >= 0xC0:
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return back >= length
        if byte < 0x80:
            return True
    return True


class _OfWindow(TextOf):
    """Where only the library knows: each text is decoded with the ids before it, and without."""

    __slots__ = ("_before", "_decode", "_held")

    def __init__(self, decode: Callable[[Sequence[int]], str], prompt: Sequence[int]) -> None:
        self._decode = decode
        self._before = list(prompt[-_WINDOW:])
        self._held: list[int] = []

    def take(self, token: int) -> str | None:
        self._held.append(token)
        text = self._text()
        if text.endswith(_REPLACEMENT) and len(self._held) < _MOST_HELD:
            return None
        self._move()
        return text

    def rest(self) -> str:
        text = self._text() if self._held else ""
        self._move()
        return text

    def _text(self) -> str:
        before = self._decode(self._before)
        return self._decode([*self._before, *self._held])[len(before) :]

    def _move(self) -> None:
        self._before = [*self._before, *self._held][-_WINDOW:]
        self._held = []


def text_of(
    pieces: Sequence[bytes] | None, decode: Callable[[Sequence[int]], str], prompt: Sequence[int]
) -> TextOf:
    """For one answer to ``prompt``."""
    return _OfBytes(pieces) if pieces is not None else _OfWindow(decode, prompt)


class TextStream:
    """One answer: ids in, pieces out.

    ``stopped``: a stop sequence has come; nothing after it is told.  ``tokens`` counts the ids that are part of the
    answer, told or not.

    :param stops: texts before which the answer ends
    :param keep_stop: it ends behind them
    """

    __slots__ = ("_held", "_ids", "_keep_stop", "_logprobs", "_stops", "_texts", "stopped", "tokens")

    def __init__(self, texts: TextOf, stops: Sequence[str] = (), *, keep_stop: bool = False) -> None:
        self._texts = texts
        self._stops = tuple(stops)
        self._keep_stop = keep_stop
        self._ids: list[int] = []  # since the last certain text
        self._logprobs: list[Logprob] = []
        self._held: list[Piece] = []  # a stop sequence may have begun in these
        self.stopped = False
        self.tokens = 0

    def __repr__(self) -> str:
        return f"<TextStream {self.tokens} tokens, {len(self._held)} pieces held>"

    def feed(self, ids: Sequence[int], logprobs: Sequence[Logprob]) -> list[Piece]:
        """What is certain now."""
        certain: list[Piece] = []
        for place, token in enumerate(ids):
            self.tokens += 1
            self._ids.append(token)
            if logprobs:
                self._logprobs.append(logprobs[place])
            text = self._texts.take(token)
            if text is None:
                continue
            certain += self._certain(self._piece(text))
            if self.stopped:
                break
        return certain

    def end(self) -> Piece:
        """What is left when no more ids come, ids without a text among it."""
        last = self._piece(self._texts.rest())
        held, self._held = [*self._held, last], []
        text = "".join(piece.text for piece in held)
        at = self._found(text)
        if at >= 0:
            self.stopped = True
            text = text[:at]
        return _joined(held, text)

    def _piece(self, text: str) -> Piece:
        piece = Piece(text, self._ids, self._logprobs)
        self._ids, self._logprobs = [], []
        return piece

    def _certain(self, piece: Piece) -> list[Piece]:
        if not self._stops:
            return [piece]
        held = [*self._held, piece]
        text = "".join(each.text for each in held)
        at = self._found(text)
        if at >= 0:
            self.stopped = True
            self._held = []
            return [_joined(held, text[:at])]
        uncertain = self._begun(text)
        told: list[Piece] = []
        length = len(text)
        for place, each in enumerate(held):
            if sum(len(one.text) for one in held[: place + 1]) > length - uncertain:
                self._held = held[place:]
                return told
            told.append(each)
        self._held = []
        return told

    def _found(self, text: str) -> int:
        """Where the text ends for the first stop sequence; -1: there is none."""
        places = [(at, len(stop)) for stop in self._stops if (at := text.find(stop)) >= 0]
        if not places:
            return -1
        at, length = min(places)
        return at + length if self._keep_stop else at

    def _begun(self, text: str) -> int:
        """How many letters at the end may be the beginning of a stop sequence."""
        most = 0
        for stop in self._stops:
            for length in range(min(len(stop) - 1, len(text)), most, -1):
                if text.endswith(stop[:length]):
                    most = length
                    break
        return most


def _joined(pieces: Sequence[Piece], text: str) -> Piece:
    return Piece(
        text,
        [token for piece in pieces for token in piece.ids],
        [value for piece in pieces for value in piece.logprobs],
    )
