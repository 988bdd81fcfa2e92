"""A pattern as a right-linear grammar: each rule says a letter, and which rule comes then.

A library that keeps an answer to a grammar follows all readings of what has been said, and where a part may end after
any letter, it tries nearly all tokens in each step.  With ``[^x]?`` twenty times in a row a step of OpenVINO GenAI takes
most of a second, which everybody waits for who is computed beside it.  Of such rules it knows all tokens when it compiles.

Where it can be, there is one reading of each text, by the construction of subsets (Rabin and Scott, IBM Journal of
Research and Development 3, 1959).  Their number doubles with each letter of ``[a-z ]*a[a-z ]{8}``, so it is bounded;
then there is a rule for each place in the pattern, and a text has no more readings than there are.  Some patterns are
too large for either.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from penstock.engine.pattern import NOTHING, InTurn, Letter, Named, OneOf, Pattern, Repeated, Text, in_turn

START = "root"
MOST_WORK = 200_000  # ways from one place to another that are looked at: some 30 ms
MOST_CLASSES = 250  # rules that name a class: each takes the library 0.7 ms with 4,096 tokens
MOST_RULES = 1_000  # that leave a choice, also where that is one of single letters
MOST_PLACES = 40  # before a class, where all of them may be read at once: 30 take 0.3 s
MOST_CHOICES = 250  # in all rules, where several may be read at once
_LAST = 0x10FFFF

_Span: TypeAlias = tuple[int, int]
_Subset: TypeAlias = frozenset[int]


def rules_of(pattern: Pattern) -> dict[str, Pattern] | None:
    """The rules by their names, of which :data:`START` is the first one; None: there would be too many.

    :param pattern: without names
    """
    for write in (_by_subsets, _by_places):
        try:
            return _shortened(write(_Places(pattern)))
        except _TooManyError:
            pass
    return None


class _TooManyError(Exception):
    """It is not worth going on."""


class _Places:
    """The places in a pattern between two letters, and the ways from each to others.

    ``past``: where one comes to without a letter; ``ways``: with one of a span.
    """

    def __init__(self, pattern: Pattern) -> None:
        self._left = MOST_WORK
        self.past: list[list[int]] = []
        self.ways: list[list[tuple[_Span, int]]] = []
        self.first = self._place()
        self.last = self._behind(pattern, self.first)

    def __repr__(self) -> str:
        return f"<_Places {len(self.past)}>"

    def _place(self) -> int:
        if len(self.past) >= MOST_WORK // 10:
            raise _TooManyError
        self.past.append([])
        self.ways.append([])
        return len(self.past) - 1

    def _behind(self, pattern: Pattern, place: int) -> int:
        """Where one is when the pattern has come after a place."""
        match pattern:
            case Text(text=text):
                for letter in text:
                    place = self._way(place, [(ord(letter), ord(letter))])
                return place
            case Letter():
                return self._way(place, _spans(pattern))
            case InTurn(parts=parts):
                for part in parts:
                    place = self._behind(part, place)
                return place
            case OneOf(parts=parts):
                end = self._place()
                for part in parts:
                    self.past[self._behind(part, place)].append(end)
                return end
            case Repeated():
                return self._repeated(pattern, place)
            case Named(name=name):
                raise ValueError(f"{name} is the name of a rule, and no text")

    def _repeated(self, pattern: Repeated, place: int) -> int:
        for _ in range(pattern.least):
            place = self._behind(pattern.part, place)
        if pattern.most is None:
            loop = self._place()
            self.past[place].append(loop)
            self.past[self._behind(pattern.part, loop)].append(loop)
            return loop
        end = self._place()
        for _ in range(pattern.most - pattern.least):
            self.past[place].append(end)
            place = self._behind(pattern.part, place)
        self.past[place].append(end)
        return end

    def after(self, subset: _Subset) -> Mapping[_Subset, list[_Span]]:
        """With which letters one comes from these to which others."""
        ways = [way for place in subset for way in self.ways[place]]
        edges = sorted({edge for (first, last), _ in ways for edge in (first, last + 1)})
        after: dict[_Subset, list[_Span]] = {}
        known: dict[_Subset, _Subset] = {}
        for first, end in itertools.pairwise(edges):
            self._spend(len(ways))
            direct = frozenset(to for (begin, last), to in ways if begin <= first and end - 1 <= last)
            if direct:
                if direct not in known:
                    known[direct] = self.reached(direct)
                after.setdefault(known[direct], []).append((first, end - 1))
        return after

    def reached(self, places: Iterable[int]) -> _Subset:
        """These, and where one comes to from them without a letter."""
        found = set(places)
        waiting = [*found]
        while waiting:
            past = self.past[waiting.pop()]
            self._spend(1 + len(past))
            waiting += set(past) - found
            found.update(past)
        return frozenset(place for place in found if self.ways[place] or place == self.last)

    def _spend(self, work: int) -> None:
        self._left -= work
        if self._left < 0:
            raise _TooManyError

    def _way(self, place: int, spans: Iterable[_Span]) -> int:
        end = self._place()
        self.ways[place] += ((span, end) for span in spans)
        return end


def _spans(letter: Letter) -> list[_Span]:
    said = sorted((ord(first), ord(last)) for first, last in letter.spans)
    if not letter.negated:
        return said
    free, begin = [], 0
    for first, last in said:
        if first > begin:
            free.append((begin, first - 1))
        begin = max(begin, last + 1)
    return [*free, (begin, _LAST)] if begin <= _LAST else free


def _by_subsets(places: _Places) -> dict[str, Pattern]:
    """A rule for each set of places at which one may be after the same letters."""
    rules: dict[str, Pattern] = {}
    first = places.reached([places.first])
    names = {first: START}
    waiting = [first]
    classes = choices = 0
    while waiting:
        subset = waiting.pop()
        after = places.after(subset)
        for target in after:
            if target not in names:
                names[target] = f"r{len(names)}"
                waiting.append(target)
        parts = [in_turn([_letter(spans), Named(names[target], 0)]) for target, spans in after.items()]
        rule = rules[names[subset]] = _one_of(parts, places.last in subset)
        classes += any(map(_begins_with_a_class, parts))
        choices += isinstance(rule, OneOf)
        if classes > MOST_CLASSES or choices > MOST_RULES:
            raise _TooManyError
    return rules


def _by_places(places: _Places) -> dict[str, Pattern]:
    """A rule for each place."""
    rules: dict[str, Pattern] = {}
    waiting = [places.first]
    classes = choices = 0
    while waiting:
        place = waiting.pop()
        reached = places.reached([place])
        by_target: dict[int, list[_Span]] = {}
        for span, target in (way for each in sorted(reached) for way in places.ways[each]):
            by_target.setdefault(target, []).append(span)
        parts = [in_turn([_letter(spans), Named(f"r{to}", 0)]) for to, spans in by_target.items()]
        rules[f"r{place}"] = _one_of(parts, places.last in reached)
        waiting += [to for to in by_target if f"r{to}" not in rules and to not in waiting]
        classes += any(map(_begins_with_a_class, parts))
        choices += len(parts) if len(parts) > 1 else 0
        if classes > MOST_PLACES or choices > MOST_CHOICES:
            raise _TooManyError
    rules[START] = rules.pop(f"r{places.first}")
    return rules


def _one_of(parts: Sequence[Pattern], may_end: bool) -> Pattern:
    """Not in the shortest way, which would be a part that is repeated, and no end of a rule."""
    said = (*parts, NOTHING) if may_end else tuple(parts)
    return said[0] if len(said) == 1 else OneOf(said)


def _begins_with_a_class(part: Pattern) -> bool:
    return isinstance(part, InTurn) and isinstance(part.parts[0], Letter)


def _letter(spans: Sequence[_Span]) -> Pattern:
    joined: list[_Span] = []
    for first, last in spans:  # in their order
        if joined and joined[-1][1] + 1 == first:
            joined[-1] = (joined[-1][0], last)
        else:
            joined.append((first, last))
    ((first, last), *others) = joined
    if first == last and not others:
        return Text(chr(first))
    return Letter(tuple((chr(first), chr(last)) for first, last in joined))


def _shortened(rules: dict[str, Pattern]) -> dict[str, Pattern]:
    """With rules that say one thing in the place of their names."""

    def whole(pattern: Pattern) -> Pattern:
        said: list[Pattern] = []
        while isinstance(pattern, InTurn) and isinstance(pattern.parts[0], Text):
            *letters, rest = pattern.parts
            said += letters
            if not isinstance(rest, Named) or rest.name == START or isinstance(rules[rest.name], OneOf):
                return in_turn([*said, rest])
            pattern = rules[rest.name]
        return in_turn([*said, pattern])

    short = {
        name: OneOf(tuple(map(whole, pattern.parts))) if isinstance(pattern, OneOf) else whole(pattern)
        for name, pattern in rules.items()
    }
    needed, waiting = {START}, [START]
    while waiting:
        pattern = short[waiting.pop()]
        for part in pattern.parts if isinstance(pattern, OneOf) else (pattern,):
            last = part.parts[-1] if isinstance(part, InTurn) else part
            if isinstance(last, Named) and last.name not in needed:
                needed.add(last.name)
                waiting.append(last.name)
    return {name: pattern for name, pattern in short.items() if name in needed}


__all__ = ["START", "rules_of"]
