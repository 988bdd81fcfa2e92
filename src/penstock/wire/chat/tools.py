"""The tools of a request for a chat completion, and which of them are to be called."""

from __future__ import annotations

from typing import Final, Literal

from penstock.errors import BadRequest
from penstock.messages import JSON
from penstock.wire import custom_tools
from penstock.wire.conversation import Tool, ToolChoice
from penstock.wire.members import Members

_NO_PARAMETERS: Final = {"type": "object", "properties": {}}
_KINDS: Final = ("function", "custom")


def tools_of(asked: Members) -> tuple[tuple[Tool, ...], ToolChoice | None]:
    """What ``tools`` and ``tool_choice`` mean.

    :raises BadRequest: malformed
    :raises Untranslatable: no other API has it
    """
    tools = tuple(_tool(tool) for tool in asked.objects("tools"))
    value = asked.raw("tool_choice")
    if value is None:
        return tools, None
    if isinstance(value, str):
        if value not in _MODES:
            raise BadRequest("tool_choice must be none, auto, required or an object", param="tool_choice")
        return tools, ToolChoice(_MODES[value])
    choice = Members(value, "tool_choice")
    if isinstance(value, dict) and value.get("type") == "allowed_tools":
        return _allowed(tools, choice)
    return tools, _choice(choice)


def custom_of(of: Members) -> Members:
    """The member ``custom`` of a tool or of a call.

    :raises BadRequest: there is none
    """
    custom = of.object("custom")
    if custom is None:
        raise BadRequest(f"{of.where('custom')} is missing", param=of.where("custom"))
    return custom


def _tool(tool: Members) -> Tool:
    kind = tool.required_string("type")
    if kind == "custom":
        return _custom_tool(tool)
    if kind != "function":
        raise tool.refuse("type", f"tools of type {kind} exist at OpenAI only")
    function = tool.object("function")
    if function is None:
        raise BadRequest(f"{tool.where('function')} is missing", param=tool.where("function"))
    parameters = function.raw("parameters")
    found = Tool(
        function.required_string("name"),
        _NO_PARAMETERS if parameters is None else parameters,
        function.string("description"),
        function.boolean("strict"),
        tool.raw("cache_control"),
    )
    function.done()
    tool.done()
    return found


def _custom_tool(tool: Members) -> Tool:
    custom = custom_of(tool)
    form = custom.object("format")
    if form is not None:
        grammar = form.raw("grammar")
        custom_tools.check_format({"type": form.required_string("type"), "grammar": grammar}, form.path)
        form.done()
    found = custom_tools.as_function(
        custom.required_string("name"), custom.string("description"), tool.raw("cache_control")
    )
    custom.done()
    tool.done()
    return found


_MODES: dict[JSON, Literal["auto", "none", "any"]] = {"auto": "auto", "none": "none", "required": "any"}


def _choice(choice: Members) -> ToolChoice:
    kind = choice.required_string("type")
    if kind not in _KINDS:
        raise choice.refuse("type", f"a choice of type {kind} exists at OpenAI only")
    return ToolChoice("tool", _name(choice, kind))


def _allowed(tools: tuple[Tool, ...], choice: Members) -> tuple[tuple[Tool, ...], ToolChoice]:
    """To allow some of the tools is to offer no others."""
    choice.required_string("type")
    allowed = choice.object("allowed_tools")
    if allowed is None:
        raise BadRequest("tool_choice.allowed_tools is missing", param="tool_choice.allowed_tools")
    mode = allowed.required_string("mode")
    if mode not in ("auto", "required"):
        raise BadRequest(f"{allowed.where('mode')} must be auto or required", param=allowed.where("mode"))
    known = {tool.name for tool in tools}
    names = set()
    for tool in allowed.objects("tools"):
        kind = tool.required_string("type")
        if kind not in _KINDS:
            raise tool.refuse("type", f"tools of type {kind} exist at OpenAI only")
        name = _name(tool, kind)
        if name not in known:
            where = f"{tool.where(kind)}.name"
            raise BadRequest(f'{where} is "{name}", which is not among the tools', param=where)
        names.add(name)
    if not names:
        raise BadRequest(f"{allowed.where('tools')} allows no tool", param=allowed.where("tools"))
    allowed.done()
    choice.done()
    return tuple(tool for tool in tools if tool.name in names), ToolChoice(_MODES[mode])


def _name(of: Members, kind: str) -> str:
    """What a choice of a tool, or an allowed one, names."""
    found = of.object(kind)
    if found is None:
        raise BadRequest(f"{of.where(kind)} is missing", param=of.where(kind))
    name = found.required_string("name")
    found.done()
    of.done()
    return name
