"""An upstream's own run of an answer, which can be read on after the connection broke.

Two kinds of upstream keep one: OpenAI's Responses API for what was asked in the background (events bear a
``sequence_number``; ``GET /v1/responses/{id}?stream=true&starting_after=n``), and another Penstock (frames
bear an ``id``; ``GET /v1/generations/{id}/events?starting_after=n``).  Reading on is no new call: it is the
same answer, and is paid for once.  A background response goes on, and is paid for, until it is cancelled
(``POST /v1/responses/{id}/cancel``).  A Penstock goes on for some seconds with what was asked with an
``Idempotency-Key``, and is told if nobody comes back (``POST /v1/generations/{id}/cancel?unread=true``).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from penstock.errors import PenstockError, UpstreamBroken
from penstock.wire import sse
from penstock.wire.not_json import NOT_JSON

_NAME = re.compile(r"[A-Za-z0-9_-]{1,200}")  # of a run: it goes into the target of a request as it stands


class _Numbered(msgspec.Struct):
    sequence_number: int = -1


class _Made(msgspec.Struct):
    id: str = ""
    background: bool | None = None


class _Created(msgspec.Struct):
    type: str
    response: _Made | None = None


_numbered = msgspec.json.Decoder(_Numbered).decode
_created = msgspec.json.Decoder(_Created).decode


class Run:
    """One run, and how far it has been read.

    :param path: below the API's base, without the query; ``""``: there is none; None: the first event will tell
    :param by_id: frames are numbered by their ``id``; else their data has a ``sequence_number``
    """

    __slots__ = ("_before", "_by_id", "_last", "_path", "_skipping", "after", "ended")

    def __init__(self, path: str | None, *, by_id: bool, after: int = -1) -> None:
        self._path = path
        self._by_id = by_id
        self._last: bytes = b""
        self._before: bytes = b""  # the last frame of those that came before the last ones
        self.ended = False  # the upstream itself has told of its failure
        self._skipping = False
        self.after = after  # the number of the last frame that came

    def __repr__(self) -> str:
        return f"<Run at {self._path}, read to {self.after}>"

    @property
    def target(self) -> str:
        """Where the rest is to be had; ``""``: nothing came that the rest could follow."""
        number = self._number(self._last) if self._last else self.after
        if not self._path or self.ended or number < 0:
            return ""
        query = "" if self._by_id else "stream=true&"
        return f"{self._path}?{query}starting_after={number}"

    @property
    def cancelled_at(self) -> str:
        """Where it is told that nobody wants the rest; ``""``: it needs not be told."""
        if not self._path or self.ended:
            return ""
        if self._by_id:  # it waits for us to come back, as others may who read the same
            return self._path.removesuffix("/events") + "/cancel?unread=true"
        return f"{self._path}/cancel"

    def note(self, frames: list[bytes]) -> list[bytes]:
        """Frames have come; those that came before the break are left out.

        :raises UpstreamBroken: some are missing between the break and these
        """
        if self._skipping:
            frames = self._fresh(frames)
        if frames:
            if self._path is None:
                self._path = _path_told(frames)
            self._before, self._last = self._last, frames[-1]
        return frames

    def stopped(self, taken: list[bytes], error: PenstockError) -> None:
        """Of the frames that came last only these could be used."""
        self._last = taken[-1] if taken else self._before
        self.ended = not isinstance(error, UpstreamBroken)

    def broken(self) -> Run:
        """The same run for the next connection."""
        run = Run(self._path, by_id=self._by_id, after=self._number(self._last) if self._last else self.after)
        run._skipping = True
        return run

    def _fresh(self, frames: list[bytes]) -> list[bytes]:
        for at, frame in enumerate(frames):
            number = self._number(frame)
            if number > self.after:
                if number != self.after + 1:
                    raise UpstreamBroken("the upstream left out events when its answer was read on")
                self._skipping = False
                return frames[at:]
        return []

    def _number(self, frame: bytes) -> int:
        found = sse.fields(frame)
        try:
            return int(found.id or "-1") if self._by_id else _numbered(found.data).sequence_number
        except (*NOT_JSON, ValueError):
            return -1


def of_response() -> Run:
    """The run behind a response that is asked for in the background; its first event tells where it is."""
    return Run(None, by_id=False)


def of_log(frames: Sequence[bytes]) -> Run | None:
    """The run behind a log that another process has begun; None: there is none that could be read on."""
    path = _path_told(frames[:1])
    run = Run(path, by_id=False)
    run.note([frames[-1]])
    return run.broken() if run.target else None


def _path_told(frames: Sequence[bytes]) -> str | None:
    """Where the response is kept; ``""``: nowhere; None: that has not been told yet."""
    data = next((data for frame in frames if (data := sse.data_of(frame))), b"")
    if not data:
        return None
    try:
        made = _created(data).response
    except NOT_JSON:
        return ""
    if made is None or not made.background or not _NAME.fullmatch(made.id):
        return ""
    return f"/v1/responses/{made.id}"


def of_generation(name: bytes) -> Run | None:
    """The run of another Penstock's generation of this name; None: that is no name."""
    named = name.decode("latin-1")
    return Run(f"/v1/generations/{named}/events", by_id=True) if _NAME.fullmatch(named) else None
