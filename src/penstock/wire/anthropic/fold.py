"""The events of a message, put together to the plain answer.

``message_start`` has the message without content; each block begins with ``content_block_start``, grows by
deltas, and ``message_delta`` says how it all ended.  A delta of a kind that is not known is merged by the
shape of its members, as Anthropic asks its clients to expect more kinds.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any, Final

import msgspec

from penstock.errors import UpstreamBroken
from penstock.messages import JSON, Usage
from penstock.wire import members
from penstock.wire.anthropic.answer import write_usage
from penstock.wire.not_json import NOT_JSON

MAX_BLOCKS: Final = 65_536
"""No answer has as many."""

_CUT: Final = frozenset({"max_tokens", "model_context_window_exceeded"})

_decode = msgspec.json.Decoder(dict[str, JSON]).decode
_check_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_check_json = msgspec.json.Decoder().decode


class _Block:
    """A content block that is still growing."""

    __slots__ = ("_arguments", "_block", "_texts")

    def __init__(self, block: dict[str, JSON]) -> None:
        self._block = block
        self._texts: dict[str, list[str]] = {}
        self._arguments: list[str] = []

    def __repr__(self) -> str:
        return f"<{self._block.get('type')} block>"

    def take(self, delta: dict[str, JSON]) -> None:
        block = self._block
        for name, value in delta.items():
            if name == "type" or value is None:
                continue
            if name == "partial_json" and isinstance(value, str):
                self._arguments.append(value)
            elif name == "signature":
                block[name] = value  # whole, each time
            elif name == "citation":
                self._cite(value)
            elif isinstance(value, str):
                self._append(name, value)
            else:
                block[name] = value

    def _cite(self, citation: JSON) -> None:
        citations = self._block.get("citations")
        if isinstance(citations, list):
            citations.append(citation)
        else:
            self._block["citations"] = [citation]

    def _append(self, name: str, value: str) -> None:
        texts = self._texts.get(name)
        if texts is None:
            first = self._block.get(name)
            texts = self._texts[name] = [first] if isinstance(first, str) else []
        texts.append(value)

    def whole(self, stop_reason: JSON) -> JSON:
        block: dict[str, Any] = self._block
        for name, texts in self._texts.items():
            block[name] = "".join(texts)
        if arguments := "".join(self._arguments).encode():
            try:
                _check_json(arguments)
                _check_object(arguments)
                block["input"] = msgspec.Raw(arguments)  # in the model's own writing
            except NOT_JSON:
                if stop_reason not in _CUT:
                    raise UpstreamBroken(
                        "the stream calls a tool with input that is no JSON object"
                    ) from None
                block["input"] = {}  # cut off in the middle, as the stop reason says
        return block


def fold_stream(payloads: Iterator[bytes | None], usage: Usage | None) -> Generator[None, None, bytes]:
    """The body of the message of which these are the events.

    :param payloads: None: a step ends
    :raises UpstreamBroken: the events do not belong together
    """
    message: dict[str, Any] | None = None
    blocks: dict[int, _Block] = {}
    used: dict[str, JSON] = {}
    for payload in payloads:
        if payload is None:
            yield
            continue
        event = _decode(payload)
        kind = event.pop("type", None)
        if kind == "content_block_delta":
            block = blocks.get(_index(event))
            _expect(block is not None)
            assert block is not None
            block.take(_object(event, "delta"))
        elif kind == "content_block_start":
            index = _index(event)
            _expect(message is not None and index not in blocks)
            blocks[index] = _Block(_object(event, "content_block"))
        elif kind == "message_start":
            _expect(message is None)
            message = _object(event, "message")
            _merge_usage(used, message.pop("usage", None))
        elif kind == "message_delta":
            _expect(message is not None)
            assert message is not None
            _merge_usage(used, event.pop("usage", None))
            delta = _object(event, "delta")
            del event["delta"]
            for name, value in (*delta.items(), *event.items()):
                if value is not None or name not in message:
                    message[name] = value
        elif kind == "message_stop":
            break
    _expect(message is not None)
    assert message is not None
    message["content"] = [blocks[index].whole(message["stop_reason"]) for index in sorted(blocks)]
    message["usage"] = used or write_usage(usage or Usage())
    return members.encode(message)


def _index(event: dict[str, JSON]) -> int:
    index = event.get("index")
    if type(index) is not int:
        raise UpstreamBroken("the stream has an event without the index of its block")
    if not 0 <= index < MAX_BLOCKS:
        raise UpstreamBroken(f"the stream has an index ({str(index)[:20]}) that no answer has")
    return index


def _object(event: dict[str, JSON], name: str) -> dict[str, JSON]:
    value = event.get(name)
    _expect(isinstance(value, dict))
    assert isinstance(value, dict)
    return value


def _merge_usage(used: dict[str, JSON], later: JSON) -> None:
    """All figures are totals, so a later one replaces an earlier one; what is absent or null does not."""
    if isinstance(later, dict):
        for name, value in later.items():
            if value is not None or name not in used:
                used[name] = value


def _expect(sense: bool) -> None:
    if not sense:
        raise UpstreamBroken("the stream has an event where it makes no sense")
