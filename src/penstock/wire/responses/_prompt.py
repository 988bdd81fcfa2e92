"""A request for a response, in neutral form.

What the neutral form has no place for is refused by name, at any depth; the exceptions, none of which
can change the answer, stand with their reasons in :data:`LEFT_OUT`.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from penstock.errors import BadRequest, Untranslatable
from penstock.messages import JSON
from penstock.wire import own
from penstock.wire.conversation import (
    OutputFormat,
    Prompt,
)
from penstock.wire.not_json import NOT_JSON
from penstock.wire.responses._strict import Object, Strict, no_equivalent, refusal
from penstock.wire.responses._tools import tools_of
from penstock.wire.responses._turns import turns_of

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
        turns=turns_of(wanted.instructions, wanted.input),
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
