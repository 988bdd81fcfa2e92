"""What litellm makes of an assistant message before it sends it back with the history."""

import json

import pytest

from penstock.wire.chat import decode_prompt
from penstock.wire.conversation import Thinking, ToolCall

CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
DETAILS = [{"type": "reasoning.text", "text": "why", "signature": "signed", "index": 0}]


@pytest.mark.parametrize(
    ("others", "thoughts"),
    [
        (None, (Thinking("why"),)),
        ({"refusal": None}, (Thinking("why"),)),
        ({"refusal": None, "reasoning_details": DETAILS}, (Thinking("why", "signed"),)),
    ],
)
def test_signed_reasoning_is_found_where_litellm_puts_it(others, thoughts):
    said = {
        "role": "assistant",
        "content": None,
        "tool_calls": [CALL],
        "reasoning_content": "why",
        "provider_specific_fields": others,
    }
    body = {"model": "m", "messages": [{"role": "user", "content": "q"}, said]}
    assert decode_prompt(json.dumps(body).encode()).turns[1].parts == (*thoughts, ToolCall("c", "f", "{}"))
