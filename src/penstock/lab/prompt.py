"""What a request asks of the simulator, whichever of the APIs it was written for.

The prompt is read into one transcript (``lab.transcript``), which is the same for a prompt and for its faithful
translation into the other dialect, so that a gateway that translates can be checked as sharply as one that passes bytes
through.  What cannot change a model's text here (model name, sampling, limits, ``metadata``) is not in it.  The
beginning of an answer that is to be gone on with is told from the prompt by ``lab.begun``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from penstock.errors import BadRequest
from penstock.lab import fields
from penstock.lab.begun import BOS, end_of_prompt, read_ids, without_answer
from penstock.lab.transcript import BYTES_PER_TOKEN, Request, Transcript, encode
from penstock.messages import JSON, Endpoint

# Values of a request are looked for in tuples, not in sets: what cannot be hashed must not be a defect.
_MOST_PROMPTS = 2_048  # of one completion


# ---- OpenAI: chat completions ----------------------------------------------------------------------


def _read_chat(body: dict[str, Any]) -> Request:
    request = Request(Endpoint.CHAT, fields.model(body))
    said = Transcript()
    messages = fields.array(body.get("messages"), "messages")
    if not messages:
        raise BadRequest("Invalid 'messages': empty array.", param="messages", code="empty_array")
    messages = without_answer(
        said, request, messages, prefilled=_chat_prefill(body, messages), where="messages"
    )
    for i, message in enumerate(messages):
        if not isinstance(message, dict):
            raise fields.wrong(f"messages[{i}]", "an object")
        role = message.get("role")
        if role == "developer":
            role = "system"
        if role not in ("user", "assistant", "system", "tool", "function"):
            raise BadRequest(
                f"Invalid value: {role!r}. Supported values are: 'system', 'assistant', 'user', 'function', "
                "'tool', and 'developer'.",
                param=f"messages[{i}].role",
                code="invalid_value",
            )
        content = message.get("content")
        if role == "tool":
            call = fields.text(message.get("tool_call_id"), f"messages[{i}].tool_call_id")
            said.add("tool", "id", call)
        if isinstance(content, str):
            said.add(role, "text", content)
        elif content is not None:
            for j, part in enumerate(fields.array(content, f"messages[{i}].content")):
                _chat_part(said, role, part, f"messages[{i}].content[{j}]")
        elif role != "assistant":
            raise fields.wrong(f"messages[{i}].content", "a string or an array of parts")
        if role == "assistant" and message.get("tool_calls"):
            for call in fields.array(message["tool_calls"], f"messages[{i}].tool_calls"):
                where = f"messages[{i}].tool_calls"
                function = fields.mapping(fields.mapping(call, where).get("function"), f"{where}.function")
                said.add(role, "call", fields.text(call.get("id"), f"{where}.id"))
                said.add(role, "name", fields.text(function.get("name"), f"{where}.function.name"))
                said.add(
                    role,
                    "json",
                    fields.arguments(fields.text(function.get("arguments"), f"{where}.arguments")),
                )
    request.stream = fields.flag(body, "stream")
    request.limit = fields.whole(body, "max_completion_tokens", 1) or fields.whole(body, "max_tokens", 1)
    request.choices = min(fields.whole(body, "n", 1) or 1, 16)
    request.stop = fields.texts(body.get("stop"), "stop")
    options = body.get("stream_options")
    if options is not None:
        request.include_usage = fields.flag(fields.mapping(options, "stream_options"), "include_usage")
        request.running_usage = request.include_usage and fields.flag(options, "continuous_usage_stats")
    if body.get("tools"):
        request.tools = tuple(
            _function(fields.mapping(fields.mapping(tool, "tools").get("function"), "tools.function"))
            for tool in fields.array(body["tools"], "tools")
        )
    request.parallel_tools = body.get("parallel_tool_calls") is not False
    choice = body.get("tool_choice")
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        _allow(request, choice.get("allowed_tools"), "tool_choice.allowed_tools")
    elif isinstance(choice, dict):
        request.tool_choice = "=" + fields.text(
            fields.mapping(choice.get("function"), "tool_choice.function").get("name"), "tool_choice"
        )
    elif choice is not None:
        name = fields.text(choice, "tool_choice")
        request.tool_choice = "any" if name == "required" else name
    request.schema = _response_format(body.get("response_format"), "response_format")
    request.thinking = body.get("reasoning_effort") not in (None, "none")
    request.wants_ids = fields.flag(body, "return_token_ids")
    return said.finish(request)


def _allow(request: Request, choice: Any, where: str) -> None:
    """Only some of the tools may be called: as if there were no others."""
    allowed = fields.mapping(choice, where)
    names = []
    for tool in fields.array(allowed.get("tools"), f"{where}.tools"):
        named = fields.mapping(tool, f"{where}.tools")
        function = named.get("function", named)  # in a chat completion it stands a step deeper
        names.append(fields.text(fields.mapping(function, where).get("name"), f"{where}.tools.name"))
    request.tools = tuple(tool for tool in request.tools if tool[0] in names)
    request.tool_choice = "any" if allowed.get("mode") == "required" else "auto"


def _chat_prefill(body: dict[str, Any], messages: list[Any]) -> bool:
    """Whether the last message is the beginning of the answer; vLLM's, DeepSeek's and Mistral's, Qwen's form."""
    if fields.flag(body, "continue_final_message"):
        if body.get("add_generation_prompt") is not False:  # vLLM's default is true
            raise BadRequest(
                "Cannot set both `continue_final_message` and `add_generation_prompt` to True.",
                param="continue_final_message",
            )
        return True
    last = messages[-1] if isinstance(messages[-1], dict) else {}
    return last.get("prefix") is True or last.get("partial") is True


def _chat_part(said: Transcript, role: str, part: Any, where: str) -> None:
    kind = fields.mapping(part, where).get("type")
    if kind == "text":
        said.add(role, "text", fields.text(part.get("text"), f"{where}.text"))
    elif kind == "image_url":
        url = part.get("image_url")
        said.attach(
            role, "image", fields.text(url.get("url") if isinstance(url, dict) else url, f"{where}.image_url")
        )
    elif kind == "input_audio":
        said.attach(
            role, "audio", fields.text(fields.mapping(part.get("input_audio"), where).get("data"), where)
        )
    elif kind == "file":
        file = fields.mapping(part.get("file"), where)
        said.attach(role, "file", fields.text(file.get("file_data") or file.get("file_id"), where))
    elif kind == "refusal":
        said.add(role, "refusal", fields.text(part.get("refusal"), where))
    else:
        raise BadRequest(f"Invalid value: {kind!r}.", param=f"{where}.type", code="invalid_value")


def _function(function: dict[str, Any]) -> tuple[str, str, JSON]:
    name = fields.text(function.get("name"), "tools.function.name")
    description = fields.text(function.get("description") or "", "tools.function.description")
    return name, description, function.get("parameters") or {}


def _response_format(value: Any, param: str) -> JSON:
    if value is None:
        return None
    kind = fields.mapping(value, param).get("type")
    if kind == "json_object":
        return {}
    if kind == "json_schema":
        holder = value.get("json_schema", value)  # /v1/responses has no inner object
        return fields.mapping(fields.mapping(holder, param).get("schema"), f"{param}.json_schema.schema")
    if kind == "text":
        return None
    raise BadRequest(f"Invalid value: {kind!r}.", param=f"{param}.type", code="invalid_value")


# ---- OpenAI: completions, embeddings, responses ----------------------------------------------------


def _read_completion(body: dict[str, Any]) -> Request:
    request = Request(Endpoint.COMPLETIONS, fields.model(body))
    said = Transcript()
    prompt = body.get("prompt", "<|endoftext|>")
    in_ids = isinstance(prompt, list) and bool(prompt) and all(type(one) is int for one in prompt)
    if in_ids and prompt[0] == BOS:
        pass  # what was said is told by the ids, below
    elif isinstance(prompt, str):
        end = end_of_prompt(prompt)
        said.add("prompt", "text", prompt[:end])
        request.prefix = prompt[end:]
        said.answered(request.prefix)
    else:
        for item in fields.array(prompt, "prompt"):
            said.add("prompt", "text", _text_or_ids(item, "prompt"))
    request.stream = fields.flag(body, "stream")
    request.limit = fields.whole(body, "max_tokens", 1) or 16  # the API's own default
    request.choices = min(fields.whole(body, "n", 1) or 1, 16)
    request.stop = fields.texts(body.get("stop"), "stop")
    options = body.get("stream_options")
    if options is not None:
        request.include_usage = fields.flag(fields.mapping(options, "stream_options"), "include_usage")
        request.running_usage = request.include_usage and fields.flag(options, "continuous_usage_stats")
    request.wants_ids = fields.flag(body, "return_token_ids")
    if in_ids and prompt[0] == BOS:
        return read_ids(request, prompt)
    request = said.finish(request)
    if isinstance(prompt, list) and len(prompt) > 1 and not in_ids:
        request.prompts = tuple(_read_completion(body | {"prompt": one}) for one in prompt[:_MOST_PROMPTS])
        request.input_tokens = sum(one.input_tokens for one in request.prompts)
    return request


def _text_or_ids(item: Any, param: str) -> str:
    if isinstance(item, int):
        return f"{item:04d}"[-BYTES_PER_TOKEN:]  # a token's id counts as one token
    if isinstance(item, list):
        return "".join(_text_or_ids(one, param) for one in item)
    return fields.text(item, param)


def _read_embeddings(body: dict[str, Any]) -> Request:
    request = Request(Endpoint.EMBEDDINGS, fields.model(body))
    said = Transcript()
    value = body.get("input")
    if isinstance(value, str):
        inputs: list[Any] = [value]
    else:
        inputs = fields.array(value, "input")
        if inputs and isinstance(inputs[0], int):
            inputs = [inputs]
    if not inputs:
        raise BadRequest("Invalid 'input': empty array.", param="input", code="empty_array")
    request.inputs = tuple(_text_or_ids(item, "input") for item in inputs)
    for text in request.inputs:
        said.add("input", "text", text)
    request.dimensions = fields.whole(body, "dimensions", 1) or 64
    form = body.get("encoding_format")
    if form not in (None, "float", "base64"):
        raise BadRequest(f"Invalid value: {form!r}.", param="encoding_format", code="invalid_value")
    request.base64 = form == "base64"
    return said.finish(request)


def _read_responses(body: dict[str, Any]) -> Request:
    return _responses(body, Endpoint.RESPONSES)


def _read_input_tokens(body: dict[str, Any]) -> Request:
    return _responses(body, Endpoint.INPUT_TOKENS)


def _read_compact(body: dict[str, Any]) -> Request:
    request = _responses(body, Endpoint.COMPACT)
    request.stream = False
    given = body["input"]
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    request.kept = tuple(item for item in items if item.get("role") == "user")
    return request


def _responses(body: dict[str, Any], endpoint: Endpoint) -> Request:
    request = Request(endpoint, fields.model(body))
    said = Transcript()
    if body.get("instructions"):
        said.add("system", "text", fields.text(body["instructions"], "instructions"))
    value = body.get("input")
    if isinstance(value, str):
        said.add("user", "text", value)
    else:
        for i, item in enumerate(fields.array(value, "input")):
            _responses_item(said, fields.mapping(item, f"input[{i}]"), f"input[{i}]")
    request.stream = fields.flag(body, "stream")
    request.background = endpoint is Endpoint.RESPONSES and fields.flag(body, "background")
    if request.background and body.get("store") is False:
        raise BadRequest(
            "Background mode requires store to be true.", param="background", code="invalid_value"
        )
    request.limit = fields.whole(body, "max_output_tokens", 1)
    if body.get("tools"):
        request.tools = tuple(
            _function(tool)
            for tool in fields.array(body["tools"], "tools")
            if fields.mapping(tool, "tools").get("type") == "function"
        )
    request.parallel_tools = body.get("parallel_tool_calls") is not False
    choice = body.get("tool_choice")
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        _allow(request, choice, "tool_choice")
    elif isinstance(choice, dict):
        request.tool_choice = "=" + fields.text(choice.get("name"), "tool_choice.name")
    elif choice is not None:
        name = fields.text(choice, "tool_choice")
        request.tool_choice = "any" if name == "required" else name
    text = body.get("text")
    if text is not None:
        request.schema = _response_format(fields.mapping(text, "text").get("format"), "text.format")
    reasoning = body.get("reasoning")
    if reasoning is not None:
        request.thinking = fields.mapping(reasoning, "reasoning").get("effort") not in (None, "none")
    return said.finish(request)


def _responses_item(said: Transcript, item: dict[str, Any], where: str) -> None:
    kind = item.get("type", "message")
    if kind == "message":
        role = fields.text(item.get("role"), f"{where}.role")
        if role == "developer":
            role = "system"
        content = item.get("content")
        if isinstance(content, str):
            said.add(role, "text", content)
            return
        for part in fields.array(content, f"{where}.content"):
            _responses_part(said, role, fields.mapping(part, f"{where}.content"), f"{where}.content")
    elif kind == "function_call":
        said.add("assistant", "call", fields.text(item.get("call_id"), f"{where}.call_id"))
        said.add("assistant", "name", fields.text(item.get("name"), f"{where}.name"))
        said.add(
            "assistant", "json", fields.arguments(fields.text(item.get("arguments"), f"{where}.arguments"))
        )
    elif kind == "function_call_output":
        said.add("tool", "id", fields.text(item.get("call_id"), f"{where}.call_id"))
        output = item.get("output")
        if isinstance(output, str):
            said.add("tool", "text", output)
        else:
            for part in fields.array(output, f"{where}.output"):
                _responses_part(said, "tool", fields.mapping(part, f"{where}.output"), f"{where}.output")
    elif kind == "compaction":
        said.add("assistant", "compaction", fields.text(item.get("encrypted_content"), where))
    elif kind not in ("reasoning", "item_reference"):
        raise BadRequest(f"Invalid value: {kind!r}.", param=f"{where}.type", code="invalid_value")


def _responses_part(said: Transcript, role: str, part: dict[str, Any], where: str) -> None:
    kind = part.get("type")
    if kind in ("input_text", "output_text", "text"):
        said.add(role, "text", fields.text(part.get("text"), where))
    elif kind == "input_image":
        said.attach(role, "image", fields.text(part.get("image_url") or part.get("file_id"), where))
    elif kind == "input_file":
        data = part.get("file_data") or part.get("file_url") or part.get("file_id")
        said.attach(role, "file", fields.text(data, where))
    elif kind == "input_audio":
        said.attach(
            role, "audio", fields.text(fields.mapping(part.get("input_audio"), where).get("data"), where)
        )
    elif kind == "refusal":
        said.add(role, "refusal", fields.text(part.get("refusal"), where))
    else:
        raise BadRequest(f"Invalid value: {kind!r}.", param=f"{where}.type", code="invalid_value")


# ---- Anthropic: messages ---------------------------------------------------------------------------


def _read_messages(body: dict[str, Any]) -> Request:
    request = _anthropic(body, Endpoint.MESSAGES)
    if request.limit is None:
        raise BadRequest("max_tokens: Field required", param="max_tokens")
    return request


def _read_count(body: dict[str, Any]) -> Request:
    return _anthropic(body, Endpoint.COUNT_TOKENS)


def _anthropic(body: dict[str, Any], endpoint: Endpoint) -> Request:
    request = Request(endpoint, fields.model(body))
    said = Transcript()
    system = body.get("system")
    if isinstance(system, str):
        said.add("system", "text", system)
    elif system is not None:
        for part in fields.array(system, "system"):
            said.add("system", "text", fields.text(fields.mapping(part, "system").get("text"), "system.text"))
    messages = fields.array(body.get("messages"), "messages")
    if not messages:
        raise BadRequest("messages: at least one message is required", param="messages")
    if endpoint is Endpoint.MESSAGES:
        messages = without_answer(said, request, messages, prefilled=True, where="messages")
    for i, message in enumerate(messages):
        role = fields.mapping(message, f"messages.{i}").get("role")
        if role not in ("user", "assistant", "system"):
            raise BadRequest(
                f"messages.{i}.role: Input should be 'user' or 'assistant'", param=f"messages.{i}.role"
            )
        content = message.get("content")
        if isinstance(content, str):
            said.add(role, "text", content)
            continue
        for j, part in enumerate(fields.array(content, f"messages.{i}.content")):
            _anthropic_part(said, role, part, f"messages.{i}.content.{j}")
    request.stream = fields.flag(body, "stream")
    request.limit = fields.whole(body, "max_tokens", 1)
    request.stop = fields.texts(body.get("stop_sequences"), "stop_sequences")
    if body.get("tools"):
        request.tools = tuple(
            (
                fields.text(fields.mapping(tool, "tools").get("name"), "tools.name"),
                fields.text(tool.get("description") or "", "tools.description"),
                tool.get("input_schema") or {},
            )
            for tool in fields.array(body["tools"], "tools")
        )
    choice = body.get("tool_choice")
    if choice is not None:
        kind = fields.text(fields.mapping(choice, "tool_choice").get("type"), "tool_choice.type")
        request.tool_choice = (
            kind if kind != "tool" else "=" + fields.text(choice.get("name"), "tool_choice.name")
        )
        request.parallel_tools = not fields.flag(choice, "disable_parallel_tool_use")
    output = body.get("output_config")
    form = (
        fields.mapping(output, "output_config").get("format")
        if output is not None
        else body.get("output_format")
    )
    request.schema = _response_format(form, "output_config.format")
    thinking = body.get("thinking")
    if thinking is not None:
        kind = fields.text(fields.mapping(thinking, "thinking").get("type"), "thinking.type")
        if kind not in ("enabled", "disabled", "adaptive"):
            raise BadRequest(f"thinking.type: Input tag {kind!r} is unknown", param="thinking.type")
        request.thinking = kind != "disabled"
    if request.prefix and not request.anchor:
        _check_prefill(request)
    return said.finish(request)


def _check_prefill(request: Request) -> None:
    """Anthropic's rules for the beginning of an answer."""
    if request.prefix.rstrip() != request.prefix:
        raise BadRequest("messages: final assistant content cannot end with trailing whitespace")
    if request.thinking:
        raise BadRequest("messages: a prefill cannot be used with extended thinking")


def _anthropic_part(said: Transcript, role: str, part: Any, where: str) -> None:
    kind = fields.mapping(part, where).get("type")
    if kind == "text":
        said.add(role, "text", fields.text(part.get("text"), f"{where}.text"))
    elif kind in ("image", "document"):
        shape = "image" if kind == "image" else "file"
        said.attach(role, shape, _source(fields.mapping(part.get("source"), f"{where}.source"), where))
    elif kind == "tool_use":
        said.add(role, "call", fields.text(part.get("id"), f"{where}.id"))
        said.add(role, "name", fields.text(part.get("name"), f"{where}.name"))
        said.add(role, "json", encode(part.get("input")))
    elif kind == "tool_result":
        said.add("tool", "id", fields.text(part.get("tool_use_id"), f"{where}.tool_use_id"))
        content = part.get("content")
        if isinstance(content, str):
            said.add("tool", "text", content)
        elif content is not None:
            for inner in fields.array(content, f"{where}.content"):
                _anthropic_part(said, "tool", inner, f"{where}.content")
    elif kind == "thinking":
        said.add(role, "thinking", fields.text(part.get("thinking"), f"{where}.thinking"))
    elif kind == "redacted_thinking":
        said.add(role, "redacted", fields.text(part.get("data"), f"{where}.data"))
    else:
        raise BadRequest(f"{where}: Input tag {kind!r} is unknown", param=where)


def _source(source: dict[str, Any], where: str) -> str:
    kind = source.get("type")
    if kind == "base64":
        media = fields.text(source.get("media_type"), f"{where}.source.media_type")
        return f"data:{media};base64,{fields.text(source.get('data'), f'{where}.source.data')}"
    if kind == "content":
        return encode(source.get("content"))
    value = source.get({"url": "url", "text": "data", "file": "file_id"}.get(str(kind), ""))
    return fields.text(value, f"{where}.source")


_READERS: dict[Endpoint, Callable[[dict[str, Any]], Request]] = {
    Endpoint.CHAT: _read_chat,
    Endpoint.COMPLETIONS: _read_completion,
    Endpoint.EMBEDDINGS: _read_embeddings,
    Endpoint.RESPONSES: _read_responses,
    Endpoint.INPUT_TOKENS: _read_input_tokens,
    Endpoint.COMPACT: _read_compact,
    Endpoint.MESSAGES: _read_messages,
    Endpoint.COUNT_TOKENS: _read_count,
}


def read(endpoint: Endpoint, body: Any) -> Request:
    """Read a decoded body.

    :raises BadRequest: it is not what the API takes
    """
    if not isinstance(body, dict):
        raise BadRequest("We could not parse the JSON body of your request: expected an object.")
    return _READERS[endpoint](body)
