"""Answers kept on the caller's side, under the names that a gateway would keep them under.

What counts as the same question, as one whose answer may be kept, and as an answer worth keeping is decided by
the same code as in the gateway (``cache.keys``, ``wire.sound``); streams and plain answers share an entry.
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from penstock.cache import keys
from penstock.cache.entry import Entry, Sealer, Unusable
from penstock.cache.retold import retold
from penstock.cache.tiers.memory import MemoryTier
from penstock.client._ahead import Ahead
from penstock.client._calls import ClientCall
from penstock.client._disk import Disk
from penstock.client.options import CacheOptions
from penstock.errors import PenstockError
from penstock.messages import Call, Endpoint, Usage
from penstock.wire import sse, usage
from penstock.wire.sound import is_sound

MAX_ENTRY_BYTES = 16 << 20
_KEPT_HEADERS = frozenset({"content-type", "penstock-generation", "x-request-id", "request-id"})


class Found(msgspec.Struct, frozen=True):
    """An answer in the form that the call wants."""

    headers: list[tuple[str, str]]
    body: bytes

    @property
    def size(self) -> int:
        return len(self.body)


class Kept:
    """The answers, in memory and, if a path was given, in a file.

    :param now: seconds since 1970
    """

    def __init__(self, options: CacheOptions, now: Callable[[], float] = time.time) -> None:
        self.options = options
        self.now = now
        self._memory = MemoryTier(options.memory_bytes, now)
        self._disk = Disk(Path(options.path), options.disk_bytes, now) if options.path is not None else None
        self._key_secret, seal_secret = keys.derived(None)
        self._sealer = Sealer(seal_secret, MAX_ENTRY_BYTES)
        self._lock = threading.Lock()  # of memory
        self._borrowed = False
        self._lent: list[Kept] = []
        self.ahead: Ahead | None = None  # None: nothing is asked ahead

    def __repr__(self) -> str:
        return f"<Kept {self._memory!r}, {self._disk or 'no file'}>"

    @property
    def has_file(self) -> bool:
        return self._disk is not None

    def keeping(self, call: ClientCall) -> Keeping | None:
        """None: the answer to this call is not for keeping."""
        asked = call.asked
        if asked is None or asked.background or keys.has_effects(asked):
            return None
        if not self.options.every_call and not keys.is_deterministic(asked):
            return None
        control = asked.headers.get(b"cache-control", b"")
        if b"no-store" in control or b"no-cache" in control:
            return None
        scope = f"{call.peer.origin}{call.prefix} {keys.scope_of(asked, open_to_all=True)}"
        name = keys.key(asked, model_version=asked.model, scope=scope, secret=self._key_secret)
        return Keeping(self, name, asked)

    def borrowed(self) -> Kept:
        """The same answers, for another client, which asks nothing ahead and does not close them."""
        other = copy.copy(self)
        other._borrowed = True  # noqa: SLF001 - its own class
        other.ahead = None
        self._lent.append(other)
        return other

    def remembered(self, name: bytes) -> Entry | None:
        with self._lock:
            return self._memory.get(name)

    def get(self, name: bytes) -> Entry | None:
        """From the file."""
        if self._disk is None or (sealed := self._disk.get(name)) is None:
            return None
        try:
            entry = self._sealer.open(name, sealed)
        except Unusable:
            return None
        if entry.kept_until <= self.now():
            return None
        with self._lock:
            self._memory.put(name, entry)
        return entry

    def put(self, name: bytes, entry: Entry) -> None:
        if entry.size > MAX_ENTRY_BYTES:
            return
        with self._lock:
            self._memory.put(name, entry)
        if self._disk is not None:
            self._disk.put(name, self._sealer.seal_apart(name, entry), entry.kept_until)

    def forked(self) -> None:
        """As :meth:`penstock.client._calls.Calls.forked`; who has borrowed this is told by it."""
        if self._borrowed:
            return
        self._lock = threading.Lock()
        for each in self._lent:
            each._lock = self._lock  # noqa: SLF001 - its own class
        if self._disk is not None:
            self._disk.forked()
        if self.ahead is not None:
            self.ahead.forked()

    def close(self) -> None:
        if self._borrowed:
            return
        if self.ahead is not None:
            self.ahead.close()
        if self._disk is not None:
            self._disk.close()


class Keeping:
    """One call whose answer may be kept, or is."""

    def __init__(self, kept: Kept, name: bytes, asked: Call) -> None:
        self._kept = kept
        self._name = name
        self._asked = asked
        self._since = kept.now()
        self._splitter = sse.Splitter()
        self._frames: list[bytes] = []
        self._size = 0

    def __repr__(self) -> str:
        return f"<Keeping {self._name.hex()[:12]}, {self._size} bytes>"

    @property
    def may_be_in_file(self) -> bool:
        return self._kept.has_file

    def remembered(self) -> Found | None:
        """What memory has."""
        entry = self._kept.remembered(self._name)
        return None if entry is None else self._told(entry)

    def in_file(self) -> Found | None:
        """What the file has; touches the disk."""
        entry = self._kept.get(self._name)
        return None if entry is None else self._told(entry)

    def _told(self, entry: Entry) -> Found | None:
        """In the caller's form; None: it cannot be told so."""
        asked = self._asked
        try:
            events = retold(
                entry,
                asked.endpoint,
                stream=asked.stream,
                include_usage=asked.include_usage,
                running_usage=asked.running_usage,
            )
        except PenstockError:
            return None
        headers = [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in entry.headers
            if name != b"content-type"
        ]
        headers += [
            ("content-type", "text/event-stream; charset=utf-8" if asked.stream else "application/json"),
            ("age", str(max(int(self._kept.now() - entry.stored), 0))),
            ("penstock-status", "cached"),
        ]
        return Found(headers, b"".join(events))

    # ---- keeping ----

    def take(self, passed: bytes) -> None:
        """A part of a stream."""
        if self._size <= MAX_ENTRY_BYTES:
            self._size += len(passed)
            self._frames += [sse.without_id(frame) for frame in self._splitter.feed(passed)]

    def keep_stream(self, headers: Mapping[str, str]) -> None:
        """The stream was whole; touches the disk."""
        frames = [frame for frame in self._frames if _belongs(frame)]
        told = None
        for frame in reversed(frames):
            if (found := usage.usage_of_event(self._asked.endpoint, sse.data_of(frame))) is not None:
                told = found if told is None else usage.merge(found, told)
                if self._asked.endpoint is not Endpoint.MESSAGES:
                    break
        self._keep(frames, headers, told, stream=True)

    def keep_plain(self, body: bytes, headers: Mapping[str, str]) -> None:
        """A plain answer, whole and not encoded; touches the disk."""
        self._keep([body], headers, None, stream=False)

    def _keep(
        self, events: list[bytes], headers: Mapping[str, str], told: Usage | None, *, stream: bool
    ) -> None:
        asked, kept = self._asked, self._kept
        if self._size > MAX_ENTRY_BYTES or not is_sound(asked.endpoint, events, stream=stream):
            return
        if headers.get("penstock-continued"):
            return  # put together from several attempts
        now = kept.now()
        until = now + kept.options.ttl
        entry = Entry(
            endpoint=asked.endpoint.label,
            model=asked.model,
            upstream="",
            upstream_model=asked.model,
            stream=stream,
            include_usage=asked.include_usage,
            running_usage=asked.running_usage,
            headers=tuple(
                (name.encode(), value.encode())
                for name, value in headers.items()
                if name.lower() in _KEPT_HEADERS
            ),
            events=tuple(events),
            usage=told or Usage(),
            cost=0,
            asked=self._since,
            stored=now,
            fresh_until=until,
            kept_until=until,
            tags=(),
        )
        kept.put(self._name, entry)


def _belongs(frame: bytes) -> bool:
    """Whether a frame is part of the answer, not a sign of life."""
    told = sse.fields(frame)
    return bool(told.data) and told.event != "ping"
