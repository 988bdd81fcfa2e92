"""Rows that come again and again, and differ in their generation, their moment and their number only.

What a hit in memory says of itself is known before it comes.  So it is put together once, and so are the bytes that
its row has in the queue: they are those that msgpack makes of it, but they are not made anew each time.
"""

from __future__ import annotations

import struct
import time

import msgspec

from penstock.ledger._mended import mended
from penstock.messages import Attempt

_ID_LENGTH = 36  # of a generation's id: its bytes have their place
_LARGE = 1_024  # bytes, beyond which there are names that are cut
_NAMES = Attempt.__struct_fields__
_STARTED, _ROW = _NAMES.index("started"), _NAMES.index("row")

_encode = msgspec.msgpack.Encoder().encode


class RowTemplate:
    """The row of a call that no upstream was asked for, but for generation, moment and number.

    :param attempt: such a row, which is over; nobody changes it any more
    """

    __slots__ = ("_pack", "_pieces", "attempt")

    def __init__(self, attempt: Attempt) -> None:
        self.attempt = attempt
        self._pieces: tuple[bytes, bytes, bytes, bytes] | None = None

    def row(self, generation: str) -> Attempt:
        """One more row, of a call that is answered now."""
        return msgspec.structs.replace(
            self.attempt, id=f"{generation}/1", generation=generation, started=time.time()
        )

    def encoded(self, attempt: Attempt) -> bytes:
        """A row of this template, which has its number, as msgpack has it; its id is left out."""
        pieces = self._pieces or self._take_apart()
        generation = attempt.generation.encode()
        if len(generation) != _ID_LENGTH:
            return _encode(attempt)
        before, names, rest, end = pieces
        return self._pack(before, generation, names, attempt.started, rest, attempt.row, end)

    def _take_apart(self) -> tuple[bytes, bytes, bytes, bytes]:
        try:
            values = _values(self.attempt)
        except Exception:  # noqa: BLE001 - whatever an upstream has told, nobody's answer ends here
            values = _values(mended(self.attempt))
        if sum(map(len, values)) > _LARGE:
            values = _values(mended(self.attempt))
        # An array of 16 bits' length, an id of no letters, and a string of 8 bits' length; a float and an integer of 64.
        before = b"\xdc" + len(values).to_bytes(2, "big") + b"\xa0\xd9" + bytes([_ID_LENGTH])
        names = b"".join(values[2:_STARTED]) + b"\xcb"
        rest = b"".join(values[_STARTED + 1 : _ROW]) + b"\xd3"
        end = b"".join(values[_ROW + 1 :])
        self._pieces = pieces = before, names, rest, end
        self._pack = struct.Struct(f">{len(before)}s{_ID_LENGTH}s{len(names)}sd{len(rest)}sq{len(end)}s").pack
        return pieces

    def __repr__(self) -> str:
        return f"<RowTemplate of {self.attempt}>"


def _values(attempt: Attempt) -> list[bytes]:
    return [_encode(getattr(attempt, name)) for name in _NAMES]
