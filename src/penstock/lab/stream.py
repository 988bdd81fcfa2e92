"""A streamed answer as bytes, a token at a time or a thousand at once.

What a client of any of the APIs receives is: an opening, then for each part its head, one frame for each
token, its tail, and then a closing.  Frames of one part differ in the token alone (and in running numbers,
where an API has them), so any stretch of them is one ``join``; nothing is made before it is due.
"""

from __future__ import annotations

from collections.abc import Callable

from penstock.lab.answer import Pieces


class Segment:
    """The frames of one part.

    :param numbered: ``(index in the stream, token) -> frame`` where frames are not alike
    """

    __slots__ = ("_between", "count", "head", "numbered", "pieces", "prefix", "start", "suffix", "tail")

    def __init__(
        self,
        pieces: Pieces,
        count: int,
        *,
        prefix: bytes = b"",
        suffix: bytes = b"",
        head: bytes = b"",
        tail: bytes = b"",
        numbered: Callable[[int, bytes], bytes] | None = None,
    ) -> None:
        self.pieces = pieces
        self.count = count
        self.prefix = prefix
        self.suffix = suffix
        self._between = suffix + prefix
        self.head = head
        self.tail = tail
        self.numbered = numbered
        self.start = 0  # index of its first token in the stream

    def render(self, start: int, stop: int) -> bytes:
        pieces = self.pieces.slice(start, stop)
        numbered = self.numbered
        if numbered is None:
            frames = self.prefix + self._between.join(pieces) + self.suffix
        else:
            first = self.start + start
            frames = b"".join([numbered(first + i, piece) for i, piece in enumerate(pieces)])
        if start == 0:
            frames = self.head + frames
        if stop == self.count:
            frames += self.tail
        return frames


class Stream:
    """One whole streamed answer."""

    __slots__ = ("_segments", "error", "finish", "malformed", "opening", "terminator", "total")

    def __init__(
        self,
        opening: bytes,
        segments: list[Segment],
        finish: bytes,
        terminator: bytes,
        malformed: bytes,
        error: Callable[[int], bytes],
    ) -> None:
        self.opening = opening
        self.finish = finish  # the finish reason and all that stands between it and the terminator
        self.terminator = terminator
        self.malformed = malformed  # an event that is no JSON, for the scenario of that name
        self.error = error  # how the API breaks off after so many tokens, for another scenario
        self._segments = segments
        self.total = 0
        for segment in segments:
            segment.start = self.total
            self.total += segment.count

    def render(self, start: int, stop: int) -> bytes:
        """The frames of tokens ``start`` to ``stop`` (excluded)."""
        if len(self._segments) == 1:
            return self._segments[0].render(start, stop)
        frames = []
        for segment in self._segments:
            low, high = max(start - segment.start, 0), min(stop - segment.start, segment.count)
            if low < high:
                frames.append(segment.render(low, high))
        return b"".join(frames)


def interleaved(segments: list[Segment]) -> list[Segment]:
    """One segment that takes a frame of each in turn, as models stream several choices at once."""
    queues = [[one.render(i, i + 1) for i in range(one.count)] for one in segments]
    frames = []
    for i in range(max(map(len, queues), default=0)):
        frames += [queue[i] for queue in queues if i < len(queue)]
    return [Segment(Frames(frames), len(frames))]


class Frames:
    """Frames that are there already, as a segment takes them."""

    __slots__ = ("_frames",)

    def __init__(self, frames: list[bytes]) -> None:
        self._frames = frames

    def slice(self, start: int, stop: int) -> list[bytes]:
        return self._frames[start:stop]
