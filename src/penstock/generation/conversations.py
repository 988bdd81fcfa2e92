"""Conversations that callers keep here: items in their order, each conversation its owner's alone.

A conversation goes when it has not been added to for ``kept_for`` seconds, and where all together hold more than they
may: then of whoever holds most, the one that was added to the longest time ago.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Protocol

import msgspec

from penstock.errors import BodyTooLarge, NotFound

LEAST_CHARGE = 256  # bytes that an item counts for at least, and a conversation beside its items


class Conversation(msgspec.Struct, frozen=True):
    """``metadata`` is a JSON object's text; ``created`` Unix seconds."""

    id: str
    created: float
    metadata: bytes


class Item(msgspec.Struct, frozen=True):
    """``body`` is a JSON object's text, and has the same ``id``."""

    id: str
    body: bytes


class Conversations(Protocol):
    """Where they are kept.  Each method does all of its work or nothing.

    Every method raises :class:`~penstock.errors.StorageUnavailable` where file or server does not answer, and
    :class:`~penstock.errors.StorageFull` where there is no room.
    """

    async def close(self) -> None: ...

    async def create(self, owner: str, metadata: bytes, items: Sequence[Item]) -> Conversation:
        """:raises BodyTooLarge: the items are longer than a conversation may be"""

    async def get(self, owner: str, conversation_id: str) -> Conversation:
        """:raises NotFound: this owner has none of this id"""

    async def update(self, owner: str, conversation_id: str, metadata: bytes) -> Conversation:
        """:raises NotFound: as :meth:`get`"""

    async def delete(self, owner: str, conversation_id: str) -> None:
        """:raises NotFound: as :meth:`get`"""

    async def add(
        self, owner: str, conversation_id: str, items: Sequence[Item], *, once: str = ""
    ) -> list[Item]:
        """Put items behind those that are there; one whose id is there already gets another, as returned.

        :param once: names this addition: one that may have been made, though its answer did not come, can be asked for
            again for some minutes, and is made once
        :raises NotFound: as :meth:`get`
        :raises BodyTooLarge: the conversation would be longer than it may be
        """

    async def items(self, owner: str, conversation_id: str) -> list[bytes]:
        """All of them, in their order.

        :raises NotFound: as :meth:`get`
        """

    async def page(
        self, owner: str, conversation_id: str, *, after: str, limit: int, newest_first: bool
    ) -> tuple[list[Item], bool]:
        """A page of the items, and whether there are more.

        :param after: the id of the last one of the page before; empty: from the beginning
        :raises NotFound: as :meth:`get`
        """

    async def item(self, owner: str, conversation_id: str, item_id: str) -> Item:
        """:raises NotFound: there is none"""

    async def remove(self, owner: str, conversation_id: str, item_id: str) -> Conversation:
        """:raises NotFound: there is none"""


def new_conversation_id() -> str:
    """``conv_`` and 128 random bits."""
    return "conv_" + secrets.token_hex(16)


def renamed(item: Item) -> Item:
    """The same item under a new id, of the same kind."""
    kind = item.id.partition("_")[0]
    item_id = f"{kind}_{secrets.token_hex(16)}"
    members = msgspec.json.decode(item.body, type=dict[str, msgspec.Raw])
    members["id"] = msgspec.Raw(msgspec.json.encode(item_id))
    return Item(item_id, msgspec.json.encode(members))


def charge_of(body: bytes) -> int:
    """Bytes that an item counts for."""
    return max(len(body), LEAST_CHARGE)


def unknown_conversation(conversation_id: str) -> NotFound:
    return NotFound(
        f"you have no conversation {conversation_id[:100]!r}",
        param="conversation_id",
        code="conversation_not_found",
    )


def unknown_item(item_id: str) -> NotFound:
    return NotFound(f"the conversation has no item {item_id[:100]!r}", param="item_id", code="item_not_found")


def too_long(longest: int) -> BodyTooLarge:
    return BodyTooLarge(f"the conversation is longer than {longest} bytes")
