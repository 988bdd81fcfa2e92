"""Questions with known answers, from a file: what a model is to be good at, so that it can be counted.

``.jsonl``, an object a line: ``prompt``, or ``messages`` as a chat has them, with ``answer``, the text that is right;
or with ``choices``, texts one of which is, and ``answer``, its number, from 0.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from penstock.optimize.faults import UnusableText
from penstock.optimize.texts import Conversation, conversation_of

_FORM = (
    'each line must be an object with "prompt" or "messages", and with "answer": a text, or beside "choices" (a list of '
    "two or more different texts) the number of the right one, from 0"
)


class Question(msgspec.Struct, frozen=True):
    """``choices``: texts, of which the one with the number ``right`` is; a single one: the model has to find it."""

    prompt: str | Conversation
    choices: tuple[str, ...]
    right: int
    line: int


def read_questions(path: Path) -> list[Question]:
    """The questions of a file.

    :raises UnusableText: there are none, or a line is not of the form
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UnusableText(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise UnusableText(f"{path} is not UTF-8 text") from None
    lines = enumerate(text.split("\n"), 1)
    questions = [_question(f"{path}, line {number}", number, line) for number, line in lines if line.strip()]
    if not questions:
        raise UnusableText(f"{path} is empty: give a file of questions, {_FORM}")
    return questions


def _question(where: str, number: int, line: str) -> Question:
    try:
        told = msgspec.json.decode(line, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise UnusableText(f"{where}: {error}; {_FORM}") from None
    prompt = told.get("prompt")
    asked = prompt if isinstance(prompt, str) and prompt.strip() else conversation_of(told.get("messages"))
    choices, answer = told.get("choices"), told.get("answer")
    if asked and choices is None and isinstance(answer, str) and answer.strip():
        return Question(asked, (answer,), 0, number)
    if (
        asked
        and isinstance(choices, list)
        and all(isinstance(each, str) and each for each in choices)
        and len(set(choices)) == len(choices) > 1
        and isinstance(answer, int)
        and not isinstance(answer, bool)
        and 0 <= answer < len(choices)
    ):
        return Question(asked, tuple(choices), answer, number)
    raise UnusableText(f"{where}: {_FORM}")
