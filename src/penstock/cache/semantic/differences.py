"""Do two questions differ in something that decides?

Sentence embeddings put "is it safe" beside "is it not safe" (cosine 0.99), and 10 dollars beside 100 (0.91), nearer than
many a true paraphrase.  So what they cannot tell apart is compared here: numbers, names, negations, opposites,
signs, what stands in quotes or code, and any small change of the words that have a meaning, for a near miss differs
little where a paraphrase differs much.  Where the words that have a meaning are the same, the little ones decide: who
does it to whom, must or may, was or will be, to or from.  So there the whole course of the words has to be the same, once
the many ways to begin a question have been brought to one form (``_phrasing``).  Whoever gets None may still mean
something else: this only refuses, the decision is for what has been learned (``confidence``).

English only: a text in which few words are known to this module's tables is refused.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator
from typing import Literal, TypeAlias

import msgspec

from penstock.cache.semantic import _course, _words
from penstock.cache.semantic._tokens import ENDS, Kind, tokens

Difference: TypeAlias = Literal[
    "quoted", "symbols", "numbers", "names", "negation", "opposite", "deciding", "wording"
]

MAX_WORDS = 200  # of a question; a longer one holds too much that could differ
_LONGEST_WORD = 40  # characters, on average: a longer text is none that is made of words
_UNSAID = frozenset(".,;:!?'\"“”‘’„«»¿¡…()-–—*")  # signs that a text may have, and mean nothing by
_KNOWN_SHARE = 0.2  # of the words: in English, articles, pronouns and the like alone are more than this
_MANY = 3  # words that differ on either side: as many as a paraphrase has, and a near miss has not


class Reading(msgspec.Struct, frozen=True):
    """What of a question is compared; None where it is made (:func:`read`) for a text that cannot be judged."""

    quoted: tuple[str, ...]  # and identifiers, in order
    symbols: tuple[str, ...]  # in order
    numbers: tuple[str, ...]  # in order
    names: tuple[str, ...]  # in order
    negations: int
    deciding: tuple[str, ...]  # sorted
    words: tuple[str, ...]  # that have a meaning: brought to one form, in order
    course: tuple[str, ...]  # see ``_course``
    mould: tuple[str, ...]


def read(text: str, most: int = MAX_WORDS) -> Reading | None:
    """None: it has more than ``most`` words, or is not English enough to be judged."""
    if len(text) > most * _LONGEST_WORD:
        return None
    text = unicodedata.normalize("NFKC", text).replace("’", "'").strip()
    for pattern, form in _words.PHRASES:
        text = pattern.sub(form, text)
    found = list(tokens(text))
    literal = tuple(token for kind, token, _ in found if kind == "literal")
    found = [each for each in found if each[0] != "literal"]
    if len(found) > most or any(
        ord(letter) > 127 and letter.isalpha() for _, token, _ in found for letter in token
    ):
        return None
    symbols = tuple(token for kind, token, _ in found if kind == "sign" and token not in _UNSAID)
    numbers, names, deciding, words = [], [], [], []
    negations = known = count = 0
    for word, opens in _with_openings(found):
        small = word.lower()
        for part in _parts(small):
            count += 1
            stem = _course.stem(part)
            if part[-1].isdigit() or part[0].isdigit() or part in _words.NUMBERS:
                numbers.append(_words.NUMBERS.get(part, part))
                continue
            if part in _words.NEGATIONS:
                negations += 1
            if part in _words.DECIDING:
                known += 1
                deciding.append(part)
                continue
            if part in _words.FILLERS:
                known += 1
                continue
            if part in _words.CALENDAR or _is_name(word, part, opens=opens):
                names.append(part)
                continue
            words.append(_course.FORMS.get(stem, stem))
    if not count or known < _KNOWN_SHARE * count:
        return None
    return Reading(
        literal,
        symbols,
        tuple(numbers),
        tuple(names),
        negations,
        tuple(sorted(deciding)),
        tuple(words),
        *_course.course(text),
    )


def differ(one: Reading, other: Reading) -> Difference | None:
    """In what two questions differ that decides; None: in nothing that can be seen here."""
    if one.quoted != other.quoted:
        return "quoted"
    if one.symbols != other.symbols:
        return "symbols"
    if one.numbers != other.numbers:
        return "numbers"
    if one.names != other.names:
        return "names"
    if one.negations != other.negations:
        return "negation"
    lost, gained = Counter(one.words), Counter(other.words)
    left, right = lost - gained, gained - lost
    if any(_are_opposite(word, opposite) for word in left for opposite in right):
        return "opposite"
    if one.deciding != other.deciding:
        return "deciding"
    if not left and not right:
        return None if one.course == other.course else "wording"  # who did what to whom?
    if min(left.total(), right.total()) < _MANY or one.mould == other.mould:
        return "wording"
    return None


def _with_openings(found: list[tuple[Kind, str, int]]) -> Iterator[tuple[str, bool]]:
    """Words and numbers, and whether each begins a sentence."""
    opens = True
    for kind, token, _ in found:
        if kind != "sign":
            yield token, opens
            opens = False
        elif token in ENDS:
            opens = True


def _parts(word: str) -> tuple[str, ...]:
    if word.endswith("n't") and len(word) > 3:
        return word[:-3], "not"
    stem, _, ending = word.partition("'")
    return (stem,) if ending and stem else (word,)


def _is_name(word: str, small: str, *, opens: bool) -> bool:
    if not word[0].isupper() or small in _words.FILLERS:
        return False
    if word.isupper() and len(word) > 1:
        return True
    return not opens or small not in _words.OPENERS


_OPPOSITES = frozenset(
    frozenset(_course.FORMS.get(_course.stem(word), _course.stem(word)) for word in pair)
    for pair in _words.ANTONYMS
)


def _are_opposite(one: str, other: str) -> bool:
    if frozenset((one, other)) in _OPPOSITES:
        return True
    for first, second in ((one, other), (other, one)):
        if any(first == prefix + second for prefix in _words.PREFIXES):
            return True
        for begin, end in _words.OPPOSITE_BEGINNINGS:
            if first.startswith(begin) and second == end + first.removeprefix(begin):
                return True
        for begin, end in _words.OPPOSITE_ENDINGS:
            if first.endswith(begin) and second == first.removesuffix(begin) + end:
                return True
    return False
