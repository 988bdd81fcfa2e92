"""The chunks of a chat completion, or of a legacy completion, put together to the plain answer.

A chunk's ``delta`` has pieces of the message.  Those are merged as OpenAI's own accumulators do it, by shape
and not by name, so that members which servers have added survive:

- text is appended, but for the few strings that are names and not text: those are told once, or again in
  every chunk;
- objects are merged member by member;
- a list is made longer, and an entry that has an ``index`` is merged with the one that had it before;
- numbers and truth values are states: the last one counts;
- null never takes anything back.

The SDKs differ in the details; where one of them would spoil an answer, it is not followed: Python's appends
a role or an id that a server repeats, and adds up numbers.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any, Final

import msgspec

from penstock.errors import UpstreamBroken
from penstock.messages import JSON, Endpoint, Usage
from penstock.wire import members
from penstock.wire.chat.answer import write_usage

MAX_ENTRIES: Final = 4096
"""Of choices, tool calls and other things that have an index; no answer has as many."""

_NAMES: Final = frozenset({"id", "role", "type", "format"})
_PARTS: Final = frozenset({"content", "thinking"})  # lists in which Mistral streams a part in pieces
_NOT_FOLDED: Final = frozenset({"object", "obfuscation"})
_TOLD_FIRST: Final = frozenset({"id", "created", "model"})

_decode = msgspec.json.Decoder(dict[str, JSON]).decode


class _Text:
    """Text that is still growing."""

    __slots__ = ("pieces",)

    def __init__(self, first: str) -> None:
        self.pieces = [first]

    def __repr__(self) -> str:
        return f"<text of {len(self.pieces)} pieces>"


class _List:
    """A list that is still growing; entries with an index are kept in the order of their indices."""

    __slots__ = ("_by_index", "entries")

    def __init__(self) -> None:
        self.entries: list[Any] = []
        self._by_index: dict[int, dict[str, Any]] = {}

    def __repr__(self) -> str:
        return f"<list of {len(self.entries)} entries>"

    def extend(self, added: list[JSON], *, parts: bool) -> None:
        for entry in added:
            if not isinstance(entry, dict):
                self.entries.append(entry)
            elif type(index := entry.get("index")) is int:
                _merge(self._at(index), entry)
            elif parts:
                self._add_part(entry)
            else:
                self.entries.append(entry)

    def _at(self, index: int) -> dict[str, Any]:
        entry = self._by_index.get(index)
        if entry is None:
            _check_index(index)
            entry = self._by_index[index] = {}
            self.entries.append(entry)
        return entry

    def _add_part(self, part: dict[str, JSON]) -> None:
        last = self.entries[-1] if self.entries else None
        kind = part.get("type")
        if kind not in ("text", "thinking") or not isinstance(last, dict) or last.get("type") != kind:
            last = {}
            self.entries.append(last)
        _merge(last, part)

    def whole(self) -> list[JSON]:
        entries = self.entries
        if len(self._by_index) == len(entries):
            entries = [self._by_index[index] for index in sorted(self._by_index)]
        return [_whole(entry) for entry in entries]


class _Calls:
    """The tool calls of one message.

    Some servers number none of them, or all of them 0: another id is another call.
    """

    __slots__ = ("_by_id", "_by_index", "_calls", "_last", "_next")

    def __init__(self) -> None:
        self._calls: dict[int, dict[str, Any]] = {}
        self._by_index: dict[int, dict[str, Any]] = {}
        self._by_id: dict[str, dict[str, Any]] = {}
        self._last: dict[str, Any] | None = None
        self._next = 0  # the place behind all calls

    def __repr__(self) -> str:
        return f"<{len(self._calls)} tool calls>"

    def add(self, delta: JSON) -> None:
        if not isinstance(delta, dict):
            raise _senseless()
        pieces: dict[str, JSON] = delta.copy()
        index, call_id = pieces.pop("index", None), pieces.get("id")
        if index is None:
            call = self._by_id.get(call_id) if isinstance(call_id, str) and call_id else self._last
        elif type(index) is int:
            call = self._by_index.get(index)
            if call is not None and call_id and call.get("id") and call["id"] != call_id:
                call = self._by_id.get(call_id) if isinstance(call_id, str) else None
        else:
            raise _senseless()
        if call is None:
            call = self._begin(index)
        if isinstance(call_id, str) and call_id:
            self._by_id[call_id] = call
        self._last = call
        _merge(call, pieces)

    def _begin(self, index: int | None) -> dict[str, Any]:
        place = self._next if index is None or index in self._calls else index
        _check_index(place)
        self._next = max(self._next, place + 1)
        call: dict[str, Any] = {}
        self._calls[place] = call
        if index is not None:
            self._by_index[index] = call  # a delta without an id goes to the newest of that number
        return call

    def whole(self) -> list[JSON]:
        return [_whole(self._calls[place]) for place in sorted(self._calls)]


def _check_index(index: int) -> None:
    if not 0 <= index < MAX_ENTRIES:
        raise UpstreamBroken(f"the stream has an index ({str(index)[:20]}) that no answer has")


def _senseless() -> UpstreamBroken:
    return UpstreamBroken("the stream has a chunk that makes no sense in an answer")


def _merge(held: dict[str, Any], delta: dict[str, JSON]) -> None:
    """Add the pieces of ``delta`` to what is ``held``."""
    for name, value in delta.items():
        if value is None:
            held.setdefault(name, None)
        elif isinstance(value, str):
            _append(held, name, value)
        elif isinstance(value, dict):
            old = held.get(name)
            if not isinstance(old, dict):
                old = held[name] = {}
            _merge(old, value)
        elif isinstance(value, list):
            _extend(held, name, value)
        else:
            held[name] = value


def _append(held: dict[str, Any], name: str, value: str) -> None:
    old = held.get(name)
    if name in _NAMES:
        if value or old is None:
            held[name] = value
    elif isinstance(old, _Text):
        if name != "name" or old.pieces[-1] != value:  # a tool's name comes whole, in some streams repeatedly
            old.pieces.append(value)
    elif isinstance(old, _List):
        if value:
            old.extend([{"type": "text", "text": value}], parts=True)
    else:
        held[name] = _Text(value)


def _extend(held: dict[str, Any], name: str, value: list[JSON]) -> None:
    old = held.get(name)
    if not isinstance(old, _List):
        spoken = "".join(old.pieces) if isinstance(old, _Text) else ""
        old = held[name] = _List()
        if spoken:
            old.extend([{"type": "text", "text": spoken}], parts=True)
    old.extend(value, parts=name in _PARTS)


def _whole(value: Any) -> JSON:
    if isinstance(value, _Text):
        return "".join(value.pieces)
    if isinstance(value, _List | _Calls):
        return value.whole()
    if isinstance(value, dict):
        return {name: _whole(member) for name, member in value.items()}
    return value


class _Choice:
    """One choice; ``rest`` holds what stands beside the delta."""

    __slots__ = ("calls", "delta", "finish_reason", "rest", "text")

    def __init__(self) -> None:
        self.delta: dict[str, Any] = {}
        self.calls: _Calls | None = None
        self.text: list[str] = []
        self.finish_reason: str | None = None
        self.rest: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"<choice, finish reason {self.finish_reason}>"

    def take(self, choice: dict[str, JSON]) -> None:
        rest = self.rest
        for name, value in choice.items():
            if name == "delta":
                if value is not None:
                    self._take_delta(value)
            elif name == "text":
                if isinstance(value, str):
                    self.text.append(value)
            elif name == "finish_reason":
                self.finish_reason = value or self.finish_reason
            elif name == "index":
                pass
            elif value is None:
                rest.setdefault(name, None)
            elif name == "logprobs" and isinstance(value, dict):
                _merge(rest, {name: value})
            elif isinstance(value, list):
                _extend(rest, name, value)
            else:
                rest[name] = value

    def _take_delta(self, delta: JSON) -> None:
        if not isinstance(delta, dict):
            raise _senseless()
        if calls := delta.pop("tool_calls", None):
            if not isinstance(calls, list):
                raise _senseless()
            if self.calls is None:
                self.calls = _Calls()
            for call in calls:
                self.calls.add(call)
        _merge(self.delta, delta)

    def whole(self, index: int, *, chat: bool) -> dict[str, JSON]:
        if self.finish_reason is None:
            raise UpstreamBroken("the stream has a choice without a finish reason")
        rest = _whole(self.rest)
        end = {"logprobs": rest.pop("logprobs", None), "finish_reason": self.finish_reason, **rest}
        if not chat:
            return {"text": "".join(self.text), "index": index, **end}
        message = {"role": "assistant", "content": None, **_whole(self.delta)}
        message["role"] = message["role"] or "assistant"
        if self.calls is not None:
            message["tool_calls"] = self.calls.whole()
        return {"index": index, "message": message, **end}


def fold_stream(
    endpoint: Endpoint, payloads: Iterator[bytes | None], usage: Usage | None
) -> Generator[None, None, bytes]:
    """The body of the chat completion, or completion, of which these are the chunks.

    :param payloads: None: a step ends
    :raises UpstreamBroken: a choice has no finish reason, or a chunk makes no sense
    """
    chat = endpoint is Endpoint.CHAT
    head: dict[str, Any] = {}
    choices: dict[int, _Choice] = {}
    told: JSON = None
    for payload in payloads:
        if payload is None:
            yield
            continue
        for name, value in _decode(payload).items():
            if name == "choices":
                for choice in value:
                    index = choice.get("index") or 0
                    if type(index) is not int:
                        raise _senseless()
                    if (known := choices.get(index)) is None:
                        _check_index(index)
                        known = choices[index] = _Choice()
                    known.take(choice)
            elif name == "usage":
                told = value or told
            elif name not in _NOT_FOLDED:
                _take_head(head, name, value)
    groq = head.get("x_groq")
    if isinstance(groq, dict):
        told = groq.pop("usage", None) or told  # only its streams have it there
    body: dict[str, JSON] = {
        **{name: head.pop(name) for name in ("id", "created", "model") if name in head},
        "choices": [choices[index].whole(index, chat=chat) for index in sorted(choices)],
        "usage": told or (write_usage(usage) if usage is not None else None),
        **head,
    }
    return members.encode({"object": "chat.completion" if chat else "text_completion", **body})


def _take_head(head: dict[str, Any], name: str, value: JSON) -> None:
    old = head.get(name)
    if value is None:
        head.setdefault(name, None)
    elif name in _TOLD_FIRST:
        head[name] = old or value  # Azure's first chunk, about the prompt, has no id and no model
    elif isinstance(old, dict) and isinstance(value, dict):
        old.update(value)
    else:
        head[name] = value
