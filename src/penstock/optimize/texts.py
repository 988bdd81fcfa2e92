"""Texts to calibrate, train and evaluate with, from a file.

``.jsonl``: an object a line, with ``text``, or with ``messages`` as a chat has them.  Anything else is one
plain text.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from penstock.optimize.faults import UnusableText

_FORM = 'each line must be an object with "text", or with "messages" (a list of objects with "role" and "content")'


def read_texts(path: Path) -> list[str]:
    """The texts of a file, none of them empty.

    :raises UnusableText: there are none, or a line is not of the form
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UnusableText(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise UnusableText(f"{path} is not UTF-8 text") from None
    if path.suffix == ".jsonl":
        lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
        texts = [_text_of(path, number, line) for number, line in lines]
    else:
        texts = [text]
    texts = [each for each in texts if each.strip()]
    if not texts:
        raise UnusableText(f"{path} is empty: give a file with text like that which the model will see")
    return texts


def _text_of(path: Path, number: int, line: str) -> str:
    where = f"{path}, line {number}"
    try:
        told = msgspec.json.decode(line, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise UnusableText(f"{where}: {error}; {_FORM}") from None
    if isinstance(told.get("text"), str):
        return str(told["text"])
    messages = told.get("messages")
    if isinstance(messages, list) and all(
        isinstance(each, dict) and isinstance(each.get("content"), str) for each in messages
    ):
        return "\n\n".join(f"{each.get('role', 'user')}: {each['content']}" for each in messages)
    raise UnusableText(f"{where}: {_FORM}")


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
