"""The request that asks an upstream to go on with an answer that broke off.

Made of the request that the upstream would get anyway, in its own dialect: the members' bytes stay as they
are, so that a provider's prompt cache knows the prefix; only the end of the messages and the output limit
change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import msgspec

from penstock.errors import Untranslatable
from penstock.messages import JSON, Endpoint
from penstock.wire.not_json import NOT_JSON

Prefill: TypeAlias = Literal["trailing", "prefix", "partial", "continue_final_message"]
"""How an upstream is told that the last message is its own and not complete: by its place alone, by a flag on
it (``prefix: true``, ``partial: true``), or by ``continue_final_message`` beside the messages."""

_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_messages = msgspec.json.Decoder(list[msgspec.Raw]).decode
_value = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode

_LIMITS = ("max_completion_tokens", "max_tokens", "max_output_tokens")

# What of a chat request means the same to raw completions.
_SAMPLING = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "stop",
    "stop_token_ids",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "logit_bias",
    "user",
    "stream",
    "stream_options",
    "ignore_eos",
    "skip_special_tokens",
)

INTERRUPTED = (
    "Your previous response was interrupted and ended with:\n\n{anchor}\n\n"
    "Continue it from exactly where it left off. Begin your reply by repeating those last words, letter for "
    "letter, and go on from there. Do not say anything else before them, do not apologise, and do not begin "
    "the response anew."
)
"""The turn that asks a model which takes no prefill; after Anthropic's advice for Claude 4.6 and later
(https://platform.claude.com/docs/en/build-with-claude/streaming, "Error recovery")."""


def prefilled(endpoint: Endpoint, body: bytes, form: Prefill, text: str, received: int) -> bytes:
    """The request with the answer so far as its last message.

    :param body: the upstream's request for the whole answer
    :param text: what of the answer the model is to go on with
    :param received: output tokens that its limit has left fewer
    :raises Untranslatable: it cannot be said of this request
    """
    members = _read(body)
    if endpoint is Endpoint.COMPLETIONS:
        members["prompt"] = _raw(_prompt_of(members) + text)
        _shorten(members, received)
        return _encode(members)
    messages = _messages_of(members)
    message: dict[str, JSON] = {"role": "assistant", "content": text}
    last = _object(messages[-1])
    if last.get("role") == "assistant":  # the caller's own prefill: it is all one text
        begun = last.get("content")
        if not isinstance(begun, str) or last.get("tool_calls"):
            raise Untranslatable("the last message cannot be gone on with")
        messages.pop()
        message = {**last, "content": begun + text}
    if form == "continue_final_message":
        members["add_generation_prompt"] = msgspec.Raw(b"false")
        members["continue_final_message"] = msgspec.Raw(b"true")
    elif form != "trailing":
        message[form] = True
    members["messages"] = _raw([*messages, message])
    _shorten(members, received)
    return _encode(members)


def prompted(endpoint: Endpoint, body: bytes, text: str, anchor: str, received: int) -> bytes:
    """The request with the answer so far as a turn that has ended, and one that asks to go on with it.

    :raises Untranslatable: it cannot be said of this request
    """
    if endpoint is Endpoint.COMPLETIONS:
        raise Untranslatable("a completion has no turns")
    members = _read(body)
    messages = _messages_of(members)
    if _object(messages[-1]).get("role") == "assistant":
        raise Untranslatable("the last message is the model's own")
    members["messages"] = _raw(
        [
            *messages,
            {"role": "assistant", "content": text},
            {"role": "user", "content": INTERRUPTED.format(anchor=anchor)},
        ]
    )
    _shorten(members, received)
    return _encode(members)


def tokenised(body: bytes, prompt: Sequence[int], received: Sequence[int]) -> bytes:
    """A request for raw completions that begins with exactly these tokens.

    :param body: the upstream's request for the whole answer, a chat or a completion
    """
    members = _read(body)
    limits = {name: value for name in _LIMITS if (value := members.get(name)) is not None}
    further = {name: value for name in ("model", *_SAMPLING) if (value := members.get(name)) is not None}
    if limits:
        further["max_tokens"] = next(iter(limits.values()))
    further["prompt"] = _raw([*prompt, *received])
    _shorten(further, len(received))
    return _encode(further)


def with_running_usage(body: bytes) -> bytes:
    """A chat request that asks for the usage so far in every chunk: if it breaks too, it has told."""
    members = _read(body)
    members["stream_options"] = _raw({"include_usage": True, "continuous_usage_stats": True})
    return _encode(members)


def _read(body: bytes) -> dict[str, msgspec.Raw]:
    return _members(body)


def _raw(value: JSON) -> msgspec.Raw:
    return msgspec.Raw(_encode(value))


def _messages_of(members: dict[str, msgspec.Raw]) -> list[JSON]:
    try:
        messages: list[JSON] = list(_messages(members["messages"]))
    except (*NOT_JSON, KeyError):
        messages = []
    if not messages:
        raise Untranslatable("the request has no messages")
    return messages


def _object(message: msgspec.Raw) -> dict[str, JSON]:
    value = _value(message)
    return value if isinstance(value, dict) else {}


def _prompt_of(members: dict[str, msgspec.Raw]) -> str:
    """A completion's prompt, if it is one text."""
    prompt = _value(members.get("prompt", b"null"))
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str):
        raise Untranslatable("the prompt is not one text")
    return prompt


def _shorten(members: dict[str, msgspec.Raw], received: int) -> None:
    for name in _LIMITS:
        limit = _value(members[name]) if name in members else None
        if isinstance(limit, int):
            # A limit of 0 would be refused; a figure of ours may be one too many.
            members[name] = _raw(max(1, limit - received))
