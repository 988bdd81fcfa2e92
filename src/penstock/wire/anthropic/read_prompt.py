"""What a caller's request for a message asks for."""

from __future__ import annotations

from typing import Literal

import msgspec

from penstock.errors import BadRequest, Untranslatable
from penstock.messages import JSON
from penstock.wire import left_out, members, own, thinking
from penstock.wire.conversation import (
    Document,
    Image,
    OutputFormat,
    Part,
    Prompt,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
)
from penstock.wire.members import Members

THREADS_UNSUPPORTED = "thread_unsupported_request"
"""Anthropic's code for a thread that the request cannot have: by it the tool runners of Anthropic's SDKs, which ask for
one unasked, know to go on without."""


def decode_prompt(body: bytes) -> Prompt:
    """What a caller's body asks for.

    :raises BadRequest: it is not a request for a message
    :raises Untranslatable: it has a member that only Anthropic knows
    """
    asked = members.body_of(body)
    asked.leave_out(left_out.MESSAGES_REQUEST)
    asked.only("inference_geo", "global", why="the upstream does not let its place be chosen")
    asked.only("speed", "standard", why="the upstream has one speed")
    _keeps_all(asked.object("context_management"))
    if asked.raw("thread") is not None:
        raise Untranslatable(
            "thread cannot be translated: the upstream of this model keeps no conversations",
            param="thread",
            code=THREADS_UNSUPPORTED,
        )
    turns: list[Turn] = []
    if system := _system(asked):
        turns.append(Turn("system", system))
    turns.extend(_turn(message) for message in asked.objects("messages"))
    if len(turns) == bool(system):
        raise BadRequest("messages must have at least one message", param="messages")
    budget, adaptive = thinking.read(asked.object("thinking"))
    effort, output = _output(asked)
    choice, parallel = _tool_choice(asked.object("tool_choice"))
    asked.only("mcp_servers", [], why="only Anthropic calls them")
    metadata = asked.object("metadata")
    user = ""
    if metadata is not None:
        user = metadata.string("user_id")
        metadata.done()
    prompt = Prompt(
        model=asked.required_string("model"),
        turns=tuple(turns),
        stream=asked.boolean("stream") or False,
        tools=tuple(_tool(tool) for tool in asked.objects("tools")),
        tool_choice=choice,
        parallel_tool_calls=parallel,
        output=output,
        max_output_tokens=_limit(asked),
        temperature=asked.number("temperature"),
        top_p=asked.number("top_p"),
        top_k=asked.integer("top_k"),
        stop=asked.strings("stop_sequences"),
        effort=effort,
        thinking_tokens=budget,
        thinking_adaptive=adaptive,
        user=user,
        service_tier="default" if (tier := asked.string("service_tier")) == "standard_only" else tier,
        converse=own.read(asked),
    )
    asked.done()
    return prompt


def _keeps_all(management: Members | None) -> None:
    """Claude Code always says that past thoughts shall be kept, which is what happens anyway."""
    if management is None:
        return
    for edit in management.objects("edits"):
        kind = edit.required_string("type")
        if not kind.startswith("clear_thinking_"):
            raise edit.refuse("type", "the upstream edits no conversation")
        edit.only("keep", "all", why="the upstream edits no conversation")
        edit.done()
    management.done()


def _limit(asked: Members) -> int:
    limit = asked.integer("max_tokens")
    if limit is None:
        raise BadRequest("max_tokens is missing", param="max_tokens", code="missing_parameter")
    if limit == 0:
        raise asked.refuse("max_tokens", "0 only fills Anthropic's cache, and nobody else has such a request")
    return limit


def _system(asked: Members) -> tuple[Part, ...]:
    system = asked.raw("system")
    if isinstance(system, str):
        return (Text(system),) if system else ()
    if system is not None and not isinstance(system, list):
        raise BadRequest("system must be a string or an array", param="system", code="invalid_type")
    return tuple(_only_text(Members(block, f"system[{index}]")) for index, block in enumerate(system or ()))


def _only_text(block: Members) -> Text:
    part = _block(block)
    if not isinstance(part, Text):
        raise BadRequest(f"{block.where('type')} must be text here", param=block.where("type"))
    return part


_ROLES: dict[str, Literal["system", "user", "assistant"]] = {
    "user": "user",
    "assistant": "assistant",
    "system": "system",
}


def _turn(message: Members) -> Turn:
    role = _ROLES.get(message.required_string("role"))
    if role is None:
        where = message.where("role")
        raise BadRequest(f"{where} must be user, assistant or system", param=where)
    content = message.raw("content")
    where = message.where("content")
    message.done()
    parts: tuple[Part, ...]
    if isinstance(content, str):
        parts = (Text(content),) if content else ()
    elif isinstance(content, list):
        blocks = (Members(block, f"{where}[{index}]") for index, block in enumerate(content))
        if role == "system":
            parts = tuple(_only_text(block) for block in blocks)
        else:
            parts = tuple(_block(block) for block in blocks)
    else:
        raise BadRequest(f"{where} must be a string or an array", param=where, code="invalid_type")
    return Turn(role, parts)


def _block(block: Members) -> Part:
    kind = block.required_string("type")
    cache = block.raw("cache_control")
    part: Part
    if kind == "text":
        part = Text(block.string("text"), cache, tuple(block.array("citations")))
    elif kind == "image":
        part = _image(block, cache)
    elif kind == "document":
        part = _document(block, cache)
    elif kind == "thinking":
        part = Thinking(block.string("thinking"), block.string("signature"))
    elif kind == "redacted_thinking":
        part = Thinking(redacted=block.required_string("data"))
    elif kind == "tool_use":
        part = _tool_use(block, cache)
    elif kind == "tool_result":
        part = _tool_result(block, cache)
    else:
        raise block.refuse("type", f"blocks of type {kind} exist at Anthropic only")
    block.done()
    return part


def _image(block: Members, cache: JSON | None) -> Image:
    if block.raw("transformations"):
        raise block.refuse("transformations", "only Anthropic lets them be chosen")
    source = _source(block)
    kind = source.required_string("type")
    if kind == "base64":
        image = Image(
            data=source.required_string("data"), media_type=source.required_string("media_type"), cache=cache
        )
    elif kind == "url":
        image = Image(url=source.required_string("url"), cache=cache)
    else:
        raise source.refuse("type", "the file is known to Anthropic only")
    source.done()
    return image


def _document(block: Members, cache: JSON | None) -> Document:
    source = _source(block)
    kind = source.required_string("type")
    citations = block.object("citations")
    common = Document(
        name=block.string("title"),
        context=block.string("context"),
        cited=bool(citations is not None and citations.boolean("enabled")),
        cache=cache,
    )
    if kind in ("base64", "text"):
        data = source.required_string("data")
        given = {
            "media_type": source.string("media_type"),
            "data" if kind == "base64" else "text": data,
        }
    elif kind == "url":
        given = {"media_type": "application/pdf", "url": source.required_string("url")}
    elif kind == "file":
        given = {"file_id": source.required_string("file_id")}
    elif kind == "content" and isinstance(content := source.raw("content"), str):
        given = {"media_type": "text/plain", "text": content}
    else:
        raise source.refuse("type", f"documents of type {kind} exist at Anthropic only")
    source.done()
    return msgspec.structs.replace(common, **given)


def _source(block: Members) -> Members:
    source = block.object("source")
    if source is None:
        where = block.where("source")
        raise BadRequest(f"{where} is missing", param=where, code="missing_parameter")
    return source


def _tool_use(block: Members, cache: JSON | None) -> ToolCall:
    caller = block.object("caller")
    if caller is not None and caller.string("type") != "direct":
        raise block.refuse("caller", "the call was made by a tool that runs at Anthropic")
    given = block.raw("input")
    return ToolCall(
        block.required_string("id"),
        block.required_string("name"),
        members.encode({} if given is None else given).decode(),
        cache,
    )


def _tool_result(block: Members, cache: JSON | None) -> ToolResult:
    content = block.raw("content")
    where = block.where("content")
    parts: list[Text | Image | Document] = []
    if isinstance(content, str):
        if content:
            parts.append(Text(content))
    elif isinstance(content, list):
        for index, item in enumerate(content):
            inner = Members(item, f"{where}[{index}]")
            part = _block(inner)
            if not isinstance(part, Text | Image | Document):
                raise inner.refuse("type", "a tool's result is text, images or documents")
            parts.append(part)
    elif content is not None:
        raise BadRequest(f"{where} must be a string or an array", param=where, code="invalid_type")
    return ToolResult(
        block.required_string("tool_use_id"), tuple(parts), block.boolean("is_error") or False, cache
    )


def _tool(tool: Members) -> Tool:
    kind = tool.string("type")
    if kind not in ("", "custom"):
        raise tool.refuse("type", f"tools of type {kind} run at Anthropic or are known to its models only")
    tool.leave_out(left_out.MESSAGES_TOOL)
    tool.only("defer_loading", False, why="the upstream loads all tools at once")
    tool.only("allowed_callers", ["direct"], [], why="the upstream runs no code that could call it")
    tool.only("input_examples", [], why="the upstream knows no examples beside the schema")
    found = Tool(
        tool.required_string("name"),
        tool.raw("input_schema"),
        tool.string("description"),
        tool.boolean("strict"),
        tool.raw("cache_control"),
    )
    tool.done()
    return found


_MODES: dict[str, Literal["auto", "none", "any", "tool"]] = {
    "auto": "auto",
    "none": "none",
    "any": "any",
    "tool": "tool",
}


def _tool_choice(choice: Members | None) -> tuple[ToolChoice | None, bool | None]:
    if choice is None:
        return None, None
    mode = _MODES.get(choice.required_string("type"))
    if mode is None:
        raise BadRequest("tool_choice.type must be auto, any, tool or none", param="tool_choice.type")
    single = choice.boolean("disable_parallel_tool_use")
    found = ToolChoice(mode, choice.required_string("name") if mode == "tool" else "")
    choice.done()
    return found, None if single is None else not single


def _output(asked: Members) -> tuple[str, OutputFormat | None]:
    """``output_config``, and ``output_format`` as the beta had it."""
    effort = ""
    shape = asked.object("output_format")
    config = asked.object("output_config")
    if config is not None:
        effort = thinking.effort(config.string("effort"), "output_config.effort")
        shape = config.object("format") or shape
        config.done()
    if shape is None:
        return effort, None
    kind = shape.required_string("type")
    if kind != "json_schema":
        raise shape.refuse("type", f"a format of type {kind} is not known")
    # Anthropic always holds to the schema; OpenAI does so where it is told to be strict.
    found = OutputFormat("json_schema", shape.raw("schema"), strict=True)
    shape.done()
    return effort, found
