"""The neutral form: what a call or an answer means, whichever API it was written for.

Built only where the caller's dialect is not the upstream's; otherwise bytes pass through.  A decoder
that meets something which the neutral form cannot hold raises ``Untranslatable``; an encoder that meets
something which its API cannot say raises it too.  Nothing is dropped silently.

Order is kept: ``turns`` alternate as the caller wrote them, parts stand in their order, and the events
of a streamed answer come as
``Started (PartStarted PartDelta* PartEnded)* Finished`` with parts strictly one after another, which is
what the accumulators of all SDKs can follow.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from penstock.messages import JSON, Usage

# ---- parts -----------------------------------------------------------------------------------------


class Text(msgspec.Struct, frozen=True):
    text: str
    cache: JSON | None = None  # Anthropic's cache_control on this part
    citations: tuple[JSON, ...] = ()


class Image(msgspec.Struct, frozen=True):
    """Exactly one of ``url`` and ``data`` (base64, with ``media_type``)."""

    url: str = ""
    data: str = ""
    media_type: str = ""
    detail: str = ""  # OpenAI: low, high, auto
    cache: JSON | None = None


class Document(msgspec.Struct, frozen=True):
    """A file in the prompt: base64 ``data``, plain ``text``, a ``url``, or a provider's ``file_id``."""

    media_type: str = ""
    data: str = ""
    text: str = ""
    url: str = ""
    file_id: str = ""
    name: str = ""
    context: str = ""
    cited: bool = False
    cache: JSON | None = None


class Audio(msgspec.Struct, frozen=True):
    data: str
    format: str


class Thinking(msgspec.Struct, frozen=True):
    """Reasoning that the model shows; ``signature`` proves its origin, ``redacted`` holds it encrypted."""

    text: str = ""
    signature: str = ""
    redacted: str = ""


class ToolCall(msgspec.Struct, frozen=True):
    id: str
    name: str
    arguments: str  # JSON text, as the model wrote it; of a custom tool its input
    cache: JSON | None = None
    custom: bool = False  # for callers alone: upstreams know functions (``wire.custom_tools``)


class ToolResult(msgspec.Struct, frozen=True):
    call_id: str
    parts: tuple[Text | Image | Document, ...]
    failed: bool = False
    cache: JSON | None = None


class Refusal(msgspec.Struct, frozen=True):
    text: str


Part: TypeAlias = Text | Image | Document | Audio | Thinking | ToolCall | ToolResult | Refusal


class Turn(msgspec.Struct, frozen=True):
    """``system`` turns may stand anywhere in OpenAI's form, only in front in Anthropic's."""

    role: Literal["system", "developer", "user", "assistant"]
    parts: tuple[Part, ...]
    name: str = ""


# ---- request ---------------------------------------------------------------------------------------


class Tool(msgspec.Struct, frozen=True):
    name: str
    parameters: JSON  # JSON Schema
    description: str = ""
    strict: bool | None = None
    cache: JSON | None = None


class ToolChoice(msgspec.Struct, frozen=True):
    mode: Literal["auto", "none", "any", "tool"]
    name: str = ""  # with mode "tool"


class OutputFormat(msgspec.Struct, frozen=True):
    """``json_object``: any JSON; ``json_schema``: JSON that ``schema`` admits."""

    kind: Literal["json_object", "json_schema"]
    schema: JSON | None = None
    name: str = ""
    description: str = ""
    strict: bool | None = None


class Prompt(msgspec.Struct, frozen=True, kw_only=True):
    """A call for one answer of a chat model."""

    model: str
    turns: tuple[Turn, ...]
    stream: bool = False
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    output: OutputFormat | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: JSON | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    count: int = 1  # OpenAI's n
    effort: str = ""  # "none", "minimal", "low", "medium", "high", "xhigh", "max"; "": unsaid
    thinking_tokens: int | None = None  # a budget for thinking; 0: thinking is switched off
    thinking_adaptive: bool = False  # Anthropic's thinking: {"type": "adaptive"}
    user: str = ""
    service_tier: str = ""
    verbosity: str = ""
    prompt_cache_key: str = ""
    metadata: JSON | None = None  # OpenAI's metadata object (Anthropic's only member is `user`)
    include_usage: bool = False
    converse: JSON | None = None  # members of Bedrock's Converse that callers may give, see `wire.own`


# ---- answer ----------------------------------------------------------------------------------------

StopReason: TypeAlias = Literal[
    "stop",  # the model was done
    "stop_sequence",  # with `stop_sequence` of the answer
    "length",
    "tool_calls",
    "content_filter",
    "refusal",
    "pause",  # Anthropic's pause_turn
    "context_length",  # Anthropic's model_context_window_exceeded
]


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    model: str
    parts: tuple[Part, ...]
    stop: StopReason
    usage: Usage
    stop_sequence: str = ""
    created: int = 0  # Unix time; 0: unknown
    logprobs: JSON | None = None


# ---- streamed answer -------------------------------------------------------------------------------


class Started(msgspec.Struct, frozen=True):
    id: str
    model: str
    created: int = 0
    usage: Usage | None = None  # Anthropic tells the prompt's tokens here


class PartStarted(msgspec.Struct, frozen=True):
    """A part begins; ``part`` holds what is known of it: a ToolCall has id and name, no arguments yet."""

    part: Text | Thinking | ToolCall | Refusal


class PartDelta(msgspec.Struct, frozen=True):
    """More text, thinking, refusal or JSON arguments of the part that is open."""

    text: str = ""
    signature: str = ""  # Thinking only
    citation: JSON | None = None  # Text only


class PartEnded(msgspec.Struct, frozen=True):
    pass


class Finished(msgspec.Struct, frozen=True):
    stop: StopReason
    usage: Usage
    stop_sequence: str = ""


AnswerEvent: TypeAlias = Started | PartStarted | PartDelta | PartEnded | Finished
