"""The same tier in a Redis Cluster: each key has a slot, each slot a master, and masters change.

A map says which master has which slot (``CLUSTER SLOTS``, of whichever node answers).  It is read again when a node
is lost, cannot be reached, or says that something has moved, but not more often than every half second.  A look-up that
meets a slot on its move goes to where it has moved, once; all else is a miss, as with a server that is away.
"""

from __future__ import annotations

import asyncio
import binascii
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec

from penstock.cache.shared_clock import SharedClock
from penstock.cache.tiers.redis import PREFIX, PURGES, SILENT, TIME, RedisEntries, flushed
from penstock.cache.tiers.tier import Learn, forget
from penstock.net.redis import ERRORS, Connection, connect
from penstock.net.redis_link import LONGEST_PAUSE, Link

SLOTS = 16_384
PAUSE = 0.5  # seconds between two looks at the map, at least

Node = tuple[str, int]


def slot_of(key: bytes) -> int:
    """The slot of a key: CRC-16 (XMODEM) of what stands in its first braces, if anything does, else of all of it.

    Source: the Redis Cluster specification, "Hash tags".
    """
    begin = key.find(b"{")
    if begin >= 0 and (end := key.find(b"}", begin + 1)) > begin + 1:
        key = key[begin + 1 : end]
    return binascii.crc_hqx(key, 0) % SLOTS


def slots_of(answer: Any, asked: str) -> dict[int, Node]:
    """Who has which slot, by the answer to ``CLUSTER SLOTS``.

    :param asked: the host that has answered; it may not know its own name
    :raises ConnectionError: that makes no sense
    """
    found: dict[int, Node] = {}
    try:
        for first, last, master, *_replicas in answer:
            if not 0 <= first <= last < SLOTS:
                raise ConnectionError("the cluster names slots that there are not")
            host, port = master[0], master[1]
            node = (host.decode() if host else asked, int(port))
            found.update(dict.fromkeys(range(first, last + 1), node))
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise ConnectionError("the cluster's map makes no sense") from error
    return found


_PURGES_SLOT = slot_of(PURGES)


class ClusterTier(RedisEntries):
    """Entries in a Redis Cluster; see the module's text.

    :param url: of some of its nodes; the others are found
    """

    clusters = True

    def __init__(self, url: str, clock: SharedClock | None = None) -> None:
        super().__init__(url, clock)
        self._links: dict[Node, Link] = {}
        self._slots: dict[int, Node] = {}
        self._stale = asyncio.Event()
        self._looked = asyncio.Event()  # whether the map has been looked for once
        self._looking: asyncio.Task[None] | None = None
        self._no_map = "its nodes are not known yet"
        self._ending: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<ClusterTier of {list(self._links.values())}, {len(self._slots)} slots>"

    def start(self, learn: Learn = forget) -> None:
        self._learn = learn
        self._stale.set()
        self._looking = asyncio.get_running_loop().create_task(self._look())

    @property
    def answered(self) -> int:
        return sum(link.answered for link in self._links.values())

    def reset(self) -> None:
        for link in self._links.values():
            link.reset(SILENT)

    async def flush(self) -> None:
        await self._looked.wait()
        await asyncio.gather(*map(flushed, self._links.values()))

    async def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])
        await asyncio.gather(*(link.close() for link in self._links.values()), *self._ending)

    def _trouble(self) -> str:
        return self._no_map or next((link.trouble for link in self._links.values() if link.trouble), "")

    # ---- commands ----

    def used(self, keys: Sequence[bytes]) -> None:
        for key in keys:  # each has its own slot, and a command may have one only
            self._tell(b"TOUCH", PREFIX + key)

    def _call(self, command: tuple[bytes, ...], then: Callable[[Any], None]) -> None:
        link = self._link_of(command)
        if link is None:
            then(ConnectionError(self._trouble() or "nobody has this slot"))
        else:
            link.call(command, partial(self._answered, command, then))

    def _tell(self, *command: bytes) -> bool:
        link = self._link_of(command)
        return link is not None and link.tell(*command)

    def _link_of(self, command: tuple[bytes, ...]) -> Link | None:
        if command == TIME:
            return self._link_of_purges()
        key = command[3] if command[0] == b"EVAL" else command[1]
        node = self._slots.get(slot_of(key))
        return None if node is None else self._links.get(node)

    def _link_of_purges(self) -> Link | None:
        """To the node whose time is that of all."""
        node = self._slots.get(_PURGES_SLOT)
        return None if node is None else self._links.get(node)

    async def _prepare(self, node: Node, connection: Connection) -> None:
        """See that what was purged is known before anything is looked up, if that can be."""
        if self._slots.get(_PURGES_SLOT) == node:
            await self._greet(connection)
        elif (link := self._link_of_purges()) is not None and link.connection is None:
            await link.wait_tried()

    def _answered(self, command: tuple[bytes, ...], then: Callable[[Any], None], answer: Any) -> None:
        """Pass an answer on; or ask where the slot has gone, once, if that is what was answered."""
        moved = _moved(str(answer)) if isinstance(answer, OSError) else None
        link = self._links.get(moved[1]) if moved is not None else None
        if moved is None or link is None:
            then(answer)
            return
        if moved[0]:
            link.tell(b"ASKING")
        link.call(command, then)

    # ---- the map ----

    def _on_trouble(self, why: str) -> None:
        self._errors += 1
        if why.startswith("MOVED") and (moved := _moved(why)) is not None:
            self._slots[int(why.split()[1])] = moved[1]
            self._link_to(moved[1])
        self._stale.set()

    def _link_to(self, node: Node) -> None:
        if node not in self._links:
            address = msgspec.structs.replace(self.address, hosts=(node,), cluster=False)
            link = self._links[node] = Link(
                address, prepare=partial(self._prepare, node), on_trouble=self._on_trouble
            )
            link.connect_soon()

    async def _look(self) -> None:
        """Keep the map right."""
        pause = PAUSE
        while True:
            await self._stale.wait()
            self._stale.clear()
            try:
                slots = await self._read_map()
            except ERRORS as error:
                self._errors += 1
                self._no_map = str(error) or "no node answers"
                self._stale.set()
                pause = min(pause * 2, LONGEST_PAUSE)
            else:
                self._use(slots)
                pause = PAUSE
            self._looked.set()
            await asyncio.sleep(pause)

    async def _read_map(self) -> dict[int, Node]:
        """What the first node that answers says.

        :raises OSError: none does; or another of :data:`~penstock.net.redis.ERRORS`
        """
        trouble: Exception = ConnectionError("no node answers")
        for node in dict.fromkeys((*self._links, *self.address.hosts)):
            address = msgspec.structs.replace(self.address, hosts=(node,), cluster=False)
            try:
                connection = await connect(address, _Nobody())
                try:
                    async with asyncio.timeout(1.0):
                        return slots_of(await connection.ask(b"CLUSTER", b"SLOTS"), node[0])
                finally:
                    connection.end()
            except ERRORS as error:
                trouble = error
        raise trouble

    def _use(self, slots: dict[int, Node]) -> None:
        self._no_map = "" if len(slots) == SLOTS else f"{SLOTS - len(slots)} slots are nobody's"
        self._slots = slots
        nodes = set(slots.values())
        for node in nodes:
            self._link_to(node)
        for node in self._links.keys() - nodes:
            task = asyncio.get_running_loop().create_task(self._links.pop(node).close())
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)


class _Nobody:
    """Has a connection for one question."""

    answered = 0

    def lost(self, connection: object, why: str) -> None: ...
    def refused(self, connection: object, error: object) -> None: ...
    def served(self) -> None: ...


def _moved(why: str) -> tuple[bool, Node] | None:
    """Where a slot is, by the error ``MOVED slot host:port`` or ``ASK slot host:port``, and whether it is only moving.

    None: it is another error.
    """
    words = why.split()
    if len(words) != 3 or words[0] not in {"MOVED", "ASK"} or not words[1].isdigit():
        return None
    host, _, port = words[2].rpartition(":")
    return (words[0] == "ASK", (host, int(port))) if host and port.isdigit() else None
