"""What was left out of a prompt, and how a header says it: the client's to its gateway, and both to the caller."""

from __future__ import annotations

import re

import msgspec

from penstock.wire.usage import estimate_tokens

MOST_TOKENS = 10_000_000  # of a prompt; who tells of a longer one is not believed

_STATED = re.compile(
    rb"(?:whitespace;bytes=(?P<whitespace>\d{1,12}), )?"
    rb"(?:duplicates;count=(?P<paragraphs>\d{1,12});bytes=(?P<duplicates>\d{1,12}), )?"
    rb"(?:history;count=(?P<turns>\d{1,12});bytes=(?P<history>\d{1,12}), )?"
    rb"tokens;before=(?P<before>\d{1,8});after=(?P<after>\d{1,8})"
)


class Left(msgspec.Struct):
    """Bytes that were left out, how many paragraphs and turns, and the whole prompt's tokens before and after, about.

    ``history`` are bytes of JSON, the other two of text.
    """

    whitespace: int = 0
    duplicates: int = 0
    paragraphs: int = 0
    history: int = 0
    turns: int = 0
    before: int = 0
    after: int = 0

    @property
    def tokens(self) -> int:
        return self.before - self.after

    @property
    def tokens_by_kind(self) -> dict[str, int]:
        """All of :attr:`tokens`."""
        whitespace = min(estimate_tokens(self.whitespace), self.tokens)
        duplicates = min(estimate_tokens(self.duplicates), self.tokens - whitespace)
        history = self.tokens - whitespace - duplicates
        return {"whitespace": whitespace, "duplicates": duplicates, "history": history}

    def stated(self) -> bytes:
        """As a header's value."""
        parts = []
        if self.whitespace:
            parts.append(b"whitespace;bytes=%d" % self.whitespace)
        if self.paragraphs:
            parts.append(b"duplicates;count=%d;bytes=%d" % (self.paragraphs, self.duplicates))
        if self.turns:
            parts.append(b"history;count=%d;bytes=%d" % (self.turns, self.history))
        parts.append(b"tokens;before=%d;after=%d" % (self.before, self.after))
        return b", ".join(parts)

    def then(self, more: Left) -> Left:
        """The same, with what somebody else has left out of the rest."""
        return Left(
            self.whitespace + more.whitespace,
            self.duplicates + more.duplicates,
            self.paragraphs + more.paragraphs,
            self.history + more.history,
            self.turns + more.turns,
            self.before,
            more.after,
        )


def read_stated(value: bytes) -> Left | None:
    """What a header says; None: that cannot be."""
    match = _STATED.fullmatch(value)
    if match is None:
        return None
    left = Left(**{name: int(figure or 0) for name, figure in match.groupdict().items()})
    return left if left.after <= left.before <= MOST_TOKENS else None
