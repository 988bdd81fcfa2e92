"""What a response was asked with, item by item, as the API lists it.

An item that brought no id is named by its response and its place, so that it has the same id each time it is listed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from penstock.messages import JSON
from penstock.wire.responses._conversations import kept_item
from penstock.wire.responses._history import Earlier, items_of

_PREVIOUS: Final = b'"previous_response_id"'


class _Asked(msgspec.Struct):
    input: msgspec.Raw = msgspec.Raw()
    previous_response_id: str | None = None


class _Answered(msgspec.Struct):
    output: list[msgspec.Raw] = []


_asked = msgspec.json.Decoder(_Asked).decode
_answered = msgspec.json.Decoder(_Answered).decode
_object = msgspec.json.Decoder(dict[str, JSON]).decode


def previous_of(body: bytes) -> str:
    """The id of the response that a request goes on from, whoever keeps it; empty: from none."""
    return (_asked(body).previous_response_id or "") if _PREVIOUS in body else ""


def input_items(body: bytes, response: str, earlier: Iterable[Earlier] = ()) -> list[tuple[str, bytes]]:
    """Ids and items of all that a response was asked with, the first one first; no two have one id.

    :param body: its request
    :param response: what ids are made of
    :param earlier: what it goes on from and its request only names, the first one first
    """
    given: list[msgspec.Raw] = []
    for one in earlier:
        given += [*items_of(_asked(one.request).input), *_answered(one.answer).output]
    given += items_of(_asked(body).input)
    found: dict[str, bytes] = {}
    for number, item in enumerate(given):
        name = f"{response}_in_{number}"
        item_id, text = kept_item(_object(item), f"input[{number}]", name)
        if item_id in found:
            item_id, text = kept_item({**_object(item), "id": None}, f"input[{number}]", name)
        found[item_id] = text
    return list(found.items())
