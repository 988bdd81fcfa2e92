"""The queue before the ledger's file: a ring in a mapped file, which is still there when its process was killed.

Rows are written to the ledger's file some moments after they were opened and settled.  Until then they are in
here.  What a process has put into a shared mapping is the kernel's from that instruction on, so ``kill -9``
takes none of it (a power cut may).  Who opens the ledger next finds the queue of the dead process by its name,
sees by its lock that nobody holds it any more, and enters what the ledger does not have.

::

    header | mark | mark | ......... | record | record | record | free, or what was there a lap ago .....
                                     ^ mark                     ^ head

A record is its length, a checksum, and the attempt; the second one of an attempt, when it is settled, says all
of it again, so that it needs no other.  A *position* counts the bytes since the queue's beginning, over all laps,
and is a record's place modulo the capacity.  It is no part of the record, but its checksum begins with it: what
is left of an earlier lap is no record here.  So no head needs to be written: the records that count are those
from the mark on, as far as they are whole.  The one that was being written at the moment of death is not.

One thread appends, and owns the head; another one moves the mark when the ledger's file has what comes before
it.  The mark is written in two places in turn, so that one of them is whole at any time.  Where the next record
would overwrite one that counts, it is refused: its row then waits in memory only.

All of the file's blocks are taken when it is made, since a mapping's write that finds the disk full kills the
process (SIGBUS).
"""

from __future__ import annotations

import fcntl
import mmap
import os
import re
import stat
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

import msgspec

from penstock.ledger._mended import mended
from penstock.ledger.template import RowTemplate
from penstock.messages import Attempt

# Bytes for records: of some 6,000 attempts, or a second under more load than one process bears.
CAPACITY = 4 << 20
VERSION = 1  # of the file, and of what an attempt looks like in it

_MAGIC = b"PENSQUEU"
_HEADER = struct.Struct("<8sIIQ16s")  # magic, version, 0, capacity, token
_MARK = struct.Struct("<QI")  # position, checksum of its bytes
_MARKS = (64, 128)
_DATA = 4_096  # where the ring begins
_FRAME = struct.Struct("<II")  # length, checksum; the attempt follows
_SKIP = 0xFFFF_FFFF  # in the place of a length: the next record is at the beginning of the next lap
_LOW = 0xFFFF_FFFF
_LARGE = 2_048  # bytes of a record: longer ones have names in them that are cut
_MAX_CAPACITY = 64 << 20
_ABANDONED = 60.0  # seconds after which a queue that was never completed is nobody's

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Attempt).decode
_frame = _FRAME.pack


class NotAQueue(Exception):
    """There is a file with a queue's name that this version must not read, nor remove."""


class RowQueue:
    """The queue of this process.  :meth:`append` belongs to one thread, :meth:`mark` to another.

    :param path: where it is made; there must be no such file
    :param token: names the process
    :param position: where it begins; later than any position of this process's earlier queue
    :raises OSError: there is no room, no directory, no permission
    """

    __slots__ = (
        "_capacity", "_identity", "_limit", "_map", "_marks", "_pen", "_write", "head", "path", "refused", "tail",
    )  # fmt: skip

    def __init__(self, path: Path, token: str, *, position: int = 0, capacity: int = CAPACITY) -> None:
        self.path = path
        self._capacity = capacity
        start = -(-position // capacity) * capacity
        self.head = start  # moved by whoever appends, when it has done all that belongs to the record
        self.tail = start
        self.refused = 0  # records for which there was no room
        self._limit = start + capacity  # up to here there is room without a lap's end between
        self._marks = 0
        self._pen = -1  # the position where the mapping's own is, which moves with what is written
        # Made under another name: nobody shall find it before it is locked and whole.
        unfinished = path.with_name(path.name + ".new")
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(unfinished, flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _fill(descriptor, _DATA + capacity)
            # The mapping has a descriptor of its own for the same open file, and with it the lock.
            self._map = mmap.mmap(
                descriptor, _DATA + capacity, mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
            )
            self._write = self._map.write
            status = os.fstat(descriptor)
            self._identity = status.st_dev, status.st_ino
            _HEADER.pack_into(self._map, 0, _MAGIC, VERSION, 0, capacity, token.encode())
            self.mark(start)
            unfinished.rename(path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)

    def append(self, attempt: Attempt, template: RowTemplate | None = None) -> int:
        """Put the attempt down as it is now.

        :param template: by which it was made
        :returns: the position behind it, which the caller makes the ``head``; the same as before: no room
        """
        try:
            body = _encode(attempt) if template is None else template.encoded(attempt)
            if len(body) > _LARGE:
                body = _encode(mended(attempt))
        except Exception:  # noqa: BLE001 - whatever an upstream has told, nobody's answer ends here
            body = _encode(mended(attempt))
        start = self.head
        end = start + 8 + len(body)
        if end > self._limit:
            start = self._turn(start, end - start)
            if start < 0:
                self.refused += 1
                return self.head
            end = start + 8 + len(body)
        if start != self._pen:
            self._map.seek(_DATA + start % self._capacity)
        self._write(_frame(len(body), crc32(body, start & _LOW)) + body)  # half the cost of an assignment
        self._pen = end
        return end

    def _turn(self, start: int, size: int) -> int:
        """Where a record of this size has room, perhaps in the next lap; -1: nowhere."""
        # Where a record has ended with its lap, the mapping's own place is behind its last byte.
        self._pen = -1
        capacity = self._capacity
        free = self.tail + capacity
        lap_end = (start // capacity + 1) * capacity
        if start + size <= lap_end:
            self._limit = min(lap_end, free)
            return start if start + size <= free else -1
        if lap_end + size > free:
            return -1
        if lap_end - start >= _FRAME.size:
            _FRAME.pack_into(self._map, _DATA + start % capacity, _SKIP, 0)
        self.head = lap_end
        self._limit = min(lap_end + capacity, free)
        return lap_end

    def mark(self, position: int) -> None:
        """The ledger's file has everything that comes before this position."""
        place = _MARKS[self._marks]
        self._marks = 1 - self._marks
        self._map[place : place + _MARK.size] = _marked(position)
        self.tail = position

    def is_current(self) -> bool:
        """Whether the path still names this file: nobody moved or removed it."""
        try:
            status = self.path.stat()
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self._identity

    def close(self, *, remove: bool) -> None:
        """Let go of it.

        :param remove: the ledger's file has everything; else whoever opens it next will look in here
        """
        if remove and self.is_current():
            self.path.unlink(missing_ok=True)
        self._map.close()

    def __repr__(self) -> str:
        return f"<RowQueue {self.path}, {self.head - self.tail} of {self._capacity} bytes, {self.refused} refused>"


class DeadQueue:
    """What a process has left that is no more; locked, so that only one heir reads it.

    ``records`` are its rows as they were put down, in order, each with the position behind it.
    """

    def __init__(self, path: Path, token: str, descriptor: int, records: list[tuple[int, Attempt]]) -> None:
        self.path = path
        self.token = token
        self.records = records
        self._descriptor = descriptor

    def close(self, *, remove: bool) -> None:
        """:param remove: everything in it is in the ledger's file, for certain."""
        if remove:
            self.path.unlink(missing_ok=True)
        os.close(self._descriptor)

    def __repr__(self) -> str:
        return f"<DeadQueue {self.path}, {len(self.records)} records>"


def queue_path(ledger: Path, token: str) -> Path:
    return ledger.with_name(f"{ledger.name}-{token}.queue")


def queues_beside(ledger: Path) -> Iterator[tuple[str, Path]]:
    """The queues of a ledger, living and dead, each with its process's token.  Clears away unfinished ones."""
    named = re.compile(re.escape(ledger.name) + r"-([0-9a-f]{16})\.queue(\.new)?")
    for path in sorted(ledger.parent.iterdir()):
        match = named.fullmatch(path.name)
        if match is None:
            continue
        if match[2] is None:
            yield match[1], path
        else:
            _clear(path)


def inherit(path: Path, token: str) -> DeadQueue | None:
    """Take over the queue of a process that is no more; None: it lives.

    :raises NotAQueue: it is something else, another process's, or of another version; it is left as it is
    :raises OSError: it cannot be read
    """
    # Without O_NONBLOCK a pipe of this name would hold us up until somebody writes to it.
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return DeadQueue(path, token, descriptor, list(_records(path, token, descriptor)))
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise


def _records(path: Path, token: str, descriptor: int) -> Iterator[tuple[int, Attempt]]:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise NotAQueue(f"{path} is no file")
    with open(descriptor, "rb", closefd=False) as file:
        content = file.read(_DATA + _MAX_CAPACITY)
    if len(content) < _HEADER.size or not content.startswith(_MAGIC):
        raise NotAQueue(f"{path} is no ledger's queue")
    _, version, _, capacity, owner = _HEADER.unpack_from(content)
    if version != VERSION:
        raise NotAQueue(f"{path} is a queue of version {version}, this program reads {VERSION}")
    if owner != token.encode() or not 0 < capacity <= _MAX_CAPACITY:
        raise NotAQueue(f"{path} is somebody else's queue")
    position = first = max(_position(content[place : place + _MARK.size]) for place in _MARKS)
    if position < 0:
        raise NotAQueue(f"{path} is damaged: nobody knows where it begins")
    content = content.ljust(_DATA + capacity, b"\0")  # it may have been cut
    while position < first + capacity:
        place = _DATA + position % capacity
        room = capacity - position % capacity
        length, checksum = _FRAME.unpack_from(content, place) if room >= _FRAME.size else (_SKIP, 0)
        if length == _SKIP:
            position += room
            continue
        body = content[place + _FRAME.size : place + _FRAME.size + length]
        if len(body) < length or length == 0 or crc32(body, position & _LOW) != checksum:
            return
        position += _FRAME.size + length
        try:
            attempt = _decode(body)
        except msgspec.MsgspecError:  # a defect of whoever wrote it; what follows is whole nevertheless
            continue
        yield position, attempt


def _marked(position: int) -> bytes:
    number = position.to_bytes(8, "little")
    return number + crc32(number).to_bytes(4, "little")


def _position(mark: bytes) -> int:
    """-1: it was being written when its process died, or never was."""
    position = int.from_bytes(mark[:8], "little")
    return position if len(mark) == _MARK.size and mark == _marked(position) else -1


def _fill(descriptor: int, size: int) -> None:
    """Take the blocks.  Written, not reserved: that holds on every file system, and warms the page cache."""
    while size:
        size -= os.write(descriptor, bytes(min(size, 1 << 20)))


def _clear(unfinished: Path) -> None:
    """Remove a queue whose making was interrupted by death; one that is just being made is younger."""
    try:
        if time.time() - unfinished.stat().st_mtime > _ABANDONED:
            unfinished.unlink()
    except OSError:
        pass  # somebody else was faster, or may
