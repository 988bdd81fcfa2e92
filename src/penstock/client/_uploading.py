"""A request's body sent so that a break costs what was on its way, and not all that came before it: without I/O.

Theory of operation
-------------------
The protocol is the IETF's resumable uploads (docs/topics/resumable-uploads.md).  The request goes out as it would
without, whole, and only says that it can be resumed: where nothing breaks that costs no round trip, and a server
that knows nothing of uploads answers it as well.  If it breaks, an empty ``POST`` with the same ``Idempotency-Key``
tells where the upload lies, ``HEAD`` how much has arrived, the rest follows in appends, and the last append's
answer is the answer of the request.  If the last answer was lost, an empty append at the end brings it again, and
nothing is computed twice.  Without a key, or in appends of a limited size, the empty ``POST`` comes first.

All that is left goes in one append, because an append that breaks keeps what has come of it: to cut it into chunks
would add a round trip for each, and lose half of one at each break.  The whole is checked by ``Repr-Digest``.  If it
turns out that a byte was damaged on its way, this server gets, for a while, chunks that are checked one by one
(``Content-Digest``), and taken whole or not at all: of 1 to 5 MB, two seconds' worth of the bandwidth that was seen,
and half as large after each break or damage.
"""

from __future__ import annotations

import base64
import enum
import hashlib
import mmap
from collections.abc import Mapping, Sequence
from itertools import accumulate
from urllib.parse import urlsplit

from penstock.client._lanes import Width

LEAST_CHUNK = 1_000_000
MOST_CHUNK = 5_000_000
CHUNK_SECONDS = 2.0
DAMAGE_SECONDS = 600.0  # for which damage is remembered
_OLD = 0.7  # weight of what was known of the bandwidth before
LEAST_CUT = 16_384  # bytes of a block that a server keeps by itself
_MOST_DIGITS = 18  # of a number
_GIVE_UP = 8  # appends in a row that brought nothing

OF_BODY = frozenset({"content-length", "transfer-encoding", "content-type", "host", "expect"})
_OF_APPENDS = frozenset(
    {"authorization", "x-api-key", "user-agent", "anthropic-version", "accept", "accept-encoding"}
)


class Link:
    """What has been seen of the way to one server."""

    __slots__ = ("bandwidth", "checked_until", "chunk", "offers_uploads", "width")

    def __init__(self) -> None:
        self.bandwidth = 0.0  # bytes per second, as appends show it; 0: none was large enough
        self.chunk = MOST_CHUNK
        self.offers_uploads: bool | None = None  # None: not asked yet
        self.checked_until = 0.0  # chunks are checked one by one until then
        self.width = Width()

    def __repr__(self) -> str:
        return f"<Link of {self.bandwidth / 1e6:.1f} MB/s, chunks of {self.chunk / 1e6:.1f} MB>"

    def damaged(self, now: float) -> None:
        """What came was not what went out."""
        self.checked_until = now + DAMAGE_SECONDS

    def broke(self) -> None:
        self.chunk = max(self.chunk // 2, LEAST_CHUNK)

    def carried(self, size: int, seconds: float) -> None:
        """An append was taken whole."""
        if size < LEAST_CHUNK or seconds <= 0:
            return
        seen = size / seconds
        self.bandwidth = seen if not self.bandwidth else _OLD * self.bandwidth + (1 - _OLD) * seen
        wanted = int(self.bandwidth * CHUNK_SECONDS)
        self.chunk = min(max(min(wanted, self.chunk * 2), LEAST_CHUNK), MOST_CHUNK)


class Outcome(enum.Enum):
    """What an answer means for an upload."""

    ONWARD = "there is a next step"
    ANSWER = "this is the answer to the request itself"  # of an upload, or of a server that takes none
    LACKING = "what the server lacks of it stands in the answer"
    LATER = "the server cannot now"
    REFUSED = "the server does not take it in this way"


class Step:
    """One request.  ``path`` is None for the request's own."""

    __slots__ = ("content", "headers", "method", "path")

    def __init__(self, method: str, path: str | None, headers: dict[str, str], content: bytes = b"") -> None:
        self.method = method
        self.path = path
        self.headers = headers
        self.content = content

    def __repr__(self) -> str:
        return f"<Step {self.method} {self.path or 'of the request'}, {len(self.content)} bytes>"


class Upload:
    """One request's body on its way to one server.

    :param headers: of the request
    :param most: bytes of one append, which are in memory while they are sent
    :param cuts: sizes of the blocks in which the server may keep it, in bytes
    """

    def __init__(
        self,
        body: bytes | mmap.mmap,
        headers: Mapping[str, str],
        link: Link,
        *,
        most: int | None = None,
        cuts: Sequence[int] = (),
    ) -> None:
        self.body = memoryview(body)
        self.link = link
        self.sent = 0  # bytes that went out, again and again included
        self.offset = 0  # what the server has confirmed
        self._headers = dict(headers)
        self._path: str | None = None
        self._is_known = True  # the offset: not after a break
        self._began = 0.0
        self._size = 0
        self._last = -1
        self._idle = 0
        self._most = most or len(body)
        self._at_once = most is None and any(name.lower() == "idempotency-key" for name in headers)
        self._was_damaged = False  # perhaps, when it went at once
        self._whole = ""  # its digest
        self._cuts = cuts

    def __repr__(self) -> str:
        return f"<Upload {self.offset} of {len(self.body)} bytes, {self._path or 'not created'}>"

    # ---- what to send ----

    def step(self, now: float) -> Step:
        """The next request."""
        self._began = now
        self._size = 0
        if self._path is None:
            if self._at_once and now >= self.link.checked_until:
                self._size = len(self.body)
                self.sent += self._size
                whole = self.body.obj
                return self._creation(whole if isinstance(whole, bytes) else bytes(self.body))
            return self._creation()
        if not self._is_known:
            return Step("HEAD", self._path, self._own({}))
        rest = len(self.body) - self.offset
        checked = now < self.link.checked_until
        size = min(rest, self._most, self.link.chunk if checked else rest)
        if not checked:
            size = self._to_cut(size)
        content = bytes(self.body[self.offset : self.offset + size])
        headers = {
            "Content-Type": "application/partial-upload",
            "Upload-Offset": str(self.offset),
            "Upload-Complete": "?1" if size == rest else "?0",
        }
        if checked and content:
            headers["Content-Digest"] = _digest(content)
        elif content:
            headers.update(self._cut(size))
        self._size = size
        self.sent += size
        return Step("PATCH", self._path, self._own(headers), content)

    def _creation(self, content: bytes = b"") -> Step:
        headers = {name: value for name, value in self._headers.items() if name.lower() not in OF_BODY}
        headers["Content-Type"] = self._headers.get("content-type", "application/json")
        headers["Upload-Complete"] = "?1" if content else "?0"
        headers["Upload-Length"] = str(len(self.body))
        self._whole = headers["Repr-Digest"] = self._whole or _digest(self.body)
        if content:
            headers.update(self._cut(len(content)))
        return Step("POST", None, headers, content)

    def _to_cut(self, most: int) -> int:
        """How much of so many bytes from the present offset on goes up to the last cut; all, if there is none."""
        ends = accumulate(self._cuts)
        return max((end - self.offset for end in ends if 0 < end - self.offset <= most), default=most)

    def _cut(self, length: int) -> dict[str, str]:
        """Where so many bytes from the present offset on may be cut."""
        sizes, end = [], 0
        for size in self._cuts:
            end += size
            if self.offset < end <= self.offset + length:
                sizes.append(min(size, end - self.offset))
        # A rest that is too small to be kept by itself goes with what follows.
        while len(sizes) > 1 and sizes[0] < LEAST_CUT:
            sizes[:2] = [sizes[0] + sizes[1]]
        return {"Penstock-Blocks": ",".join(map(str, sizes))} if sizes else {}

    def _own(self, more: dict[str, str]) -> dict[str, str]:
        return {**of_appends(self._headers), **more}

    # ---- what came back ----

    def took(self, status: int, headers: Mapping[str, str], now: float) -> Outcome:
        """An answer to the step."""
        # The last append, of which an empty one asks for the answer again; or the creation of what is complete.
        closes = self._path is None or (self._is_known and self._size == len(self.body) - self.offset)
        if closes and headers.get("upload-complete") == "?1":
            self.offset = len(self.body)
            self.link.carried(self._size, now - self._began)
            self.link.offers_uploads = True
            self._at_once = False  # if it is lost on its way, it is asked for again
            return Outcome.ANSWER
        if self._path is None:
            return self._created(status, headers, now) if not self._size else self._all_told(status)
        if status == 429 or status >= 500:
            self._is_known = False
            return Outcome.LATER if self._progress() is Outcome.ONWARD else Outcome.REFUSED
        if status in (404, 410):
            return self._begin_anew()
        if status == 400:  # damaged on its way: a chunk, or the whole
            if now >= self.link.checked_until:
                self.link.damaged(now)
                return self._begin_anew()
            self.broke()
            return self._progress()
        told = _number(headers.get("upload-offset", ""))
        if told is None or told > len(self.body):
            return Outcome.REFUSED
        if status < 400 and self._is_known:
            self.link.carried(self._size, now - self._began)
        self.offset = told
        self._is_known = True
        return self._progress()

    def _all_told(self, status: int) -> Outcome:
        """All of it went with the creation, and no upload has come of it."""
        if status < 400 or status == 401:
            self.link.offers_uploads = False
            return Outcome.ANSWER
        # Whether that was the upload's refusal or the request's, an empty creation will tell.
        self._at_once = False
        self._was_damaged = status == 400
        return Outcome.ONWARD

    def _created(self, status: int, headers: Mapping[str, str], now: float) -> Outcome:
        path = _path(headers.get("location", ""))
        if status != 201 or path is None:
            return Outcome.REFUSED
        self.link.offers_uploads = True
        if self._was_damaged:
            self._was_damaged = False
            self.link.damaged(now)
        self._path = path
        told = _number(headers.get("upload-offset", "0"))
        self.offset = told if told is not None and told <= len(self.body) else 0
        for limit in headers.get("upload-limit", "").split(","):
            name, _, value = limit.strip().partition("=")
            if name == "max-append-size" and (most := _number(value)):
                self._most = min(self._most, most)
        return Outcome.ONWARD

    def _begin_anew(self) -> Outcome:
        """The server does not have it any more."""
        self._path = None
        self._at_once = False
        self._is_known = True
        self.offset = 0
        return self._progress()

    def _progress(self) -> Outcome:
        self._idle = self._idle + 1 if self.offset <= self._last else 0
        self._last = max(self.offset, self._last)
        return Outcome.REFUSED if self._idle >= _GIVE_UP else Outcome.ONWARD

    def parting(self) -> Step:
        """The next request of giving it up, so that the server need not keep it: where it lies, then its end."""
        self._at_once, self._size = False, 0
        return self._creation() if self._path is None else Step("DELETE", self._path, self._own({}))

    def broke(self) -> None:
        """The connection broke: only the server knows what has arrived."""
        self.link.broke()
        self._at_once = False
        self._is_known = False


def of_appends(headers: Mapping[str, str]) -> dict[str, str]:
    """What of a request's head goes with each piece of its body."""
    return {name: value for name, value in headers.items() if name.lower() in _OF_APPENDS}


def _number(told: str) -> int | None:
    """What a server says in digits; None: it says something else."""
    return int(told) if told.isascii() and told.isdigit() and len(told) <= _MOST_DIGITS else None


def _path(location: str) -> str | None:
    """The path of a URL; None: it is none, or has none."""
    try:
        path = urlsplit(location).path
    except ValueError:
        return None
    return path if path.startswith("/") and path.isascii() else None


def _digest(content: bytes | memoryview) -> str:
    """As RFC 9530 writes it."""
    return f"sha-256=:{base64.b64encode(hashlib.sha256(content).digest()).decode()}:"
