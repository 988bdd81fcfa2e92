"""A JSON Schema as a grammar: what a library gets that would compile the schema itself in seconds, and keep to it slowly.

Members come in the order in which the schema has them, as in OpenAI's API; those that are not required may be left out.
An object that lists its members has no others, unless ``additionalProperties`` says so.  Between the parts of JSON
there is some space at most: a small model could go on with it for ever.

Of each text it is certain where every part of JSON in it begins, so that there are never more readings of one than the
schema has alternatives, and they need not be counted (``readings``).

What is bounded is a row of rules, each of which ends with the next one: so the library knows of nearly all tokens
when it compiles whether they may come, and need not try them in each step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from penstock.engine.backend import CannotTake
from penstock.engine.pattern import NOTHING, Letter, Named, Pattern, Text, in_turn, one_of, repeated
from penstock.engine.productions import ebnf, endless
from penstock.messages import JSON
from penstock.wire.not_json import NOT_JSON

START = "root"
BLOCK = 32
"""Letters, or items, that are counted as one where many are bounded."""

_BLANK = Letter(((" ", " "), ("\n", "\n")))
_DIGIT = Letter((("0", "9"),))
_FIRST_DIGIT = Letter((("1", "9"),))
_HEXADECIMAL = Letter((("0", "9"), ("A", "F"), ("a", "f")))
_PLAIN = Letter((('"', '"'), ("\\", "\\"), ("\0", "\x1f")), negated=True)
_ESCAPED = Letter(tuple((letter, letter) for letter in '"\\/bfnrt'))
_TYPES = ("object", "array", "string", "number", "boolean", "null")

_decode = msgspec.json.Decoder(dict[str, JSON] | bool).decode
_encode = msgspec.json.Encoder().encode


def _named(name: str) -> Named:
    return Named(name, 0)


_SPACE, _ANY, _STRING = _named("space"), _named("any"), _named("string")
_INTEGER, _NUMBER, _OBJECT, _ARRAY = _named("integer"), _named("number"), _named("object"), _named("array")
_COMMA = in_turn([_SPACE, Text(","), _SPACE])
_QUOTE = Text('"')
_LETTERS = (_PLAIN, in_turn([Text("\\"), _named("escape")]))


def _then(parts: Sequence[Pattern], rest: Pattern) -> list[Pattern]:
    """Each of them, and the rest behind it."""
    return [in_turn([part, rest]) for part in parts]


def _in_list(item: Pattern) -> Pattern:
    """Any number of items with commas between them, and space around all."""
    some = in_turn([item, repeated(in_turn([_COMMA, item]), 0, None), _SPACE])
    return in_turn([_SPACE, one_of([some, NOTHING])])


def _member(name: Pattern, value: Pattern) -> Pattern:
    return in_turn([name, _SPACE, Text(":"), _SPACE, value])


_EXPONENT = in_turn(
    [
        Letter((("E", "E"), ("e", "e"))),
        repeated(Letter((("+", "+"), ("-", "-"))), 0, 1),
        repeated(_DIGIT, 1, None),
    ]
)
_COMMON: Mapping[str, Pattern] = {
    "space": repeated(_BLANK, 0, 20),
    "escape": one_of([_ESCAPED, in_turn([Text("u"), *[_HEXADECIMAL] * 4])]),
    "letters": one_of([_QUOTE, *_then(_LETTERS, _named("letters"))]),  # to the end of a text
    "string": in_turn([_QUOTE, _named("letters")]),
    "integer": in_turn(
        [
            repeated(Text("-"), 0, 1),
            one_of([Text("0"), in_turn([_FIRST_DIGIT, repeated(_DIGIT, 0, None)])]),
        ]
    ),
    "number": in_turn(
        [
            _INTEGER,
            repeated(in_turn([Text("."), repeated(_DIGIT, 1, None)]), 0, 1),
            repeated(_EXPONENT, 0, 1),
        ]
    ),
    "object": in_turn([Text("{"), _in_list(_member(_STRING, _ANY)), Text("}")]),
    "array": in_turn([Text("["), _in_list(_ANY), Text("]")]),
    "any": one_of([_OBJECT, _ARRAY, _STRING, _NUMBER, Text("true"), Text("false"), Text("null")]),
}
"""What is the same in all."""

_SIMPLE: Mapping[str, Pattern] = {
    "boolean": one_of([Text("true"), Text("false")]),
    "integer": _INTEGER,
    "null": Text("null"),
    "number": _NUMBER,
}


def grammar_of(schema: str) -> str:
    """The grammar, as GBNF.

    :param schema: JSON text, as ``penstock.engine.schema`` lets it through
    :raises CannotTake: it is none, or nothing that ends keeps to it
    """
    try:
        rules = rules_of(_decode(schema))
    except (*NOT_JSON, KeyError) as error:
        raise CannotTake(f"the rule cannot be used: {error}") from None
    if endless(rules):
        raise CannotTake(
            "the rule cannot be used: what keeps to the schema never ends, as a part of it needs itself"
        )
    return ebnf(rules, START)


def rules_of(schema: JSON) -> dict[str, Pattern]:
    """The rules by their names; the answer begins with :data:`START`.

    :raises KeyError: it names a type or a definition that is none
    """
    return _Writer(schema).rules


class _Writer:
    """Writes the rules of one schema."""

    def __init__(self, root: JSON) -> None:
        self.rules: dict[str, Pattern] = dict(_COMMON)
        self._written: dict[Pattern, Pattern] = {}  # the names of those that are not the caller's
        self._bounded: dict[tuple[Pattern, int], Pattern] = {}
        self._names: dict[str, Pattern] = {}
        definitions: list[tuple[str, JSON]] = []
        if isinstance(root, dict):
            for section in ("$defs", "definitions"):
                for name, part in root.get(section, {}).items():
                    rule = f"d{len(definitions)}"
                    self._names[f"#/{section}/{name}"] = _named(rule)
                    definitions.append((rule, part))
        for rule, part in definitions:
            self.rules[rule] = self._value(part)
        self.rules[START] = self._value(root)

    def __repr__(self) -> str:
        return f"<_Writer {len(self.rules)} rules>"

    def _value(self, schema: JSON) -> Pattern:
        if not isinstance(schema, dict) or not schema:
            return _ANY
        if "$ref" in schema:
            return self._names[schema["$ref"]]
        if "const" in schema:
            return _literal(schema["const"])
        if "enum" in schema:
            return self._rule(one_of([_literal(value) for value in schema["enum"]]))
        if "anyOf" in schema:
            return one_of([self._value(part) for part in schema["anyOf"]])
        return one_of([self._of_type(name, schema) for name in _types(schema)])

    def _of_type(self, name: str, schema: Mapping[str, Any]) -> Pattern:
        if name == "object":
            return self._object(schema)
        if name == "array":
            return self._array(schema)
        if name == "string":
            if not schema.keys() & {"minLength", "maxLength"}:
                return _STRING
            least, most = schema.get("minLength", 0), schema.get("maxLength")
            rest = _named("letters") if most is None else self._up_to(_LETTERS, _QUOTE, most - least)
            return in_turn([_QUOTE, self._begun(_LETTERS, least, rest)])
        return _SIMPLE[name]

    def _array(self, schema: Mapping[str, Any]) -> Pattern:
        if not schema.keys() & {"items", "minItems", "maxItems"}:
            return _ARRAY
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        end = in_turn([_SPACE, Text("]")])
        if most == 0:
            return in_turn([Text("["), end])
        item = self._value(schema.get("items"))
        another = self._rule(in_turn([_COMMA, item]))
        if most is None:
            rest = in_turn([repeated(another, 0, None), end])
        else:
            rest = self._up_to((another,), end, most - max(least, 1))
        others = self._begun((another,), max(0, least - 1), rest)
        some = in_turn([item, others])
        return in_turn([Text("["), _SPACE, some if least else one_of([some, Text("]")])])

    def _object(self, schema: Mapping[str, Any]) -> Pattern:
        further = schema.get("additionalProperties", "properties" not in schema)
        required = frozenset(schema.get("required", ()))
        members = [
            (_member(_literal(name), self._value(part)), name in required)
            for name, part in schema.get("properties", {}).items()
        ]
        other = NOTHING if further is False else _member(_STRING, self._value(further))
        some = self._members(members, other)
        some = NOTHING if some is None else in_turn([some, _SPACE])
        may_be_empty = not required or some == NOTHING
        return in_turn([Text("{"), _SPACE, one_of([some, NOTHING]) if may_be_empty else some, Text("}")])

    def _members(self, members: Sequence[tuple[Pattern, bool]], other: Pattern) -> Pattern | None:
        """One member at least; None: there are none.

        From the first one that must be there on, each has a comma before it; before that, whether there is one
        depends on those before.
        """
        others = NOTHING if other == NOTHING else repeated(in_turn([_COMMA, other]), 0, None)
        first = None if other == NOTHING else in_turn([other, others])
        behind = others
        needed = next((place for place, (_, is_required) in enumerate(members) if is_required), len(members))
        if needed < len(members):
            parts = [
                repeated(in_turn([_COMMA, member]), int(is_required), 1)
                for member, is_required in members[needed + 1 :]
            ]
            first = in_turn([members[needed][0], *parts, others])
            behind = in_turn([_COMMA, first])
        for member, _ in reversed(members[:needed]):
            rest = self._rule(behind)
            begun = in_turn([member, rest])
            first = begun if first is None else self._rule(one_of([begun, first]))
            behind = one_of([in_turn([_COMMA, member, rest]), rest])
        return first

    def _up_to(self, parts: Sequence[Pattern], end: Pattern, most: int) -> Pattern:
        """So many at most of what is one of the parts, and the end.

        Each is a rule that ends with the next one, and not a part that is repeated: of that the library tries nearly
        all tokens in each step, instead of when it compiles.  Rules of different bounds are the same ones.
        """
        key = parts[0], most
        if key in self._bounded:
            return self._bounded[key]
        blocks, alone = divmod(most, BLOCK)
        shortest = rest = self._rule(end)
        for number in range(1, BLOCK if blocks else alone + 1):
            shortest = self._rule(one_of([end, *_then(parts, shortest)]))
            if number == alone:
                rest = shortest
        for _ in range(blocks):
            rest = self._rule(one_of([shortest, in_turn([self._block(parts), rest])]))
        self._bounded[key] = rest
        return rest

    def _begun(self, parts: Sequence[Pattern], least: int, rest: Pattern) -> Pattern:
        """So many of what is one of the parts, and the rest."""
        blocks, alone = divmod(least, BLOCK)
        for _ in range(alone):
            rest = self._rule(one_of(_then(parts, rest)))
        return in_turn([*[self._block(parts)] * blocks, rest])

    def _block(self, parts: Sequence[Pattern]) -> Pattern:
        return self._rule(in_turn([self._rule(one_of(parts))] * BLOCK))

    def _rule(self, pattern: Pattern) -> Pattern:
        """The name of a rule for it; what is the same in two places has one."""
        name = self._written.get(pattern)
        if name is None:
            name = self._written[pattern] = _named(f"r{len(self._written)}")
            self.rules[f"r{len(self._written) - 1}"] = pattern
        return name


def _types(schema: Mapping[str, Any]) -> Iterable[str]:
    """Those that a value may have; where none is said, those of which the schema says more."""
    said = schema.get("type")
    if said is not None:
        return dict.fromkeys(said if isinstance(said, list) else [said])
    keys = schema.keys()
    found = []
    if keys & {"properties", "required", "additionalProperties"}:
        found.append("object")
    if keys & {"items", "minItems", "maxItems"}:
        found.append("array")
    if keys & {"minLength", "maxLength"}:
        found.append("string")
    return found or _TYPES


def _literal(value: JSON) -> Pattern:
    return Text(_encode(value).decode())


__all__ = ["START", "grammar_of", "rules_of"]
