"""Asks a loaded model questions whose answers are known.

Of several choices it takes the one that it finds likeliest, a byte, so that long ones are not worse for being long.  A
single one it has to find: each of its tokens must be the likeliest after those before it, so that it is what the model
would have written with ``temperature: 0``.  Both need the logits alone, in which all runtimes are alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from penstock.optimize.accuracy import Accuracy
from penstock.optimize.faults import UnusableText
from penstock.optimize.model_directory import ModelDirectory
from penstock.optimize.numerics.loading import as_prompt
from penstock.optimize.numerics.runners import Runner
from penstock.optimize.progress import Tell
from penstock.optimize.questions import Question


def answered(
    runner: Runner, tokenizer: Any, source: ModelDirectory, questions: Sequence[Question], tell: Tell
) -> Accuracy:
    """Which of the questions are answered rightly.

    :raises UnusableText: a question is longer than the model can read
    """
    marks = []
    for number, question in enumerate(questions, 1):
        marks.append(_is_right(runner, tokenizer, source.context, question))
        tell("questions", number, len(questions))
    return Accuracy("".join("01"[mark] for mark in marks))


def _is_right(runner: Runner, tokenizer: Any, context: int | None, question: Question) -> bool:
    prompt = as_prompt(tokenizer, question.prompt)
    found = [_tried(runner, tokenizer, context, prompt, choice, question.line) for choice in question.choices]
    if len(found) == 1:
        return found[0][1]
    likely = [
        score / len(choice.encode()) for (score, _), choice in zip(found, question.choices, strict=True)
    ]
    return int(np.argmax(likely)) == question.right


def _tried(
    runner: Runner, tokenizer: Any, context: int | None, prompt: str, answer: str, line: int
) -> tuple[float, bool]:
    """How likely an answer is, in nats, and whether it is what the model would say."""
    # Spaces between the two belong to the answer's first token; the whole is cut as the model has seen texts cut.
    kept = prompt.rstrip()
    said = prompt[len(kept) :] + answer
    before = tokenizer(kept, add_special_tokens=False)["input_ids"]
    whole = tokenizer(kept + said, add_special_tokens=False)["input_ids"]
    first = max(1, min(len(before), len(whole) - 1))
    if context is not None and len(whole) > context:
        raise UnusableText(
            f"the question in line {line} has {len(whole)} tokens with its answer, and the model reads {context}"
        )
    ids = np.array([whole], dtype=np.int64)
    logits = runner.logits(ids)[0, first - 1 : -1].astype(np.float64)
    wanted = ids[0, first:]
    most = logits.max(-1)
    sums = most + np.log(np.exp(logits - most[:, None]).sum(-1))
    of_wanted = logits[np.arange(len(wanted)), wanted]
    return float((of_wanted - sums).sum()), bool((logits.argmax(-1) == wanted).all())
