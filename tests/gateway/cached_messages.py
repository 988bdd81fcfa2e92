"""Questions of one word, and an upstream that answers them all."""

from serving import COMPLETION, plain

from penstock.testing import Step


def a_message(text):
    return {"model": "m", "temperature": 0, "messages": [{"role": "user", "content": text}]}


def answers(count):
    return [Step.REQUEST, plain(COMPLETION)] * count
