"""Where a text may be cut so that another model can go on with it, and where its continuation joins.

Pure functions on text.  An answer that broke off is shown to the continuing model only up to a place that
every tokeniser reads alike (:func:`safe_end`); what the caller has beyond that place the model will write
again, and whatever it repeats is taken off (:func:`joined`, :func:`anchored`).  Nothing that the caller has
can be taken back, so a continuation that does not fit is refused (:class:`Mismatch`), never bent.
"""

from __future__ import annotations

import re

from penstock.errors import UpstreamBroken

WINDOW = 400  # characters at the end of a text in which a repetition is looked for
LEAST_REPEATED = 24  # characters: fewer are repeated by chance
# Different ones: rules, tables and indentation repeat characters without repeating themselves.
LEAST_WORDS = 3
ANCHOR = 80  # characters that a model is asked to begin with, at most
PREAMBLE = 600  # characters that a model may say before the anchor

_FENCES = ("```", "~~~")
# Before a fence: quotations, lists, and any indentation, since that of a list's items is not counted here.
_CONTAINERS = re.compile(r"\A(?:[ \t]*(?:>|(?:[-+*]|[0-9]{1,9}[.)])[ \t]))*[ \t]*")


class Mismatch(UpstreamBroken):
    """A continuation that is not one: it contradicts what the caller has already."""

    code = "continuation_mismatch"


def safe_end(text: str) -> int:
    """Up to where ``text`` may be shown to a model that is to go on with it.

    Not: in white space at the end (Anthropic refuses it, and tokenisers join it with the next word), after
    half a surrogate pair, or in the info string of a Markdown fence: one that may not be complete, or whose
    end of line would be left out with the white space.
    """
    end = len(text)
    while True:
        while end and (text[end - 1].isspace() or "\ud800" <= text[end - 1] <= "\udbff"):
            end -= 1
        line = text.rfind("\n", 0, end) + 1
        if not _may_be_fence(text[line:end]):
            return end
        end = line


def _may_be_fence(line: str) -> bool:
    """Whether a line without its end is a fence, or may become one; also in a quotation or in a list."""
    inner = _CONTAINERS.sub("", line, count=1)
    return bool(inner) and any(inner.startswith(fence) or fence.startswith(inner) for fence in _FENCES)


def joined(delivered: str, shown: int, head: str, *, whole: bool) -> str | None:
    """What is new in the beginning of a continuation.

    :param delivered: the text that the caller has
    :param shown: how much of it the continuing model was shown
    :param head: what it has said so far
    :param whole: it will say no more
    :returns: the text to deliver; None: too early to tell
    :raises Mismatch: it does not continue this text
    """
    owed = delivered[shown:]
    if not owed.strip():
        same = _common(owed, head)
        if same == len(head) and not whole:
            return None
        return without_repetition(delivered, head[same:], whole=whole)
    # The cut words come again; how much white space stands before them may differ.
    lead = len(head) - len(head.lstrip())
    wanted, said = owed.lstrip(), head[lead:]
    if said.startswith(wanted):
        return said[len(wanted) :]
    if wanted.startswith(said) and not whole:
        return None
    raise Mismatch("the continuation does not begin with what was cut off")


def without_repetition(delivered: str, head: str, *, whole: bool) -> str | None:
    """``head`` without what it repeats of the end of ``delivered``; None: too early to tell.

    A repetition is taken off only where it cannot be meant: at least :data:`LEAST_REPEATED` characters and
    :data:`LEAST_WORDS` different words, which stand nowhere else in the text.  A text that repeats itself
    (a refrain, a table) is likelier to go on doing so than a model is to stutter.
    """
    tail = delivered[-WINDOW:]
    if head and not whole and len(head) < WINDOW and head in tail:
        return None
    longest = min(len(head), len(tail))
    for length in range(longest, LEAST_REPEATED - 1, -1):
        repeated = head[:length]
        if tail.endswith(repeated):
            distinct = len(set(repeated.split()))
            if distinct >= LEAST_WORDS and delivered.count(repeated) == 1:
                return head[length:]
            break
    return head


def anchor_of(delivered: str) -> str:
    """The last words of a text, for a model to begin with: at most :data:`ANCHOR` characters, whole words."""
    text = delivered.rstrip()
    anchor = text[-ANCHOR:]
    if len(anchor) < len(text) and not text[-ANCHOR - 1].isspace():
        cut = next((at for at, letter in enumerate(anchor) if letter.isspace()), 0)
        anchor = anchor[cut:]
    return anchor.strip()


def anchored(delivered: str, anchor: str, head: str, *, whole: bool) -> str | None:
    """What is new in the answer of a model that was asked to begin with ``anchor`` and go on.

    Whatever it says before the anchor ("Sure, here is the rest:") is left out.

    :returns: the text to deliver; None: too early to tell
    :raises Mismatch: the anchor does not come
    """
    at = head.find(anchor)
    if at >= 0:
        rest = head[at + len(anchor) :]
        owed = delivered[len(delivered.rstrip()) :]
        same = _common(owed, rest)
        if same == len(rest) and len(rest) < len(owed) and not whole:
            return None
        return rest[same:]
    if whole or len(head) > PREAMBLE + len(anchor):
        raise Mismatch("the continuation does not begin where it was asked to")
    return None


def _common(one: str, other: str) -> int:
    """The length of the common beginning."""
    length = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        length += 1
    return length
