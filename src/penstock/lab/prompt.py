"""What a request asks of the simulator, whichever of the APIs it was written for.

The prompt is read into one **transcript**: a marker wherever the speaker changes, then every part of the
prompt in its order, and the tools and the output schema after it.  Its digest decides the answer's text.
The transcript is the same for a prompt and for its faithful translation into the other dialect, so that
a gateway that translates can be checked as sharply as one that passes bytes through.  What cannot change a
model's text here (model name, sampling, limits, ``metadata``) is not in it.

Tokens of a prompt: its text, in UTF-8, at 4 bytes a token, rounded up once over the whole; tools and schema
count with their JSON.  An image counts :data:`IMAGE_TOKENS`, other attachments one token per KiB of their
encoded form, begun ones included.

A request may ask to go on with an answer that has begun: by a prefill in the form of any provider, by the
tokens themselves, or in words.  What was said already then is no part of the transcript (it counts as prompt
all the same): the model goes on with the answer that it would give to the prompt alone.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Any

import msgspec

from penstock.errors import BadRequest
from penstock.lab.text import SPELT, tokens, vocabulary
from penstock.messages import JSON, Endpoint

IMAGE_TOKENS = 256
BYTES_PER_TOKEN = 4
_encoder = msgspec.json.Encoder(order="sorted")
# Values of a request are looked for in tuples, not in sets: what cannot be hashed must not be a defect.
_MARK = "\x1f"  # before a part
_MOST_PROMPTS = 2_048  # of one completion
_TURN = "\x1e"  # before a speaker


class Request(msgspec.Struct, eq=False):
    """One request as the simulator sees it."""

    endpoint: Endpoint
    model: str
    digest: int = 0
    input_tokens: int = 0
    stream: bool = False
    limit: int | None = None  # the caller's most output tokens
    choices: int = 1
    stop: tuple[str, ...] = ()
    tools: tuple[tuple[str, str, JSON], ...] = ()  # name, description, JSON Schema of the arguments
    tool_choice: str = "auto"  # "none", "auto", "any", or "=" and a name
    parallel_tools: bool = True
    schema: JSON = None  # the answer must be JSON that this schema admits; {}: any object
    thinking: bool = False
    include_usage: bool = False
    running_usage: bool = False
    last_said: str = ""  # the last text of the user
    after_tool: bool = False  # the prompt ends in results of tools
    prompts: tuple[Request, ...] = ()  # of a completion that has several, each read by itself
    inputs: tuple[str, ...] = ()  # of an embeddings call
    dimensions: int = 0
    base64: bool = False
    prefix: str = ""  # the beginning of the answer, which is to be gone on with
    anchor: str = ""  # the words that it was asked to begin with, because it was asked in words
    prefix_ids: tuple[int, ...] = ()  # the same as tokens
    wants_ids: bool = False  # return_token_ids


def _wrong(param: str, expected: str) -> BadRequest:
    return BadRequest(f"Invalid value for '{param}': expected {expected}.", param=param, code="invalid_type")


class _Transcript:
    """Collects the parts of a prompt, and tells its digest and its tokens."""

    __slots__ = ("_aside", "_marks", "_more", "_pieces", "_speaker", "_tokens", "after_tool", "last_said")

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._speaker = ""
        self._marks = 0  # bytes of markers
        self._aside = 0  # bytes of attachments, which are counted otherwise
        self._tokens = 0  # of attachments
        self._more = 0  # bytes of what was answered already
        self.last_said = ""
        self.after_tool = False

    def add(self, speaker: str, kind: str, text: str) -> None:
        if not text:
            return
        if speaker == self._speaker:
            mark = _MARK + kind + _MARK
        else:
            self._speaker = speaker
            mark = _TURN + speaker + _MARK + kind + _MARK
            self.after_tool = speaker == "tool"
        if speaker == "user" and kind == "text":
            self.last_said = text
        self._marks += len(mark)
        self._pieces.append(mark)
        self._pieces.append(text)

    def attach(self, speaker: str, kind: str, data: str) -> None:
        """An image or a file: counted by kind, not by its text."""
        if data:
            self.add(speaker, kind, data)
            self._aside += len(data.encode("utf-8", "surrogatepass"))
            self._tokens += IMAGE_TOKENS if kind == "image" else 1 + (len(data) - 1) // 1024

    def answered(self, text: str) -> None:
        """The beginning of the answer, or words about it: prompt that does not change what is answered."""
        self._more += len(text.encode("utf-8", "surrogatepass"))

    def finish(self, request: Request) -> Request:
        request.after_tool = self.after_tool  # as it is now: what follows was not said by anybody
        for name, description, schema in request.tools:
            self.add("tools", "name", name)
            self.add("tools", "text", description)
            self.add("tools", "json", _encoder.encode(schema).decode())
        if request.schema is not None:
            self.add("schema", "", _encoder.encode(request.schema).decode())
        whole = "".join(self._pieces).encode("utf-8", "surrogatepass")
        request.digest = int.from_bytes(hashlib.sha256(whole).digest()[:8], "big")
        text_bytes = len(whole) - self._marks - self._aside + self._more
        request.input_tokens = -(-text_bytes // BYTES_PER_TOKEN) + self._tokens
        request.last_said = self.last_said
        return request


# ---- small readers ---------------------------------------------------------------------------------


def _text(value: Any, param: str) -> str:
    if not isinstance(value, str):
        raise _wrong(param, "a string")
    return value


def _whole(body: dict[str, Any], name: str, least: int) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong(name, "an integer")
    if value < least:
        raise BadRequest(
            f"Invalid '{name}': integer below minimum value. Expected a value >= {least}, but got {value}.",
            param=name,
            code="integer_below_min_value",
        )
    return value


def _flag(body: dict[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise _wrong(name, "a boolean")
    return value


def _object(value: Any, param: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(param, "an object")
    return value


def _array(value: Any, param: str) -> list[Any]:
    if not isinstance(value, list):
        raise _wrong(param, "an array")
    return value


def _texts(value: Any, param: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,)
    return tuple(_text(item, param) for item in _array(value, param))


def _model(body: dict[str, Any]) -> str:
    model = body.get("model")
    if model is None or model == "":
        raise BadRequest(
            "you must provide a model parameter", param="model", code="missing_required_parameter"
        )
    return _text(model, "model")


def _arguments(text: str) -> str:
    """A tool call's arguments, in one form whoever wrote them."""
    try:
        return _encoder.encode(msgspec.json.decode(text or "{}")).decode()
    except msgspec.DecodeError:
        return text


# ---- going on with an answer -----------------------------------------------------------------------

_IN_WORDS = "Your previous response was interrupted and ended with:"
_BOS = 151_644  # what a prompt in tokens begins with here
_DIGEST_IDS = 200_000  # four tokens spell the digest, 16 bits each
_LEAST_IDS = 6


def _without_answer(
    said: _Transcript, request: Request, messages: list[Any], *, prefilled: bool, where: str
) -> list[Any]:
    """The messages before the answer that is to be gone on with; it goes into ``request``."""
    last = messages[-1] if isinstance(messages[-1], dict) else {}
    content = last.get("content")
    if prefilled and last.get("role") == "assistant":
        request.prefix = _plain_text(content, where)
        said.answered(request.prefix)
        return messages[:-1]
    before = messages[-2] if len(messages) > 1 and isinstance(messages[-2], dict) else {}
    if before.get("role") == "assistant" and isinstance(content, str) and content.startswith(_IN_WORDS):
        request.prefix = _plain_text(before.get("content"), where)
        request.anchor = content[len(_IN_WORDS) :].strip().partition("\n\n")[0]
        said.answered(request.prefix + content)
        return messages[:-2]
    return messages


def _plain_text(content: Any, where: str) -> str:
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        return "".join(_text(part.get("text"), where) for part in content)
    return _text(content, where)


def _end_of_prompt(prompt: str) -> int:
    """Where in the prompt of a completion its own answer begins: a model goes on with any text."""
    words = vocabulary()
    for run in re.finditer(r"[^\W\d_]+(?=\s|\Z)", prompt):
        for at in range(run.start(), run.end() - 1):
            if prompt[at : run.end()] in words and at:
                said = _Transcript()
                said.add("prompt", "text", prompt[:at])
                digest = said.finish(Request(Endpoint.COMPLETIONS, "")).digest
                answer = b"".join(tokens(digest, 0, SPELT)).decode()
                rest = prompt[at:]
                if answer.startswith(rest) or rest.startswith(answer):
                    return at
    return len(prompt)


def prompt_ids(request: Request) -> list[int]:
    """The prompt as tokens: they tell its digest and its length, and are as many as it has."""
    digest = [_DIGEST_IDS + (request.digest >> shift & 0xFFFF) for shift in (0, 16, 32, 48)]
    return [_BOS, request.input_tokens, *digest, *[0] * (request.input_tokens - _LEAST_IDS)]


def _read_ids(request: Request, ids: list[int]) -> Request:
    """A prompt that :func:`prompt_ids` made, and the tokens of the answer so far."""
    if len(ids) < _LEAST_IDS:
        raise _wrong("prompt", "tokens that this model knows")
    tokens = ids[1]
    request.digest = sum(
        (one - _DIGEST_IDS) << shift for one, shift in zip(ids[2:6], (0, 16, 32, 48), strict=True)
    )
    request.prefix_ids = tuple(ids[max(tokens, _LEAST_IDS) :])
    request.input_tokens = tokens + len(request.prefix_ids)
    return request


# ---- OpenAI: chat completions ----------------------------------------------------------------------


def _read_chat(body: dict[str, Any]) -> Request:
    request = Request(Endpoint.CHAT, _model(body))
    said = _Transcript()
    messages = _array(body.get("messages"), "messages")
    if not messages:
        raise BadRequest("Invalid 'messages': empty array.", param="messages", code="empty_array")
    messages = _without_answer(
        said, request, messages, prefilled=_chat_prefill(body, messages), where="messages"
    )
    for i, message in enumerate(messages):
        if not isinstance(message, dict):
            raise _wrong(f"messages[{i}]", "an object")
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
            call = _text(message.get("tool_call_id"), f"messages[{i}].tool_call_id")
            said.add("tool", "id", call)
        if isinstance(content, str):
            said.add(role, "text", content)
        elif content is not None:
            for j, part in enumerate(_array(content, f"messages[{i}].content")):
                _chat_part(said, role, part, f"messages[{i}].content[{j}]")
        elif role != "assistant":
            raise _wrong(f"messages[{i}].content", "a string or an array of parts")
        if role == "assistant" and message.get("tool_calls"):
            for call in _array(message["tool_calls"], f"messages[{i}].tool_calls"):
                where = f"messages[{i}].tool_calls"
                function = _object(_object(call, where).get("function"), f"{where}.function")
                said.add(role, "call", _text(call.get("id"), f"{where}.id"))
                said.add(role, "name", _text(function.get("name"), f"{where}.function.name"))
                said.add(role, "json", _arguments(_text(function.get("arguments"), f"{where}.arguments")))
    request.stream = _flag(body, "stream")
    request.limit = _whole(body, "max_completion_tokens", 1) or _whole(body, "max_tokens", 1)
    request.choices = min(_whole(body, "n", 1) or 1, 16)
    request.stop = _texts(body.get("stop"), "stop")
    options = body.get("stream_options")
    if options is not None:
        request.include_usage = _flag(_object(options, "stream_options"), "include_usage")
        request.running_usage = request.include_usage and _flag(options, "continuous_usage_stats")
    if body.get("tools"):
        request.tools = tuple(
            _function(_object(_object(tool, "tools").get("function"), "tools.function"))
            for tool in _array(body["tools"], "tools")
        )
    request.parallel_tools = body.get("parallel_tool_calls") is not False
    choice = body.get("tool_choice")
    if isinstance(choice, dict):
        request.tool_choice = "=" + _text(
            _object(choice.get("function"), "tool_choice.function").get("name"), "tool_choice"
        )
    elif choice is not None:
        name = _text(choice, "tool_choice")
        request.tool_choice = "any" if name == "required" else name
    request.schema = _response_format(body.get("response_format"), "response_format")
    request.thinking = body.get("reasoning_effort") not in (None, "none")
    request.wants_ids = _flag(body, "return_token_ids")
    return said.finish(request)


def _chat_prefill(body: dict[str, Any], messages: list[Any]) -> bool:
    """Whether the last message is the beginning of the answer; vLLM's, DeepSeek's and Mistral's, Qwen's form."""
    if _flag(body, "continue_final_message"):
        if body.get("add_generation_prompt") is not False:  # vLLM's default is true
            raise BadRequest(
                "Cannot set both `continue_final_message` and `add_generation_prompt` to True.",
                param="continue_final_message",
            )
        return True
    last = messages[-1] if isinstance(messages[-1], dict) else {}
    return last.get("prefix") is True or last.get("partial") is True


def _chat_part(said: _Transcript, role: str, part: Any, where: str) -> None:
    kind = _object(part, where).get("type")
    if kind == "text":
        said.add(role, "text", _text(part.get("text"), f"{where}.text"))
    elif kind == "image_url":
        url = part.get("image_url")
        said.attach(
            role, "image", _text(url.get("url") if isinstance(url, dict) else url, f"{where}.image_url")
        )
    elif kind == "input_audio":
        said.attach(role, "audio", _text(_object(part.get("input_audio"), where).get("data"), where))
    elif kind == "file":
        file = _object(part.get("file"), where)
        said.attach(role, "file", _text(file.get("file_data") or file.get("file_id"), where))
    elif kind == "refusal":
        said.add(role, "refusal", _text(part.get("refusal"), where))
    else:
        raise BadRequest(f"Invalid value: {kind!r}.", param=f"{where}.type", code="invalid_value")


def _function(function: dict[str, Any]) -> tuple[str, str, JSON]:
    name = _text(function.get("name"), "tools.function.name")
    description = _text(function.get("description") or "", "tools.function.description")
    return name, description, function.get("parameters") or {}


def _response_format(value: Any, param: str) -> JSON:
    if value is None:
        return None
    kind = _object(value, param).get("type")
    if kind == "json_object":
        return {}
    if kind == "json_schema":
        holder = value.get("json_schema", value)  # /v1/responses has no inner object
        return _object(_object(holder, param).get("schema"), f"{param}.json_schema.schema")
    if kind == "text":
        return None
    raise BadRequest(f"Invalid value: {kind!r}.", param=f"{param}.type", code="invalid_value")


# ---- OpenAI: completions, embeddings, responses ----------------------------------------------------


def _read_completion(body: dict[str, Any]) -> Request:
    request = Request(Endpoint.COMPLETIONS, _model(body))
    said = _Transcript()
    prompt = body.get("prompt", "<|endoftext|>")
    in_ids = isinstance(prompt, list) and bool(prompt) and all(type(one) is int for one in prompt)
    if in_ids and prompt[0] == _BOS:
        pass  # what was said is told by the ids, below
    elif isinstance(prompt, str):
        end = _end_of_prompt(prompt)
        said.add("prompt", "text", prompt[:end])
        request.prefix = prompt[end:]
        said.answered(request.prefix)
    else:
        for item in _array(prompt, "prompt"):
            said.add("prompt", "text", _text_or_ids(item, "prompt"))
    request.stream = _flag(body, "stream")
    request.limit = _whole(body, "max_tokens", 1) or 16  # the API's own default
    request.choices = min(_whole(body, "n", 1) or 1, 16)
    request.stop = _texts(body.get("stop"), "stop")
    options = body.get("stream_options")
    if options is not None:
        request.include_usage = _flag(_object(options, "stream_options"), "include_usage")
        request.running_usage = request.include_usage and _flag(options, "continuous_usage_stats")
    request.wants_ids = _flag(body, "return_token_ids")
    if in_ids and prompt[0] == _BOS:
        return _read_ids(request, prompt)
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
    return _text(item, param)


def _read_embeddings(body: dict[str, Any]) -> Request:
    request = Request(Endpoint.EMBEDDINGS, _model(body))
    said = _Transcript()
    value = body.get("input")
    if isinstance(value, str):
        inputs: list[Any] = [value]
    else:
        inputs = _array(value, "input")
        if inputs and isinstance(inputs[0], int):
            inputs = [inputs]
    if not inputs:
        raise BadRequest("Invalid 'input': empty array.", param="input", code="empty_array")
    request.inputs = tuple(_text_or_ids(item, "input") for item in inputs)
    for text in request.inputs:
        said.add("input", "text", text)
    request.dimensions = _whole(body, "dimensions", 1) or 64
    form = body.get("encoding_format")
    if form not in (None, "float", "base64"):
        raise BadRequest(f"Invalid value: {form!r}.", param="encoding_format", code="invalid_value")
    request.base64 = form == "base64"
    return said.finish(request)


def _read_responses(body: dict[str, Any]) -> Request:
    return _responses(body, Endpoint.RESPONSES)


def _read_input_tokens(body: dict[str, Any]) -> Request:
    return _responses(body, Endpoint.INPUT_TOKENS)


def _responses(body: dict[str, Any], endpoint: Endpoint) -> Request:
    request = Request(endpoint, _model(body))
    said = _Transcript()
    if body.get("instructions"):
        said.add("system", "text", _text(body["instructions"], "instructions"))
    value = body.get("input")
    if isinstance(value, str):
        said.add("user", "text", value)
    else:
        for i, item in enumerate(_array(value, "input")):
            _responses_item(said, _object(item, f"input[{i}]"), f"input[{i}]")
    request.stream = _flag(body, "stream")
    request.limit = _whole(body, "max_output_tokens", 1)
    if body.get("tools"):
        request.tools = tuple(
            _function(tool)
            for tool in _array(body["tools"], "tools")
            if _object(tool, "tools").get("type") == "function"
        )
    request.parallel_tools = body.get("parallel_tool_calls") is not False
    choice = body.get("tool_choice")
    if isinstance(choice, dict):
        request.tool_choice = "=" + _text(choice.get("name"), "tool_choice.name")
    elif choice is not None:
        name = _text(choice, "tool_choice")
        request.tool_choice = "any" if name == "required" else name
    text = body.get("text")
    if text is not None:
        request.schema = _response_format(_object(text, "text").get("format"), "text.format")
    reasoning = body.get("reasoning")
    if reasoning is not None:
        request.thinking = _object(reasoning, "reasoning").get("effort") not in (None, "none")
    return said.finish(request)


def _responses_item(said: _Transcript, item: dict[str, Any], where: str) -> None:
    kind = item.get("type", "message")
    if kind == "message":
        role = _text(item.get("role"), f"{where}.role")
        if role == "developer":
            role = "system"
        content = item.get("content")
        if isinstance(content, str):
            said.add(role, "text", content)
            return
        for part in _array(content, f"{where}.content"):
            _responses_part(said, role, _object(part, f"{where}.content"), f"{where}.content")
    elif kind == "function_call":
        said.add("assistant", "call", _text(item.get("call_id"), f"{where}.call_id"))
        said.add("assistant", "name", _text(item.get("name"), f"{where}.name"))
        said.add("assistant", "json", _arguments(_text(item.get("arguments"), f"{where}.arguments")))
    elif kind == "function_call_output":
        said.add("tool", "id", _text(item.get("call_id"), f"{where}.call_id"))
        output = item.get("output")
        if isinstance(output, str):
            said.add("tool", "text", output)
        else:
            for part in _array(output, f"{where}.output"):
                _responses_part(said, "tool", _object(part, f"{where}.output"), f"{where}.output")
    elif kind not in ("reasoning", "item_reference"):
        raise BadRequest(f"Invalid value: {kind!r}.", param=f"{where}.type", code="invalid_value")


def _responses_part(said: _Transcript, role: str, part: dict[str, Any], where: str) -> None:
    kind = part.get("type")
    if kind in ("input_text", "output_text", "text"):
        said.add(role, "text", _text(part.get("text"), where))
    elif kind == "input_image":
        said.attach(role, "image", _text(part.get("image_url") or part.get("file_id"), where))
    elif kind == "input_file":
        data = part.get("file_data") or part.get("file_url") or part.get("file_id")
        said.attach(role, "file", _text(data, where))
    elif kind == "input_audio":
        said.attach(role, "audio", _text(_object(part.get("input_audio"), where).get("data"), where))
    elif kind == "refusal":
        said.add(role, "refusal", _text(part.get("refusal"), where))
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
    request = Request(endpoint, _model(body))
    said = _Transcript()
    system = body.get("system")
    if isinstance(system, str):
        said.add("system", "text", system)
    elif system is not None:
        for part in _array(system, "system"):
            said.add("system", "text", _text(_object(part, "system").get("text"), "system.text"))
    messages = _array(body.get("messages"), "messages")
    if not messages:
        raise BadRequest("messages: at least one message is required", param="messages")
    if endpoint is Endpoint.MESSAGES:
        messages = _without_answer(said, request, messages, prefilled=True, where="messages")
    for i, message in enumerate(messages):
        role = _object(message, f"messages.{i}").get("role")
        if role not in ("user", "assistant", "system"):
            raise BadRequest(
                f"messages.{i}.role: Input should be 'user' or 'assistant'", param=f"messages.{i}.role"
            )
        content = message.get("content")
        if isinstance(content, str):
            said.add(role, "text", content)
            continue
        for j, part in enumerate(_array(content, f"messages.{i}.content")):
            _anthropic_part(said, role, part, f"messages.{i}.content.{j}")
    request.stream = _flag(body, "stream")
    request.limit = _whole(body, "max_tokens", 1)
    request.stop = _texts(body.get("stop_sequences"), "stop_sequences")
    if body.get("tools"):
        request.tools = tuple(
            (
                _text(_object(tool, "tools").get("name"), "tools.name"),
                _text(tool.get("description") or "", "tools.description"),
                tool.get("input_schema") or {},
            )
            for tool in _array(body["tools"], "tools")
        )
    choice = body.get("tool_choice")
    if choice is not None:
        kind = _text(_object(choice, "tool_choice").get("type"), "tool_choice.type")
        request.tool_choice = kind if kind != "tool" else "=" + _text(choice.get("name"), "tool_choice.name")
        request.parallel_tools = not _flag(choice, "disable_parallel_tool_use")
    output = body.get("output_config")
    form = _object(output, "output_config").get("format") if output is not None else body.get("output_format")
    request.schema = _response_format(form, "output_config.format")
    thinking = body.get("thinking")
    if thinking is not None:
        kind = _text(_object(thinking, "thinking").get("type"), "thinking.type")
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


def _anthropic_part(said: _Transcript, role: str, part: Any, where: str) -> None:
    kind = _object(part, where).get("type")
    if kind == "text":
        said.add(role, "text", _text(part.get("text"), f"{where}.text"))
    elif kind in ("image", "document"):
        shape = "image" if kind == "image" else "file"
        said.attach(role, shape, _source(_object(part.get("source"), f"{where}.source"), where))
    elif kind == "tool_use":
        said.add(role, "call", _text(part.get("id"), f"{where}.id"))
        said.add(role, "name", _text(part.get("name"), f"{where}.name"))
        said.add(role, "json", _encoder.encode(part.get("input")).decode())
    elif kind == "tool_result":
        said.add("tool", "id", _text(part.get("tool_use_id"), f"{where}.tool_use_id"))
        content = part.get("content")
        if isinstance(content, str):
            said.add("tool", "text", content)
        elif content is not None:
            for inner in _array(content, f"{where}.content"):
                _anthropic_part(said, "tool", inner, f"{where}.content")
    elif kind == "thinking":
        said.add(role, "thinking", _text(part.get("thinking"), f"{where}.thinking"))
    elif kind == "redacted_thinking":
        said.add(role, "redacted", _text(part.get("data"), f"{where}.data"))
    else:
        raise BadRequest(f"{where}: Input tag {kind!r} is unknown", param=where)


def _source(source: dict[str, Any], where: str) -> str:
    kind = source.get("type")
    if kind == "base64":
        media = _text(source.get("media_type"), f"{where}.source.media_type")
        return f"data:{media};base64,{_text(source.get('data'), f'{where}.source.data')}"
    if kind == "content":
        return _encoder.encode(source.get("content")).decode()
    value = source.get({"url": "url", "text": "data", "file": "file_id"}.get(str(kind), ""))
    return _text(value, f"{where}.source")


_READERS: dict[Endpoint, Callable[[dict[str, Any]], Request]] = {
    Endpoint.CHAT: _read_chat,
    Endpoint.COMPLETIONS: _read_completion,
    Endpoint.EMBEDDINGS: _read_embeddings,
    Endpoint.RESPONSES: _read_responses,
    Endpoint.INPUT_TOKENS: _read_input_tokens,
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
