"""The beginning of an answer, in the prompt that asks to go on with it: as a prefill, as tokens, or in words.

What was said already is no part of the transcript (it counts as prompt all the same): the model goes on with the answer
that it would give to the prompt alone.
"""

from __future__ import annotations

import re
from typing import Any

from penstock.lab import fields
from penstock.lab.text import SPELT, tokens, vocabulary
from penstock.lab.transcript import Request, Transcript
from penstock.messages import Endpoint

_IN_WORDS = "Your previous response was interrupted and ended with:"
BOS = 151_644  # what a prompt in tokens begins with here
_DIGEST_IDS = 200_000  # four tokens spell the digest, 16 bits each
_LEAST_IDS = 6


def without_answer(
    said: Transcript, request: Request, messages: list[Any], *, prefilled: bool, where: str
) -> list[Any]:
    """The messages before the answer that is to be gone on with; it goes into ``request``."""
    last = messages[-1] if isinstance(messages[-1], dict) else {}
    content = last.get("content")
    if prefilled and last.get("role") == "assistant":
        request.prefix = _plain_text(content, where)
        said.answered(request.prefix)
        return messages[:-1]
    before = messages[-2] if len(messages) > 1 and isinstance(messages[-2], dict) else {}
    if before.get("role") == "assistant" and isinstance(content, str) and content.startswith(_IN_WORDS):
        request.prefix = _plain_text(before.get("content"), where)
        request.anchor = content[len(_IN_WORDS) :].strip().partition("\n\n")[0]
        said.answered(request.prefix + content)
        return messages[:-2]
    return messages


def _plain_text(content: Any, where: str) -> str:
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        return "".join(fields.text(part.get("text"), where) for part in content)
    return fields.text(content, where)


def end_of_prompt(prompt: str) -> int:
    """Where in the prompt of a completion its own answer begins: a model goes on with any text."""
    words = vocabulary()
    for run in re.finditer(r"[^\W\d_]+(?=\s|\Z)", prompt):
        for at in range(run.start(), run.end() - 1):
            if prompt[at : run.end()] in words and at:
                said = Transcript()
                said.add("prompt", "text", prompt[:at])
                digest = said.finish(Request(Endpoint.COMPLETIONS, "")).digest
                answer = b"".join(tokens(digest, 0, SPELT)).decode()
                rest = prompt[at:]
                if answer.startswith(rest) or rest.startswith(answer):
                    return at
    return len(prompt)


def prompt_ids(request: Request) -> list[int]:
    """The prompt as tokens: they tell its digest and its length, and are as many as it has."""
    digest = [_DIGEST_IDS + (request.digest >> shift & 0xFFFF) for shift in (0, 16, 32, 48)]
    return [BOS, request.input_tokens, *digest, *[0] * (request.input_tokens - _LEAST_IDS)]


def read_ids(request: Request, ids: list[int]) -> Request:
    """A prompt that :func:`prompt_ids` made, and the tokens of the answer so far."""
    if len(ids) < _LEAST_IDS:
        raise fields.wrong("prompt", "tokens that this model knows")
    tokens = ids[1]
    request.digest = sum(
        (one - _DIGEST_IDS) << shift for one, shift in zip(ids[2:6], (0, 16, 32, 48), strict=True)
    )
    request.prefix_ids = tuple(ids[max(tokens, _LEAST_IDS) :])
    request.input_tokens = tokens + len(request.prefix_ids)
    return request
