"""From YAML nodes to plain values, led by the types of the model, with every mistake and its position.

YAML guesses the type of an unquoted value from its spelling: ``no`` is false, ``1.10`` is 1.1, ``010``
is 8.  Here the *model* decides: where it wants text, what is written is the text; where it wants a
number, only a decimal number will do; a switch is ``true`` or ``false``.  So the nodes are read, not the
values that YAML would make of them (see docs/decisions/0001-yaml-configuration.md).

Nodes that aliases share are read once per use.  The depth is bounded by the model, the number by
:data:`MAX_NODES`, so that no alias bomb goes off.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import msgspec
import msgspec.inspect as types
import yaml

from penstock.config.providers import how_to_ask
from penstock.config.references import expand, has_reference
from penstock.config.secret import Secret

MAX_NODES = 200_000
TOO_MANY = f"has more than {MAX_NODES} values, aliases counted once for each use"
_PLACES = 2  # that a hint names
MAX_DEPTH = 64  # of values whose form is not ours, from the top of the file on
MAX_MERGES = 16  # how deep `<<` may stand within `<<`
# What YAML's escapes can make and nothing takes: no path, no address, no header field, and no file in UTF-8.
NO_TEXT = re.compile("[\0\ud800-\udfff]")
NO_TEXT_IS = "holds NUL, or half of a surrogate pair"

Path: TypeAlias = tuple[str | int, ...]
Plain: TypeAlias = dict[str, Any]

_LITELLM = "; this is the configuration of a LiteLLM proxy, and `penstock import-litellm` converts it"
_TAG = "tag:yaml.org,2002:"
_WHOLE = re.compile(r"[-+]?(0|[1-9][0-9]*(_[0-9]+)*)\Z")
_NUMBER = re.compile(r"[-+]?(0|[1-9][0-9]*(_[0-9]+)*)(\.[0-9]+)?([eE][-+]?[0-9]{1,3})?\Z")
_WITH_UNIT = re.compile(r"[-+]?[0-9][0-9_.]* ?(?:[num]?s|sec|m|min|h|d|[kKMGT]?i?B|%)\Z")
_SWITCH = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_SWITCHLIKE = {"yes": "true", "on": "true", "no": "false", "off": "false", "y": "true", "n": "false"}
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+\Z")


class _Bad:
    """In place of a value that could not be read; its mistake is noted."""

    def __repr__(self) -> str:
        return "BAD"


BAD = _Bad()


class Mistake(msgspec.Struct, frozen=True, order=True):
    """One fault: where (from 1; 0: nowhere in particular), which key, and what is wrong with it."""

    line: int
    column: int
    key: str
    text: str

    def at(self, name: str) -> str:
        where = f"{name}:{self.line}:{self.column}" if self.line else name
        return f"{where}: {self.key}: {self.text}" if self.key else f"{where}: {self.text}"


def shown(path: Path) -> str:
    """``upstreams.openai.base_url``, ``models."gpt-4.1".candidates[0]``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (part if _PLAIN_KEY.match(part) else f'"{part}"')
    return text


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint in parentheses, or nothing when no known word is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean {near[0]}?)" if near else ""


def _elsewhere(key: str) -> str:
    """Where else a key of this name stands, unless that is in many places."""
    from penstock.config.schema import keys  # noqa: PLC0415 - only for who has made a mistake

    found = [
        name if "." in name else f"{name} at the top" for name in keys() if name.rpartition(".")[2] == key
    ]
    return f" (there is {' and '.join(found)})" if 0 < len(found) <= _PLACES else ""


class Reader:
    """Reads one document; ``mistakes`` and the positions of all keys remain."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.mistakes: list[Mistake] = []
        self._environ = environ
        self._marks: dict[Path, yaml.Mark] = {}
        self._left = MAX_NODES

    def read(self, node: yaml.Node, model: type[msgspec.Struct]) -> Any:
        """Plain values of the document, without those that are wrong."""
        return self._value(node, types.type_info(model), ())

    def mistake(self, path: Path, text: str) -> None:
        """Note a fault of the value at ``path``, or of its nearest ancestor that the file mentions."""
        at = path
        while at not in self._marks and at:
            at = at[:-1]
        mark = self._marks.get(at)
        self._note(mark, path, text)

    def __repr__(self) -> str:
        return f"<Reader {MAX_NODES - self._left} nodes, {len(self.mistakes)} mistakes>"

    # ---- nodes ---------------------------------------------------------------------------------------

    def _value(self, node: yaml.Node, kind: types.Type, path: Path) -> Any:
        self._left -= 1
        if self._left < 0:
            raise TooManyNodes
        self._marks[path] = node.start_mark
        optional = False
        if isinstance(kind, types.UnionType):
            optional = kind.includes_none
            (kind,) = (t for t in kind.types if not isinstance(t, types.NoneType))
        if isinstance(kind, types.StructType):
            return self._section(node, kind, path, optional=optional)
        if isinstance(kind, types.DictType):
            return self._table(node, kind, path)
        if isinstance(kind, types.ListType):
            return self._list(node, kind, path)
        if isinstance(kind, types.AnyType):
            return self._json(node, path)
        return self._scalar(node, kind, path, optional=optional)

    def _section(self, node: yaml.Node, kind: types.StructType, path: Path, *, optional: bool) -> Any:
        if _is_null(node):
            if optional:
                return None
            node = yaml.MappingNode(_TAG + "map", [], node.start_mark, node.end_mark)
        entries = self._entries(node, path, "a section of keys")
        if entries is None:
            return BAD
        fields = {field.encode_name: field for field in kind.fields}
        values: dict[str, Any] = {}
        for key, (key_node, value) in entries.items():
            if key not in fields:
                asked = did_you_mean(key, fields) or _elsewhere(key)
                hint = _LITELLM if (*path, key) == ("model_list",) else asked
                self._note(key_node.start_mark, (*path, key), f"unknown key{hint}")
            else:
                values[key] = self._value(value, fields[key].type, (*path, key))
        for name, field in fields.items():
            if field.required and name not in values:
                self._note(node.start_mark, (*path, name), "required key is missing")
        return {name: value for name, value in values.items() if value is not BAD}

    def _table(self, node: yaml.Node, kind: types.DictType, path: Path) -> Any:
        if _is_null(node):
            return {}
        entries = self._entries(node, path, "names with their values")
        if entries is None:
            return BAD
        values = {}
        for key, (key_node, value) in entries.items():
            if not key:
                self._note(key_node.start_mark, path, "a name is empty")
                continue
            if NO_TEXT.search(
                key.replace("\0", "")
            ):  # in most names no control character may be, and that is said
                self._note(key_node.start_mark, path, f"a name {NO_TEXT_IS}")
                continue
            values[key] = self._value(value, kind.value_type, (*path, key))
        # A name with a bad value stays known: what refers to it is not a mistake as well.
        return {key: {} if value is BAD else value for key, value in values.items()}

    def _list(self, node: yaml.Node, kind: types.ListType, path: Path) -> Any:
        if _is_null(node):
            return []
        if not isinstance(node, yaml.SequenceNode) or node.tag != _TAG + "seq":
            self._note(node.start_mark, path, f"expected a list, got {_described(node)}")
            return BAD
        values = [self._value(item, kind.item_type, (*path, i)) for i, item in enumerate(node.value)]
        return [None if value is BAD else value for value in values]

    def _json(self, node: yaml.Node, path: Path) -> Any:
        """Whatever JSON can say.  As no type leads here, it is read as JSON would be: what is quoted is text."""
        if len(path) > MAX_DEPTH:
            self._note(node.start_mark, path, "is nested too deep")
            return BAD
        if isinstance(node, yaml.MappingNode):
            return self._table(node, _ANY_TABLE, path)
        if isinstance(node, yaml.SequenceNode):
            return self._list(node, _ANY_LIST, path)
        if _is_null(node) or not isinstance(node, yaml.ScalarNode):
            return None
        plain = node.style is None and not has_reference(node.value)
        if plain and node.value in _SWITCH:
            return _SWITCH[node.value]
        kind: types.Type = types.StrType()
        if plain and _NUMBER.match(node.value):
            kind = types.IntType() if _WHOLE.match(node.value) else types.FloatType()
        return self._scalar(node, kind, path, optional=False)

    def _entries(
        self, node: yaml.Node, path: Path, expected: str, depth: int = 0
    ) -> dict[str, tuple[yaml.Node, yaml.Node]] | None:
        """Keys with the nodes of key and value; what ``<<`` merges in comes last and never overrides."""
        if not isinstance(node, yaml.MappingNode) or node.tag != _TAG + "map":
            hint = f": {path[-1]}: {{}} is it with its defaults" if path and _is_true(node) else ""
            self._note(node.start_mark, path, f"expected {expected}, got {_described(node)}{hint}")
            return None
        entries: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        merged: list[yaml.Node] = []
        for key, value in node.value:
            self._left -= 1
            if self._left < 0:
                raise TooManyNodes
            if not isinstance(key, yaml.ScalarNode):
                self._note(key.start_mark, path, "a key must be one word, not a list or a section")
            elif key.tag == _TAG + "merge":
                merged += value.value if isinstance(value, yaml.SequenceNode) else [value]
            elif key.value in entries:
                first = entries[key.value][0].start_mark.line + 1
                text = f"this key stands twice (first in line {first})"
                self._note(key.start_mark, (*path, key.value), text)
            else:
                entries[key.value] = key, value
        if depth >= MAX_MERGES and merged:
            self._note(node.start_mark, path, "`<<` stands too deep within `<<`")
            return entries
        for source in merged:
            more = self._entries(source, path, "a section to merge with `<<`", depth + 1)
            for name, pair in (more or {}).items():
                entries.setdefault(name, pair)
        return entries

    # ---- scalars -------------------------------------------------------------------------------------

    def _scalar(self, node: yaml.Node, kind: types.Type, path: Path, *, optional: bool) -> Any:
        wanted = _wanted(kind)
        if not isinstance(node, yaml.ScalarNode):
            self._note(node.start_mark, path, f"expected {wanted}, got {_described(node)}")
            return BAD
        if node.tag.removeprefix(_TAG) not in _PLAIN_TAGS:
            self._note(node.start_mark, path, f"YAML tags such as {node.tag} have no meaning here")
            return BAD
        if _is_null(node):
            if optional:
                return None
            self._note(node.start_mark, path, f"expected {wanted}, got nothing")
            return BAD
        text: str = node.value
        referenced = has_reference(text)
        if referenced and not NO_TEXT.search(text):
            text, problems = expand(text, self._environ)
            for problem in problems:
                self._note(node.start_mark, path, problem)
            if problems:
                return BAD
            if optional and not text:
                return None  # `${NAME:-}`: whoever does not set it goes without
        if NO_TEXT.search(text):
            self._note(node.start_mark, path, NO_TEXT_IS)
            return BAD
        try:
            return _parsed(text, kind, quoted=node.style in ("'", '"') and not referenced)
        except ValueError as error:
            problem = str(error) or f"expected {wanted}"
            # Only where no secret can stand is the value shown, and never what a reference gave.
            if isinstance(kind, types.BoolType | types.IntType | types.FloatType):
                problem += f", got {'what the reference stands for' if referenced else _quoted(node)}"
            self._note(node.start_mark, path, problem)
            return BAD

    def _note(self, mark: yaml.Mark | None, path: Path, text: str) -> None:
        line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        self.mistakes.append(Mistake(line, column, shown(path), text))


_ANY_TABLE = types.DictType(key_type=types.StrType(), value_type=types.AnyType())
_ANY_LIST = types.ListType(item_type=types.AnyType())


class TooManyNodes(Exception):
    """The document is larger than any configuration; probably aliases of aliases."""


_PLAIN_TAGS = frozenset({"str", "int", "float", "bool", "null", "timestamp", "value", "merge"})


def _parsed(text: str, kind: types.Type, *, quoted: bool) -> Any:
    """The value of a scalar.  :raises ValueError: it is none; without a text where the type says it all."""
    if isinstance(kind, types.StrType):
        return text
    if isinstance(kind, types.CustomType):
        if not text:
            raise ValueError("is empty")
        return Secret(text)
    if isinstance(kind, types.LiteralType):
        if text in kind.values:
            return text
        known = [str(v) for v in kind.values]
        hint = did_you_mean(text, known) or (how_to_ask(text) if "openai" in known else "")
        raise ValueError(f"expected one of {', '.join(known)}{hint}")
    if quoted:
        raise ValueError(f"expected {_wanted(kind)} without quotes")
    if isinstance(kind, types.BoolType):
        if text in _SWITCH:
            return _SWITCH[text]
        meant = _SWITCHLIKE.get(text.lower())
        raise ValueError(f"expected {meant}" if meant else "")
    assert isinstance(kind, types.IntType | types.FloatType)
    if _WITH_UNIT.match(text):
        raise ValueError(f"expected {_wanted(kind)} without a unit")
    if isinstance(kind, types.IntType):
        if not _WHOLE.match(text) or len(text) > 30:
            raise ValueError
        number: float = int(text)
        if not -(2**63) <= number < 2**63:
            raise ValueError("is out of range")
    else:
        if not _NUMBER.match(text):
            raise ValueError
        number = float(text)
        if not math.isfinite(number):
            raise ValueError("is out of range")
    for bound, holds in _BOUNDS.items():
        limit = getattr(kind, bound)
        if limit is not None and not holds(number, limit):
            raise ValueError(f"must be {_BOUND_NAMES[bound]} {limit}")
    return number


_BOUNDS: dict[str, Callable[[float, float], bool]] = {
    "ge": lambda n, limit: n >= limit,
    "gt": lambda n, limit: n > limit,
    "le": lambda n, limit: n <= limit,
    "lt": lambda n, limit: n < limit,
}
_BOUND_NAMES = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}


def _wanted(kind: types.Type) -> str:
    match kind:
        case types.StrType():
            return "text"
        case types.CustomType():
            return "a secret, such as ${NAME}"
        case types.LiteralType(values=values):
            return "one of " + ", ".join(map(str, values))
        case types.BoolType():
            return "true or false"
        case types.IntType():
            return "a whole number"
        case types.FloatType():
            return "a number"
    raise TypeError(f"the model has a type that the reader does not know: {kind}")


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and bool(node.tag == _TAG + "null")


def _is_true(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and _SWITCH.get(node.value) is True


def _described(node: yaml.Node) -> str:
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    if isinstance(node, yaml.MappingNode):
        return "a section of keys" if node.tag == _TAG + "map" else f"the YAML tag {node.tag}"
    if _is_null(node):
        return "nothing"
    return "a single value"


def _quoted(node: yaml.ScalarNode) -> str:
    text: str = node.value if len(node.value) <= 40 else node.value[:39] + "…"
    return '"' + text.replace("\n", " ") + '"'
