"""How many tokens a prompt has at least: never too many."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.messages import Endpoint
from penstock.wire.least_tokens import least_tokens

MANY = 1_000_000


def least(body, endpoint=Endpoint.CHAT, enough=MANY):
    return least_tokens(endpoint, msgspec.json.decode(json.dumps(body), type=dict[str, msgspec.Raw]), enough)


def user(content):
    return {"messages": [{"role": "user", "content": content}]}


@pytest.mark.parametrize(
    ("endpoint", "body", "tokens"),
    [
        (Endpoint.CHAT, user("a bc  d\n\te\r\nf"), 5),
        (Endpoint.CHAT, user([{"type": "text", "text": "a b"}, {"type": "text", "text": "c"}]), 3),
        (Endpoint.CHAT, user("一二三四五六"), 1),
        (Endpoint.CHAT, user("\u00a0a\u2003b\x1cc"), 1),  # white space to Python, and not to all vocabularies
        (Endpoint.MESSAGES, {"system": "a b", **user("c")}, 3),
        (Endpoint.MESSAGES, {"system": [{"type": "text", "text": "a b"}], **user("c")}, 3),
        (Endpoint.MESSAGES, user([{"type": "tool_result", "content": [{"type": "text", "text": "a b"}]}]), 2),
        (Endpoint.RESPONSES, {"instructions": "a b", "input": "c"}, 3),
        (Endpoint.RESPONSES, {"input": [{"type": "function_call_output", "output": "a b"}]}, 2),
        (
            Endpoint.RESPONSES,
            {"input": [{"role": "user", "content": [{"type": "input_text", "text": "a b"}]}]},
            2,
        ),
    ],
)
def test_words_count(endpoint, body, tokens):
    assert least(body, endpoint) == tokens


@pytest.mark.parametrize(
    "body",
    [
        user([{"type": "image_url", "image_url": {"url": "a b c"}}]),
        {"messages": [{"role": "assistant", "content": "", "reasoning_content": "a b"}]},
        user([{"type": "thinking", "thinking": "a b", "text": "a b"}]),
        {"messages": [{"role": "assistant", "content": "<think>a b c</think>"}]},
        {"messages": [], "tools": [{"description": "a b c"}]},
        {**user("a b c"), "truncation": "auto"},
        {**user("a b c"), "truncate_prompt_tokens": 5},
        {**user("a b c"), "context_management": {}},
        {"messages": None},
        {},
    ],
)
def test_what_a_model_may_not_get_to_read_counts_nothing(body):
    assert least(body) == 0


@pytest.mark.parametrize("endpoint", [Endpoint.EMBEDDINGS, Endpoint.COMPLETIONS, Endpoint.SPEECH])
def test_where_a_list_may_be_many_prompts_nothing_is_counted(endpoint):
    assert least({"input": ["a b c"], "prompt": "a b c", **user("a b")}, endpoint) == 0


def test_it_stops_where_it_is_enough():
    body = {"messages": [{"role": "user", "content": "a b c"}] * 100}
    assert least(body, enough=10) == 12


@given(
    st.lists(
        st.text(alphabet=st.sampled_from("ab .,\n\t-1é中🙂\u00a0\u3000\x1c\x85\r\x0b\x0c'"), max_size=40),
        max_size=5,
    )
)
def test_no_more_than_pieces_that_every_vocabulary_keeps_apart(texts):
    """What ASCII white space keeps apart, and nothing else does."""
    tokens = least({"messages": [{"role": "user", "content": text} for text in texts]})
    assert tokens == sum(len(text.encode().split()) for text in texts)
