"""The response object and the items of its output: what a plain answer and a stream have in common.

An answer's parts become items: texts and refusals that follow one another are the content of one
message, each tool call and each block of reasoning is an item of its own.
"""

from __future__ import annotations

import re
from typing import Any, Final, Literal, TypeAlias

import msgspec

from penstock.messages import JSON, Usage
from penstock.wire.conversation import Refusal, StopReason, Text, Thinking, ToolCall
from penstock.wire.responses._events import COMPLETED, INCOMPLETE
from penstock.wire.responses._reasoning import seal
from penstock.wire.responses._settings import NULL, Settings

ItemStatus: TypeAlias = Literal["in_progress", "completed", "incomplete"]


# ---- items -----------------------------------------------------------------------------------------


class OutputText(msgspec.Struct, frozen=True, tag="output_text"):
    text: str = ""
    annotations: tuple[JSON, ...] = ()
    logprobs: tuple[JSON, ...] = ()


class OutputRefusal(msgspec.Struct, frozen=True, tag="refusal"):
    refusal: str = ""


class SummaryText(msgspec.Struct, frozen=True, tag="summary_text"):
    text: str = ""


class ReasoningText(msgspec.Struct, frozen=True, tag="reasoning_text"):
    text: str = ""


Content: TypeAlias = OutputText | OutputRefusal


class Message(msgspec.Struct, frozen=True, tag="message"):
    id: str
    status: ItemStatus
    content: tuple[Content, ...] = ()
    role: str = "assistant"


class FunctionCall(msgspec.Struct, frozen=True, tag="function_call"):
    id: str
    status: ItemStatus
    call_id: str
    name: str
    arguments: str = ""
    namespace: str | msgspec.UnsetType = msgspec.UNSET


class CustomToolCall(msgspec.Struct, frozen=True, tag="custom_tool_call"):
    id: str
    status: ItemStatus
    call_id: str
    name: str
    input: str = ""
    namespace: str | msgspec.UnsetType = msgspec.UNSET


class Reasoning(msgspec.Struct, frozen=True, tag="reasoning"):
    id: str
    status: ItemStatus
    summary: tuple[SummaryText, ...] = ()
    content: tuple[ReasoningText, ...] | msgspec.UnsetType = msgspec.UNSET
    encrypted_content: str | None = None


Item: TypeAlias = Message | FunctionCall | CustomToolCall | Reasoning

_PREFIX: Final = {Message: "msg", FunctionCall: "fc", CustomToolCall: "ctc", Reasoning: "rs"}
_UPSTREAM_PREFIX: Final = re.compile(r"^(resp_|chatcmpl-|msg_|gen_)")
_NOT_IN_AN_ID: Final = re.compile(r"[^0-9A-Za-z_-]")


def core(upstream_id: str) -> str:
    """What all ids of one answer share, made of the upstream's id; the same answer has the same ids."""
    return _NOT_IN_AN_ID.sub("", _UPSTREAM_PREFIX.sub("", upstream_id)) or "0"


def item_id(kind: type[Item], answer: str, index: int) -> str:
    return f"{_PREFIX[kind]}_{answer}_{index}"


def content_of(
    part: Text | Refusal, text: str, citations: tuple[JSON, ...], logprobs: tuple[JSON, ...]
) -> Content:
    if isinstance(part, Refusal):
        return OutputRefusal(text)
    return OutputText(text, tuple(annotation(citation, text) for citation in citations), logprobs)


NO_ARGUMENTS: Final = "{}"
"""A model that calls a tool without arguments may write nothing, but clients parse what it wrote."""


def kind_of(call: ToolCall) -> type[FunctionCall | CustomToolCall]:
    return CustomToolCall if call.custom else FunctionCall


def call_of(
    call: ToolCall, arguments: str, id_: str, status: ItemStatus, settings: Settings
) -> FunctionCall | CustomToolCall:
    """``settings``: of the request, which says whether the tool stands in a namespace."""
    kind = kind_of(call)
    if (found := settings.namespaces.get(call.name)) is not None:
        return kind(id_, status, call.id, found[1], arguments, found[0])
    return kind(id_, status, call.id, call.name, arguments)


def reasoning_of(thinking: Thinking, id_: str, status: ItemStatus, *, as_summary: bool) -> Reasoning:
    """``as_summary``: where clients look for the readable text depends on what they asked for."""
    sealed = seal(thinking)
    if not thinking.text:
        return Reasoning(id_, status, encrypted_content=sealed)
    if as_summary:
        return Reasoning(id_, status, summary=(SummaryText(thinking.text),), encrypted_content=sealed)
    return Reasoning(id_, status, content=(ReasoningText(thinking.text),), encrypted_content=sealed)


def annotation(citation: JSON, text: str) -> JSON:
    """A citation of another dialect as an annotation; what this API has no member for stays beside it.

    Chat completions wrap the same members once more; Anthropic's name a document, or a URL without
    saying where in the text: there the whole part is what the citation supports.
    """
    if not isinstance(citation, dict):
        return citation
    kind = citation.get("type")
    if isinstance(inner := citation.get("url_citation"), dict):
        return {"type": "url_citation", **inner}
    if isinstance(kind, str) and kind.endswith("_location"):
        return _from_location(citation, text)
    return citation


def _from_location(citation: dict[str, Any], text: str) -> JSON:
    url = citation.get("url") or citation.get("source")
    if url is not None:
        return {
            **citation,
            "type": "url_citation",
            "url": url,
            "title": citation.get("title") or "",
            "start_index": 0,
            "end_index": len(text),
        }
    return {
        **citation,
        "type": "file_citation",
        "file_id": citation.get("file_id") or "",
        "filename": citation.get("document_title") or "",
        "index": citation.get("document_index") or 0,
    }


# ---- the end ---------------------------------------------------------------------------------------


class Ending(msgspec.Struct, frozen=True):
    """How a response ended: the stream's last event, the object's status, and why it is incomplete."""

    event: str
    status: Literal["completed", "incomplete"]
    reason: str | None = None


_WHOLE: Final = Ending(COMPLETED, "completed")
_TOO_LONG: Final = Ending(INCOMPLETE, "incomplete", "max_output_tokens")
_FILTERED: Final = Ending(INCOMPLETE, "incomplete", "content_filter")
_PAUSED: Final = Ending(INCOMPLETE, "incomplete")


def ending(stop: StopReason, *, refusal_given: bool) -> Ending:
    """A text that was cut is never a completed response.

    ``refusal`` is a completed response if the model has put its refusal into words (``refusal_given``);
    Anthropic's classifiers cut the answer instead.
    """
    if stop in {"length", "context_length"}:
        return _TOO_LONG
    if stop == "content_filter" or (stop == "refusal" and not refusal_given):
        return _FILTERED
    if stop == "pause":
        return _PAUSED
    return _WHOLE


# ---- the object ------------------------------------------------------------------------------------


class IncompleteDetails(msgspec.Struct, frozen=True):
    reason: str | None


class ResponseError(msgspec.Struct, frozen=True):
    code: str
    message: str


class InputTokensDetails(msgspec.Struct, frozen=True):
    cached_tokens: int
    cache_write_tokens: int


class OutputTokensDetails(msgspec.Struct, frozen=True):
    reasoning_tokens: int


class ResponseUsage(msgspec.Struct, frozen=True):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


def usage_of(usage: Usage) -> ResponseUsage:
    return ResponseUsage(
        input_tokens=usage.input_tokens,
        input_tokens_details=InputTokensDetails(usage.cached_input_tokens, usage.cache_write_tokens),
        output_tokens=usage.output_tokens,
        output_tokens_details=OutputTokensDetails(usage.reasoning_tokens),
        total_tokens=usage.input_tokens + usage.output_tokens,
    )


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """The object as OpenAI writes it, member for member.

    ``service_tier`` is null: which tier answered is not known here.
    """

    id: str
    object: str = "response"
    created_at: int
    status: Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
    background: bool = False
    error: ResponseError | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: msgspec.Raw
    max_output_tokens: msgspec.Raw
    max_tool_calls: msgspec.Raw
    model: str
    output: tuple[Item, ...] = ()
    parallel_tool_calls: msgspec.Raw
    previous_response_id: None = None
    prompt_cache_key: msgspec.Raw
    reasoning: msgspec.Raw
    safety_identifier: msgspec.Raw
    service_tier: None = None
    store: bool = False
    temperature: msgspec.Raw
    text: msgspec.Raw
    tool_choice: msgspec.Raw
    tools: msgspec.Raw
    top_logprobs: msgspec.Raw
    top_p: msgspec.Raw
    truncation: str = "disabled"
    usage: ResponseUsage | None = None
    user: msgspec.Raw = NULL
    metadata: msgspec.Raw


def opened(settings: Settings, answer: str, model: str, created: int) -> Response:
    """The object of a response that has just begun; ``msgspec.structs.replace`` makes the later ones."""
    return Response(
        id=f"resp_{answer}",
        created_at=created,
        status="in_progress",
        instructions=settings.instructions,
        max_output_tokens=settings.max_output_tokens,
        max_tool_calls=settings.max_tool_calls,
        model=model or settings.model,
        parallel_tool_calls=settings.parallel_tool_calls,
        prompt_cache_key=settings.prompt_cache_key,
        reasoning=settings.reasoning,
        safety_identifier=settings.safety_identifier,
        temperature=settings.temperature,
        text=settings.text,
        tool_choice=settings.tool_choice,
        tools=settings.tools,
        top_logprobs=settings.top_logprobs,
        top_p=settings.top_p,
        user=settings.user,
        metadata=settings.metadata,
    )


def closed(response: Response, ending_: Ending, output: tuple[Item, ...], usage: Usage) -> Response:
    return msgspec.structs.replace(
        response,
        status=ending_.status,
        incomplete_details=IncompleteDetails(ending_.reason) if ending_.status == "incomplete" else None,
        output=output,
        usage=usage_of(usage),
    )
