"""A grammar: rules by name, whichever way it was written (``gbnf``, ``lark``), and the two in which libraries get it.

What no library may see is found here, with its line: a rule that is not there, one whose text never ends, one that
becomes too large, or more rules than anybody needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import assert_never

import msgspec

from penstock.engine import right_linear
from penstock.engine.pattern import (
    MAX_SIZE,
    NOTHING,
    OF_CLASS,
    InTurn,
    Letter,
    Named,
    OneOf,
    Pattern,
    Repeated,
    Text,
    escaped,
    expression,
    in_turn,
    names_in,
    one_of,
    parts_of,
    repeated,
    size,
    spelt,
    times,
)
from penstock.engine.readings import Readings

MAX_LETTERS = 20_000
MAX_RULES = 200
MAX_WHOLE = 40_000  # letters, once rules stand where they are named
_SPECIAL = frozenset('"\\')


class GrammarError(Exception):
    """Why a grammar cannot be used.

    :param line: in which that stands, the first is 1; 0: in none
    """

    def __init__(self, why: str, line: int = 0) -> None:
        super().__init__(f"line {line}: {why}" if line else why)


class Rule(msgspec.Struct, frozen=True):
    """What a name stands for, and the line in which it is said."""

    pattern: Pattern
    line: int


class Grammar:
    """Rules that make sense together.

    :param rules: by their names
    :param start: the name of the one that the whole text has to match
    :raises GrammarError: they do not
    """

    def __init__(self, rules: Mapping[str, Rule], start: str) -> None:
        if start not in rules:
            raise GrammarError(f"there is no rule of the name {start}, which an answer begins with")
        self._rules = _reached(rules, start)
        if len(self._rules) > MAX_RULES:
            raise GrammarError(f"there are more than {MAX_RULES} rules")
        self._start = start
        _check_ends(self._rules)
        self._recursive = _recursive(self._rules)
        self._check_size()
        self._right_linear: str | None = None  # not made yet
        if not any(_says_something(rule.pattern) for rule in self._rules.values()):
            raise GrammarError("only an empty answer matches it", self._rules[start].line)

    def __repr__(self) -> str:
        return (
            f"<Grammar {self._start} of {len(self._rules)} rules, {len(self._recursive)} of them recursive>"
        )

    def ebnf(self) -> str:
        """As GBNF that is written in one way only; the rules have other names."""
        return ebnf({name: rule.pattern for name, rule in self._rules.items()}, self._start)

    def regex(self) -> str:
        """The same as one expression; empty: there is none, because a rule needs itself."""
        return "" if self._recursive else expression(self._without_names(Named(self._start, 0)))

    def right_linear(self) -> str:
        """The same as GBNF that has few readings of each text, and whose steps are short; empty: there is none."""
        if self._right_linear is None:
            rules = (
                None if self._recursive else right_linear.rules_of(self._without_names(Named(self._start, 0)))
            )
            self._right_linear = ebnf(rules, right_linear.START) if rules else ""
        return self._right_linear

    def open_ends(self) -> int:
        """How many ends a library that gets it as it stands may have to try at once, in a part that names no rule."""
        if not self._recursive:
            return right_linear.open_ends(self._without_names(Named(self._start, 0)))
        patterns = [self._without_names(self._rules[name].pattern) for name in self._recursive]
        parts = (part for pattern in patterns for part in _plain_parts(pattern))
        return max(map(right_linear.open_ends, parts), default=0)

    def readings(self) -> Readings:
        """What reads one answer along."""
        return Readings({name: rule.pattern for name, rule in self._rules.items()}, self._start)

    def lark(self) -> str:
        """As Lark: what needs no rule that needs itself is a terminal, of as much as there is beside each other."""
        names = {name: f"r{place}" for place, name in enumerate(self._rules) if name in self._recursive}
        patterns = {written: self._rules[name].pattern for name, written in names.items()}
        patterns |= {"start": Named(self._start, 0)}
        return "\n".join(
            f"{written}: {_lark(self._without_names(pattern), names)}"
            for written, pattern in patterns.items()
        )

    def _without_names(self, pattern: Pattern) -> Pattern:
        """With the rules themselves in the place of their names, but for those that need themselves."""
        match pattern:
            case Named(name=name):
                return pattern if name in self._recursive else self._without_names(self._rules[name].pattern)
            case InTurn(parts=parts):
                return in_turn(map(self._without_names, parts))
            case OneOf(parts=parts):
                return one_of([self._without_names(part) for part in parts])
            case Repeated(part=part, least=least, most=most):
                return repeated(self._without_names(part), least, most)
            case Text() | Letter():
                return pattern
        assert_never(pattern)

    def _check_size(self) -> None:
        """Of all rules once those that need no rule which needs itself stand where they are named."""
        sizes: dict[str, int] = dict.fromkeys(self._recursive, 1)
        waiting = [name for name in self._rules if name not in self._recursive]
        while waiting:  # each round finds those at least that name none of the others
            for name in waiting:
                pattern = self._rules[name].pattern
                if all(named.name in sizes for named in names_in(pattern)):
                    sizes[name] = size(pattern, sizes)
            waiting = [name for name in waiting if name not in sizes]
        whole = sum(size(rule.pattern) for rule in self._rules.values())
        if whole > MAX_SIZE:
            raise GrammarError(
                f"its rules have more than {MAX_SIZE} letters, of which a class counts {OF_CLASS}"
            )
        whole = 0
        for name, rule in self._rules.items():
            whole = max(whole, sizes[name])
            if name in self._recursive:
                whole += size(rule.pattern, sizes)
            if whole > MAX_WHOLE:
                why = f"the grammar becomes more than {MAX_WHOLE} letters, of which a class counts {OF_CLASS}"
                raise GrammarError(why, rule.line)


def of_pattern(pattern: Pattern) -> Grammar:
    """The grammar of which that is the only rule.

    :param pattern: without names
    """
    return Grammar({"root": Rule(pattern, 1)}, "root")


def _reached(rules: Mapping[str, Rule], start: str) -> dict[str, Rule]:
    """Those that the first one needs."""
    found = {start: rules[start]}
    waiting = [start]
    while waiting:
        for named in names_in(found[waiting.pop()].pattern):
            if named.name not in rules:
                raise GrammarError(f"there is no rule of the name {named.name}", named.line)
            if named.name not in found:
                found[named.name] = rules[named.name]
                waiting.append(named.name)
    return found


def _check_ends(rules: Mapping[str, Rule]) -> None:
    """Each rule must have a text that ends."""
    for name in reversed(endless({name: rule.pattern for name, rule in rules.items()})):
        raise GrammarError(f"the rule {name} never ends: all that it may be needs itself", rules[name].line)


def endless(patterns: Mapping[str, Pattern]) -> list[str]:
    """The rules, by their names, of which no text ends."""
    ends: set[str] = set()
    waiting = [*patterns]
    while True:
        for name in waiting:  # in each round those that are found help the next ones already
            if _ends(patterns[name], ends):
                ends.add(name)
        left = [name for name in waiting if name not in ends]
        if len(left) == len(waiting):
            return left
        waiting = left


def _ends(pattern: Pattern, ends: set[str]) -> bool:
    match pattern:
        case Text() | Letter():
            return True
        case Named(name=name):
            return name in ends
        case Repeated(part=part, least=least):
            return least == 0 or _ends(part, ends)
        case InTurn(parts=parts):
            return all(_ends(part, ends) for part in parts)
        case OneOf(parts=parts):
            return any(_ends(part, ends) for part in parts)
    assert_never(pattern)


def _recursive(rules: Mapping[str, Rule]) -> frozenset[str]:
    """The rules that need themselves, or one that does: what is left when those are taken away that need no other."""
    needs = {name: {named.name for named in names_in(rule.pattern)} for name, rule in rules.items()}
    while free := {name for name, needed in needs.items() if not needed}:
        needs = {name: needed - free for name, needed in needs.items() if name not in free}
    return frozenset(needs)


def _says_something(pattern: Pattern) -> bool:
    if isinstance(pattern, Text):
        return bool(pattern.text)
    return isinstance(pattern, Letter) or any(map(_says_something, parts_of(pattern)))


# ---- writing ---------------------------------------------------------------------------------------


def ebnf(patterns: Mapping[str, Pattern], start: str) -> str:
    """Rules as GBNF, under other names.

    :param start: the name of the one that the answer begins with
    """
    names = {name: f"r{place}" for place, name in enumerate(patterns)} | {start: "root"}
    return "\n".join(f"{names[name]} ::= {_ebnf(pattern, names)}" for name, pattern in patterns.items())


def _ebnf(pattern: Pattern, names: Mapping[str, str]) -> str:
    match pattern:
        case Text(text=text):
            return '"' + "".join(escaped(letter, _SPECIAL) for letter in text) + '"'
        case Letter():
            return spelt(pattern)
        case Named(name=name):
            return names[name]
        case InTurn(parts=parts):
            return " ".join(
                f"({_ebnf(part, names)})" if isinstance(part, OneOf) else _ebnf(part, names) for part in parts
            )
        case OneOf(parts=parts):
            return " | ".join(_ebnf(part, names) for part in parts)
        case Repeated(part=part, least=least, most=most):
            return f"({_ebnf(part, names)}){times(least, most)}"
    assert_never(pattern)


def _lark(pattern: Pattern, names: Mapping[str, str]) -> str:
    if pattern == NOTHING:
        return '""'
    if not names_in(pattern):
        return "/" + expression(pattern).replace("/", "\\/") + "/"
    match pattern:
        case Named(name=name):
            return names[name]
        case InTurn(parts=parts):
            return " ".join(_lark(part, names) for part in _beside(parts))
        case OneOf(parts=parts):
            return "(" + " | ".join(_lark(part, names) for part in parts) + ")"
        case Repeated(part=part, least=least, most=most):
            return f"({_lark(part, names)}){times(least, most)}"
        case Text() | Letter():
            raise AssertionError(pattern)
    assert_never(pattern)


def _plain_parts(pattern: Pattern) -> Iterator[Pattern]:
    """The largest parts that name no rule."""
    if not names_in(pattern):
        yield pattern
    else:
        for part in _beside(pattern.parts) if isinstance(pattern, InTurn) else parts_of(pattern):
            yield from _plain_parts(part)


def _beside(parts: Sequence[Pattern]) -> list[Pattern]:
    """With those put together that stand beside each other and name nothing."""
    found: list[Pattern] = []
    for part in parts:
        if found and not names_in(part) and not names_in(found[-1]):
            found[-1] = InTurn((*(found[-1].parts if isinstance(found[-1], InTurn) else (found[-1],)), part))
        else:
            found.append(part)
    return found


__all__ = ["MAX_LETTERS", "MAX_RULES", "Grammar", "GrammarError", "Rule", "ebnf", "endless", "of_pattern"]
