"""Who speaks, for upstreams whose messages bear no name.

A chat completion's ``name`` tells participants of one role apart.  Where there is none, the name stands before the
words, as in a transcript.  A model's does not: it would begin its own answer with one.  It may go unsaid as
long as all that models said bears one name, because then it tells nobody apart.
"""

from __future__ import annotations

import msgspec

from penstock.errors import Untranslatable
from penstock.wire.conversation import Part, Text, Turn


def in_words(turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
    """The same turns without names.

    :raises Untranslatable: models of several names have spoken
    """
    if not any(turn.name for turn in turns):
        return turns
    if len({turn.name for turn in turns if turn.role == "assistant" and turn.name}) > 1:
        raise Untranslatable(
            "the names of several models cannot be translated: the upstream's messages bear none",
            param="messages",
        )
    return tuple(_in_words(turn) if turn.name else turn for turn in turns)


def _in_words(turn: Turn) -> Turn:
    if turn.role in ("assistant", turn.name):
        return Turn(turn.role, turn.parts)
    first, *others = turn.parts or (Text(""),)
    spoken: tuple[Part, ...]
    if isinstance(first, Text):
        spoken = (msgspec.structs.replace(first, text=f"{turn.name}: {first.text}"), *others)
    else:
        spoken = (Text(f"{turn.name}:"), first, *others)
    return Turn(turn.role, spoken)
