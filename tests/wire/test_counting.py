import base64
import json

import pytest

from penstock.errors import BadRequest
from penstock.wire.counting import IMAGE_TOKENS, estimated_input_tokens


def count(**members):
    return estimated_input_tokens(json.dumps({"model": "m", **members}).encode())


def said(content):
    return [{"role": "user", "content": content}]


def test_four_bytes_of_text_are_a_token():
    assert count(messages=said("x" * 400)) == 100
    assert count(messages=said([{"type": "text", "text": "x" * 400}])) == 100


def test_system_and_every_message_count():
    assert count(system="x" * 40, messages=said("y" * 40) + said("z" * 40)) == 30


def test_tools_count_with_their_schemas():
    tool = {"name": "f", "description": "d" * 100, "input_schema": {"type": "object", "properties": {}}}
    assert 30 < count(messages=[], tools=[tool]) < 60


def test_what_a_tool_was_asked_and_answered_counts():
    asked = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"path": "p" * 100}}
    answered = {
        "type": "tool_result",
        "tool_use_id": "toolu_1",
        "content": [{"type": "text", "text": "r" * 100}],
    }
    assert 25 < count(messages=said([asked])) < 35
    assert count(messages=said([answered])) == 25


def test_an_image_counts_the_same_whatever_its_bytes():
    source = {"type": "base64", "media_type": "image/png", "data": "A" * 100_000}
    assert count(messages=said([{"type": "image", "source": source}])) == IMAGE_TOKENS


def test_a_document_counts_by_its_pages_not_by_its_base64():
    data = base64.b64encode(bytes(50_000)).decode()
    source = {"type": "base64", "media_type": "application/pdf", "data": data}
    assert 1_500 < count(messages=said([{"type": "document", "source": source}])) < 2_500


def test_names_and_ids_are_not_text():
    assert count(messages=said([{"type": "text", "text": "", "cache_control": {"type": "ephemeral"}}])) == 0


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ("hi", "messages"),
        ([1], "messages[0]"),
        ([{"content": "hi"}], "messages[0].role"),
        ([{"role": "user"}], "messages[0].content"),
        ([{"role": "user", "content": 7}], "messages[0].content"),
    ],
)
def test_what_is_no_prompt_is_refused_by_name(messages, param):
    with pytest.raises(BadRequest) as caught:
        count(messages=messages)
    assert caught.value.param == param


def test_nesting_without_end_is_refused():
    body = b'{"messages":[{"role":"user","content":' + b"[" * 900 + b"]" * 900 + b"}]}"
    for depth in (1, 20):
        deeper = body.replace(b"[" * 900, b"[" * 900 * depth).replace(b"]" * 900, b"]" * 900 * depth)
        try:
            assert estimated_input_tokens(deeper) == 0
        except BadRequest as refusal:
            assert refusal.code == "invalid_json"
