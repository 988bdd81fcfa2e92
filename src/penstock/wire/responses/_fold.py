"""The events of a response, put together: the closing event has it all."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Final

import msgspec

from penstock.errors import UpstreamBroken
from penstock.messages import Usage
from penstock.wire.responses._events import ERROR, TERMINAL_EVENTS
from penstock.wire.responses._output import usage_of

_CLOSING: Final = TERMINAL_EVENTS - {ERROR}
_ITEM_DONE: Final = "response.output_item.done"
_NOTHING: Final = (b"", b"null", b"[]")


class _Event(msgspec.Struct):
    type: str = ""
    output_index: int = 0
    item: msgspec.Raw = msgspec.Raw()
    response: msgspec.Raw = msgspec.Raw()


_event = msgspec.json.Decoder(_Event).decode
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


def fold_stream(payloads: Iterator[bytes | None], usage: Usage | None) -> Generator[None, None, bytes]:
    """The response object that the closing event carries, byte for byte unless something is missing in it.

    Some servers leave its ``output`` empty, because all items have come before.

    :param payloads: None: a step ends
    :raises UpstreamBroken: there is no closing event, or it has no response
    """
    items: dict[int, msgspec.Raw] = {}
    for payload in payloads:
        if payload is None:
            yield
            continue
        event = _event(payload)
        if event.type == _ITEM_DONE and bytes(event.item) not in _NOTHING:
            items[event.output_index] = event.item
        elif event.type in _CLOSING:
            return _closed(event.response, items, usage)
    raise UpstreamBroken("the stream has no closing event")


def _closed(response: msgspec.Raw, items: dict[int, msgspec.Raw], usage: Usage | None) -> bytes:
    if bytes(response) in _NOTHING:
        raise UpstreamBroken("the closing event of the stream has no response")
    found = _members(response)
    added: dict[str, object] = {}
    if items and bytes(found.get("output", b"")) in _NOTHING:
        added["output"] = [items[index] for index in sorted(items)]
    if usage is not None and bytes(found.get("usage", b"")) in _NOTHING:
        added["usage"] = usage_of(usage)
    return _encode({**found, **added}) if added else bytes(response)
