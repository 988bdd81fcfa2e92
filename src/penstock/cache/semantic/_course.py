"""The course of a question: all its words in order, the little ones too, each in one form.

For questions whose words that have a meaning are the same: in these, "to" or "from", "can" or "must", "my" or "your"
decides, and so does the order.  Articles and ordinary punctuation are left out, a plural is the same as its singular,
words that mean the same are one; endings of tense stay.
"""

from __future__ import annotations

from penstock.cache.semantic import _words
from penstock.cache.semantic._phrasing import core
from penstock.cache.semantic._tokens import ENDS, tokens

_ORDINARY = frozenset(".,;:!?'\"“”‘’„«»¿¡…")
_ARTICLES = frozenset({"a", "an", "the"})
_GAP = ""

_ENDINGS = (("ies", 3), ("ing", 4), ("ed", 4), ("es", 4), ("s", 3))


def stem(word: str) -> str:
    """Without the endings of number and tense; crude, and the same for both sides."""
    return _divided(word)[0]


def course(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The words and signs of a question, and the same with a gap for each that has a meaning: its mould."""
    text = core(text)
    words: list[str] = []
    mould: list[str] = []
    opens = True
    before = ""
    for kind, piece, at in tokens(text):
        written = gap = piece
        if kind == "word":
            small = piece.lower()
            if small in _ARTICLES and (opens or piece == small):
                continue
            written = _written(piece, small, opens=opens)
            gap = written if small in _words.FILLERS or small in _words.DECIDING else _GAP
        elif kind == "sign":
            opens = opens or piece in ENDS
            if piece == "-" and _is_hyphen(text, at):
                continue
            if piece in _ORDINARY and not (piece == "!" and before.isdigit()):
                continue
        else:
            gap = _GAP
        opens = piece in ENDS
        before = piece
        words.append(written)
        mould.append(gap)
    return tuple(words), tuple(mould)


def _is_hyphen(text: str, at: int) -> bool:
    return 0 < at < len(text) - 1 and text[at - 1].isalnum() and text[at + 1].isalnum()


def _written(word: str, small: str, *, opens: bool) -> str:
    """A word in its one form; a capital is left that says something ("US", "Polish")."""
    if small in _words.NUMBERS:
        return _words.NUMBERS[small]
    says = (word.isupper() and len(word) > 1) if opens else word != small
    if says and small != "i" and small not in _words.CALENDAR:
        return word
    if small in _words.AGREEING:
        return _words.AGREEING[small]
    found, ending = _divided(small)
    form = FORMS.get(found, found)
    return f"{form}+{ending}" if ending in {"ing", "ed"} else form


def _divided(word: str) -> tuple[str, str]:
    """A word's stem, and the ending that it had."""
    if word in _words.WHOLE:
        return word, ""
    for ending, least in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= least and not word.endswith("ss"):
            rest = word[: -len(ending)]
            if ending == "ies":
                return rest + "y", ending
            if len(rest) > 3 and rest[-1] == rest[-2] and rest[-1] not in "ls":
                rest = rest[:-1]
            return (rest.rstrip("e") if ending in {"ing", "ed", "es"} else _bare(rest)), ending
    return _bare(word), ""


def _bare(word: str) -> str:
    return word.rstrip("e") if len(word) > 4 else word


def _canonical_forms() -> dict[str, str]:
    forms: dict[str, str] = {}
    for group in _words.SYNONYMS:
        first = min(group)
        for word in group:
            forms.setdefault(stem(word), stem(first))
    return forms


FORMS = _canonical_forms()
"""The stem by which each of several words that mean the same is known."""
