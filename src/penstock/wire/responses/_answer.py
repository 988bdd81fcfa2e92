"""A plain answer as a response object."""

from __future__ import annotations

from typing import Final

import msgspec

from penstock.errors import Untranslatable
from penstock.messages import JSON
from penstock.wire.conversation import Answer, Part, Refusal, Text, Thinking, ToolCall
from penstock.wire.responses._output import (
    NO_ARGUMENTS,
    Content,
    Item,
    ItemStatus,
    Message,
    Reasoning,
    call_of,
    closed,
    content_of,
    core,
    ending,
    item_id,
    kind_of,
    opened,
    reasoning_of,
)
from penstock.wire.responses._settings import Settings

_encode = msgspec.json.Encoder().encode
_NO_SETTINGS: Final = Settings()


def encode_answer(answer: Answer, settings: Settings = _NO_SETTINGS, *, name: str = "") -> bytes:
    """The ``response`` object.

    :param settings: those of the request that is answered
    :param name: what its ids are made of, instead of the upstream's id
    :raises Untranslatable: the answer has a part that a response cannot hold
    """
    end = ending(answer.stop, refusal_given=any(isinstance(part, Refusal) for part in answer.parts))
    name = core(name or answer.id)
    items: list[Item] = []
    groups = _groups(answer.parts)
    for index, group in enumerate(groups):
        status: ItemStatus = end.status if index == len(groups) - 1 else "completed"
        items.append(_item(group, name, index, status, answer.logprobs, settings))
    response = opened(settings, name, answer.model, answer.created)
    return _encode(closed(response, end, tuple(items), answer.usage))


def _groups(parts: tuple[Part, ...]) -> list[list[Part]]:
    """Parts, item by item."""
    groups: list[list[Part]] = []
    for part in parts:
        spoken = isinstance(part, Text | Refusal)
        if spoken and groups and isinstance(groups[-1][0], Text | Refusal):
            groups[-1].append(part)
        else:
            groups.append([part])
    return groups


def _item(
    group: list[Part], answer: str, index: int, status: ItemStatus, logprobs: JSON, settings: Settings
) -> Item:
    part = group[0]
    if isinstance(part, ToolCall):
        id_ = item_id(kind_of(part), answer, index)
        arguments = part.arguments if part.custom else part.arguments or NO_ARGUMENTS
        return call_of(part, arguments, id_, status, settings)
    if isinstance(part, Thinking):
        id_ = item_id(Reasoning, answer, index)
        return reasoning_of(part, id_, status, as_summary=settings.reasoning_as_summary)
    content: list[Content] = []
    for spoken in group:
        if not isinstance(spoken, Text | Refusal):
            raise Untranslatable(f"a response cannot hold {type(spoken).__name__.lower()} of the model")
        citations = spoken.citations if isinstance(spoken, Text) else ()
        # Logprobs come from chat completions, whose answers have one text.
        tokens = text_logprobs(logprobs) if isinstance(spoken, Text) and not content else ()
        content.append(content_of(spoken, spoken.text, citations, tokens))
    return Message(item_id(Message, answer, index), status, tuple(content))


def text_logprobs(logprobs: JSON) -> tuple[JSON, ...]:
    """A chat completion's logprobs as those of a text; here ``bytes`` may not be null."""
    if not isinstance(logprobs, dict):
        return ()
    return tuple(
        {
            **_with_bytes(token),
            "top_logprobs": [_with_bytes(other) for other in token.get("top_logprobs") or ()],
        }
        for token in logprobs.get("content") or ()
    )


def _with_bytes(token: dict[str, JSON]) -> dict[str, JSON]:
    return token if token.get("bytes") is not None else {**token, "bytes": list(token["token"].encode())}
