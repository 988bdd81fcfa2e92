"""A prompt as a request to Converse."""

from __future__ import annotations

import base64
import re

from penstock.errors import Untranslatable
from penstock.messages import JSON
from penstock.wire import members, speakers, thinking
from penstock.wire.anthropic.write_prompt import SYSTEM_MARK, arguments_of
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
    ToolResult,
    Turn,
)
from penstock.wire.converse.model import effort_of, is_anthropics, keeps_prompts, top_k_of

_IMAGES = {
    "image/jpeg": "jpeg",
    "image/jpg": "jpeg",
    "image/png": "png",
    "image/gif": "gif",
    "image/webp": "webp",
}
_DOCUMENTS = {
    "application/pdf": "pdf",
    "text/csv": "csv",
    "application/msword": "doc",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.ms-excel": "xls",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
    "text/html": "html",
    "text/plain": "txt",
    "text/markdown": "md",
}
_ENDINGS = {"jpg": "jpeg", **{kind: kind for kind in (*_IMAGES.values(), *_DOCUMENTS.values())}}
# What the name of a document may hold, and that there is no more than one space in a row.
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9\s()\[\]-]+")
_SPACES = re.compile(r"\s+")
_LONGEST_NAME = 200
_TIERS = frozenset({"default", "flex", "priority"})


def encode_prompt(prompt: Prompt) -> bytes:
    """The body of a request to Converse that asks for the same; the model and whether to stream stand in the path.

    :raises Untranslatable: the prompt has something that Converse has no word for
    """
    _refuse(prompt)
    turns = speakers.in_words(prompt.turns)
    front = 0
    while front < len(turns) and turns[front].role in ("system", "developer"):
        front += 1
    writer = _Writer(keeps_prompts(prompt.model))
    body: dict[str, JSON] = {}
    if system := [block for turn in turns[:front] for block in writer.texts(turn)]:
        body["system"] = system
    body["messages"] = writer.messages(turns[front:])
    if (tools := writer.tools(prompt)) is not None:
        body["toolConfig"] = tools
    inference = {
        "maxTokens": prompt.max_output_tokens,
        "temperature": prompt.temperature,
        "topP": prompt.top_p,
        "stopSequences": list(prompt.stop) or None,
    }
    inference = {name: value for name, value in inference.items() if value is not None}
    if inference:
        body["inferenceConfig"] = inference
    if prompt.output is not None:
        body["outputConfig"] = {"textFormat": _format(prompt.output)}
    if prompt.service_tier in _TIERS:
        body["serviceTier"] = {"type": prompt.service_tier}
    own = dict(prompt.converse or {})
    if further := _further(prompt):
        given = own.get("additionalModelRequestFields")
        own["additionalModelRequestFields"] = {**further, **(given if isinstance(given, dict) else {})}
    return members.encode(body | own)


def _refuse(prompt: Prompt) -> None:
    """What changes the answer, and has no counterpart."""
    for name, present in (
        ("n", prompt.count != 1),
        ("seed", prompt.seed is not None),
        ("frequency_penalty", bool(prompt.frequency_penalty)),
        ("presence_penalty", bool(prompt.presence_penalty)),
        ("logit_bias", bool(prompt.logit_bias)),
        ("logprobs", bool(prompt.logprobs)),
        ("top_logprobs", bool(prompt.top_logprobs)),
        ("verbosity", prompt.verbosity not in ("", "medium")),
        ("service_tier", prompt.service_tier not in ("", "auto", *_TIERS)),
        ("parallel_tool_calls", prompt.parallel_tool_calls is False),
    ):
        if present:
            raise Untranslatable(f"{name} cannot be translated: Converse does not have it", param=name)
    for name, value in (("temperature", prompt.temperature), ("top_p", prompt.top_p)):
        if value is not None and value > 1:
            raise Untranslatable(f"{name} cannot be translated: Converse's ends at 1", param=name)


def _further(prompt: Prompt) -> dict[str, JSON]:
    """``additionalModelRequestFields``: what Converse itself has no name for, and the model has.

    :raises Untranslatable: nobody knows how this model wants it
    """
    found: dict[str, JSON] = {}
    model = prompt.model
    if prompt.top_k is not None:
        said = top_k_of(model, prompt.top_k)
        if said is None:
            raise _unnamed("top_k", "top_k")
        found |= said
    if is_anthropics(model):
        return found | _claudes_thinking(prompt)
    if prompt.thinking_tokens == 0:
        return found
    effort = prompt.effort
    if not effort and prompt.thinking_tokens is not None:
        effort = thinking.effort_of(prompt.thinking_tokens)
    if not effort and prompt.thinking_adaptive:
        effort = "medium"
    if effort and effort != "none":
        said = effort_of(model, "low" if effort == "minimal" else effort)
        if said is None:
            raise _unnamed("how much the model shall think", "reasoning_effort")
        found |= said
    return found


def _claudes_thinking(prompt: Prompt) -> dict[str, JSON]:
    budget, effort, adaptive = prompt.thinking_tokens, prompt.effort, prompt.thinking_adaptive
    if effort == "none":
        budget, effort = 0, ""
    elif (effort or adaptive) and budget is None and thinking.takes_budget(prompt.model):
        words = "low" if effort == "minimal" else effort or "medium"
        budget = thinking.budget_of(words, prompt.max_output_tokens)
        adaptive, effort = False, ""
    elif effort:
        adaptive = True
    found: dict[str, JSON] = {}
    if (said := thinking.write(budget, adaptive=adaptive)) is not None:
        found["thinking"] = said
    if effort:
        found["output_config"] = {"effort": "low" if effort == "minimal" else effort}
    return found


def _unnamed(what: str, param: str) -> Untranslatable:
    return Untranslatable(
        f"{what} cannot be translated: Converse has no name for it, and of this model none is known; "
        "additionalModelRequestFields takes what the model's own API has",
        param=param,
    )


def _format(output: OutputFormat) -> JSON:
    if output.kind != "json_schema" or output.schema is None:
        raise Untranslatable(
            "response_format cannot be translated: Converse writes JSON by a schema only",
            param="response_format",
        )
    described: dict[str, JSON] = {"schema": members.encode(output.schema).decode()}
    if output.name:
        described["name"] = output.name
    if output.description:
        described["description"] = output.description
    return {"type": "json_schema", "structure": {"jsonSchema": described}}


class _Writer:
    """Writes the parts of one prompt.

    :param marks: whether the model takes marks for its prompt cache
    """

    def __init__(self, marks: bool) -> None:
        self._marks = marks
        self._names: dict[str, int] = {}  # of documents, and how many have had them

    def messages(self, turns: tuple[Turn, ...]) -> list[JSON]:
        """Turns of one role that follow each other become one: roles must alternate."""
        messages: list[tuple[str, list[JSON]]] = []
        for turn in turns:
            if turn.role in ("system", "developer"):
                before, after = SYSTEM_MARK
                words = "\n".join(block["text"] for block in self.texts(turn) if "text" in block)
                role, blocks = "user", [{"text": f"{before}{words}{after}"}]
            else:
                role, blocks = turn.role, [block for part in turn.parts for block in self._part(part)]
                if not blocks and role == "assistant":
                    continue  # it said nothing, and nobody takes an empty message
            if messages and messages[-1][0] == role:
                messages[-1][1].extend(blocks)
            else:
                messages.append((role, blocks))
        return [{"role": role, "content": blocks} for role, blocks in messages]

    def texts(self, turn: Turn) -> list[JSON]:
        """The blocks of a system message."""
        blocks: list[JSON] = []
        for part in turn.parts:
            if not isinstance(part, Text):
                raise Untranslatable("a system message can only have text", param="messages")
            blocks += self._part(part)
        return blocks

    def tools(self, prompt: Prompt) -> JSON | None:
        choice = prompt.tool_choice
        if not prompt.tools:
            return None
        if choice is not None and choice.mode == "none":
            if any(isinstance(part, ToolCall | ToolResult) for turn in prompt.turns for part in turn.parts):
                raise Untranslatable(
                    "tool_choice none cannot be translated: Converse does not have it, and a conversation in "
                    "which tools were called must name them",
                    param="tool_choice",
                )
            return None  # a tool that the model does not know of is not called
        written: dict[str, JSON] = {"tools": [block for tool in prompt.tools for block in self._tool(tool)]}
        if choice is not None:
            written["toolChoice"] = {choice.mode: {"name": choice.name} if choice.mode == "tool" else {}}
        return written

    def _tool(self, tool: Tool) -> list[JSON]:
        described: dict[str, JSON] = {"name": tool.name}
        if tool.description:
            described["description"] = tool.description
        parameters = tool.parameters or {"type": "object", "properties": {}}
        if isinstance(parameters, dict) and "type" not in parameters:
            parameters = {"type": "object", **parameters}
        described["inputSchema"] = {"json": parameters}
        if tool.strict:
            described["strict"] = True
        return self._marked({"toolSpec": described}, tool.cache)

    def _part(self, part: Part) -> list[JSON]:
        """The blocks that a part becomes; none, if it says nothing."""
        if isinstance(part, Text | Refusal):
            return self._marked({"text": part.text}, getattr(part, "cache", None)) if part.text else []
        if isinstance(part, Image):
            return self._marked({"image": _image(part)}, part.cache)
        if isinstance(part, Document):
            return self._marked({"document": self._document(part)}, part.cache)
        if isinstance(part, ToolCall):
            call = {"toolUseId": part.id, "name": part.name, "input": arguments_of(part)}
            return self._marked({"toolUse": call}, part.cache)
        if isinstance(part, ToolResult):
            # A mark within a result is set behind it: there is no other place.
            content = [block for inner in part.parts for block in self._part(inner)]
            kept = [block for block in content if "cachePoint" not in block]
            written: dict[str, JSON] = {"toolUseId": part.call_id, "content": kept}
            if part.failed:
                written["status"] = "error"
            marks = [block for block in content if "cachePoint" in block][-1:]
            return self._marked({"toolResult": written}, part.cache) + (marks if part.cache is None else [])
        if isinstance(part, Thinking):
            if part.redacted:
                return [{"reasoningContent": {"redactedContent": part.redacted}}]
            thought = {"text": part.text, "signature": part.signature}
            return [{"reasoningContent": {"reasoningText": thought}}] if part.signature else []
        assert isinstance(part, Audio)
        return [{"audio": {"format": part.format, "source": {"bytes": part.data}}}]

    def _marked(self, block: JSON, cache: JSON | None) -> list[JSON]:
        if cache is None or not self._marks:
            return [block]
        point: dict[str, JSON] = {"type": "default"}
        if isinstance(cache, dict) and (lifetime := cache.get("ttl")):
            point["ttl"] = lifetime
        return [block, {"cachePoint": point}]

    def _document(self, document: Document) -> JSON:
        if document.cited:
            raise Untranslatable(
                "citations cannot be translated: Converse tells them in another form", param="citations"
            )
        if document.file_id:
            raise Untranslatable(
                "a file id cannot be translated: it is known to the provider that gave it", param="messages"
            )
        if document.url:
            kind, source = _stored(document.url, "a document")
        elif document.text:
            kind = "txt"
            source = {"bytes": base64.b64encode(document.text.encode()).decode()}
        else:
            kind = _DOCUMENTS.get(document.media_type, "")
            if not kind:
                raise Untranslatable(
                    f"files of type {document.media_type or 'unknown'} cannot be translated: Converse takes "
                    f"{', '.join(_DOCUMENTS.values())}",
                    param="messages",
                )
            source = {"bytes": document.data}
        written: dict[str, JSON] = {"format": kind, "name": self._name(document.name), "source": source}
        if document.context:
            written["context"] = document.context
        return written

    def _name(self, name: str) -> str:
        """A document's name, as Converse takes it: of few characters, and no other document's."""
        name = _SPACES.sub(" ", _NOT_IN_NAMES.sub(" ", name)).strip()[:_LONGEST_NAME] or "document"
        self._names[name] = count = self._names.get(name, 0) + 1
        return name if count == 1 else f"{name[: _LONGEST_NAME - 8]} ({count})"


def _image(image: Image) -> JSON:
    if image.detail == "low":
        raise Untranslatable(
            "an image's detail low cannot be translated: Converse does not have it", param="messages"
        )
    if image.url:
        kind, source = _stored(image.url, "an image")
        return {"format": kind, "source": source}
    kind = _IMAGES.get(image.media_type, "")
    if not kind:
        raise Untranslatable(
            f"images of type {image.media_type or 'unknown'} cannot be translated: Converse takes JPEG, PNG, "
            "GIF and WebP",
            param="messages",
        )
    return {"format": kind, "source": {"bytes": image.data}}


def _stored(url: str, what: str) -> tuple[str, JSON]:
    """Format and source of what lies in S3, which is all that Converse fetches."""
    kind = _ENDINGS.get(url.rpartition(".")[2].lower(), "")
    if not url.startswith("s3://") or not kind:
        raise Untranslatable(
            f"{what} by URL cannot be translated: Converse takes its content, or s3://… with the usual ending",
            param="messages",
        )
    return kind, {"s3Location": {"uri": url}}
