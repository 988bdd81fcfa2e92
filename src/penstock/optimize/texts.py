"""Texts to calibrate, train and evaluate with, from a file.

``.jsonl``, or ``.ndjson``: an object a line, with ``text``, or with ``messages`` as a chat has them.  Anything else is
one plain text, unless it is such a file under another name: as it stands, a model would learn JSON of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from penstock.optimize.faults import UnusableText

_FORM = 'each line must be an object with "text", or with "messages" (a list of objects with "role" and "content")'

_LINES = {".jsonl", ".ndjson"}

Conversation: TypeAlias = list[dict[str, str]]
"""Messages, each with ``role`` and ``content``."""


def read_texts(path: Path) -> list[str]:
    """The texts of a file, none of them empty; a conversation is who said what.

    :raises UnusableText: there are none, or a line is not of the form
    """
    return [each if isinstance(each, str) else as_text(each) for each in read_documents(path)]


def as_text(messages: Conversation) -> str:
    """For a model that has no template of its own."""
    return "\n\n".join(f"{each['role']}: {each['content']}" for each in messages)


def read_documents(path: Path) -> list[str | Conversation]:
    """The same, conversations as they are.

    :raises UnusableText: there are none, or a line is not of the form
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UnusableText(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise UnusableText(f"{path} is not UTF-8 text") from None
    if path.suffix.lower() in _LINES:
        lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
        documents = [_document_of(path, number, line) for number, line in lines]
    else:
        _require_plain(path, text)
        documents = [text]
    documents = [each for each in documents if (each.strip() if isinstance(each, str) else each)]
    if not documents:
        raise UnusableText(f"{path} is empty: give a file with text like that which the model will see")
    return documents


def _require_plain(path: Path, text: str) -> None:
    begins = text.lstrip()
    if path.suffix.lower() == ".json":
        is_json = begins[:1] in {"{", "["}
    else:
        try:
            first = msgspec.json.decode(begins.partition("\n")[0])
        except msgspec.DecodeError:
            return
        is_json = isinstance(first, dict) and not first.keys().isdisjoint(("text", "messages"))
    if is_json:
        raise UnusableText(f"{path} holds JSON: {_FORM}, in a file that is named .jsonl")


def _document_of(path: Path, number: int, line: str) -> str | Conversation:
    where = f"{path}, line {number}"
    try:
        told = msgspec.json.decode(line, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise UnusableText(f"{where}: {error}; {_FORM}") from None
    if isinstance(told.get("text"), str):
        return str(told["text"])
    conversation = conversation_of(told.get("messages"))
    if conversation is None:
        raise UnusableText(f"{where}: {_FORM}")
    return conversation


def conversation_of(messages: Any) -> Conversation | None:
    """Of what stands in a file; None: it is no list of messages."""
    if isinstance(messages, list) and all(
        isinstance(each, dict) and isinstance(each.get("content"), str) for each in messages
    ):
        return [{"role": str(each.get("role", "user")), "content": each["content"]} for each in messages]
    return None


def windows(tokens: list[int], length: int, most: int, source: Path) -> list[list[int]]:
    """The first ``most`` pieces of ``length`` tokens each; what is left over is not used.

    :raises UnusableText: not even one piece is there
    """
    found = [tokens[at : at + length] for at in range(0, len(tokens) - length + 1, length)][:most]
    if not found:
        raise UnusableText(
            f"{source} has {len(tokens)} tokens, fewer than one piece of {length}: give a longer text"
        )
    return found
