"""A prompt as a request for a message."""

from __future__ import annotations

import base64
import re
from typing import Literal

import msgspec

from penstock.errors import BadRequest, Untranslatable
from penstock.messages import JSON
from penstock.wire import members, own, speakers, thinking
from penstock.wire.conversation import (
    Audio,
    Document,
    Image,
    OutputFormat,
    Part,
    Prompt,
    Refusal,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
    Turn,
)
from penstock.wire.not_json import NOT_JSON

DEFAULT_MAX_TOKENS = 16_384
"""``max_tokens`` where the caller set none: Anthropic wants one, OpenAI does not.

Every model since Claude 4 can write so much, and few answers come near; only what is written is paid.
"""

MAX_USER_LENGTH = 256
"""What Anthropic takes in ``metadata.user_id``."""

# Since Opus 4.8 a system message may stand behind a user's, if the model speaks next or nobody does.
_TAKES_SYSTEM_MESSAGES = re.compile(r"claude-opus-(?:4[-.]8|4[-.]9|[5-9])(?!\d)")

SYSTEM_MARK = ("<system>\n", "\n</system>")
"""Put around a system message in mid-conversation for models that do not have such: it keeps its place
in the conversation, and so the prompt cache for all that stands before it, as part of the user's turn."""

_NO_PARAMETERS = {"type": "object", "properties": {}}


def encode_prompt(prompt: Prompt) -> bytes:
    """An upstream's body that asks for the same.

    :raises Untranslatable: the prompt has something that Anthropic has no word for
    """
    own.refuse(prompt)
    _refuse(prompt)
    turns = speakers.in_words(prompt.turns)
    front = 0
    while front < len(turns) and turns[front].role in ("system", "developer"):
        front += 1
    body: dict[str, JSON] = {"model": prompt.model}
    think, effort, limit = _thinking(prompt)
    body["max_tokens"] = limit
    if system := [part for turn in turns[:front] for part in turn.parts]:
        body["system"] = _write_system(system)
    body["messages"] = _write_messages(turns[front:], prompt.model)
    if prompt.tools:
        body["tools"] = [_write_tool(tool) for tool in prompt.tools]
        if (choice := _write_tool_choice(prompt)) is not None:
            body["tool_choice"] = choice
    if think is not None:
        body["thinking"] = think
    config: dict[str, JSON] = {}
    if effort:
        config["effort"] = effort
    if prompt.output is not None:
        config["format"] = {"type": "json_schema", "schema": _schema(prompt.output)}
    if config:
        body["output_config"] = config
    if prompt.stop:
        body["stop_sequences"] = list(prompt.stop)
    sampling = {
        "temperature": None if prompt.temperature == 1 else prompt.temperature,
        "top_p": None if prompt.top_p == 1 else prompt.top_p,
        "top_k": prompt.top_k,
    }
    body.update({name: value for name, value in sampling.items() if value is not None})
    if prompt.user and len(prompt.user) <= MAX_USER_LENGTH:
        body["metadata"] = {"user_id": prompt.user}
    if prompt.service_tier == "default":
        body["service_tier"] = "standard_only"
    if prompt.stream:
        body["stream"] = True
    return members.encode(body)


def _refuse(prompt: Prompt) -> None:
    """What changes the answer, and has no counterpart."""
    for name, present in (
        ("n", prompt.count != 1),
        ("seed", prompt.seed is not None),
        ("frequency_penalty", bool(prompt.frequency_penalty)),
        ("presence_penalty", bool(prompt.presence_penalty)),
        ("logit_bias", bool(prompt.logit_bias)),
        ("logprobs", bool(prompt.logprobs)),
        ("top_logprobs", bool(prompt.top_logprobs)),
        ("verbosity", prompt.verbosity not in ("", "medium")),
        ("service_tier", prompt.service_tier not in ("", "auto", "default")),
    ):
        if present:
            raise Untranslatable(f"{name} cannot be translated: Anthropic does not have it", param=name)
    if prompt.temperature is not None and prompt.temperature > 1:
        raise Untranslatable("temperature cannot be translated: Anthropic's ends at 1", param="temperature")
    if prompt.output is not None and prompt.output.kind != "json_schema":
        raise Untranslatable(
            "response_format cannot be translated: Anthropic writes JSON by a schema only",
            param="response_format",
        )


def _thinking(prompt: Prompt) -> tuple[JSON | None, str, int]:
    """``thinking``, ``output_config.effort`` and ``max_tokens``, which bounds thoughts and answer together."""
    limit = prompt.max_output_tokens
    budget = prompt.thinking_tokens
    adaptive = prompt.thinking_adaptive
    effort = "low" if prompt.effort == "minimal" else prompt.effort
    if effort == "none":
        budget, effort = 0, ""
    elif effort and budget is None:
        if thinking.takes_budget(prompt.model):
            budget = thinking.budget_of(effort, limit)
            adaptive, effort = False, ""
        else:
            adaptive = True
    elif adaptive and budget is None and thinking.takes_budget(prompt.model):
        budget = thinking.budget_of("medium", limit)
    if limit is None:
        limit = DEFAULT_MAX_TOKENS + (budget or 0)
    return thinking.write(budget, adaptive=adaptive), effort, limit


def _write_system(parts: list[Part]) -> JSON:
    blocks: list[JSON] = []
    for part in parts:
        if not isinstance(part, Text):
            raise Untranslatable("a system message can only have text", param="messages")
        if part.text:
            blocks.append(_text(part))
    if len(parts) == 1 and isinstance(parts[0], Text) and parts[0].cache is None:
        return parts[0].text
    return blocks


def _write_messages(turns: tuple[Turn, ...], model: str) -> list[JSON]:
    """Turns of one role that follow each other become one, as Anthropic would read them anyway."""
    messages: list[tuple[str, list[JSON]]] = []
    takes_system = _TAKES_SYSTEM_MESSAGES.search(model) is not None
    for turn, following in zip(turns, _roles_after(turns), strict=True):
        role = turn.role
        if role in ("system", "developer"):
            if takes_system and messages and messages[-1][0] != "assistant" and following == "assistant":
                role, blocks = "system", [_text(part) for part in _texts(turn)]
            else:
                before, after = SYSTEM_MARK
                words = "\n".join(part.text for part in _texts(turn))
                role, blocks = "user", [{"type": "text", "text": f"{before}{words}{after}"}]
        else:
            blocks = [block for part in turn.parts if (block := _write_part(part)) is not None]
            if not blocks and role == "assistant":
                continue  # it said nothing, and Anthropic takes no empty message
        if messages and messages[-1][0] == role:
            messages[-1][1].extend(blocks)
        else:
            messages.append((role, blocks))
    return [{"role": role, "content": _shortest(blocks)} for role, blocks in messages]


def _roles_after(turns: tuple[Turn, ...]) -> list[str]:
    """Who speaks next after each turn, but for the system; after the last one the assistant will."""
    roles, role = [], "assistant"
    for turn in reversed(turns):
        roles.append(role)
        if turn.role not in ("system", "developer"):
            role = turn.role
    roles.reverse()
    return roles


def _texts(turn: Turn) -> list[Text]:
    texts = []
    for part in turn.parts:
        if not isinstance(part, Text):
            raise Untranslatable("a system message can only have text", param="messages")
        texts.append(part)
    return texts


def _shortest(blocks: list[JSON]) -> JSON:
    if len(blocks) == 1 and blocks[0].keys() == {"type", "text"}:
        return blocks[0]["text"]
    return blocks


def _write_part(part: Part) -> JSON | None:
    if isinstance(part, Text):
        return _text(part) if part.text else None
    if isinstance(part, Refusal):
        return {"type": "text", "text": part.text}
    if isinstance(part, ToolResult):
        return _write_tool_result(part)
    if isinstance(part, ToolCall):
        return _cached({**tool_use(part)}, part.cache)
    if isinstance(part, Thinking):
        return thinking_block(part) if part.signature or part.redacted else None
    if isinstance(part, Image):
        return _write_image(part)
    if isinstance(part, Document):
        return _write_document(part)
    assert isinstance(part, Audio)
    raise Untranslatable("audio cannot be translated: Anthropic's models do not hear", param="messages")


def _cached(block: dict[str, JSON], cache: JSON | None) -> JSON:
    if cache is not None:
        block["cache_control"] = cache
    return block


def _text(part: Text) -> JSON:
    block: dict[str, JSON] = {"type": "text", "text": part.text}
    if part.citations:
        block["citations"] = list(part.citations)
    return _cached(block, part.cache)


def thinking_block(part: Thinking) -> JSON:
    if part.redacted:
        return {"type": "redacted_thinking", "data": part.redacted}
    return {"type": "thinking", "thinking": part.text, "signature": part.signature}


def tool_use(call: ToolCall) -> dict[str, JSON]:
    """A call as a block.

    :raises BadRequest: the arguments are not a JSON object, and Anthropic takes nothing else
    """
    return {"type": "tool_use", "id": call.id, "name": call.name, "input": arguments_of(call)}


def arguments_of(call: ToolCall) -> JSON:
    try:
        value = msgspec.json.decode(call.arguments) if call.arguments.strip() else {}
    except NOT_JSON:
        value = None
    if not isinstance(value, dict):
        raise BadRequest(f"the arguments of the tool call {call.id} are not a JSON object", param="messages")
    return value


def _write_tool_result(result: ToolResult) -> JSON:
    block: dict[str, JSON] = {"type": "tool_result", "tool_use_id": result.call_id}
    content = [written for part in result.parts if (written := _write_part(part)) is not None]
    if content:
        block["content"] = _shortest(content)
    if result.failed:
        block["is_error"] = True
    return _cached(block, result.cache)


_IMAGES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})


def _write_image(image: Image) -> JSON:
    if image.detail == "low":
        raise Untranslatable(
            "an image's detail low cannot be translated: Anthropic always looks at the whole image",
            param="messages",
        )
    if image.url:
        return _cached({"type": "image", "source": {"type": "url", "url": image.url}}, image.cache)
    media_type = "image/jpeg" if image.media_type == "image/jpg" else image.media_type
    if media_type not in _IMAGES:
        raise Untranslatable(
            f"images of type {media_type or 'unknown'} cannot be translated: Anthropic takes JPEG, PNG, GIF "
            "and WebP",
            param="messages",
        )
    source = {"type": "base64", "media_type": media_type, "data": image.data}
    return _cached({"type": "image", "source": source}, image.cache)


def _write_document(document: Document) -> JSON:
    source: dict[str, JSON]
    if document.text:
        source = {"type": "text", "media_type": "text/plain", "data": document.text}
    elif document.url:
        source = {"type": "url", "url": document.url}
    elif document.file_id:
        raise Untranslatable(
            "a file id cannot be translated: it is known to the provider that gave it", param="messages"
        )
    elif document.media_type == "application/pdf":
        source = {"type": "base64", "media_type": "application/pdf", "data": document.data}
    elif document.media_type.startswith("text/"):
        source = {"type": "text", "media_type": "text/plain", "data": _plain(document)}
    else:
        raise Untranslatable(
            f"files of type {document.media_type or 'unknown'} cannot be translated: Anthropic takes PDF "
            "and plain text",
            param="messages",
        )
    block: dict[str, JSON] = {"type": "document", "source": source}
    if document.name:
        block["title"] = document.name
    if document.context:
        block["context"] = document.context
    if document.cited:
        block["citations"] = {"enabled": True}
    return _cached(block, document.cache)


def _plain(document: Document) -> str:
    try:
        return base64.b64decode(document.data, validate=True).decode()
    except ValueError:  # binascii.Error is one, and so is what is not ASCII
        raise BadRequest(
            f"the file {document.name or ''} is not text in base64 and UTF-8", param="messages"
        ) from None


def _write_tool(tool: Tool) -> JSON:
    written: dict[str, JSON] = {"name": tool.name}
    if tool.description:
        written["description"] = tool.description
    parameters = tool.parameters or _NO_PARAMETERS
    if isinstance(parameters, dict) and "type" not in parameters:
        parameters = {"type": "object", **parameters}
    written["input_schema"] = parameters
    if tool.strict:
        written["strict"] = True
    return _cached(written, tool.cache)


def _write_tool_choice(prompt: Prompt) -> JSON | None:
    choice = prompt.tool_choice
    mode: Literal["auto", "none", "any", "tool"] = choice.mode if choice is not None else "auto"
    if choice is None and prompt.parallel_tool_calls is not False:
        return None
    written: dict[str, JSON] = {"type": mode}
    if choice is not None and mode == "tool":
        written["name"] = choice.name
    if prompt.parallel_tool_calls is False and mode != "none":
        written["disable_parallel_tool_use"] = True
    return written


def _schema(output: OutputFormat) -> JSON:
    schema = output.schema
    if schema is None:
        raise Untranslatable(
            "response_format cannot be translated: it has no schema", param="response_format.json_schema"
        )
    if output.description and isinstance(schema, dict) and "description" not in schema:
        return {"description": output.description, **schema}
    return schema
