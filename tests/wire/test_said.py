import json

import pytest

from penstock.messages import Endpoint
from penstock.wire.said import text_of


def chat(*messages):
    return {"choices": [{"message": message} for message in messages]}


@pytest.mark.parametrize(
    ("endpoint", "body", "text"),
    [
        (Endpoint.CHAT, chat({"content": "hi"}), "hi"),
        (Endpoint.CHAT, chat({"content": "hi"}, {"content": "ho"}), None),
        (Endpoint.CHAT, chat({"content": "hi", "tool_calls": [{}]}), None),
        (Endpoint.CHAT, chat({"content": None}), None),
        (Endpoint.MESSAGES, {"content": [{"type": "thinking"}, {"type": "text", "text": "hi"}]}, "hi"),
        (Endpoint.MESSAGES, {"content": [{"type": "text", "text": "hi"}, {"type": "tool_use"}]}, None),
        (
            Endpoint.RESPONSES,
            {
                "output": [
                    {"type": "reasoning"},
                    {"type": "message", "content": [{"type": "output_text", "text": "hi"}]},
                ]
            },
            "hi",
        ),
        (Endpoint.RESPONSES, {"output": [{"type": "function_call"}]}, None),
        (Endpoint.EMBEDDINGS, {"data": []}, None),
        (Endpoint.CHAT, [], None),
    ],
)
def test_the_text_is_all_that_was_said(endpoint, body, text):
    assert text_of(endpoint, json.dumps(body).encode()) == text


def test_what_is_no_json_says_nothing():
    assert text_of(Endpoint.CHAT, b"{") is None
