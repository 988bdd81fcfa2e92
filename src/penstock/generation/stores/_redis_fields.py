"""How a Redis server has what is written to it: what a write hands to the scripts, and how a record is read again."""

from __future__ import annotations

import msgspec

from penstock.generation.log import State
from penstock.generation.store import (
    Bill,
    Booking,
    Claim,
    End,
    Ending,
    Naming,
    Record,
    Write,
    request_size,
    trace_of,
)

# Seconds after which the server itself removes what expire() should have removed: then nobody knows that it was there.
_NATIVE_GRACE = 600.0
_RUNNING_GRACE = 7 * 86_400.0  # the same for what never ended

FIELDS = (b"request", b"state", b"owner", b"epoch", b"events", b"size", b"expires_at", b"ending", b"bill")
"""Of a record's hash, in the order in which :func:`record_of` takes them."""

encode = msgspec.msgpack.Encoder().encode
decode_events = msgspec.msgpack.Decoder(list[bytes]).decode
decode_booking = msgspec.msgpack.Decoder(Booking).decode
_decode_record = msgspec.msgpack.Decoder(Record).decode
_decode_ending = msgspec.msgpack.Decoder(Ending).decode
_decode_bill = msgspec.msgpack.Decoder(Bill).decode
_NOTHING = (b"",) * 6


def appended(write: Write) -> tuple[bytes, ...]:
    """Of a write that has events and nothing else, what ``APPEND`` takes."""
    first, events = write.first, write.events
    return (
        b"%d" % write.epoch,
        b"%d" % first,
        b"%d" % (first + len(events)),
        b"%d" % write.counts,
        encode(events),
    )


def arguments(write: Write) -> tuple[bytes, ...]:
    """Of any write, what ``WRITE`` takes."""
    events, begin, end = write.events, write.begin, write.end
    grown = (
        b"%d" % write.epoch,
        b"%d" % write.first,
        b"%d" % len(events),
        b"%d" % write.counts if events else b"0",
        encode(events) if events else b"",
        b"" if write.bill is None else encode(write.bill),
    )
    if begin is None:
        begun: tuple[bytes, ...] = _NOTHING
    else:
        begun = (
            encode(begin),
            b"%d" % request_size(begin),
            begin.owner.encode(),
            trace_of(begin.id, begin.tenant).encode(),
            b"%.6f" % begin.expires_at,
            milliseconds(begin.expires_at + _RUNNING_GRACE),
        )
    if end is None:
        return (*grown, *begun, *_NOTHING[:4])
    return (*grown, *begun, *ended(end))


def ended(end: End) -> tuple[bytes, ...]:
    """Of an end, what ``WRITE`` and ``CUT`` take."""
    return (
        *(end.state.value.encode(), encode(end.ending)),
        *(b"%.6f" % end.expires_at, milliseconds(end.expires_at + _NATIVE_GRACE)),
    )


def milliseconds(at: float) -> bytes:
    return b"%d" % (at * 1_000)


def record_of(fields: list[bytes | None]) -> Record | None:
    """The record whose :data:`FIELDS` these are; None: there is none."""
    request, state, owner, epoch, events, size, expires_at, ending, bill = fields
    if request is None:
        return None
    assert state is not None
    assert owner is not None
    assert epoch is not None
    assert events is not None
    assert size is not None
    assert expires_at is not None
    record = _decode_record(request)
    record.state = State(state.decode())
    record.owner = owner.decode()
    record.epoch = int(epoch)
    record.events = int(events)
    record.size = int(size)
    record.expires_at = float(expires_at)
    record.ending = None if ending is None else _decode_ending(ending)
    if bill is not None:
        record.bill = _decode_bill(bill)
    return record


def claimed(naming: Naming, generation_id: str, held: list[bytes] | None) -> Claim:
    """What ``CLAIM`` told who wanted a name; ``held``: who has it, None: the generation that is given."""
    if held is None:
        return Claim(generation_id, naming.fingerprint, won=True)
    return Claim(held[0].decode(), held[1], won=False)
