"""The items of a request for a response, put together into turns."""

from __future__ import annotations

from typing import Literal

from penstock.errors import BadRequest, Untranslatable
from penstock.wire import custom_tools
from penstock.wire.conversation import (
    Part,
    Refusal,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
    Turn,
)
from penstock.wire.namespaces import flat_name
from penstock.wire.responses._parts import message_part, result_parts
from penstock.wire.responses._reasoning import unseal
from penstock.wire.responses._strict import Object, Strict, converted, no_equivalent

Status = Literal["in_progress", "completed", "incomplete"]


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


def turns_of(instructions: str | None, given: str | list[Object]) -> tuple[Turn, ...]:
    """What a request says, in turns.

    :raises BadRequest: malformed; ``param`` names the member
    :raises Untranslatable: an item has no counterpart in other APIs
    """
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
        turns.result(ToolResult(output.call_id, result_parts(output.output, f"{where}.output")))
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


def _content(message: _Message, where: str) -> tuple[Part, ...]:
    if isinstance(message.content, str):
        return (Text(message.content),)
    return tuple(
        message_part(part, message.role, f"{where}.content[{index}]")
        for index, part in enumerate(message.content)
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
