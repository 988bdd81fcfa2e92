"""In how many ways a grammar reads an answer: those that read it in ever more are stopped before a step takes long.

A library that keeps to a grammar follows all readings of what has been said at once.  Of ``root ::= root root | [a-z]``
there are more with each letter, and the hundredth token costs a second, which everybody waits for who is computed
beside it.  OpenVINO GenAI can be told no bound.  Whether a grammar is ambiguous cannot be decided, but of a text it is
seen: so the answer is read along here, and given up once a letter has more ways to be come to than :data:`MOST_WAYS`.

Read along means Earley's recogniser (Communications of the ACM 13, 1970), over the tree of the grammar as it stands:
each part of it is a symbol of its own.  An item is a part that is being read, how far it has come, and the row in
which it began; a row is what may come next after so many letters.  Parts that may be nothing are passed over as soon
as they are expected (Aycock and Horspool, The Computer Journal 45, 2002), and so none ends where it began.  An item
that a row has already, and gets once more, is a second reading of the same letters: those are counted.  A grammar of
which each text has one reading has none, however long the text is.  Where an end brings about but one other end, and so
on, as at the end of a list that is ``item list``, only the last of them is looked at, and kept for the next letter
(Leo, Theoretical Computer Science 82, 1991): otherwise each letter would cost as much as there are items.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from penstock.engine.pattern import InTurn, Letter, Named, OneOf, Pattern, Repeated, Text

# 63 letters of the grammar above: no step of OpenVINO GenAI takes a few milliseconds more by then.
MOST_WAYS = 2_000


class _Part:
    """A part of the grammar.

    ``least``, ``most``: how often, of what is repeated; ``may_be_nothing``: an empty text is one of its texts.
    """

    __slots__ = ("inner", "least", "may_be_nothing", "most", "pattern")

    def __init__(self, pattern: Pattern) -> None:
        self.pattern = pattern
        self.inner: list[_Part] = []
        self.least = pattern.least if isinstance(pattern, Repeated) else 1
        self.most = pattern.most if isinstance(pattern, Repeated) else 1
        self.may_be_nothing = False

    def __repr__(self) -> str:
        return f"<_Part {self.pattern}>"

    def expected(self, come: int) -> list[_Part]:
        """What may come next in it, once so much of it has."""
        match self.pattern:
            case InTurn():
                return self.inner[come : come + 1]
            case Repeated():
                return self.inner if self.most is None or come < self.most else []
        return self.inner if come == 0 else []

    def after(self, come: int) -> int:
        """How far it has come with the next part; who may be repeated for ever counts no further than it must."""
        return min(come + 1, self.least) if self.most is None else come + 1

    def is_whole(self, come: int) -> bool:
        match self.pattern:
            case InTurn(parts=parts):
                return come == len(parts)
            case Repeated():
                return come >= self.least
            case Text(text=text):
                return come == len(text)
        return come == 1

    def takes(self, come: int, letter: str) -> bool:
        match self.pattern:
            case Text(text=text):
                return text[come : come + 1] == letter
            case Letter(spans=spans, negated=negated):
                return come == 0 and any(first <= letter <= last for first, last in spans) != negated
        return False


class _Row:
    """What may come after so many letters: parts that wait for others, and those that wait for a letter.

    ``ends``: of a part that began here, the outermost that ends with it.
    """

    __slots__ = ("ends", "expecting", "reading")

    def __init__(self) -> None:
        self.ends: dict[_Part, tuple[_Part, _Row]] = {}
        self.expecting: dict[_Part, list[_Item]] = {}
        self.reading: list[_Item] = []


_Item: TypeAlias = tuple[_Part, int, _Row]


class Readings:
    """Reads an answer along.

    :param rules: of the grammar, by their names
    :param start: the name of the one that the answer is a text of
    """

    __slots__ = ("_row",)

    def __init__(self, rules: Mapping[str, Pattern], start: str) -> None:
        self._row = _Row()
        items: list[_Item] = []
        _expect(_parts(rules)[start], self._row, items)
        _close(self._row, items)

    def __repr__(self) -> str:
        return f"<Readings, {len(self._row.reading)} parts wait for a letter>"

    def take(self, text: str) -> bool:
        """More of the answer has come.

        :returns: whether it may go on; what the grammar does not read has no readings
        """
        return all(self._take(letter) <= MOST_WAYS for letter in text)

    def _take(self, letter: str) -> int:
        """How many items have come about once more."""
        row = _Row()
        items = [
            (part, come + 1, begun) for part, come, begun in self._row.reading if part.takes(come, letter)
        ]
        again = _close(row, items)
        self._row = row
        return again


def _close(row: _Row, items: list[_Item]) -> int:
    """Complete a row, from the items that are certain: how many came about once more, until they are too many."""
    known = set(items)
    whole: set[tuple[_Part, _Row]] = set()
    again = 0
    while items and again <= MOST_WAYS:
        part, come, begun = items.pop()
        found: list[_Item] = []
        if part.is_whole(come) and begun is not row:
            outer, row_of = _outermost(part, begun)
            if (outer, row_of) in whole:
                again += 1
            else:
                whole.add((outer, row_of))
                found += (
                    (waiting, waiting.after(at), since) for waiting, at, since in row_of.expecting[outer]
                )
        for inner in part.expected(come):
            if inner in row.expecting:
                row.expecting[inner].append((part, come, begun))
            else:
                _expect(inner, row, items)
                row.expecting[inner] = [(part, come, begun)]
            if inner.may_be_nothing:
                found.append((part, part.after(come), begun))
        if isinstance(part.pattern, Text | Letter) and not part.is_whole(come):
            row.reading.append((part, come, begun))
        for item in found:
            if item in known:
                again += 1
            else:
                known.add(item)
                items.append(item)
    return again


def _outermost(part: _Part, begun: _Row) -> tuple[_Part, _Row]:
    """The part that ends with this one, as nothing else can come of its end; itself, where something can."""
    ends = [(part, begun)]
    while part not in begun.ends and len(begun.expecting[part]) == 1:
        waiting, at, since = begun.expecting[part][0]
        come = waiting.after(at)
        if not waiting.is_whole(come) or waiting.expected(come):
            break
        part, begun = waiting, since
        ends.append((part, begun))
    last = begun.ends.get(part, (part, begun))
    for each, row in ends:
        row.ends[each] = last
    return last


def _expect(part: _Part, row: _Row, items: list[_Item]) -> None:
    row.expecting[part] = []
    items.append((part, 0, row))


def _parts(rules: Mapping[str, Pattern]) -> dict[str, _Part]:
    """The rules' own parts; a name is the part of its rule."""
    made = {name: _Part(OneOf((pattern,))) for name, pattern in rules.items()}
    found = list(made.values())

    def part_of(pattern: Pattern) -> _Part:
        if isinstance(pattern, Named):
            return made[pattern.name]
        part = _Part(pattern)
        found.append(part)
        if isinstance(pattern, InTurn | OneOf):
            part.inner = [part_of(each) for each in pattern.parts]
        elif isinstance(pattern, Repeated):
            part.inner = [part_of(pattern.part)]
        return part

    for name, pattern in rules.items():
        made[name].inner = [part_of(pattern)]
    while more := [part for part in found if not part.may_be_nothing and _may_be_nothing(part)]:
        for part in more:
            part.may_be_nothing = True
    return made


def _may_be_nothing(part: _Part) -> bool:
    match part.pattern:
        case Text(text=text):
            return not text
        case Repeated(least=0):
            return True
        case OneOf():
            return any(inner.may_be_nothing for inner in part.inner)
        case InTurn() | Repeated():
            return all(inner.may_be_nothing for inner in part.inner)
    return False


__all__ = ["MOST_WAYS", "Readings"]
