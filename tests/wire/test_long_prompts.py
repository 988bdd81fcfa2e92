"""Twice as long a prompt is twice the work to translate, whatever it consists of: nobody can stop a worker with one."""

import json
import sys

import pytest

from penstock.wire import anthropic, chat, responses

SYSTEM = {"role": "system", "content": "be kind"}
WORDS = {"type": "output_text", "text": "well"}
CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
RESULT = {"type": "function_call_output", "call_id": "c", "output": "it"}
SAID = {"type": "message", "role": "assistant", "content": [WORDS]}


def as_chat(count):
    asked = {"role": "user", "content": "so?"}
    return {"model": "m", "max_tokens": 9, "messages": [asked, *[SYSTEM] * count, asked]}


def as_results(count):
    return {"model": "m", "input": [CALL, *[RESULT] * count]}


def as_words_and_calls(count):
    long = {"type": "message", "role": "assistant", "content": [WORDS] * count}
    return {"model": "m", "input": [long, CALL, *[SAID] * count]}


def steps(work):
    """How many lines of Python it runs, each turn of a loop among them."""
    count = 0

    def on_event(frame, event, argument):
        nonlocal count
        count += 1
        return on_event

    before = sys.gettrace()
    sys.settrace(on_event)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize(
    ("decode", "body"),
    [
        (chat.decode_prompt, as_chat),
        (responses.decode_prompt, as_results),
        (responses.decode_prompt, as_words_and_calls),
    ],
    ids=["system messages", "results of calls", "words before a call"],
)
def test_the_work_grows_as_the_prompt_does(decode, body):
    def translate(count):
        asked = json.dumps(body(count)).encode()
        return steps(lambda: anthropic.encode_prompt(decode(asked)))

    assert translate(400) < 2.2 * translate(200)
