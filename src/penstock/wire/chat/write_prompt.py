"""A prompt as a request for a chat completion."""

from __future__ import annotations

import re
from collections.abc import Iterable

from penstock.errors import Untranslatable
from penstock.messages import JSON
from penstock.wire import members, own, thinking
from penstock.wire.chat.reasoning import details_of
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
    ToolChoice,
    ToolResult,
    Turn,
)

SCHEMA_NAME = "answer"
"""OpenAI wants a name for a schema; Anthropic's have none."""

FILE_NAME = "document.pdf"
"""OpenAI wants a name for a file; Anthropic's may have none."""

TOOL_FAILED = "The tool failed: "
"""Put before the result of a failed tool: OpenAI has no member that would say so."""

MAX_USER_LENGTH = 64
"""What OpenAI takes in ``user``."""

# OpenAI's reasoning models refuse max_tokens, half of all other servers do not know its successor.
_OPENAI_MODEL = re.compile(r"^(?:openai/)?(?:gpt-(?!oss)|chatgpt|o\d)")


def encode_prompt(prompt: Prompt) -> bytes:
    """An upstream's body that asks for the same.

    :raises Untranslatable: the prompt has something that a chat completion cannot say
    """
    own.refuse(prompt)
    if prompt.top_k is not None:
        raise Untranslatable("top_k cannot be translated: a chat completion does not have it", param="top_k")
    if prompt.turns and prompt.turns[-1].role == "assistant":
        raise Untranslatable(
            "the last message is the assistant's: a chat completion cannot go on from it", param="messages"
        )
    messages: list[JSON] = []
    for turn in prompt.turns:
        _write_turn(turn, messages)
    body: dict[str, JSON] = {"model": prompt.model, "messages": messages}
    at_openai = _OPENAI_MODEL.match(prompt.model) is not None
    if prompt.tools:
        body["tools"] = [_write_tool(tool) for tool in prompt.tools]
        if prompt.tool_choice is not None:
            body["tool_choice"] = _write_tool_choice(prompt.tool_choice)
        if prompt.parallel_tool_calls is not None:
            body["parallel_tool_calls"] = prompt.parallel_tool_calls
    if prompt.output is not None:
        body["response_format"] = _write_output(prompt.output)
    if prompt.max_output_tokens is not None:
        body[limit_member(prompt.model)] = prompt.max_output_tokens
    if effort := _effort(prompt):
        body["reasoning_effort"] = effort
    if prompt.stop:
        body["stop"] = list(prompt.stop)
    settings = {
        "temperature": prompt.temperature,
        "top_p": prompt.top_p,
        "seed": prompt.seed,
        "frequency_penalty": prompt.frequency_penalty,
        "presence_penalty": prompt.presence_penalty,
        "logit_bias": prompt.logit_bias,
        "logprobs": prompt.logprobs,
        "top_logprobs": prompt.top_logprobs,
        "n": prompt.count if prompt.count != 1 else None,
        "verbosity": prompt.verbosity or None,
        "service_tier": prompt.service_tier if prompt.service_tier != "auto" else None,
        "user": prompt.user if len(prompt.user) <= MAX_USER_LENGTH else None,
        "prompt_cache_key": prompt.prompt_cache_key if at_openai else None,
    }
    body.update({name: value for name, value in settings.items() if value not in (None, "")})
    if prompt.stream:
        body["stream"] = True
        body["stream_options"] = {"include_usage": True}
    return members.encode(body)


def limit_member(model: str) -> str:
    """What a chat with this model calls the most tokens that it is answered with."""
    return "max_completion_tokens" if _OPENAI_MODEL.match(model) is not None else "max_tokens"


def _effort(prompt: Prompt) -> str:
    if prompt.thinking_tokens == 0:
        return "none"
    if prompt.effort:
        return prompt.effort
    return "" if prompt.thinking_tokens is None else thinking.effort_of(prompt.thinking_tokens)


def _write_turn(turn: Turn, messages: list[JSON]) -> None:
    if turn.role == "assistant":
        message = _write_assistant(turn)
    elif turn.role == "user":
        content: list[Part] = []
        for part in turn.parts:
            if isinstance(part, ToolResult):
                _write_tool_result(part, messages, content)
            else:
                content.append(part)
        if not content and messages and any(isinstance(part, ToolResult) for part in turn.parts):
            return
        message = {"role": "user", "content": _write_content(content)}
    else:
        for part in turn.parts:
            if not isinstance(part, Text):
                raise Untranslatable("a system message can only have text", param="messages")
        message = {"role": turn.role, "content": _write_content(turn.parts)}
    if turn.name:
        message["name"] = turn.name
    messages.append(message)


def _write_tool_result(result: ToolResult, messages: list[JSON], after: list[Part]) -> None:
    """A tool message, which can hold text only: images and files go into the user's message behind it."""
    texts = [part for part in result.parts if isinstance(part, Text)]
    others = [part for part in result.parts if not isinstance(part, Text)]
    if others:
        after.append(Text(f"What the tool call {result.call_id} returned:"))
        after.extend(others)
        if not texts:
            texts = [Text("(see the next message)")]
    if result.failed:
        texts = [Text(TOOL_FAILED), *texts]
    if all(part.text for part in texts) and len(texts) > 1 and not result.failed:
        content: JSON = [{"type": "text", "text": part.text} for part in texts]
    else:
        content = "".join(part.text for part in texts)
    messages.append({"role": "tool", "tool_call_id": result.call_id, "content": content})


def _write_content(parts: Iterable[Part]) -> JSON:
    written: list[JSON] = []
    only: str | None = None
    for part in parts:
        if isinstance(part, Text):
            only = part.text
            written.append({"type": "text", "text": part.text})
        elif isinstance(part, Image):
            written.append(_write_image(part))
        elif isinstance(part, Document):
            written.append(_write_document(part))
        elif isinstance(part, Audio):
            written.append({"type": "input_audio", "input_audio": {"data": part.data, "format": part.format}})
        else:
            raise Untranslatable(f"{type(part).__name__} cannot stand in a user's message", param="messages")
    if not written:
        return ""
    return only if len(written) == 1 and only is not None else written


def _write_image(image: Image) -> JSON:
    source: dict[str, JSON] = {"url": image.url or f"data:{image.media_type};base64,{image.data}"}
    if image.detail:
        source["detail"] = image.detail
    return {"type": "image_url", "image_url": source}


def _write_document(document: Document) -> JSON:
    if document.cited:
        raise Untranslatable("citations cannot be translated: a chat completion has none", param="citations")
    if document.text:
        return {"type": "text", "text": _as_text(document)}
    if document.url:
        raise Untranslatable(
            "a document by URL cannot be translated: a chat completion takes its content", param="messages"
        )
    if document.file_id:
        raise Untranslatable(
            "a file id cannot be translated: it is known to the provider that gave it", param="messages"
        )
    written: list[JSON] = []
    if document.context:
        raise Untranslatable(
            "a document's context cannot be translated: a chat completion has no place for it",
            param="messages",
        )
    written.append(
        {
            "type": "file",
            "file": {
                "filename": document.name or FILE_NAME,
                "file_data": f"data:{document.media_type};base64,{document.data}",
            },
        }
    )
    return written[0]


def _as_text(document: Document) -> str:
    """A plain text keeps its borders, its title and its context when it becomes part of a message."""
    lines = ["<document>"]
    if document.name:
        lines.append(f"<title>{document.name}</title>")
    if document.context:
        lines.append(f"<context>{document.context}</context>")
    return "\n".join([*lines, document.text, "</document>"])


def _write_assistant(turn: Turn) -> dict[str, JSON]:
    texts: list[str] = []
    refusals: list[str] = []
    thoughts: list[Thinking] = []
    calls: list[JSON] = []
    for part in turn.parts:
        if isinstance(part, Text):
            texts.append(part.text)
        elif isinstance(part, Thinking):
            thoughts.append(part)
        elif isinstance(part, Refusal):
            refusals.append(part.text)
        elif isinstance(part, ToolCall):
            calls.append(write_call(part))
        else:
            raise Untranslatable(
                f"{type(part).__name__} cannot stand in an assistant's message", param="messages"
            )
    message: dict[str, JSON] = {"role": "assistant", "content": "".join(texts)}
    if not texts and (calls or refusals):
        message["content"] = None
    if refusals:
        message["refusal"] = "".join(refusals)
    message.update(details_of(thoughts))
    if calls:
        message["tool_calls"] = calls
    return message


def write_call(call: ToolCall) -> JSON:
    if call.custom:
        return {"id": call.id, "type": "custom", "custom": {"name": call.name, "input": call.arguments}}
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments or "{}"},
    }


def _write_tool(tool: Tool) -> JSON:
    function: dict[str, JSON] = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    function["parameters"] = tool.parameters
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def _write_tool_choice(choice: ToolChoice) -> JSON:
    if choice.mode == "tool":
        return {"type": "function", "function": {"name": choice.name}}
    return "required" if choice.mode == "any" else choice.mode


def _write_output(output: OutputFormat) -> JSON:
    if output.kind == "json_object":
        return {"type": "json_object"}
    described: dict[str, JSON] = {"name": output.name or SCHEMA_NAME}
    if output.description:
        described["description"] = output.description
    described["schema"] = output.schema
    if output.strict is not None:
        described["strict"] = output.strict
    return {"type": "json_schema", "json_schema": described}
