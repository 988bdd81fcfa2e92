"""Callers who ask the same in several forms, and what each of them is told."""

from __future__ import annotations

import json

FORMS = {
    "plain": {},
    "stream": {"stream": True},
    "stream with usage": {"stream": True, "stream_options": {"include_usage": True}},
}


def forms_of_callers(first, chance):
    """Who asks in which form: half of them stream, some of these with their usage."""
    forms = ["plain"] * 50 + ["stream"] * 25 + ["stream with usage"] * 25
    forms.remove(first)
    chance.shuffle(forms)
    return [first, *forms]


def told_by(form, answer):
    """Text, finish reason and usage of an answer in any form."""
    if form == "plain":
        body = answer.json()
        (choice,) = body["choices"]
        return choice["message"]["content"], choice["finish_reason"], body["usage"]
    *events, last = [line[6:] for line in answer.text.split("\n") if line.startswith("data: ")]
    assert last == "[DONE]"
    chunks = [json.loads(event) for event in events]
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    text = "".join(choice["delta"].get("content") or "" for choice in choices)
    (reason,) = [choice["finish_reason"] for choice in choices if choice["finish_reason"]]
    usages = [chunk["usage"] for chunk in chunks if chunk.get("usage")]
    return text, reason, usages[0] if form == "stream with usage" else usages or None
