"""A kept answer as the bytes that go out, but for what each answer has its own of: its generation's id, and its age.

Where the caller wants the form in which the answer was made, the bytes are put together here; any other form is what
a reading of it (``stages.read``) writes.  Both come to the same (``tests/gateway/test_prepared.py``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.batches.exchange import LineExchange
from penstock.cache.entry import Entry
from penstock.gateway.stages.lookup import FRESH, Found
from penstock.gateway.stages.read import JSON, STREAM_HEADERS
from penstock.gateway.stages.read_adapted import open_reading, shows_as_made
from penstock.messages import Call
from penstock.net.exchange import HeaderList
from penstock.net.responses import LAST_CHUNK, render_fields

if TYPE_CHECKING:
    from penstock.gateway.stages.lookup import Lookup

MOST_BYTES = 65_536  # of an answer; what is longer is written like any other
_MOST_READ = 16 * MOST_BYTES  # of an entry: a stream's events are longer than the answer that they tell

_VARYING = frozenset({b"penstock-generation", b"age"})  # fields that each answer has its own of
_STATUS = (b"penstock-status", FRESH)
_CHUNKED = (b"transfer-encoding", b"chunked")


def prepared(lookup: Lookup, call: Call, key: bytes, entry: Entry) -> bytes | None:
    """The answer to this call behind its date, generation and age; None: it is too long, or cannot be told so.

    :param key: the entry's
    """
    if entry.size > _MOST_READ:
        return None
    if shows_as_made(call, entry.stream, entry.include_usage, entry.running_usage):
        answer = _as_made(call, key, entry)
    else:
        sheet = _Sheet(call)
        generation = lookup.told(call, Found(entry, FRESH), key=key, asked=entry.stored)
        reading = open_reading(call, generation, sheet, FRESH, lambda _: None)
        generation.join(reading)
        reading.hurry()
        if sheet.status != 200:
            return None
        answer = _rendered(sheet.fields, sheet.answer, chunked=sheet.streams)
    return answer if len(answer) <= MOST_BYTES else None


def _as_made(call: Call, key: bytes, entry: Entry) -> bytes:
    fields = [*(STREAM_HEADERS if call.stream else [JSON]), _STATUS, *entry.headers]
    fields.append((b"penstock-cache-key", key.hex().encode()))
    events = entry.events
    if call.stream:
        body = b"".join([b"id: %d\n%b" % (number, event) for number, event in enumerate(events)])
    else:
        body = events[0] if len(events) == 1 else b"".join(events)
    return _rendered(fields, body, chunked=call.stream)


def _rendered(fields: HeaderList, body: bytes, *, chunked: bool) -> bytes:
    if chunked:
        return b"%b\r\n%x\r\n%b\r\n%b" % (render_fields([*fields, _CHUNKED]), len(body), body, LAST_CHUNK)
    return b"%bcontent-length: %d\r\n\r\n%b" % (render_fields(fields), len(body), body)


class _Sheet(LineExchange):
    """Where an answer is written as it would go out, and nobody is there to take it."""

    __slots__ = ("_pieces", "fields", "streams")

    def __init__(self, call: Call) -> None:
        super().__init__(call.endpoint.path, b"", call.headers)
        self.fields: HeaderList = ()
        self.streams = False
        self._pieces: list[bytes] = []

    def respond(self, status: int, headers: HeaderList, body: bytes) -> None:
        super().respond(status, headers, body)
        self.fields = [field for field in headers if field[0] not in _VARYING]

    def start(self, status: int, headers: HeaderList) -> None:
        self.streams = True
        self.respond(status, headers, b"")

    def write(self, data: bytes) -> bool:
        self._pieces.append(data)
        return True

    def end(self) -> None:
        self.answer = b"".join(self._pieces)
