"""``/v1/conversations``, as OpenAI has it; what a response adds to one is an affair of :mod:`penstock.gateway.stages.converse`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import msgspec

from penstock.errors import BadRequest
from penstock.gateway.kept.answering import method_of, page_of, respond, respond_list
from penstock.gateway.kept.batches import checked_metadata
from penstock.gateway.kept.by_path import Do
from penstock.gateway.stages.authenticate import owner_of
from penstock.generation.conversations import Conversation, Conversations, Item
from penstock.messages import JSON, Tenant
from penstock.net.exchange import Exchange
from penstock.wire import responses
from penstock.wire.members import Members, body_of

MAX_ITEMS = 20  # that one request adds, as OpenAI has it
_LIST_MOST, _LIST_USUAL = 100, 20


class ConversationRoom:
    """A :class:`penstock.gateway.kept.by_path.Room`.

    :param longest: bytes of a request
    """

    label = "conversations"
    decodes = False

    def __init__(self, conversations: Conversations, longest: int) -> None:
        self._conversations = conversations
        self._longest = longest

    def __repr__(self) -> str:
        return f"<ConversationRoom over {self._conversations}>"

    def work(self, exchange: Exchange, steps: Sequence[str], tenant: Tenant) -> tuple[int | None, Do] | None:
        owner = owner_of(tenant, exchange.headers)
        match steps:
            case []:
                method_of(exchange, "POST")
                return self._longest, partial(self._create, owner)
            case [name]:
                doing = {"GET": self._retrieve, "POST": self._update, "DELETE": self._delete}
                return self._longest, partial(doing[method_of(exchange, *doing)], owner, name)
            case [name, "items"]:
                if method_of(exchange, "GET", "POST") == "POST":
                    return self._longest, partial(self._add, owner, name)
                return 0, partial(self._list, owner, name)
            case [name, "items", item]:
                if method_of(exchange, "GET", "DELETE") == "DELETE":
                    return self._longest, partial(self._remove, owner, name, item)
                return 0, partial(self._item, owner, name, item)
        return None

    async def _create(self, owner: str, exchange: Exchange) -> None:
        body = body_of(exchange.whole_body() or b"{}")
        items = _items(body)
        found = await self._conversations.create(owner, _metadata(body), items)
        respond(exchange, _shown(found))

    async def _retrieve(self, owner: str, name: str, exchange: Exchange) -> None:
        respond(exchange, _shown(await self._conversations.get(owner, name)))

    async def _update(self, owner: str, name: str, exchange: Exchange) -> None:
        metadata = _metadata(body_of(exchange.whole_body()))
        respond(exchange, _shown(await self._conversations.update(owner, name, metadata)))

    async def _delete(self, owner: str, name: str, exchange: Exchange) -> None:
        await self._conversations.delete(owner, name)
        respond(exchange, {"id": name, "object": "conversation.deleted", "deleted": True})

    async def _add(self, owner: str, name: str, exchange: Exchange) -> None:
        items = _items(body_of(exchange.whole_body()))
        if not items:
            raise BadRequest("there must be items", param="items", code="missing_parameter")
        added = await self._conversations.add(owner, name, items)
        respond_list(exchange, _told(added), more=False)

    async def _list(self, owner: str, name: str, exchange: Exchange) -> None:
        page = page_of(exchange, most=_LIST_MOST, usual=_LIST_USUAL)
        items, more = await self._conversations.page(
            owner, name, after=page.after, limit=page.limit, newest_first=page.newest_first
        )
        respond_list(exchange, _told(items), more=more)

    async def _item(self, owner: str, name: str, item: str, exchange: Exchange) -> None:
        found = await self._conversations.item(owner, name, item)
        respond(exchange, msgspec.Raw(found.body))

    async def _remove(self, owner: str, name: str, item: str, exchange: Exchange) -> None:
        respond(exchange, _shown(await self._conversations.remove(owner, name, item)))


def _items(body: Members) -> list[Item]:
    given = body.array("items")
    if len(given) > MAX_ITEMS:
        raise BadRequest(f"there can be {MAX_ITEMS} items at a time", param="items")
    return [Item(*responses.kept_item(item, f"items[{index}]")) for index, item in enumerate(given)]


def _metadata(body: Members) -> bytes:
    return msgspec.json.encode(checked_metadata(body.raw("metadata")) or {})


def _told(items: Sequence[Item]) -> list[dict[str, JSON]]:
    return [msgspec.json.decode(item.body) for item in items]


def _shown(conversation: Conversation) -> dict[str, JSON]:
    """The object of OpenAI's API."""
    return {
        "id": conversation.id,
        "object": "conversation",
        "created_at": int(conversation.created),
        "metadata": msgspec.Raw(conversation.metadata),
    }
