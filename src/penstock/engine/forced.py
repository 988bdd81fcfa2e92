"""A call that the caller has chosen: ``tool_choice`` names the tool, or requires one where there is only one.

The whole answer is the call's input then, and keeps to what that must be: a function's schema, a custom tool's grammar.
So such a call is right in form whatever the model is, and nothing has to be found in its text.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from penstock.engine import gbnf, lark, regex
from penstock.engine.backend import Sampling
from penstock.engine.conversation import Conversation, CustomTool, FunctionTool, offered
from penstock.engine.productions import GrammarError, of_pattern
from penstock.engine.ruled import Ruling
from penstock.engine.schema import compiled
from penstock.engine.text import Piece
from penstock.engine.tools import Called, Said
from penstock.engine.unsupported import unsupported
from penstock.errors import BadRequest


class _Named(msgspec.Struct):
    name: str


class _Function(msgspec.Struct, tag_field="type", tag="function"):
    function: _Named


class _Custom(msgspec.Struct, tag_field="type", tag="custom"):
    custom: _Named


class Forced(msgspec.Struct, frozen=True):
    """The tool that is called, and what its input keeps to."""

    name: str
    is_custom: bool
    rule: Ruling


def forced(chat: Conversation) -> Forced | None:
    """The call that is chosen; None: the model decides.

    :raises BadRequest: it cannot be chosen so
    """
    tools = offered(chat)
    if not tools or chat.tool_choice in (None, "auto"):
        if any(isinstance(tool, CustomTool) for tool in tools):
            raise unsupported("tools", " of the type custom, unless tool_choice names the one that is called")
        return None
    tool = _chosen(chat, tools)
    if isinstance(tool, FunctionTool):
        schema = tool.function.parameters or {"type": "object"}
        return Forced(tool.name, is_custom=False, rule=Ruling("tools", schema=compiled(schema, "tools")))
    return Forced(tool.name, is_custom=True, rule=_of_format(tool))


def _chosen(chat: Conversation, tools: Sequence[FunctionTool | CustomTool]) -> FunctionTool | CustomTool:
    if chat.tool_choice == "required":
        if len(tools) > 1:
            raise unsupported("tool_choice", " as required, where there are several tools: name one")
        return tools[0]
    try:
        choice = msgspec.convert(chat.tool_choice, _Function | _Custom)
    except msgspec.ValidationError:
        raise unsupported("tool_choice", " but as auto, none, required, or the name of a tool") from None
    wanted = choice.function.name if isinstance(choice, _Function) else choice.custom.name
    for tool in tools:
        if tool.name == wanted and isinstance(tool, CustomTool) == isinstance(choice, _Custom):
            return tool
    raise BadRequest(f"tool_choice names {wanted!r}, and there is no such tool", param="tool_choice")


def _of_format(tool: CustomTool) -> Ruling:
    if tool.custom.format is None or tool.custom.format.type == "text":
        return Ruling()
    said = tool.custom.format.grammar
    if said is None:
        raise BadRequest("a format of the type grammar needs a grammar", param="tools")
    if said.syntax == "regex":
        return Ruling("tools", grammar=of_pattern(regex.read(said.definition, "tools")))
    try:
        return Ruling("tools", grammar=(gbnf if said.syntax == "gbnf" else lark).read(said.definition))
    except GrammarError as error:
        raise BadRequest(
            f"tools: the grammar of {tool.name} cannot be used: {error}", param="tools"
        ) from None


class ForcedText:
    """One answer that is a call: pieces in, and at its end the call.

    ``calls``: how many there were.  What was cut is the call as far as it came.
    """

    __slots__ = ("_forced", "_held", "calls")

    def __init__(self, chosen: Forced) -> None:
        self._forced = chosen
        self._held: list[Piece] = []
        self.calls = 0

    def __repr__(self) -> str:
        return f"<ForcedText {self._forced.name}, {len(self._held)} pieces held>"

    def feed(self, pieces: Sequence[Piece]) -> list[Said]:
        """Nothing yet."""
        self._held += pieces
        return []

    def end(self, *, whole: bool) -> list[Said]:
        """The call.

        :param whole: the answer came to its own end, and was not cut
        """
        del whole
        self.calls = 1
        written = Piece(
            "",
            [token for piece in self._held for token in piece.ids],
            [value for piece in self._held for value in piece.logprobs],
        )
        text = "".join(piece.text for piece in self._held)
        return [Called(self._forced.name, text, written, self._forced.is_custom)]


def keeping_to(sampling: Sampling, rule: Ruling) -> Sampling:
    """The same, ruled."""
    return msgspec.structs.replace(sampling, schema=rule.schema, grammar=rule.grammar)


__all__ = ["Forced", "ForcedText", "forced", "keeping_to"]
