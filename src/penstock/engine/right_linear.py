"""A pattern as a right-linear grammar: each rule says a letter, and which rule comes then.

A library that keeps an answer to a grammar follows all readings of what has been said, and where a part may end after
any letter, it tries nearly all tokens in each step.  With ``[^x]?`` twenty times in a row a step of OpenVINO GenAI takes
most of a second, which everybody waits for who is computed beside it.  Of such rules it knows all tokens when it compiles.

Where it can be, there is one reading of each text, by the construction of subsets (Rabin and Scott, IBM Journal of
Research and Development 3, 1959).  Their number doubles with each letter of ``[a-z ]*a[a-z ]{8}``, so it is bounded;
then there is a rule for each place in the pattern, and a text has no more readings than there are.  Subsets from which
the same may follow are one rule (Moore, Gedanken-Experiments on Sequential Machines, 1956), where there are many.  Some
patterns are too large for either; how long steps of these may take is seen from :func:`open_ends`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

from penstock.engine.pattern import NOTHING, InTurn, Letter, Named, OneOf, Pattern, Repeated, Text, in_turn

START = "root"
MOST_WORK = 300_000  # ways from one place to another that are looked at: some 45 ms
MOST_SUBSETS = 1_000  # that leave by a class, before those are put together from which the same may follow
MOST_CLASSES = 250  # rules that name a class: each takes the library 0.7 ms with 4,096 tokens
MOST_RULES = 1_000  # that leave a choice, also where that is one of single letters
MOST_PLACES = 40  # before a class, where all of them may be read at once: 30 take 0.3 s
MOST_CHOICES = 250  # in all rules, where several may be read at once
WIDE = 32  # letters of a class, beyond which many tokens have to be tried, and long ones
MOST_OPEN = 20  # classes after which one may be at once: a step takes some 10 ms by then
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


def open_ends(pattern: Pattern) -> int:
    """After how many of its wide classes a text of the pattern may be at once, where each may be the end of what is repeated,
    or be followed by what may be left out; at most that, where the pattern is large.

    A library that gets the pattern as it stands tries nearly all tokens for each of these, in each step.

    :param pattern: without names
    """
    for subsets in (_reached_by_letters, _reached_by_lengths):
        try:
            places = _Places(pattern)
            open_places = frozenset(filter(places.is_open, range(len(places.past))))
            if len(open_places) <= MOST_OPEN:
                return len(open_places)
            return max(len(subset & open_places) for subset in subsets(places))
        except _TooManyError:
            pass
    return len(open_places)


def _reached_by_letters(places: _Places) -> Iterator[_Subset]:
    """Where one may be after the same letters."""
    first = places.reached([places.first])
    known, waiting = {first}, [first]
    while waiting:
        yield (subset := waiting.pop())
        new = places.after(subset).keys() - known
        known |= new
        waiting += new


def _reached_by_lengths(places: _Places) -> Iterator[_Subset]:
    """Where one may be after as many letters, whichever they are: these are at least as many, and fewer to look at."""
    subset, known = places.reached([places.first]), set()
    while subset and subset not in known:
        yield subset
        known.add(subset)
        subset = places.reached({to for place in subset for _, to in places.ways[place]})


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

    def is_open(self, place: int) -> bool:
        """Whether a wide class comes here, and something else may as well."""
        letters = sum(last - first + 1 for (first, last), _ in self.ways[place])
        return letters > WIDE and bool(self.past[place])

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
    first = places.reached([places.first])
    numbers = {first: 0}
    subsets = _Subsets()
    waiting = [first]
    while waiting:
        subset = waiting.pop()
        after = places.after(subset)
        for target in after:
            if target not in numbers:
                numbers[target] = len(numbers)
                waiting.append(target)
        ways = {numbers[target]: spans for target, spans in after.items()}
        subsets.add(numbers[subset], ways, places.last in subset)
        if subsets.classes > MOST_SUBSETS or subsets.choices > MOST_RULES:
            raise _TooManyError
    if subsets.classes > MOST_CLASSES:
        subsets = subsets.put_together()
    if subsets.classes > MOST_CLASSES:
        raise _TooManyError
    return {
        f"r{number}" if number else START: _one_of(
            [in_turn([_letter(spans), Named(f"r{to}" if to else START, 0)]) for to, spans in ways.items()],
            number in subsets.ends,
        )
        for number, ways in subsets.ways.items()
    }


class _Subsets:
    """Sets of places by their numbers, of which 0 is the first, and with which letters one comes from each to others.

    ``classes``: ways that are more than one letter; ``choices``: subsets that leave one.
    """

    def __init__(self) -> None:
        self.ways: dict[int, Mapping[int, list[_Span]]] = {}
        self.ends: set[int] = set()
        self.classes = 0
        self.choices = 0

    def __repr__(self) -> str:
        return f"<_Subsets {len(self.ways)}, {self.classes} with classes>"

    def add(self, number: int, ways: Mapping[int, list[_Span]], may_end: bool) -> None:
        self.ways[number] = ways
        if may_end:
            self.ends.add(number)
        self.classes += any(isinstance(_letter(spans), Letter) for spans in ways.values())
        self.choices += len(ways) + may_end > 1

    def put_together(self) -> _Subsets:
        """Those from which the same may follow are one.

        :raises _TooManyError: it takes too long
        """
        kinds = {number: int(number in self.ends) for number in self.ways}
        count, left = 1, MOST_WORK
        while len(set(kinds.values())) > count:
            count = len(set(kinds.values()))
            known: dict[object, int] = {}
            after: dict[int, int] = {}
            for number, ways in self.ways.items():
                by_kind: dict[int, list[_Span]] = {}
                for to, spans in ways.items():
                    by_kind.setdefault(kinds[to], []).extend(spans)
                    left -= len(spans)
                looks = frozenset((kind, tuple(_joined(sorted(spans)))) for kind, spans in by_kind.items())
                after[number] = known.setdefault((kinds[number], looks), len(known))
            if left < 0:
                raise _TooManyError
            kinds = after
        first = kinds[0]
        numbers = {
            kind: place
            for place, kind in enumerate(sorted(set(kinds.values()), key=lambda kind: kind != first))
        }
        together = _Subsets()
        for number, ways in self.ways.items():
            if (name := numbers[kinds[number]]) not in together.ways:
                merged: dict[int, list[_Span]] = {}
                for to, spans in ways.items():
                    merged.setdefault(numbers[kinds[to]], []).extend(spans)
                sorted_ways = {to: sorted(spans) for to, spans in merged.items()}
                together.add(name, sorted_ways, number in self.ends)
        return together


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


def _joined(spans: Sequence[_Span]) -> list[_Span]:
    """In their order, those put together that stand beside each other."""
    joined: list[_Span] = []
    for first, last in spans:
        if joined and joined[-1][1] + 1 == first:
            joined[-1] = (joined[-1][0], last)
        else:
            joined.append((first, last))
    return joined


def _letter(spans: Sequence[_Span]) -> Pattern:
    joined = _joined(spans)
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


__all__ = ["MOST_OPEN", "START", "open_ends", "rules_of"]
