"""The offset of one upload: what may be appended to it, and what becomes of it.  No I/O.

Theory of operation
-------------------
An upload is a sequence of bytes that grows at its end only.  ``offset`` is how much of it is confirmed: on the
disk, and told to the client.  It never falls (RUFH, 4.1: "MUST NOT decrease").

An append is begun (:meth:`Offsets.begin`), takes pieces (:meth:`Offsets.take`), and confirms them
(:meth:`Offsets.confirm`), once or several times, or loses what it has not confirmed (:meth:`Offsets.lose`).  When
its content has come to its end, :meth:`Offsets.end` says whether the upload is complete.  There is one at a time.

Two dialects have two ways to say what is the last append: RUFH says it with each (``closes``), tus knows it by
the length (``closes`` None).

========== ================================ ===============================================
phase      an append                        how it is left
========== ================================ ===============================================
OPEN       where the upload ends            the last append: COMPLETE; by order, or by a lie: GONE
COMPLETE   an empty one, which asks for     its time is over: GONE
           the answer once more
GONE       410                              never
========== ================================ ===============================================
"""

from __future__ import annotations

import enum

from penstock.errors import BodyTooLarge, Gone, InconsistentLength, OffsetMismatch, UploadCompleted


class Phase(enum.IntEnum):
    """The numbers are those in the store's database."""

    OPEN = 0
    COMPLETE = 1
    GONE = 2


class Offsets:
    """One upload's offset.

    :param max_size: bytes that it may grow to
    :param length: bytes that it will have, if that is known
    """

    __slots__ = ("_closes", "length", "max_size", "offset", "phase", "unconfirmed")

    def __init__(
        self, *, max_size: int, offset: int = 0, length: int | None = None, phase: Phase = Phase.OPEN
    ) -> None:
        self.max_size = max_size
        self.offset = offset
        self.length: int | None = None
        self.phase = phase
        self.unconfirmed = 0
        self._closes: bool | None = None
        if length is not None:
            self._know(length)

    def __repr__(self) -> str:
        length = "?" if self.length is None else self.length
        return f"<Offsets {self.phase.name.lower()} {self.offset}+{self.unconfirmed} of {length}>"

    def begin(
        self,
        offset: int,
        *,
        closes: bool | None = None,
        length: int | None = None,
        content_length: int | None = None,
    ) -> bool:
        """An append begins; nothing has changed if it is refused.

        :param closes: whether it is the last one; None: it is, if it reaches the length
        :param length: of the whole, as this request says it
        :param content_length: of the append, if that is known
        :returns: whether there is anything to append: False: the upload is complete, and its answer is wanted again
        :raises OffsetMismatch: it does not begin where the upload ends
        :raises InconsistentLength: what is said about lengths cannot all be true
        :raises BodyTooLarge: the upload would become too large
        :raises UploadCompleted: nothing can be appended any more
        :raises Gone: there is no upload any more
        """
        if self.phase is Phase.GONE:
            raise _gone()
        if offset != self.offset:
            raise OffsetMismatch(self.offset, offset)
        if self.phase is Phase.COMPLETE:
            if closes is False or content_length != 0 or length not in {None, self.offset}:
                raise UploadCompleted("the upload is complete")
            return False
        whole = self.length if length is None else length
        if length is not None:
            self._check(length)
        if content_length is not None:
            after = offset + content_length
            if after > self.max_size:
                raise self._too_large()
            if whole is not None and (after > whole or (closes and after != whole)):
                raise InconsistentLength(f"the append ends at {after}, and the upload at {whole}")
        self.length = whole
        self.unconfirmed = 0
        self._closes = closes
        return True

    def take(self, size: int) -> None:
        """So many bytes more have come.

        :raises InconsistentLength: more than were announced: the upload is given up (RUFH, 4.1.3)
        :raises BodyTooLarge: more than it may hold; what was confirmed stays
        """
        after = self.offset + self.unconfirmed + size
        if self.length is not None and after > self.length:
            self.phase = Phase.GONE
            raise InconsistentLength(f"more than the {self.length} bytes that were announced")
        if after > self.max_size:
            raise self._too_large()
        self.unconfirmed += size

    def confirm(self, size: int) -> None:
        """So many of the bytes that were taken are safe."""
        self.offset += size
        self.unconfirmed -= size

    def give_up(self) -> None:
        """The content is not what was announced."""
        self.phase = Phase.GONE

    def lose(self) -> None:
        """What was taken and is not confirmed is not kept."""
        self.unconfirmed = 0

    @property
    def last(self) -> bool:
        """Whether the upload is complete if the append's content ends here."""
        after = self.offset + self.unconfirmed
        if self._closes is None:
            return after == self.length
        return self._closes and self.length in {None, after}

    def end(self) -> bool:
        """The append's content has ended, and all of it is confirmed.

        :returns: whether the upload is complete now
        :raises InconsistentLength: the last append has ended before the length that was announced
        """
        assert not self.unconfirmed, "what is not confirmed has not ended"
        if self.last:
            self.length = self.offset
            self.phase = Phase.COMPLETE
            return True
        if self._closes:
            raise InconsistentLength(
                f"the upload ends at {self.offset}, and {self.length} bytes were announced"
            )
        return False

    def _know(self, length: int) -> None:
        self._check(length)
        self.length = length

    def _check(self, length: int) -> None:
        if self.length is not None and length != self.length:
            raise InconsistentLength(
                f"the length was said to be {self.length}, and is now said to be {length}"
            )
        if length < self.offset:
            raise InconsistentLength(f"there are {self.offset} bytes already, and {length} are announced")
        if length > self.max_size:
            raise self._too_large()

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"an upload may hold {self.max_size} bytes here")


def _gone() -> Gone:
    return Gone("this upload was given up, or its time is over")
