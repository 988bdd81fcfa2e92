"""The tools of a request for a response, and which of them are to be called."""

from __future__ import annotations

from typing import Final, Literal

from penstock.errors import BadRequest, Untranslatable
from penstock.messages import JSON
from penstock.wire import custom_tools
from penstock.wire.conversation import Tool, ToolChoice
from penstock.wire.namespaces import flat
from penstock.wire.responses._strict import Object, Strict, converted, no_equivalent


class _FunctionTool(Strict, rename={"async_": "async"}):
    type: str
    name: str
    parameters: Object | None = None
    strict: bool | None = None
    description: str | None = None
    allowed_callers: list[str] | None = None
    defer_loading: bool | None = None
    output_schema: JSON = None
    async_: bool | None = None


class _CustomTool(Strict, rename={"async_": "async"}):
    type: str
    name: str
    description: str | None = None
    format: Object | None = None
    allowed_callers: list[str] | None = None
    defer_loading: bool | None = None
    async_: bool | None = None


class _ChosenFunction(Strict):
    type: str
    name: str


class _AllowedTools(Strict):
    type: str
    mode: Literal["auto", "required"]
    tools: list[Object]


def tools_of(
    given: list[Object] | None, choice: str | Object | None
) -> tuple[tuple[Tool, ...], ToolChoice | None]:
    """What ``tools`` and ``tool_choice`` mean.

    :raises BadRequest: malformed, or without equivalent in the neutral form
    """
    tools = tuple(_tool(tool, where, name) for tool, where, name in flat(given or (), "tools"))
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        tools, choice = _allowed(tools, choice)
    chosen = _choice(choice)
    if not tools:
        if chosen is not None and chosen.mode not in {"auto", "none"}:
            raise BadRequest("tool_choice asks for a tool, but there are no tools", param="tool_choice")
        return tools, None
    return tools, chosen


def _tool(tool: Object, where: str, upstreams: str) -> Tool:
    kind = tool.get("type")
    if kind not in _TOOLS:
        raise Untranslatable(
            f"{where}: the upstream of this model has no {kind} tool; only function and custom tools can be used",
            param=f"{where}.type",
        )
    function = converted(_TOOLS[kind], tool, where)
    if function.allowed_callers not in (None, ["direct"]):
        raise no_equivalent(f"{where}.allowed_callers")
    for name in ("defer_loading", "async_", "output_schema"):
        if getattr(function, name, None):
            raise no_equivalent(f"{where}.{name.rstrip('_')}")
    if isinstance(function, _CustomTool):
        custom_tools.check_format(function.format, f"{where}.format")
        return custom_tools.as_function(upstreams or function.name, function.description or "")
    return Tool(
        name=upstreams or function.name,
        parameters=function.parameters or {"type": "object", "properties": {}},
        description=function.description or "",
        strict=function.strict,
    )


_TOOLS: Final[dict[JSON, type[_FunctionTool | _CustomTool]]] = {
    "function": _FunctionTool,
    "custom": _CustomTool,
}


def _choice(choice: str | Object | None) -> ToolChoice | None:
    if choice is None:
        return None
    if isinstance(choice, dict):
        if choice.get("type") not in _TOOLS:
            raise Untranslatable(
                f"tool_choice: the upstream of this model has no {choice.get('type')} tool",
                param="tool_choice.type",
            )
        return ToolChoice("tool", converted(_ChosenFunction, choice, "tool_choice").name)
    if choice == "auto":
        return ToolChoice("auto")
    if choice == "none":
        return ToolChoice("none")
    if choice == "required":
        return ToolChoice("any")
    raise BadRequest(f'tool_choice cannot be "{choice}"', param="tool_choice")


def _allowed(tools: tuple[Tool, ...], choice: Object) -> tuple[tuple[Tool, ...], str]:
    """To allow some of the tools is to offer no others."""
    allowed = converted(_AllowedTools, choice, "tool_choice")
    names = set()
    for index, tool in enumerate(allowed.tools):
        where = f"tool_choice.tools[{index}]"
        if tool.get("type") not in _TOOLS:
            raise Untranslatable(
                f"{where}: the upstream of this model has no {tool.get('type')} tool", param=f"{where}.type"
            )
        name = converted(_ChosenFunction, tool, where).name
        if all(name != known.name for known in tools):
            raise BadRequest(f'{where} allows "{name}", which is not among the tools', param=f"{where}.name")
        names.add(name)
    return tuple(tool for tool in tools if tool.name in names), allowed.mode
