"""Prompts with less in them: white space, what is said twice, and turns of long ago.

Only what the configuration asks for, and the exact extent is told (:class:`~penstock.wire.prompt_left.Left`).  A turn that nothing is taken from
keeps its bytes.  What the model has said itself is never changed, nor is anything within a code fence.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping

import msgspec

from penstock.config.model import PromptConfig
from penstock.messages import JSON, Endpoint
from penstock.wire import counting
from penstock.wire.not_json import NOT_JSON
from penstock.wire.prompt_left import Left
from penstock.wire.usage import estimate_tokens

LEAST_REPEATED = 200  # characters of a paragraph that is left out the second time

_MEMBER = {Endpoint.CHAT: "messages", Endpoint.MESSAGES: "messages", Endpoint.RESPONSES: "input"}
_TEXT_PARTS = frozenset({"text", "input_text"})
_FENCED = re.compile(r"(```.*?(?:```|\Z))", re.DOTALL)
_WITHIN_LINES = re.compile(r"(?<=\S)[ \t]{2,}(?=\S)")
_AT_ENDS = re.compile(r"(?<![ \t])[ \t]+$", re.MULTILINE)  # from a run's first one only, not its square
_BLANK_LINES = re.compile(r"\n{3,}")
_PARAGRAPHS = re.compile(r"(\n\s*\n)")
_STAYS = frozenset({"system", "developer"})
_raws = msgspec.json.Decoder(list[msgspec.Raw]).decode
_value = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode

ENDPOINTS = frozenset(_MEMBER)
"""Whose prompts anything can be left out of."""


def tidied(
    endpoint: Endpoint, fields: Mapping[str, msgspec.Raw], policy: PromptConfig
) -> tuple[dict[str, msgspec.Raw], Left] | None:
    """The members of the body with less in them, and what was left out; None: nothing was."""
    member = _MEMBER.get(endpoint)
    if member is None or (value := fields.get(member)) is None:
        return None
    try:
        turns = _raws(value)
        decoded = [_value(turn) for turn in turns]
    except NOT_JSON:
        return None  # one text, or something that the upstream shall judge
    left = Left()
    gone = _oldest(decoded, policy.history_tokens)
    if gone:
        left.turns = len(gone)
        left.history = sum(len(bytes(turns[index])) for index in gone)
    seen: set[str] = set()
    kept: list[msgspec.Raw] = []
    for index, (turn, said) in enumerate(zip(turns, decoded, strict=True)):
        if index in gone:
            continue
        if isinstance(said, dict) and said.get("role") != "assistant" and _lessened(said, seen, policy, left):
            kept.append(msgspec.Raw(_encode(said)))
        else:
            kept.append(turn)
    if not (left.whitespace or left.paragraphs or left.turns):
        return None
    texts = left.whitespace + left.duplicates
    size = counting.size_of_members(fields, but=member) + sum(map(counting.size, decoded)) + texts
    gone_size = sum(counting.size(decoded[index]) for index in gone)
    left.before, left.after = estimate_tokens(size), estimate_tokens(size - texts - gone_size)
    return {**fields, member: msgspec.Raw(_encode(kept))}, left


def _lessened(turn: dict[str, JSON], seen: set[str], policy: PromptConfig, left: Left) -> bool:
    """Take out of a turn's texts what may go; whether anything did."""
    content = turn.get("content")
    changed = False
    if isinstance(content, str):
        turn["content"] = less = _less(content, seen, policy, left)
        return less != content
    for part in content if isinstance(content, list) else ():
        if isinstance(part, dict) and part.get("type") in _TEXT_PARTS and isinstance(part.get("text"), str):
            text = part["text"]
            part["text"] = less = _less(text, seen, policy, left)
            changed = changed or less != text
    return changed


def _less(text: str, seen: set[str], policy: PromptConfig, left: Left) -> str:
    less, before = text, (left.whitespace, left.duplicates, left.paragraphs)
    if policy.whitespace:
        pieces = _FENCED.split(less)
        pieces[::2] = [_closed_up(piece) for piece in pieces[::2]]
        closed = "".join(pieces)
        left.whitespace += len(less.encode()) - len(closed.encode())
        less = closed
    if policy.duplicates:
        once = _once(less, seen, left)
        left.duplicates += len(less.encode()) - len(once.encode())
        less = once
    if less.strip():
        return less
    left.whitespace, left.duplicates, left.paragraphs = before
    return text  # a turn without a word would be refused


def _closed_up(text: str) -> str:
    return _BLANK_LINES.sub("\n\n", _AT_ENDS.sub("", _WITHIN_LINES.sub(" ", text)))


def _once(text: str, seen: set[str], left: Left) -> str:
    """Without the long paragraphs that were there before, word for word."""
    if "```" in text:
        return text
    pieces = _PARAGRAPHS.split(text)
    kept: list[str] = []
    for index in range(0, len(pieces), 2):
        paragraph = pieces[index].strip()
        if len(paragraph) >= LEAST_REPEATED:
            if paragraph in seen:
                left.paragraphs += 1
                continue
            seen.add(paragraph)
        if kept:
            kept.append(pieces[index - 1])
        kept.append(pieces[index])
    return "".join(kept)


def _oldest(turns: list[JSON], budget: int | None) -> frozenset[int]:
    """The turns to leave out, so that what is left has about so many tokens.

    Only whole exchanges go, each from a question of the user's to before the next one, so that no call of a tool loses
    its result; what the system says stays, and so does the last exchange.
    """
    if budget is None:
        return frozenset()
    sizes = [counting.size(turn) for turn in turns]  # as a model counts: an image's base64 is no text
    size = sum(sizes)
    if estimate_tokens(size) <= budget:
        return frozenset()
    begins = [index for index, turn in enumerate(turns) if _opens(turn)]
    gone: set[int] = set()
    for start, end in itertools.pairwise(begins):
        if estimate_tokens(size) <= budget:
            break
        for index in range(start, end):
            turn = turns[index]
            if not (isinstance(turn, dict) and turn.get("role") in _STAYS):
                gone.add(index)
                size -= sizes[index]
    return frozenset(gone)


def _opens(turn: JSON) -> bool:
    """Whether an exchange begins here: the user speaks, and does not bring a tool's result."""
    if not isinstance(turn, dict) or turn.get("role") != "user":
        return False
    content = turn.get("content")
    parts = content if isinstance(content, list) else []
    return not any(isinstance(part, dict) and part.get("type") == "tool_result" for part in parts)
