"""What a caller's request for a chat completion asks for."""

from __future__ import annotations

from typing import Literal

from penstock.errors import BadRequest
from penstock.messages import JSON
from penstock.wire import custom_tools, left_out, members, own, thinking
from penstock.wire.chat.reasoning import thoughts_of
from penstock.wire.chat.tools import custom_of, tools_of
from penstock.wire.conversation import (
    Audio,
    Document,
    Image,
    OutputFormat,
    Part,
    Prompt,
    Refusal,
    Text,
    ToolCall,
    ToolResult,
    Turn,
)
from penstock.wire.members import Members


def decode_prompt(body: bytes) -> Prompt:
    """What a caller's body asks for.

    :raises BadRequest: it is not a request for a chat completion
    :raises Untranslatable: it has a member that only OpenAI knows
    """
    asked = members.body_of(body)
    asked.leave_out(left_out.CHAT_REQUEST)
    turns = tuple(_turn(message) for message in asked.objects("messages"))
    if not turns:
        raise BadRequest("messages must have at least one message", param="messages")
    limit = asked.integer("max_completion_tokens")
    older_limit = asked.integer("max_tokens")
    budget, adaptive = thinking.read(asked.object("thinking"))  # as DeepSeek and Anthropic's own door have it
    effort = thinking.effort(asked.string("reasoning_effort"), "reasoning_effort")
    include_usage = _include_usage(asked.object("stream_options"))
    asked.only("store", False, why="the upstream keeps no answers for later use")
    asked.only("modalities", ["text"], why="the upstream answers in text only")
    identity = asked.string("safety_identifier")
    tools, choice = tools_of(asked)
    prompt = Prompt(
        model=asked.required_string("model"),
        turns=turns,
        stream=asked.boolean("stream") or False,
        tools=tools,
        tool_choice=choice,
        parallel_tool_calls=asked.boolean("parallel_tool_calls"),
        output=_output(asked.object("response_format")),
        max_output_tokens=limit if limit is not None else older_limit,
        temperature=asked.number("temperature"),
        top_p=asked.number("top_p"),
        top_k=asked.integer("top_k"),  # not OpenAI's, but every other server's
        stop=asked.strings("stop"),
        seed=asked.integer("seed"),
        frequency_penalty=asked.number("frequency_penalty"),
        presence_penalty=asked.number("presence_penalty"),
        logit_bias=asked.raw("logit_bias"),
        logprobs=asked.boolean("logprobs"),
        top_logprobs=asked.integer("top_logprobs"),
        count=asked.integer("n") or 1,
        effort=effort,
        thinking_tokens=budget,
        thinking_adaptive=adaptive,
        user=asked.string("user") or identity,
        service_tier=asked.string("service_tier"),
        verbosity=asked.string("verbosity"),
        prompt_cache_key=asked.string("prompt_cache_key"),
        metadata=asked.raw("metadata"),
        include_usage=include_usage,
        converse=own.read(asked),
    )
    asked.done()
    return prompt


def _include_usage(options: Members | None) -> bool:
    if options is None:
        return False
    options.leave_out(left_out.CHAT_STREAM_OPTIONS)
    wanted = options.boolean("include_usage") or False
    options.done()
    return wanted


def _turn(message: Members) -> Turn:
    role = message.required_string("role")
    name = ""
    if role in ("system", "developer"):
        parts = _content(message, only_text=True)
        turn_role: Literal["system", "developer", "user", "assistant"] = (
            "system" if role == "system" else "developer"
        )
    elif role == "user":
        parts = _content(message)
        turn_role = "user"
    elif role == "assistant":
        parts = _assistant(message)
        turn_role = "assistant"
    elif role == "tool":
        parts = _tool_result(message)
        turn_role = "user"
    elif role == "function":
        raise message.refuse("role", "functions are out of use; tools have taken their place")
    else:
        raise BadRequest(
            f"{message.where('role')} must be system, developer, user, assistant or tool",
            param=message.where("role"),
        )
    if role != "tool":
        name = message.string("name")
    message.done()
    return Turn(turn_role, parts, name)


def _content(message: Members, *, only_text: bool = False) -> tuple[Part, ...]:
    content = message.raw("content")
    where = message.where("content")
    if content is None or content == "":
        return ()
    if isinstance(content, str):
        return (Text(content),)
    if not isinstance(content, list):
        raise BadRequest(f"{where} must be a string or an array", param=where, code="invalid_type")
    return tuple(
        _part(Members(part, f"{where}[{index}]"), only_text=only_text) for index, part in enumerate(content)
    )


def _part(part: Members, *, only_text: bool) -> Part:
    kind = part.required_string("type")
    cache = part.raw("cache_control")  # the convention by which callers reach Anthropic's cache
    part.leave_out(left_out.CHAT_PART)
    found: Part
    if kind == "text":
        found = Text(part.string("text"), cache)
    elif only_text:
        raise BadRequest(f"{part.where('type')} must be text here", param=part.where("type"))
    elif kind == "refusal":
        found = Refusal(part.string("refusal"))
    elif kind == "image_url":
        found = _image(part, cache)
    elif kind == "file":
        found = _document(part, cache)
    elif kind == "input_audio":
        audio = part.object("input_audio") or part
        found = Audio(audio.required_string("data"), audio.required_string("format"))
        audio.done()
    else:
        raise part.refuse("type", f"content of type {kind} is not known")
    part.done()
    return found


def _image(part: Members, cache: JSON | None) -> Image:
    source = part.object("image_url")
    if source is None:
        raise BadRequest(f"{part.where('image_url')} is missing", param=part.where("image_url"))
    url = source.required_string("url")
    detail = source.string("detail")
    source.done()
    if url.startswith("data:"):
        media_type, data = _data_url(url, source.where("url"))
        return Image(data=data, media_type=media_type, detail=detail, cache=cache)
    return Image(url=url, detail=detail, cache=cache)


def _document(part: Members, cache: JSON | None) -> Document:
    source = part.object("file")
    if source is None:
        raise BadRequest(f"{part.where('file')} is missing", param=part.where("file"))
    name = source.string("filename")
    content = source.string("file_data")
    file_id = source.string("file_id")
    source.done()
    if file_id:
        return Document(file_id=file_id, name=name, cache=cache)
    if content.startswith("data:"):
        media_type, data = _data_url(content, source.where("file_data"))
        return Document(media_type=media_type, data=data, name=name, cache=cache)
    if not content:
        raise BadRequest(
            f"{source.path} must have file_data or file_id", param=source.path, code="missing_parameter"
        )
    return Document(media_type="application/pdf", data=content, name=name, cache=cache)


def _data_url(url: str, where: str) -> tuple[str, str]:
    head, comma, data = url[5:].partition(",")
    media_type, *parameters = head.split(";")
    if not comma or not parameters or parameters[-1].strip().lower() != "base64":
        raise BadRequest(f"{where} must be a data URL in base64", param=where)
    return media_type.strip().lower(), data


def _assistant(message: Members) -> tuple[Part, ...]:
    message.leave_out(left_out.CHAT_MESSAGE)
    # litellm knows only OpenAI's own members, and hands all others back in an object beside them.
    others = message.raw("provider_specific_fields")
    details = message.raw("reasoning_details")
    if details is None and isinstance(others, dict):
        details = others.get("reasoning_details")
    thoughts: tuple[Part, ...] = thoughts_of(
        message.string("reasoning_content") or message.string("reasoning"), details
    )
    message.leave_out(("reasoning",))  # the other name of the same text
    spoken = _content(message)
    refusal = message.string("refusal")
    calls = tuple(_tool_call(call) for call in message.objects("tool_calls"))
    return (*thoughts, *spoken, *((Refusal(refusal),) if refusal else ()), *calls)


def _tool_call(call: Members) -> ToolCall:
    call.leave_out(left_out.CHAT_TOOL_CALL)
    kind = call.string("type")
    if kind == "custom":
        return _custom_call(call)
    if kind not in ("", "function"):
        raise call.refuse("type", f"tools of type {kind} exist at OpenAI only")
    function = call.object("function")
    if function is None:
        raise BadRequest(f"{call.where('function')} is missing", param=call.where("function"))
    found = ToolCall(
        call.required_string("id"),
        function.required_string("name"),
        function.string("arguments"),
        call.raw("cache_control"),
    )
    function.done()
    call.done()
    return found


def _custom_call(call: Members) -> ToolCall:
    custom = custom_of(call)
    found = ToolCall(
        call.required_string("id"),
        custom.required_string("name"),
        custom_tools.arguments_of(custom.string("input")),
        call.raw("cache_control"),
    )
    custom.done()
    call.done()
    return found


def _tool_result(message: Members) -> tuple[Part, ...]:
    message.leave_out(left_out.CHAT_TOOL_MESSAGE)
    cache = message.raw("cache_control")
    parts = []
    for part in _content(message):
        if not isinstance(part, Text | Image | Document):
            raise message.refuse("content", "a tool's result is text, images or files")
        parts.append(part)
    return (ToolResult(message.required_string("tool_call_id"), tuple(parts), cache=cache),)


def _output(asked: Members | None) -> OutputFormat | None:
    if asked is None:
        return None
    kind = asked.required_string("type")
    found: OutputFormat | None
    if kind == "text":
        found = None
    elif kind == "json_object":
        found = OutputFormat("json_object")
    elif kind == "json_schema":
        described = asked.object("json_schema")
        if described is None:
            raise BadRequest("response_format.json_schema is missing", param="response_format.json_schema")
        found = OutputFormat(
            "json_schema",
            described.raw("schema"),
            described.string("name"),
            described.string("description"),
            described.boolean("strict"),
        )
        described.done()
    else:
        raise asked.refuse("type", f"a format of type {kind} is not known")
    asked.done()
    return found
