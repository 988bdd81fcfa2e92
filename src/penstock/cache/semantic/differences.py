"""Do two questions differ in something that decides?

Sentence embeddings put "is it safe" beside "is it not safe" (cosine 0.99), and 10 dollars beside 100 (0.91), nearer than
many a true paraphrase.  So what they cannot tell apart is compared here: numbers, names, negations, opposites,
what stands in quotes or code, and any small change of the words that have a meaning, for a near miss differs
little where a paraphrase differs much.  Whoever gets None may still mean something else: this only refuses, the
decision is for what has been learned (``confidence``).

English only: a text in which few words are known to this module's tables is refused.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from typing import Literal, TypeAlias

import msgspec

from penstock.cache.semantic import _words

Difference: TypeAlias = Literal["quoted", "numbers", "names", "negation", "opposite", "deciding", "wording"]

MAX_WORDS = 200  # of a question; a longer one holds too much that could differ
_TOKEN = re.compile(r"\d+(?:[.,:/]\d+)*\w*|[^\W\d_]+(?:'[a-z]+)?|[^\w\s]", re.ASCII | re.IGNORECASE)
_QUOTED = re.compile(r"```.*?```|`[^`]*`|\"[^\"]*\"|“[^”]*”|(?<!\w)'[^']+'(?!\w)", re.DOTALL)
_IDENTIFIER = re.compile(
    r"\S*(?:\w[_./\\@:#]\w|[_/\\@#<>{}\[\]=+*^|~$€£%])\S*|\b\w*[a-z][A-Z]\w*|\b\w*\d\w*[A-Za-z]\w*"
)
_SENTENCE_ENDS = frozenset(".!?:;\n")
_KNOWN_SHARE = 0.2  # of the words: in English, articles, pronouns and the like alone are more than this
_MANY = 3  # words that differ on either side: as many as a paraphrase has, and a near miss has not


class Reading(msgspec.Struct, frozen=True):
    """What of a question is compared; None where it is made (:func:`read`) for a text that cannot be judged."""

    quoted: tuple[str, ...]  # and identifiers, in order
    numbers: tuple[str, ...]  # in order
    names: tuple[str, ...]  # in order
    negations: int
    deciding: tuple[str, ...]  # sorted
    words: tuple[str, ...]  # that have a meaning: brought to one form, in order


def read(text: str, most: int = MAX_WORDS) -> Reading | None:
    """None: it has more than ``most`` words, or is not English enough to be judged."""
    text = unicodedata.normalize("NFKC", text).replace("’", "'").strip()
    quoted = [found.lower() for found in _QUOTED.findall(text)]
    text = _QUOTED.sub(" ", text)
    quoted += [found.strip(".,;:!?()").lower() for found in _IDENTIFIER.findall(text)]
    text = _IDENTIFIER.sub(" ", text)
    tokens = _TOKEN.findall(text)
    if len(tokens) > most or any(ord(letter) > 127 and letter.isalpha() for letter in text):
        return None
    numbers, names, deciding, words = [], [], [], []
    negations = known = count = 0
    for word, opens in _with_openings(tokens):
        small = word.lower()
        for part in _parts(small):
            count += 1
            stem = _stem(part)
            if part[0].isdigit() or part in _words.NUMBERS:
                numbers.append(_words.NUMBERS.get(part, part).replace(",", ""))
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
            words.append(_FORMS.get(stem, stem))
    if not count or known < _KNOWN_SHARE * count:
        return None
    return Reading(
        tuple(quoted), tuple(numbers), tuple(names), negations, tuple(sorted(deciding)), tuple(words)
    )


def differ(one: Reading, other: Reading) -> Difference | None:
    """In what two questions differ that decides; None: in nothing that can be seen here."""
    if one.quoted != other.quoted:
        return "quoted"
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
        return None if one.words == other.words else "wording"  # who did what to whom?
    if min(left.total(), right.total()) < _MANY:
        return "wording"
    return None


def _with_openings(tokens: list[str]) -> Iterator[tuple[str, bool]]:
    """Words, and whether each begins a sentence."""
    opens = True
    for token in tokens:
        if token[0].isalnum():
            yield token, opens
            opens = False
        elif token in _SENTENCE_ENDS:
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


def _stem(word: str) -> str:
    """Without the endings of number and tense; crude, and the same for both sides."""
    for ending, least in (("ies", 3), ("ing", 4), ("ed", 4), ("es", 4), ("s", 3)):
        if word.endswith(ending) and len(word) - len(ending) >= least and not word.endswith("ss"):
            stem = word[: -len(ending)]
            if ending == "ies":
                return stem + "y"
            if len(stem) > 3 and stem[-1] == stem[-2] and stem[-1] not in "ls":
                stem = stem[:-1]
            return stem.rstrip("e") if ending in {"ing", "ed", "es"} else stem
    return word.rstrip("e") if len(word) > 4 else word


def _canonical_forms() -> dict[str, str]:
    forms: dict[str, str] = {}
    for group in _words.SYNONYMS:
        first = min(group)
        for word in group:
            forms.setdefault(_stem(word), _stem(first))
    return forms


_FORMS = _canonical_forms()
_OPPOSITES = frozenset(
    frozenset(_FORMS.get(_stem(word), _stem(word)) for word in pair) for pair in _words.ANTONYMS
)


def _are_opposite(one: str, other: str) -> bool:
    if frozenset((one, other)) in _OPPOSITES:
        return True
    longer, shorter = (one, other) if len(one) > len(other) else (other, one)
    return any(longer == prefix + shorter for prefix in _words.PREFIXES)
