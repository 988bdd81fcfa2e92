"""A request that goes on from an earlier response, put as the whole conversation.

Upstreams that lack the API keep no responses, and their callers name one nevertheless: by ``previous_response_id``, or
item by item as an ``item_reference`` (Vercel's AI SDK does so with reasoning, unless it is told ``store: false``).  The
ids of answers that were translated here are made of a generation's (:func:`~penstock.wire.responses._output.item_id`), so
that they say where to look.  All others are an upstream's affair, and stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from penstock.wire.not_json import NOT_JSON

Fields = dict[str, msgspec.Raw]

_PREVIOUS: Final = "previous_response_id"
_REFERENCE: Final = b'"item_reference"'
_RESPONSE_ID: Final = re.compile(r"resp_([0-9a-f]{32})")
_ITEM_ID: Final = re.compile(r"(?:msg|fc|ctc|rs)_([0-9a-f]{32})_([0-9]{1,6})")
_NOTHING: Final = (b"null", b"")


class Earlier(msgspec.Struct, frozen=True):
    """An earlier request, and the response object that answered it."""

    request: bytes
    answer: bytes


class _Reference(msgspec.Struct):
    type: str = ""
    id: str = ""


class _Asked(msgspec.Struct):
    input: msgspec.Raw = msgspec.Raw()


class _Answered(msgspec.Struct):
    output: list[msgspec.Raw] = []


_array = msgspec.json.Decoder(list[msgspec.Raw]).decode
_string = msgspec.json.Decoder(str | None).decode
_reference = msgspec.json.Decoder(_Reference).decode
_asked = msgspec.json.Decoder(_Asked).decode
_answered = msgspec.json.Decoder(_Answered).decode


def goes_on(fields: Fields, body: bytes) -> bool:
    """Whether a request may name an earlier response; made to be asked of every one."""
    return _PREVIOUS in fields or body.find(_REFERENCE) >= 0


def named(fields: Fields) -> set[str]:
    """The generations whose answers a request names, by their ids without the prefix ``gen_``."""
    found = set()
    try:
        if previous := _previous(fields):
            found.add(previous)
        for item in items_of(fields.get("input")):
            if (reference := _referred(item)) is not None:
                found.add(reference[0])
    except NOT_JSON:  # no business of this: decode_prompt refuses it
        return set()
    return found


def whole(fields: Fields, find: Callable[[str], Earlier | None]) -> Fields:
    """The members of the request that says all that the given one means; what is not found stays as it is.

    As OpenAI has it, ``instructions`` and tools of an earlier request do not count any more.

    :param find: an earlier request and its answer, by what :func:`named` says
    """
    items: list[msgspec.Raw] = []
    fields = fields.copy()
    if (previous := _previous(fields)) and (earlier := find(previous)) is not None:
        items += [*items_of(_asked(earlier.request).input), *_answered(earlier.answer).output]
        del fields[_PREVIOUS]
    items += [_recalled(item, find) for item in items_of(fields.get("input"))]
    fields["input"] = msgspec.Raw(b"[%b]" % b",".join(items))
    return fields


def _previous(fields: Fields) -> str:
    given = fields.get(_PREVIOUS)
    found = _RESPONSE_ID.fullmatch(_string(given) or "") if given is not None else None
    return found[1] if found else ""


def items_of(given: msgspec.Raw | None) -> Iterator[msgspec.Raw]:
    """What an input holds, item by item: a string is a user's message."""
    text = bytes(given or b"").strip()
    if text in _NOTHING:
        return iter(())
    if text.startswith(b"["):
        return iter(_array(text))
    return iter((msgspec.Raw(b'{"role":"user","content":%b}' % text),))


def _referred(item: msgspec.Raw) -> tuple[str, int] | None:
    """Generation and number of the item that this one stands for."""
    if _REFERENCE not in bytes(item):
        return None
    reference = _reference(item)
    found = _ITEM_ID.fullmatch(reference.id) if reference.type == "item_reference" else None
    return (found[1], int(found[2])) if found else None


def _recalled(item: msgspec.Raw, find: Callable[[str], Earlier | None]) -> msgspec.Raw:
    reference = _referred(item)
    if reference is None or (earlier := find(reference[0])) is None:
        return item
    output = _answered(earlier.answer).output
    return output[reference[1]] if reference[1] < len(output) else item
