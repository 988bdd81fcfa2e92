"""A call in OpenAI's form as tensors.

What the model has no input for and would change the answer is refused, never left out.  Token ids are padded to
a bucket's length: Triton puts together only requests of one shape, so calls of about one length must come in
the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import msgspec

from penstock.errors import BadRequest, Untranslatable
from penstock.messages import JSON, Endpoint
from penstock.wire.triton.model import (
    ALL_PARAMETERS,
    BROKEN,
    LENGTHS,
    MASKS,
    PARAMETERS,
    STREAM,
    WHOLE,
    WITHOUT_PROMPT,
    Model,
    Slot,
    Tensor,
)

Tokenize: TypeAlias = Callable[[str], list[int]]

_NUMBERS = WHOLE | BROKEN | {"BYTES", "BOOL"}
_NOT_ABOUT_THE_ANSWER = frozenset(
    {
        "model",
        "messages",
        "prompt",
        "input",
        "stream",
        "stream_options",
        "user",
        "metadata",
        "store",
        "safety_identifier",
    }
)
# Members that say what holds anyway.
_USUAL: dict[str, tuple[JSON, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "logprobs": (False, 0),
    "encoding_format": ("float", "base64"),
    "response_format": ({"type": "text"},),
    "tool_choice": ("none",),
    "tools": ([],),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "suffix": ("",),
    "parallel_tool_calls": (True, False),
}
# What these mean where nothing is done about them.
_NEUTRAL: dict[str, tuple[JSON, ...]] = {
    "temperature": (1, 1.0),
    "top_p": (1, 1.0),
    "frequency_penalty": (0, 0.0),
    "presence_penalty": (0, 0.0),
    "stop": ([],),
}
_CHATML = {"begin": "<|im_start|>{role}\n{text}<|im_end|>\n", "end": "<|im_start|>assistant\n"}
_PLAIN = {"begin": "{role}: {text}\n\n", "end": "assistant: "}
Template: TypeAlias = Literal["plain", "chatml"]


class Form(msgspec.Struct, frozen=True):
    """How prompts are brought into a model's form."""

    template: Template = "plain"
    # Lengths that token ids are padded to, ascending; longer ones go as they are.
    buckets: tuple[int, ...] = ()
    pad: int = 0  # the token that they are padded with
    tokenize: Tokenize | None = None


class Asked(msgspec.Struct, frozen=True):
    """One request to Triton."""

    tensors: list[Tensor]
    rows: list[int]  # which inputs of the call it holds
    prompt_tokens: int | None  # None: the model itself makes tokens of the text


def asked(model: Model, endpoint: Endpoint, body: bytes, form: Form) -> list[Asked]:
    """The requests that one call comes to; more than one only for several inputs to be embedded.

    :raises penstock.errors.BadRequest: the call is not of OpenAI's form
    :raises penstock.errors.Untranslatable: the model has no way to answer it as it is asked
    """
    told: dict[str, JSON] = msgspec.json.decode(body, type=dict[str, Any])
    if endpoint is Endpoint.EMBEDDINGS:
        if model.vector is None:
            raise Untranslatable(f"{model.name} gives no numbers that could be an embedding")
        inputs = _inputs(told.get("input"))
        parameters: list[Tensor] = []
    else:
        if model.answer is None:
            raise Untranslatable(f"{model.name} gives no text")
        inputs = [_prompt(told, endpoint, form)]
        parameters = _parameters(model, told)
    _refuse_the_rest(model, told, parameters)
    required = {each.name for each in model.inputs.values() if not each.optional}
    requests = []
    for rows, tensors, count in _batches(model, inputs, form):
        every = tensors + parameters
        lacking = required - {each.name for each in every}
        if lacking:
            raise Untranslatable(f"{model.name} wants {min(lacking)}, which no call of OpenAI's has")
        requests.append(Asked(every, rows, count))
    return requests


def _inputs(told: JSON) -> list[str | list[int]]:
    """As the endpoint has it: a text, token ids, or a list of either."""
    if isinstance(told, str) or (isinstance(told, list) and told and isinstance(told[0], int)):
        told = [told]
    if not isinstance(told, list) or not told:
        raise BadRequest("input must be a text, a list of texts, or token ids", param="input")
    for each in told:
        if not isinstance(each, str) and not _is_token_ids(each):
            raise BadRequest("input must be a text, a list of texts, or token ids", param="input")
    return told


def _is_token_ids(told: JSON) -> bool:
    return isinstance(told, list) and bool(told) and all(type(each) is int and each >= 0 for each in told)


def _prompt(told: dict[str, JSON], endpoint: Endpoint, form: Form) -> str | list[int]:
    if endpoint is Endpoint.CHAT:
        return chat_prompt(told.get("messages"), form.template)
    prompt = told.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and not isinstance(prompt[0], int):
        (prompt,) = prompt
    if isinstance(prompt, str) or _is_token_ids(prompt):
        return prompt  # type: ignore[return-value]
    if isinstance(prompt, list) and prompt:
        raise Untranslatable("several prompts in one call are not passed on to Triton", param="prompt")
    raise BadRequest("prompt must be a text or token ids", param="prompt")


def chat_prompt(messages: JSON, template: Template) -> str:
    """A conversation as one text.

    :raises Untranslatable: it has more than text in it
    """
    if not isinstance(messages, list) or not messages:
        raise BadRequest("messages must be a list of at least one", param="messages")
    words = _CHATML if template == "chatml" else _PLAIN
    text = ""
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise BadRequest("each message must have a role", param="messages")
        text += words["begin"].format(role=message["role"], text=_text_of(message))
    return text + words["end"]


def _text_of(message: dict[str, JSON]) -> str:
    content = message.get("content")
    if isinstance(content, list) and all(
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
        for part in content
    ):
        content = "".join(part["text"] for part in content)
    if not isinstance(content, str) or message.get("tool_calls"):
        raise Untranslatable("only text can be passed on to Triton", param="messages")
    return content


# ---- inputs as tensors ----


def _batches(
    model: Model, inputs: Sequence[str | list[int]], form: Form
) -> list[tuple[list[int], list[Tensor], int | None]]:
    text, tokens = model.text, model.tokens
    most = max(1, model.max_batch_size)
    if tokens is None or (text is not None and form.tokenize is None and isinstance(inputs[0], str)):
        if text is None:
            raise Untranslatable(f"{model.name} has no input for a prompt")
        if not all(isinstance(each, str) for each in inputs):
            raise Untranslatable(f"{model.name} takes text, no token ids")
        values = [each.encode() for each in inputs if isinstance(each, str)]
        batched: list[tuple[list[int], list[Tensor], int | None]] = []
        for at in range(0, len(values), most):
            piece = values[at : at + most]
            rows = list(range(at, at + len(piece)))
            batched.append((rows, [_column(model, text, piece)], None))
        return batched
    groups: dict[int, list[tuple[int, list[int]]]] = {}
    for row, each in enumerate(inputs):
        ids = _tokenized(each, model, form)
        groups.setdefault(bucket_of(len(ids), form.buckets), []).append((row, ids))
    found: list[tuple[list[int], list[Tensor], int | None]] = []
    for length, members in groups.items():
        for at in range(0, len(members), most):
            piece_of = members[at : at + most]
            ids_of = [ids for _, ids in piece_of]
            found.append(
                (
                    [row for row, _ in piece_of],
                    _padded(model, tokens, ids_of, length, form.pad),
                    sum(map(len, ids_of)),
                )
            )
    return found


def _tokenized(prompt: str | list[int], model: Model, form: Form) -> list[int]:
    if not isinstance(prompt, str):
        return prompt
    if form.tokenize is None:
        raise Untranslatable(f"{model.name} takes token ids, and no tokenizer is configured for it")
    return form.tokenize(prompt)


def bucket_of(length: int, buckets: Sequence[int]) -> int:
    """The length that so many tokens are padded to."""
    return next((each for each in buckets if each >= length), length)


def _padded(model: Model, slot: Slot, ids: list[list[int]], length: int, pad: int) -> list[Tensor]:
    """Token ids, and beside them how many of them count, in the form that the model has an input for."""
    flat = [each for row in ids for each in (*row, *[pad] * (length - len(row)))]
    found = [Tensor(slot.name, slot.datatype, _shape(model, len(ids), length), flat)]
    mask = model.input(MASKS, WHOLE)
    if mask is not None:
        values = [each for row in ids for each in (*[1] * len(row), *[0] * (length - len(row)))]
        found.append(Tensor(mask.name, mask.datatype, _shape(model, len(ids), length), values))
    lengths = model.input(LENGTHS, WHOLE)
    if lengths is not None:
        found.append(_column(model, lengths, [len(row) for row in ids]))
    if mask is None and lengths is None and any(len(row) != length for row in ids):
        # Nobody could tell the padding from the prompt.
        if len(ids) > 1:
            raise Untranslatable(
                f"{model.name} has neither attention_mask nor input_lengths: inputs of different length need one"
            )
        found = [Tensor(slot.name, slot.datatype, _shape(model, 1, len(ids[0])), list(ids[0]))]
    return found


def _shape(model: Model, rows: int, length: int) -> tuple[int, ...]:
    return (rows, length) if model.max_batch_size else (length,)


def _column(model: Model, slot: Slot, values: list[Any]) -> Tensor:
    """One value a row."""
    if model.max_batch_size:
        return Tensor(slot.name, slot.datatype, (len(values), *[1] * len(slot.dims)), values)
    return Tensor(slot.name, slot.datatype, tuple([1] * len(slot.dims)), values)


# ---- parameters ----


def _parameters(model: Model, told: dict[str, JSON]) -> list[Tensor]:
    """Of the call, those that the model has an input for."""
    given = {name: told.get(name) for name in PARAMETERS}
    if told.get("max_completion_tokens") is not None:
        given["max_tokens"] = told["max_completion_tokens"]
    given = {name: value for name, value in given.items() if value is not None}
    if isinstance(given.get("stop"), str):
        given["stop"] = [given["stop"]]
    found = []
    every = model.input((ALL_PARAMETERS,), frozenset({"BYTES"}))
    if every is not None:
        found.append(_column(model, every, [msgspec.json.encode(given)]))
    else:
        for name, value in given.items():
            slot = model.input(PARAMETERS[name], _NUMBERS)
            if slot is not None:
                found.append(_parameter(model, slot, name, value))
    if (slot := model.input((STREAM,), frozenset({"BOOL"}))) is not None:
        found.append(_column(model, slot, [bool(told.get("stream"))]))
    if (slot := model.input((WITHOUT_PROMPT,), frozenset({"BOOL"}))) is not None:
        found.append(_column(model, slot, [True]))
    return found


def _parameter(model: Model, slot: Slot, name: str, value: JSON) -> Tensor:
    if name == "stop":
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise BadRequest("stop must be a text or a list of texts", param="stop")
        words = [each.encode() for each in value]
        return Tensor(slot.name, slot.datatype, _shape(model, 1, len(words)), words)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadRequest(f"{name} must be a number", param=name)
    return _column(model, slot, [int(value) if slot.datatype in WHOLE else float(value)])


def _refuse_the_rest(model: Model, told: dict[str, JSON], parameters: list[Tensor]) -> None:
    """:raises Untranslatable: a member would change the answer, and goes nowhere"""
    taken = {each.name.lower() for each in parameters}
    for name, value in told.items():
        if name in _NOT_ABOUT_THE_ANSWER or value is None or value in _USUAL.get(name, ()):
            continue
        known = "max_tokens" if name == "max_completion_tokens" else name
        if known in PARAMETERS and (
            ALL_PARAMETERS in taken
            or not taken.isdisjoint(PARAMETERS[known])
            or value in _NEUTRAL.get(known, ())
        ):
            continue
        raise Untranslatable(f"{model.name} has no input for {name}", param=name)
