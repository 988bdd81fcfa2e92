"""What a text may look like, as a tree: the form in which expressions and grammars are read, bounded and written.

Whoever reads one (``regex``, ``gbnf``, ``lark``) makes such a tree of it; a library gets what is written anew from that,
and so nothing which it reads in another way, or not at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias, assert_never

import msgspec

MAX_DEPTH = 32
MAX_REPEATS = 1_000
# Letters, those that are repeated as often: each is a state, which is compared with all tokens.
MAX_SIZE = 4_000
OF_CLASS = 20  # letters that a class counts as: of these more tokens begin with one

_NAMES = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}
_SPECIAL = frozenset("\\^$.|?*+()[]{}")
_SPECIAL_IN_CLASS = frozenset("\\^-[]")


class Text(msgspec.Struct, frozen=True):
    """These letters; none at all: nothing."""

    text: str


class Letter(msgspec.Struct, frozen=True):
    """One letter of these spans, first and last included; ``negated``: one that is in none of them."""

    spans: tuple[tuple[str, str], ...]
    negated: bool = False


class Named(msgspec.Struct, frozen=True):
    """What a rule of a grammar says, and in which line it is asked for."""

    name: str
    line: int


class InTurn(msgspec.Struct, frozen=True):
    """One after the other."""

    parts: tuple[Pattern, ...]


class OneOf(msgspec.Struct, frozen=True):
    """Any of them."""

    parts: tuple[Pattern, ...]


class Repeated(msgspec.Struct, frozen=True):
    """``most`` None: as often as it pleases."""

    part: Pattern
    least: int
    most: int | None


Pattern: TypeAlias = Text | Letter | Named | InTurn | OneOf | Repeated

NOTHING = Text("")
ANY = Letter((("\0", "\U0010ffff"),))


def in_turn(parts: Iterable[Pattern]) -> Pattern:
    """One after the other, in the shortest way to say it."""
    said: list[Pattern] = []
    for part in parts:
        for each in part.parts if isinstance(part, InTurn) else (part,):
            last = said[-1] if said else NOTHING
            if isinstance(each, Text) and isinstance(last, Text):
                said[-1:] = [Text(last.text + each.text)]
            else:
                said.append(each)
    said = [part for part in said if part != NOTHING]
    return said[0] if len(said) == 1 else InTurn(tuple(said)) if said else NOTHING


def one_of(parts: Sequence[Pattern]) -> Pattern:
    """Any of them; where one of them is nothing, all may be left out."""
    said = tuple(part for part in parts if part != NOTHING)
    if not said:
        return NOTHING
    pattern = said[0] if len(said) == 1 else OneOf(said)
    return pattern if len(said) == len(parts) else repeated(pattern, 0, 1)


def repeated(part: Pattern, least: int, most: int | None) -> Pattern:
    """As often as that; repetitions of repetitions are made one where that says the same."""
    if most == 0 or part == NOTHING:
        return NOTHING
    if (least, most) == (1, 1):
        return part
    if not isinstance(part, Repeated) or max(least, part.least) > 1 or None not in {most, part.most}:
        return Repeated(part, least, most)
    return (
        Repeated(part.part, least * part.least, None)
        if part.most in {1, None}
        else Repeated(part, least, most)
    )


def parts_of(pattern: Pattern) -> tuple[Pattern, ...]:
    """What it is made of directly."""
    match pattern:
        case InTurn(parts=parts) | OneOf(parts=parts):
            return parts
        case Repeated(part=part):
            return (part,)
        case Text() | Letter() | Named():
            return ()
    assert_never(pattern)


def names_in(pattern: Pattern) -> list[Named]:
    """The rules that it asks for, in the order in which they stand there."""
    if isinstance(pattern, Named):
        return [pattern]
    return [name for part in parts_of(pattern) for name in names_in(part)]


def size(pattern: Pattern, named: Mapping[str, int] | None = None) -> int:
    """Letters, those that are repeated as often; a class counts :data:`OF_CLASS`.

    :param named: sizes of rules
    """
    match pattern:
        case Text(text=text):
            return len(text)
        case Letter():
            return OF_CLASS
        case Named(name=name):
            return max(1, (named or {}).get(name, 1))
        case Repeated(part=part, least=least, most=most):
            return size(part, named) * max(least, most or 1)
        case InTurn(parts=parts) | OneOf(parts=parts):
            return sum(size(part, named) for part in parts)
    assert_never(pattern)


def may_be_nothing(pattern: Pattern) -> bool:
    """Whether an empty text is one of those; what is named is taken for one that is not."""
    match pattern:
        case Text(text=text):
            return not text
        case Letter() | Named():
            return False
        case Repeated(part=part, least=least):
            return least == 0 or may_be_nothing(part)
        case InTurn(parts=parts):
            return all(map(may_be_nothing, parts))
        case OneOf(parts=parts):
            return any(map(may_be_nothing, parts))
    assert_never(pattern)


def expression(pattern: Pattern) -> str:
    """As a regular expression that the whole text has to match, in the forms that all libraries read alike.

    :param pattern: without names
    """
    match pattern:
        case Text(text=text):
            return "".join(escaped(letter, _SPECIAL) for letter in text)
        case Letter():
            return spelt(pattern)
        case InTurn(parts=parts):
            return "".join(_grouped(part) if isinstance(part, OneOf) else expression(part) for part in parts)
        case OneOf(parts=parts):
            return "|".join(map(expression, parts))
        case Repeated(part=part, least=least, most=most):
            is_one = isinstance(part, Letter) or (isinstance(part, Text) and len(part.text) == 1)
            return (expression(part) if is_one else _grouped(part)) + times(least, most)
        case Named(name=name):
            raise ValueError(f"{name} is the name of a rule, and no text")
    assert_never(pattern)


def _grouped(pattern: Pattern) -> str:
    return f"({expression(pattern)})"


def times(least: int, most: int | None) -> str:
    """How often something may come, in the way that expressions and grammars have in common."""
    shown = {(0, None): "*", (1, None): "+", (0, 1): "?"}.get((least, most))
    if shown is None:
        shown = f"{{{least}}}" if least == most else f"{{{least},{'' if most is None else most}}}"
    return shown


def spelt(letter: Letter) -> str:
    """A class, as in an expression.  No letter stands there twice: ``&&`` means something to some."""
    members = (
        escaped(first, _SPECIAL_IN_CLASS) + ("" if first == last else f"-{escaped(last, _SPECIAL_IN_CLASS)}")
        for first, last in _joined(letter.spans)
    )
    return f"[{'^' if letter.negated else ''}{''.join(members)}]"


def _joined(spans: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """In their order, those put together that have letters in common."""
    joined: list[tuple[str, str]] = []
    for first, last in sorted(spans):
        if joined and first <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(last, joined[-1][1]))
        else:
            joined.append((first, last))
    return joined


def escaped(letter: str, special: frozenset[str]) -> str:
    """A letter of an expression; ``special`` are those that mean something else there."""
    if letter in _NAMES:
        return _NAMES[letter]
    if letter in special:
        return f"\\{letter}"
    return letter if letter.isprintable() or ord(letter) > 0xFFFF else f"\\u{ord(letter):04x}"
