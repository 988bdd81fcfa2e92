"""What a text is made of: words, numbers, signs, and what is to be taken literally.

One pass in linear time, whatever the text is: it comes from whoever asks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["literal", "number", "word", "sign"]

ENDS = frozenset(".!?:;\n")
"""After which a word may have a capital that says nothing."""

# Longer than that nobody quotes within a sentence; without a bound, marks that do not close would be looked for again
# and again.
_QUOTED = re.compile(
    r"```.{0,4000}?```|`[^`]{0,400}`|\"[^\"]{0,400}\"|“[^”]{0,400}”|(?<!\w)'[^']{1,400}'(?!\w)", re.DOTALL
)
_CHUNK = re.compile(r"\S+")
_IS_LITERAL = re.compile(r"\w[_./\\@:#]\w|[_/\\@#<>{}\[\]=+*^|~$€£%]")  # a path, an address, a formula, code
_PIECE = re.compile(
    r"(?P<number>(?:(?<![^\s(])[-\u2212])?\d+(?:[.,:/]\d+)*)(?!\w)|(?P<word>\w[\w]*(?:'[a-z]+)?)|[^\w\s]",
    re.IGNORECASE,
)
_IS_NAME_IN_CODE = re.compile(r"[a-z][A-Z]|\d[^\W\d]")  # camelCase, or a letter after a digit
_THOUSANDS = re.compile(r"(?<![\d.,])(\d{1,3})((?:,\d{3})+)(?![\d,])")


def tokens(text: str) -> Iterator[tuple[Kind, str, int]]:
    """Each with its kind and where it begins; quotes keep their marks, numbers their signs."""
    at = 0
    for quoted in _QUOTED.finditer(text):
        yield from _between(text, at, quoted.start())
        yield "literal", quoted[0], quoted.start()
        at = quoted.end()
    yield from _between(text, at, len(text))


def _between(text: str, begin: int, end: int) -> Iterator[tuple[Kind, str, int]]:
    for chunk in _CHUNK.finditer(text, begin, end):
        if _IS_LITERAL.search(chunk[0]):
            yield "literal", plain_number(chunk[0].strip(".,;:!?()")), chunk.start()
            continue
        for piece in _PIECE.finditer(text, chunk.start(), chunk.end()):
            token = piece[0]
            if piece["number"]:
                yield "number", plain_number(token), piece.start()
            elif not piece["word"]:
                yield "sign", token, piece.start()
            elif token[0].isdigit() or _IS_NAME_IN_CODE.search(token):
                yield "literal", token, piece.start()
            else:
                yield "word", token, piece.start()


def plain_number(number: str) -> str:
    """Without commas between thousands; a comma that may stand before decimals stays."""
    return _THOUSANDS.sub(lambda found: found[1] + found[2].replace(",", ""), number).replace("\u2212", "-")
