"""The usage of an answer that was kept, told as each API tells of a prompt that was read from a cache: all of it was.

Only figures of the prompt change.  What an API has no field for stays as it is, and so does all that an answer says
beside its usage.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import msgspec

from penstock.messages import JSON, Endpoint, Event, Usage
from penstock.wire import members, sse
from penstock.wire.not_json import NOT_JSON

_Change: TypeAlias = Callable[[dict[str, JSON]], bool]
"""Changes a usage; whether it did."""

_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_object = msgspec.json.Decoder(dict[str, JSON]).decode

_TELLS: Final = re.compile(rb'"usage"\s*:\s*\{')
_HITS: Final = (
    "prompt_cache_hit_tokens",
    "num_cached_tokens",
    "cached_tokens",
)  # DeepSeek, Mistral, Moonshot
_BESIDE: Final = (
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
)  # Anthropic's, beside input_tokens


def as_cached(usage: Usage) -> Usage:
    """The same usage, where all of the prompt was read from a cache."""
    return msgspec.structs.replace(
        usage, cached_input_tokens=usage.input_tokens, cache_write_tokens=0, cache_write_1h_tokens=0
    )


def told(endpoint: Endpoint, events: Sequence[Event], *, stream: bool) -> list[Event]:
    """The events of a complete answer, with such a usage wherever they tell one.

    :param events: SSE frames if ``stream``, else the body in any number of pieces
    """
    kind = _KINDS.get(endpoint)
    if kind is None:
        return list(events)
    change, places = kind
    if not stream:
        return [_changed(b"".join(events), ("usage",), change)]
    return [_in_frame(event, places, change) for event in events]


def _in_frame(event: Event, places: Sequence[tuple[str, ...]], change: _Change) -> Event:
    if _TELLS.search(event) is None:  # most events, also of those whose usage is null
        return event
    data = sse.data_of(event)
    new = data
    for place in places:
        new = _changed(new, place, change)
    if new is data:
        return event
    # Data of several lines stands nowhere in its event as it is read.
    return event.replace(data, new, 1) if data in event else sse.encode(new, sse.fields(event).event)


def _changed(data: bytes, place: tuple[str, ...], change: _Change) -> bytes:
    """The object with the usage at this place changed; itself, if there is none."""
    try:
        found = _members(data)
        name, *further = place
        inner = found.get(name)
        if inner is None:
            return data
        if further:
            old = bytes(inner)
            new = _changed(old, tuple(further), change)
            if new is old:
                return data
        else:
            usage = _object(inner)
            if not change(usage):
                return data
            new = members.encode(usage)
    except NOT_JSON:
        return data
    found[name] = msgspec.Raw(new)
    return members.encode(found)


def _tokens(usage: dict[str, JSON], name: str) -> int:
    value = usage.get(name)
    return value if type(value) is int and value > 0 else 0


def _chat(usage: dict[str, JSON]) -> bool:
    prompt = _tokens(usage, "prompt_tokens")
    if not prompt:
        return False
    _detail(usage, "prompt_tokens_details", prompt)
    for name in _HITS:
        if name in usage:
            usage[name] = prompt
    if "prompt_cache_miss_tokens" in usage:
        usage["prompt_cache_miss_tokens"] = 0
    return True


def _responses(usage: dict[str, JSON]) -> bool:
    prompt = _tokens(usage, "input_tokens")
    if prompt:
        _detail(usage, "input_tokens_details", prompt)
    return prompt > 0


def _detail(usage: dict[str, JSON], name: str, prompt: int) -> None:
    given = usage.get(name)
    details: dict[str, JSON] = dict(given) if isinstance(given, dict) else {}
    details["cached_tokens"] = prompt
    if "cache_write_tokens" in details:
        details["cache_write_tokens"] = 0
    usage[name] = details


def _messages(usage: dict[str, JSON]) -> bool:
    """Of a stream, the event that begins it tells of the prompt, and the one that ends it may do so once more."""
    prompt = sum(_tokens(usage, name) for name in ("input_tokens", *_BESIDE))
    if not prompt:
        # Nought there replaces what was told in the beginning.
        dropped = [usage.pop(name) for name in ("input_tokens", *_BESIDE) if name in usage]
        return bool(dropped)
    usage["input_tokens"] = 0
    usage["cache_creation_input_tokens"] = 0
    usage["cache_read_input_tokens"] = prompt
    if isinstance(made := usage.get("cache_creation"), dict):
        usage["cache_creation"] = dict.fromkeys(made, 0)
    return True


_AS_CHAT: Final = (_chat, (("usage",), ("x_groq", "usage")))
_KINDS: Final[dict[Endpoint, tuple[_Change, Sequence[tuple[str, ...]]]]] = {
    Endpoint.CHAT: _AS_CHAT,
    Endpoint.COMPLETIONS: _AS_CHAT,
    Endpoint.RESPONSES: (_responses, (("response", "usage"),)),
    Endpoint.MESSAGES: (_messages, (("usage",), ("message", "usage"))),
}
