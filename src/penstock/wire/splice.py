"""Another attempt's stream, made to go on where an answer's log stands.

::

    upstream's frame -> decoder -> AnswerEvents -> seam -> AnswerEvents -> encoder -> caller's frames

The encoder has told already what the log holds (``wire.delivered``), so ids, model, indices and sequence
numbers go on, and nothing is opened twice.  The seam decides what of the attempt is new:

* :class:`Reproduction`: the attempt began from nothing.  It must say again what was delivered, letter for
  letter; what goes beyond is new.
* :class:`Continuation`: the attempt was shown what was delivered.  All of it is new but for what it
  repeats at its beginning.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from penstock.messages import Usage
from penstock.wire.boundary import Mismatch
from penstock.wire.conversation import (
    AnswerEvent,
    Finished,
    PartDelta,
    PartEnded,
    PartStarted,
    Refusal,
    Started,
    Text,
    Thinking,
    ToolCall,
)
from penstock.wire.delivered import Said
from penstock.wire.dialect import Decoder, Encoder
from penstock.wire.usage import tokens_of_delta


class Seam(Protocol):
    def take(self, event: AnswerEvent) -> list[AnswerEvent]:
        """What of this event is new to the caller.

        :raises Mismatch: it contradicts what the caller has
        """


class Splice:
    """One attempt: frames in, the caller's further frames out.

    ``came`` says that the attempt's answer has begun, and ``received`` counts its output tokens, new or not:
    for an attempt that breaks before it tells.
    An attempt that does not fit says so in ``mismatch``; what still comes of it is counted, and is not new.
    ``told`` is the usage that the caller was told at the end.

    :param total: the caller's usage, given that of this attempt
    """

    __slots__ = ("_decoder", "_encoder", "_seam", "came", "mismatch", "received", "told", "total")

    def __init__(
        self, decoder: Decoder, encoder: Encoder, seam: Seam, total: Callable[[Usage], Usage]
    ) -> None:
        self._decoder = decoder
        self._encoder = encoder
        self._seam = seam
        self.total = total
        self.mismatch: Mismatch | None = None
        self.came = False
        self.received = 0
        self.told: Usage | None = None

    def __repr__(self) -> str:
        return f"<Splice by {type(self._seam).__name__}, {self.received} tokens received>"

    def feed(self, frame: bytes) -> list[bytes]:
        """The caller's frames that this frame becomes.

        :raises penstock.errors.PenstockError: as the decoder does
        """
        return self._encode(self._decoder.feed(frame))

    def close(self) -> list[bytes]:
        """The upstream's stream is at its end.

        :raises penstock.errors.UpstreamBroken: it was not complete
        """
        return self._encode(self._decoder.close())

    def _encode(self, events: list[AnswerEvent]) -> list[bytes]:
        frames: list[bytes] = []
        for event in events:
            self.came = True
            if isinstance(event, PartDelta):
                self.received += tokens_of_delta(event.text)
        if self.mismatch is not None:
            return []
        try:
            for event in events:
                for new in self._seam.take(event):
                    if isinstance(new, Finished):
                        self.told = self.total(new.usage)
                        new = msgspec.structs.replace(new, usage=self.told)  # noqa: PLW2901
                    frames += self._encoder.feed(new)
        except Mismatch as mismatch:
            self.mismatch = mismatch
        return frames


class Reproduction:
    """The attempt says again what was said, and then goes on.

    :param said: what was delivered; the last part may be open
    """

    __slots__ = ("_at", "_offset", "_said")

    def __init__(self, said: list[Said]) -> None:
        self._said = said
        self._at = 0  # the part of `said` that is being said again
        self._offset = 0  # how much of its text has been

    def __repr__(self) -> str:
        return f"<Reproduction at part {self._at} of {len(self._said)}>"

    def take(self, event: AnswerEvent) -> list[AnswerEvent]:
        if isinstance(event, Started):
            return []
        if self._at >= len(self._said):
            return [event]
        said = self._said[self._at]
        if isinstance(event, PartStarted):
            return self._begin(said, event)
        if isinstance(event, PartDelta):
            return self._delta(said, event)
        if isinstance(event, PartEnded):
            return self._end(said)
        if self._at == len(self._said) - 1 and not said.ended and not said.text:
            # A part was opened and nothing said in it; this time the model says nothing at all.
            return [PartEnded(), event]
        raise Mismatch("the repeated answer is shorter than the first one")

    def _begin(self, said: Said, event: PartStarted) -> list[AnswerEvent]:
        part, first = event.part, said.part
        if type(part) is not type(first):
            if self._at == len(self._said) - 1 and not said.text and not said.ended:
                # Nothing was said in that part yet, so it may stay empty.
                self._at += 1
                return [PartEnded(), event]
            raise Mismatch("the repeated answer has other parts than the first one")
        if isinstance(part, ToolCall) and isinstance(first, ToolCall) and part.name != first.name:
            raise Mismatch("the repeated answer calls another tool than the first one")
        if isinstance(part, Thinking) and isinstance(first, Thinking) and part.redacted != first.redacted:
            raise Mismatch("the repeated answer has other thoughts than the first one")
        self._offset = 0
        text = part.arguments if isinstance(part, ToolCall) else part.text
        return self._delta(said, PartDelta(text)) if text else []

    def _delta(self, said: Said, event: PartDelta) -> list[AnswerEvent]:
        text = event.text
        same = said.text[self._offset : self._offset + len(text)]
        self._offset += len(same)
        if not text.startswith(same):
            raise Mismatch("the repeated answer differs from the first one")
        new = text[len(same) :]
        if said.ended:
            if new:
                raise Mismatch("the repeated answer is longer where the first one had ended")
            return []
        if self._offset < len(said.text):
            return []
        if new or event.signature or event.citation is not None:
            return [msgspec.structs.replace(event, text=new)]
        return []

    def _end(self, said: Said) -> list[AnswerEvent]:
        if self._offset < len(said.text):
            raise Mismatch("the repeated answer is shorter than the first one")
        self._at += 1
        return [] if said.ended else [PartEnded()]


class Continuation:
    """The attempt goes on with a text that it was shown.

    :param open: whether the caller's part with that text is still open
    :param trim: ``(what it has said so far, whether that is all)`` → the new text; None: too early to tell
    """

    __slots__ = ("_begun", "_head", "_open", "_thinking", "_trim")

    def __init__(
        self,
        trim: Callable[[str, bool], str | None],
        *,
        open: bool,  # noqa: A002
    ) -> None:
        self._trim = trim
        self._open = open
        self._head: str | None = ""  # held until it is clear what of it is new; None: it is
        self._begun = False  # its first text has begun
        self._thinking = False

    def __repr__(self) -> str:
        return f"<Continuation {'under way' if self._head is None else f'holding {len(self._head)} letters'}>"

    def take(self, event: AnswerEvent) -> list[AnswerEvent]:
        if isinstance(event, Started):
            return []
        if isinstance(event, PartStarted):
            return self._begin(event)
        if self._thinking:
            self._thinking = not isinstance(event, PartEnded)
            return []
        if isinstance(event, PartDelta):
            return self._delta(event)
        if isinstance(event, PartEnded):
            return [*self._settle(), event]
        return [*self._leave(), event]

    def _begin(self, event: PartStarted) -> list[AnswerEvent]:
        part = event.part
        if isinstance(part, Thinking):
            # What it thinks anew is not told: the caller has been told thoughts, or wanted none.
            self._thinking = True
            return []
        if self._begun:
            return [event]
        if isinstance(part, Refusal):
            raise Mismatch("the model that was to go on refused to")
        if isinstance(part, ToolCall):
            return [*self._leave(), event]
        self._begun = True
        events: list[AnswerEvent] = [] if self._open else [PartStarted(Text(""))]
        return [*events, *self._delta(PartDelta(part.text))] if part.text else events

    def _leave(self) -> list[AnswerEvent]:
        """What follows is no text: without a word more, the caller's own part ends here."""
        events = self._settle()
        if self._open and not self._begun:
            self._begun = True
            events.append(PartEnded())
        return events

    def _delta(self, event: PartDelta) -> list[AnswerEvent]:
        if self._head is None:
            return [event]
        self._head += event.text
        new = self._trim(self._head, False)
        if new is None:
            return []
        self._head = None
        if new or event.citation is not None:
            return [msgspec.structs.replace(event, text=new)]
        return []

    def _settle(self) -> list[AnswerEvent]:
        """It says no more in this part: what was held is all of it."""
        head, self._head = self._head, None
        if head is None:
            return []
        new = self._trim(head, True)
        return [PartDelta(new)] if new else []
