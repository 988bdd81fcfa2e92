"""A request for a response, in neutral form.

What the neutral form has no place for is refused by name, at any depth; the exceptions, none of which
can change the answer, stand with their reasons in :data:`LEFT_OUT`.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from penstock.errors import BadRequest, Untranslatable
from penstock.messages import JSON
from penstock.wire import custom_tools, own
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
    ToolCall,
    ToolResult,
    Turn,
)
from penstock.wire.namespaces import flat_name
from penstock.wire.not_json import NOT_JSON
from penstock.wire.responses._reasoning import unseal
from penstock.wire.responses._strict import Object, Strict, converted, no_equivalent, refusal
from penstock.wire.responses._tools import tools_of

LEFT_OUT: Final = {
    "id and status of items": "they label an answer that is already there; no model sees them",
    "phase of a message, where it is final_answer": "what a message is that has none",
    "caller and allowed_callers, where they are direct": "the caller's own program calls all tools here",
    "annotations and logprobs of earlier output": "where a sentence came from, not what it says",
    "include, of what hosted tools found": "hosted tools are refused, so there is nothing to include",
    "max_tool_calls": "counts calls of hosted tools, of which there are none",
    "metadata": "labels; the response object repeats them",
    "client_metadata": "labels of the client's (Codex's), for the provider's own logs",
    "store": "nothing is stored; the response object says so",
    "stream_options.include_obfuscation": "only pads frames",
    "prompt_cache_options, prompt_cache_retention": "a cache changes cost and delay, never the answer",
    "prompt_cache_breakpoint.ttl": "a cache changes cost and delay, never the answer",
    "tool_choice, parallel_tool_calls, without tools": "they choose among nothing",
}
"""What a request may say and no upstream is told, and why that is no harm."""

Status = Literal["in_progress", "completed", "incomplete"]


class _Reasoning(Strict):
    effort: str | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None
    context: str | None = None
    mode: str | None = None


class _Format(Strict):
    type: str
    name: str | None = None
    schema: Object | None = None
    description: str | None = None
    strict: bool | None = None


class _TextSettings(Strict):
    format: _Format | None = None
    verbosity: str | None = None


class _StreamOptions(Strict):
    include_obfuscation: bool | None = None


class _Body(Strict):
    model: str
    input: str | list[Object] | None = None
    instructions: str | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    tools: list[Object] | None = None
    tool_choice: str | Object | None = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: int | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = None
    include: list[str] | None = None
    text: _TextSettings | None = None
    reasoning: _Reasoning | None = None
    truncation: str | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    service_tier: str | None = None
    store: bool | None = None
    metadata: dict[str, str] | None = None
    client_metadata: JSON = None
    background: bool | None = None
    previous_response_id: str | None = None
    conversation: JSON = None
    prompt: JSON = None
    context_management: JSON = None
    moderation: JSON = None
    prompt_cache_options: JSON = None
    image: JSON = None
    access_programs: JSON = None
    additional_fields: Object | None = msgspec.field(name="additionalModelRequestFields", default=None)
    guardrail: Object | None = msgspec.field(name="guardrailConfig", default=None)
    performance: Object | None = msgspec.field(name="performanceConfig", default=None)
    request_metadata: Object | None = msgspec.field(name="requestMetadata", default=None)


_decode_body = msgspec.json.Decoder(_Body).decode

_NEED_STATE: Final = {
    "previous_response_id": "no such response is kept here, and the upstream of this model keeps none (of a gateway's "
    "processes only the one that gave it knows it, unless generations.durability is disk or shared); send the whole "
    "conversation as input",
    "conversation": "no such conversation is kept here, and the upstream of this model keeps none; make it here, or send "
    "the whole conversation as input",
    "prompt": "the upstream of this model keeps no prompt templates; send the prompt's text as input",
}
_NO_EQUIVALENT: Final = (
    "context_management",
    "moderation",
    "image",
    "access_programs",
)
# Those that name what a hosted tool found cannot come to pass: hosted tools are refused.
_INCLUDABLE: Final = frozenset(
    {
        "file_search_call.results",
        "web_search_call.results",
        "web_search_call.action.sources",
        "message.input_image.image_url",
        "computer_call_output.output.image_url",
        "code_interpreter_call.outputs",
        "reasoning.encrypted_content",
        "message.output_text.logprobs",
    }
)


def decode_prompt(body: bytes) -> Prompt:
    """What a request for a response means.

    :raises BadRequest: malformed; ``param`` names the member
    :raises Untranslatable: right in itself, but without equivalent in the neutral form
    """
    try:
        wanted = _decode_body(body)
    except msgspec.ValidationError as error:
        raise refusal(error, "") from None
    except NOT_JSON as error:
        raise BadRequest(f"the body is not valid JSON: {error}", code="invalid_json") from None
    _refuse_what_needs_state(wanted)
    if not wanted.input:
        raise BadRequest("the body must have input", param="input", code="missing_parameter")
    logprobs = _logprobs(wanted)
    tools, choice = tools_of(wanted.tools, wanted.tool_choice)
    reasoning = wanted.reasoning or _Reasoning()
    _check_reasoning(reasoning)
    text = wanted.text or _TextSettings()
    return Prompt(
        model=wanted.model,
        turns=_turns(wanted.instructions, wanted.input),
        stream=bool(wanted.stream),
        tools=tools,
        tool_choice=choice,
        parallel_tool_calls=wanted.parallel_tool_calls if tools else None,
        output=_output_format(text.format),
        max_output_tokens=wanted.max_output_tokens,
        temperature=wanted.temperature,
        top_p=wanted.top_p,
        logprobs=logprobs,
        top_logprobs=wanted.top_logprobs if logprobs else None,
        effort=reasoning.effort or "",
        user=_user(wanted),
        service_tier=wanted.service_tier or "",
        verbosity=text.verbosity or "",
        prompt_cache_key=wanted.prompt_cache_key or "",
        include_usage=True,
        converse=_converse(wanted),
    )


def _converse(wanted: _Body) -> JSON | None:
    given = (wanted.additional_fields, wanted.guardrail, wanted.performance, wanted.request_metadata)
    return {name: value for name, value in zip(own.CONVERSE, given, strict=True) if value is not None} or None


def _refuse_what_needs_state(wanted: _Body) -> None:
    for name, why in _NEED_STATE.items():
        if getattr(wanted, name) is not None:
            raise Untranslatable(f"{name} cannot be honoured: {why}", param=name)
    if wanted.background:
        raise Untranslatable(
            "background cannot be honoured: the upstream of this model answers only while it is listened to",
            param="background",
        )
    for name in _NO_EQUIVALENT:
        if getattr(wanted, name) is not None:
            raise no_equivalent(name)
    if wanted.truncation not in {None, "disabled"}:
        raise Untranslatable(
            'truncation must be "disabled": the upstream of this model drops nothing from the input by itself',
            param="truncation",
        )


def _check_reasoning(reasoning: _Reasoning) -> None:
    # The readable reasoning is given whole; that is as good as "auto" and "detailed", and not concise.
    for name in ("summary", "generate_summary"):
        if getattr(reasoning, name) == "concise":
            raise Untranslatable(
                f'reasoning.{name} cannot be "concise": the upstream of this model does not summarise',
                param=f"reasoning.{name}",
            )
    if reasoning.context not in {None, "auto"}:
        raise no_equivalent("reasoning.context")
    if reasoning.mode not in {None, "standard"}:
        raise no_equivalent("reasoning.mode")


def _logprobs(wanted: _Body) -> bool | None:
    asked = False
    for index, name in enumerate(wanted.include or ()):
        if name not in _INCLUDABLE:
            raise Untranslatable(f'nothing is known of "{name}" to include', param=f"include[{index}]")
        asked |= name == "message.output_text.logprobs"
    if not asked and not wanted.top_logprobs:
        return None
    if wanted.stream:
        raise Untranslatable(
            "logprobs cannot be streamed by the upstream of this model; ask for the answer as a whole",
            param="include" if asked else "top_logprobs",
        )
    return True


def _user(wanted: _Body) -> str:
    # `safety_identifier` is the newer name for what `user` was used for.
    if wanted.user and wanted.safety_identifier and wanted.user != wanted.safety_identifier:
        raise Untranslatable(
            "user and safety_identifier differ, and the upstream of this model knows only one of them",
            param="safety_identifier",
        )
    return wanted.user or wanted.safety_identifier or ""


def _output_format(wanted: _Format | None) -> OutputFormat | None:
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return OutputFormat(kind="json_object")
    if wanted.type != "json_schema":
        raise Untranslatable(f'nothing is known of the text format "{wanted.type}"', param="text.format.type")
    if wanted.schema is None or not wanted.name:
        missing = "schema" if wanted.name else "name"
        raise BadRequest(
            f"text.format must have {missing}", param=f"text.format.{missing}", code="missing_parameter"
        )
    return OutputFormat(
        kind="json_schema",
        schema=wanted.schema,
        name=wanted.name,
        description=wanted.description or "",
        strict=wanted.strict,
    )


# ---- input -----------------------------------------------------------------------------------------


class _Message(Strict):
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[Object]
    type: str | None = None
    id: str | None = None
    status: Status | None = None
    phase: str | None = None


class _Call(Strict, rename={"async_": "async"}):
    """What calls of functions and of custom tools have in common."""

    type: str
    name: str
    call_id: str
    id: str | None = None
    status: Status | None = None
    namespace: str | None = None
    caller: Object | None = None
    async_: bool | None = None


class _FunctionCall(_Call, kw_only=True):
    arguments: str


class _CustomToolCall(_Call, kw_only=True):
    input: str


class _FunctionCallOutput(Strict):
    type: str
    call_id: str
    output: str | list[Object]
    id: str | None = None
    status: Status | None = None
    name: str | None = None  # said by call_id as well
    namespace: str | None = None  # so is this
    caller: Object | None = None


class _Readable(Strict):
    type: str
    text: str


class _ReasoningItem(Strict):
    type: str
    id: str | None = None
    summary: list[_Readable] | None = None
    content: list[_Readable] | None = None
    encrypted_content: str | None = None
    status: Status | None = None


def _turns(instructions: str | None, given: str | list[Object]) -> tuple[Turn, ...]:
    turns = _Turns()
    if instructions:
        # "system" and not "developer": every upstream knows it.
        turns.message("system", (Text(instructions),))
    if isinstance(given, str):
        turns.message("user", (Text(given),))
        return turns.whole()
    for index, item in enumerate(given):
        _add_item(turns, item, f"input[{index}]")
    return turns.whole()


def _add_item(turns: _Turns, item: Object, where: str) -> None:
    kind = item.get("type")
    if kind == "message" or (kind is None and "role" in item):
        message = converted(_Message, item, where)
        if message.phase not in {None, "final_answer"}:
            raise no_equivalent(f"{where}.phase")
        turns.message(message.role, _content(message, where))
    elif kind == "function_call":
        call = converted(_FunctionCall, item, where)
        _add_call(turns, call, call.arguments, where)
    elif kind == "custom_tool_call":
        custom = converted(_CustomToolCall, item, where)
        _add_call(turns, custom, custom_tools.arguments_of(custom.input), where)
    elif kind in ("function_call_output", "custom_tool_call_output"):
        output = converted(_FunctionCallOutput, item, where)
        _refuse_callers(output, where)
        turns.result(ToolResult(output.call_id, _result_parts(output.output, f"{where}.output")))
    elif kind == "reasoning":
        _add_reasoning(turns, converted(_ReasoningItem, item, where), where)
    elif kind == "item_reference" or (kind is None and set(item) == {"id"}):
        raise Untranslatable(
            f"{where} refers to an item that is not kept here, and the upstream of this model keeps none; send "
            "the item itself",
            param=where,
        )
    elif kind is None:
        raise BadRequest(f"{where} has neither type nor role", param=where, code="missing_parameter")
    else:
        raise Untranslatable(
            f"{where}: the upstream of this model knows no {kind} items", param=f"{where}.type"
        )


def _add_call(turns: _Turns, call: _Call, arguments: str, where: str) -> None:
    _refuse_callers(call, where)
    if call.async_:
        raise no_equivalent(f"{where}.async")
    turns.said(ToolCall(call.call_id, flat_name(call.namespace, call.name), arguments))


def _refuse_callers(item: _Call | _FunctionCallOutput, where: str) -> None:
    if item.caller not in (None, {"type": "direct"}):
        raise no_equivalent(f"{where}.caller")


def _add_reasoning(turns: _Turns, item: _ReasoningItem, where: str) -> None:
    if item.encrypted_content:
        turns.said(unseal(item.encrypted_content, f"{where}.encrypted_content"))
    elif item.content:  # a summary beside it says the same in fewer words
        turns.said(Thinking("".join(part.text for part in item.content)))
    elif item.summary:
        turns.said(Thinking("\n\n".join(part.text for part in item.summary)))
    else:
        raise Untranslatable(
            f"{where} holds no reasoning, and the upstream of this model recalls none by its id",
            param=f"{where}.encrypted_content",
        )


class _Turns:
    """Items put together into turns.

    What an assistant said between two turns of others is one turn in the other dialects: a chat
    completion's calls must stand in one message, and so must Anthropic's thinking and the call that it
    led to.  Only messages that follow one another with nothing between them stay apart.
    """

    __slots__ = ("_has_more", "_is_results", "_open", "_role", "_turns")

    def __init__(self) -> None:
        self._turns: list[Turn] = []
        self._role: Literal["system", "developer", "user", "assistant"] = "user"
        self._open: list[Part] = []
        self._is_results = True  # no open part is anything else than the result of a call
        self._has_more = False  # an open part is more than words

    def __repr__(self) -> str:
        return f"<_Turns {len(self._turns)} and {len(self._open)} parts of {self._role}>"

    def message(
        self, role: Literal["system", "developer", "user", "assistant"], parts: tuple[Part, ...]
    ) -> None:
        if not (role == "assistant" == self._role and self._has_more):
            self._close()
        self._role = role
        for part in parts:
            self._add(part)

    def said(self, part: Part) -> None:
        if self._role != "assistant":
            self._close()
            self._role = "assistant"
        self._add(part)

    def result(self, result: ToolResult) -> None:
        if self._role != "user" or not self._is_results:
            self._close()
            self._role = "user"
        self._add(result)

    def _add(self, part: Part) -> None:
        self._open.append(part)
        self._is_results = self._is_results and isinstance(part, ToolResult)
        self._has_more = self._has_more or not isinstance(part, Text | Refusal)

    def whole(self) -> tuple[Turn, ...]:
        self._close()
        return tuple(self._turns)

    def _close(self) -> None:
        if self._open:
            self._turns.append(Turn(self._role, tuple(self._open)))
            self._open.clear()
            self._is_results, self._has_more = True, False


# ---- content ---------------------------------------------------------------------------------------


class _Breakpoint(Strict):
    mode: Literal["explicit"]
    ttl: str | None = None


class _InputText(Strict):
    type: str
    text: str
    prompt_cache_breakpoint: _Breakpoint | None = None


class _InputImage(Strict):
    type: str
    image_url: str | None = None
    file_id: str | None = None
    detail: str | None = None
    prompt_cache_breakpoint: _Breakpoint | None = None


class _InputFile(Strict):
    type: str
    file_data: str | None = None
    file_url: str | None = None
    file_id: str | None = None
    filename: str | None = None
    detail: str | None = None
    prompt_cache_breakpoint: _Breakpoint | None = None


class _AudioData(Strict):
    data: str
    format: str


class _InputAudio(Strict):
    type: str
    input_audio: _AudioData


class _OutputText(Strict):
    type: str
    text: str
    annotations: JSON = None
    logprobs: JSON = None


class _OutputRefusal(Strict):
    type: str
    refusal: str


def _content(message: _Message, where: str) -> tuple[Part, ...]:
    if isinstance(message.content, str):
        return (Text(message.content),)
    return tuple(
        _message_part(part, message.role, f"{where}.content[{index}]")
        for index, part in enumerate(message.content)
    )


def _message_part(part: Object, role: str, where: str) -> Part:
    kind = part.get("type")
    if role == "assistant":
        if kind == "output_text":
            return Text(converted(_OutputText, part, where).text)
        if kind == "refusal":
            return Refusal(converted(_OutputRefusal, part, where).refusal)
    elif kind == "input_audio":
        audio = converted(_InputAudio, part, where).input_audio
        return Audio(audio.data, audio.format)
    return _input_part(part, where)


def _result_parts(output: str | list[Object], where: str) -> tuple[Text | Image | Document, ...]:
    if isinstance(output, str):
        return (Text(output),)
    return tuple(_input_part(part, f"{where}[{index}]") for index, part in enumerate(output))


def _input_part(part: Object, where: str) -> Text | Image | Document:
    kind = part.get("type")
    if kind == "input_text":
        text = converted(_InputText, part, where)
        return Text(text.text, cache=_cache(text.prompt_cache_breakpoint))
    if kind == "input_image":
        return _image(converted(_InputImage, part, where), where)
    if kind == "input_file":
        return _document(converted(_InputFile, part, where), where)
    if kind is None:
        raise BadRequest(f"{where} must have a type", param=f"{where}.type", code="missing_parameter")
    raise Untranslatable(f"{where} cannot be a {kind}", param=f"{where}.type")


def _image(image: _InputImage, where: str) -> Image:
    if image.file_id is not None:
        raise Untranslatable(
            f"{where} names an uploaded file, which the upstream of this model does not have;"
            " send the image as a data: URL",
            param=f"{where}.file_id",
        )
    if not image.image_url:
        raise BadRequest(f"{where} must have image_url", param=f"{where}.image_url", code="missing_parameter")
    detail = "" if image.detail in {None, "auto"} else image.detail or ""
    cache = _cache(image.prompt_cache_breakpoint)
    if image.image_url.startswith("data:"):
        media_type, data = _data_url(image.image_url, f"{where}.image_url")
        return Image(data=data, media_type=media_type, detail=detail, cache=cache)
    return Image(url=image.image_url, detail=detail, cache=cache)


def _document(file: _InputFile, where: str) -> Document:
    if file.detail not in {None, "auto"}:
        raise no_equivalent(f"{where}.detail")
    sources = [name for name in ("file_data", "file_url", "file_id") if getattr(file, name)]
    if len(sources) != 1:
        raise BadRequest(f"{where} must have one of file_data, file_url and file_id", param=where)
    name = file.filename or ""
    media_type, data = "", file.file_data or ""
    if data.startswith("data:"):
        media_type, data = _data_url(data, f"{where}.file_data")
    elif data and name.lower().endswith(".pdf"):
        media_type = "application/pdf"
    return Document(
        media_type=media_type,
        data=data,
        url=file.file_url or "",
        file_id=file.file_id or "",
        name=name,
        cache=_cache(file.prompt_cache_breakpoint),
    )


def _cache(breakpoint_: _Breakpoint | None) -> JSON:
    return None if breakpoint_ is None else {"type": "ephemeral"}


def _data_url(url: str, where: str) -> tuple[str, str]:
    head, comma, data = url.partition(",")
    media_type, semicolon, coding = head[len("data:") :].rpartition(";")
    if not comma or not semicolon or coding != "base64":
        raise BadRequest(f"{where} must be data:<media type>;base64,<data>", param=where)
    return media_type, data
