"""A conversation as a body says it, in the token ids that the model was trained to read one in."""

from __future__ import annotations

from typing import Annotated, Literal, Protocol, TypeAlias

import msgspec

from penstock.engine.backend import Tokenizer
from penstock.engine.unsupported import unsupported
from penstock.errors import BadRequest
from penstock.messages import JSON
from penstock.wire.not_json import NOT_JSON

MAX_TOOLS = 128
_OURS = ("messages", "tools", "add_generation_prompt", "tokenize", "chat_template", "conversation")


class _Part(msgspec.Struct):
    type: str
    text: str = ""


class _CalledFunction(msgspec.Struct):
    name: str
    arguments: str = "{}"  # JSON text


class _CalledCustom(msgspec.Struct):
    name: str
    input: str = ""


class _ToolCall(msgspec.Struct):
    function: _CalledFunction | None = None
    custom: _CalledCustom | None = None
    id: str = ""
    type: str = "function"


class Message(msgspec.Struct):
    """One turn."""

    role: str
    content: str | list[_Part] | None = None
    name: str | None = None
    tool_calls: list[_ToolCall] | None = None
    tool_call_id: str | None = None


class _Function(msgspec.Struct, omit_defaults=True):
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    description: str = ""
    parameters: dict[str, JSON] = {}


class FunctionTool(msgspec.Struct, tag_field="type", tag="function"):
    """What the model may call with arguments."""

    function: _Function

    @property
    def name(self) -> str:
        return self.function.name

    def told(self) -> JSON:
        """As templates want it."""
        return {"type": "function", "function": msgspec.to_builtins(self.function)}


class _Grammar(msgspec.Struct):
    definition: str
    syntax: Literal["lark", "regex", "gbnf"]


class _Format(msgspec.Struct):
    type: Literal["text", "grammar"]
    grammar: _Grammar | None = None


class _Custom(msgspec.Struct):
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    description: str = ""
    format: _Format | None = None


class CustomTool(msgspec.Struct, tag_field="type", tag="custom"):
    """What the model may call with a text."""

    custom: _Custom

    @property
    def name(self) -> str:
        return self.custom.name

    def told(self) -> JSON:
        """As templates want it, which know of functions only."""
        parameters = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}
        function = {"name": self.name, "description": self.custom.description, "parameters": parameters}
        return {"type": "function", "function": function}


Tool: TypeAlias = FunctionTool | CustomTool


class Conversation(Protocol):
    """The members of a body that make its prompt; ``None`` is what nobody said."""

    messages: list[Message]
    tools: list[Tool] | None
    tool_choice: JSON
    add_generation_prompt: bool | None
    add_special_tokens: bool | None
    continue_final_message: bool | None
    chat_template_kwargs: dict[str, JSON] | None
    reasoning_effort: JSON


def offered(chat: Conversation) -> list[Tool]:
    """What the model may call."""
    return (chat.tools or []) if chat.tool_choice != "none" else []


def conversation_ids(chat: Conversation, tokenizer: Tokenizer) -> list[int]:
    """The prompt.

    :raises BadRequest: it contradicts itself, or the template does not tell the model of it
    :raises penstock.engine.backend.CannotTake: the template does not take it
    """
    messages: list[JSON] = [_plain(message, place) for place, message in enumerate(chat.messages)]
    continued = bool(chat.continue_final_message)
    answer = not continued if chat.add_generation_prompt is None else chat.add_generation_prompt
    if continued and answer:
        raise BadRequest(
            "continue_final_message and add_generation_prompt contradict each other",
            param="continue_final_message",
        )
    tools: list[JSON] = [tool.told() for tool in offered(chat)]
    more = _told(chat)
    text = tokenizer.render(messages, answer=answer, tools=tools, more=more)
    if tools and text == tokenizer.render(messages, answer=answer, more=more):
        raise unsupported("tools", " of this kind: the model's chat template does not tell it of any")
    if continued:
        text = _open_end(text, messages[-1]["content"])
    return tokenizer.encode(text, special=bool(chat.add_special_tokens))


def _told(chat: Conversation) -> dict[str, JSON]:
    """What the caller tells the template; one that does not know of it passes it over, as vLLM has it."""
    told = dict(chat.chat_template_kwargs or {})
    for name in _OURS:
        if name in told:
            raise BadRequest(
                f"chat_template_kwargs: {name} is said by the request itself", param="chat_template_kwargs"
            )
    if chat.reasoning_effort is not None:
        told.setdefault("reasoning_effort", chat.reasoning_effort)
    return told


def _open_end(text: str, content: str) -> str:
    """A rendered conversation up to the end of its last message's text; a template may have stripped that."""
    for wanted in (content, content.strip()):
        at = text.rfind(wanted) if wanted else -1
        if at >= 0:
            return text[: at + len(wanted)]
    raise BadRequest("the last message cannot be continued: its text is not in the prompt", param="messages")


def _plain(message: Message, place: int) -> dict[str, JSON]:
    content = message.content
    if isinstance(content, list):
        for part in content:
            if part.type != "text":
                raise unsupported(f"messages[{place}].content", f", of the type {part.type}")
        content = "\n".join(part.text for part in content)
    plain: dict[str, JSON] = {"role": message.role, "content": content or ""}
    if message.tool_calls:
        plain["tool_calls"] = [_call(call, f"messages[{place}].tool_calls") for call in message.tool_calls]
    if message.tool_call_id is not None:
        plain["tool_call_id"] = message.tool_call_id
    if message.name is not None and message.role == "tool":
        plain["name"] = message.name
    return plain


def _call(call: _ToolCall, where: str) -> JSON:
    """As templates want it: the arguments are no text."""
    if call.custom is not None:
        written = {"name": call.custom.name, "arguments": {"input": call.custom.input}}
        return {"id": call.id, "type": "function", "function": written}
    if call.function is None:
        raise BadRequest(f"{where}: a call is of a function, or custom", param=where)
    try:
        arguments = msgspec.json.decode(call.function.arguments or "{}", type=dict[str, JSON])
    except NOT_JSON as error:
        raise BadRequest(f"{where}: the arguments are no JSON object: {error}", param=where) from None
    return {
        "id": call.id,
        "type": call.type,
        "function": {"name": call.function.name, "arguments": arguments},
    }


__all__ = [
    "MAX_TOOLS",
    "Conversation",
    "CustomTool",
    "FunctionTool",
    "Message",
    "Tool",
    "conversation_ids",
    "offered",
]
