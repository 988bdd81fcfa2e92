"""What a model thought, in the members that servers have added to a chat message.

``reasoning_content`` holds the text of all thoughts.  A thought that must come back unchanged, because it
is signed or encrypted, stands as a whole in ``reasoning_details``: entries ``reasoning.text`` with
``text`` and ``signature``, and ``reasoning.encrypted`` with ``data``.  Their ``index`` is what lets the
SDK put them together in a stream.
"""

from __future__ import annotations

from collections.abc import Iterable

from penstock.messages import JSON
from penstock.wire.conversation import Thinking


def detail(thought: Thinking, index: int) -> JSON:
    if thought.redacted:
        return {"type": "reasoning.encrypted", "data": thought.redacted, "index": index}
    return {
        "type": "reasoning.text",
        "text": thought.text,
        "signature": thought.signature,
        "index": index,
    }


def details_of(thoughts: Iterable[Thinking]) -> dict[str, JSON]:
    """The members that a message gets for these thoughts."""
    found: dict[str, JSON] = {}
    thoughts = tuple(thoughts)
    if text := "".join(thought.text for thought in thoughts):
        found["reasoning_content"] = text
    if any(thought.signature or thought.redacted for thought in thoughts):
        found["reasoning_details"] = [detail(thought, index) for index, thought in enumerate(thoughts)]
    return found


def thoughts_of(text: str, details: JSON) -> tuple[Thinking, ...]:
    """The thoughts of a message: from the details where they are whole, else from the text."""
    thoughts: list[Thinking] = []
    for entry in details if isinstance(details, list) else ():
        if not isinstance(entry, dict):
            continue
        data, words, signature = entry.get("data"), entry.get("text"), entry.get("signature")
        if isinstance(data, str) and data:
            thoughts.append(Thinking(redacted=data))
        elif isinstance(words, str) and words:
            thoughts.append(Thinking(words, signature if isinstance(signature, str) else ""))
    if any(thought.text for thought in thoughts) or not text:
        return tuple(thoughts)
    return (Thinking(text), *thoughts)
