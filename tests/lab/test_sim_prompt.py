from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import BadRequest
from penstock.lab.prompt import read
from penstock.lab.transcript import IMAGE_TOKENS
from penstock.messages import Endpoint

PNG = "iVBORw0KGgo="
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def chat(messages, **more):
    return read(Endpoint.CHAT, {"model": "sim", "messages": messages, **more})


def messages_of(messages, **more):
    return read(Endpoint.MESSAGES, {"model": "sim", "max_tokens": 9, "messages": messages, **more})


def said(text, role="user"):
    return {"role": role, "content": text}


# A prompt with everything in it, three times: as each of the APIs writes it.
CHAT = {
    "model": "sim",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": [{"type": "text", "text": "And kind."}]},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}", "detail": "low"}},
                {
                    "type": "file",
                    "file": {"file_data": "data:application/pdf;base64,JVBERg==", "filename": "a"},
                },
            ],
        },
        {
            "role": "assistant",
            "content": "Let me see.",
            "tool_calls": [
                {
                    "id": "c1",
                    "type": "function",
                    "function": {"name": "look", "arguments": '{"b": 1,\n "a": [2]}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "a cat"},
        {"role": "user", "content": "Sure?"},
    ],
    "tools": [
        {"type": "function", "function": {"name": "look", "description": "Looks", "parameters": SCHEMA}}
    ],
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "x", "schema": SCHEMA, "strict": True},
    },
}
ANTHROPIC = {
    "model": "other",
    "max_tokens": 100,
    "system": [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "And kind."}],
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
                {
                    "type": "document",
                    "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERg=="},
                },
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "Let me see."},
                {"type": "tool_use", "id": "c1", "name": "look", "input": {"a": [2], "b": 1}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "a cat"}]},
                {"type": "text", "text": "Sure?"},
            ],
        },
    ],
    "tools": [{"name": "look", "description": "Looks", "input_schema": SCHEMA}],
    "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
}
RESPONSES = {
    "model": "third",
    "instructions": "Be brief.",
    "input": [
        {"role": "developer", "content": "And kind."},
        {
            "type": "message",
            "role": "user",
            "content": [
                {"type": "input_text", "text": "What is this?"},
                {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}"},
                {"type": "input_file", "file_data": "data:application/pdf;base64,JVBERg=="},
            ],
        },
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Let me see."}]},
        {"type": "function_call", "call_id": "c1", "name": "look", "arguments": '{"a":[2],"b":1}'},
        {"type": "function_call_output", "call_id": "c1", "output": "a cat"},
        {"role": "user", "content": "Sure?"},
    ],
    "tools": [{"type": "function", "name": "look", "description": "Looks", "parameters": SCHEMA}],
    "text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}},
}


def test_the_same_prompt_in_three_apis_has_one_digest_and_one_count():
    requests = [
        read(Endpoint.CHAT, CHAT),
        read(Endpoint.MESSAGES, ANTHROPIC),
        read(Endpoint.RESPONSES, RESPONSES),
        read(Endpoint.COUNT_TOKENS, ANTHROPIC),
    ]
    assert len({request.digest for request in requests}) == 1
    assert len({request.input_tokens for request in requests}) == 1
    assert all(not request.after_tool and request.last_said == "Sure?" for request in requests)


def leaves(value, path=()):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from leaves(inner, (*path, i))
    elif isinstance(value, str):
        yield path


NOT_OF_THE_PROMPT = {"model", "type", "detail", "filename", "media_type"}


@pytest.mark.parametrize(("endpoint", "body"), [(Endpoint.CHAT, CHAT), (Endpoint.MESSAGES, ANTHROPIC)])
def test_every_text_of_the_prompt_changes_the_digest(endpoint, body):
    whole = read(endpoint, body).digest
    changed = 0
    for path in leaves(body):
        if path[-1] in NOT_OF_THE_PROMPT or path[-1] == "role" or path[-2:-1] == ("json_schema",):
            continue
        other = copy.deepcopy(body)
        place = other
        for step in path[:-1]:
            place = place[step]
        old = place[path[-1]]
        place[path[-1]] = '{"a":3}' if path[-1] == "arguments" else old[:-1]
        if path[-1] == "id":
            place[path[-1]] = "c2"
        assert read(endpoint, other).digest != whole, path
        changed += 1
    assert changed >= 10


def test_what_cannot_change_the_answer_is_not_in_the_digest():
    plain = chat([said("hi")])
    other = read(
        Endpoint.CHAT,
        {
            "model": "sim:tps=5",
            "messages": [said("hi")],
            "temperature": 0.3,
            "stream": True,
            "max_completion_tokens": 5,
            "metadata": {"a": "b"},
            "user": "me",
        },
    )
    assert other.digest == plain.digest


@pytest.mark.parametrize(("mode", "meant"), [("auto", "auto"), ("required", "any")])
def test_what_is_not_allowed_is_as_if_it_were_not_there(mode, meant):
    plain = [{"name": name, "parameters": {"type": "object"}} for name in ("f", "g")]
    tools = [{"type": "function", "function": each} for each in plain]
    allowed = {"mode": mode, "tools": [{"type": "function", "function": {"name": "g"}}]}
    some = chat([said("hi")], tools=tools, tool_choice={"type": "allowed_tools", "allowed_tools": allowed})
    assert (some.digest, some.tool_choice) == (chat([said("hi")], tools=tools[1:]).digest, meant)
    flat = [{"type": "function", **each} for each in plain]
    choice = {"type": "allowed_tools", "mode": mode, "tools": [{"type": "function", "name": "g"}]}
    body = {"model": "sim", "input": "hi", "tools": flat, "tool_choice": choice}
    response = read(Endpoint.RESPONSES, body)
    assert (response.digest, response.tool_choice) == (some.digest, meant)


def test_speaker_and_order_are_in_the_digest():
    digests = {
        chat([said("a"), said("b", "assistant")]).digest,
        chat([said("b"), said("a", "assistant")]).digest,
        chat([said("a", "assistant"), said("b")]).digest,
        chat([said("ab")]).digest,
        chat([said("a"), said("b")]).digest,
    }
    assert len(digests) == 5


@pytest.mark.parametrize(
    ("text", "count"), [("", 0), ("a", 1), ("abcd", 1), ("abcde", 2), ("é" * 4, 2), ("x" * 4_000, 1_000)]
)
def test_four_bytes_of_utf8_are_a_token(text, count):
    assert chat([said(text)]).input_tokens == count
    assert messages_of([said(text)]).input_tokens == count


def test_the_whole_is_rounded_up_once():
    assert chat([said("abc"), said("a", "assistant")]).input_tokens == 1


def test_attachments_are_counted_by_kind():
    image = {"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}}
    audio = {"type": "input_audio", "input_audio": {"data": "A" * 3_000, "format": "wav"}}
    assert chat([{"role": "user", "content": [image]}]).input_tokens == IMAGE_TOKENS
    assert chat([{"role": "user", "content": [audio]}]).input_tokens == 3
    assert chat([{"role": "user", "content": [image, {"type": "text", "text": "abcd"}]}]).input_tokens == (
        IMAGE_TOKENS + 1
    )


def test_a_prompt_that_ends_in_tool_results_says_so():
    called = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
    }
    assert chat([said("a"), called, {"role": "tool", "tool_call_id": "1", "content": "x"}]).after_tool
    result = {"type": "tool_result", "tool_use_id": "1"}
    assert messages_of([said("a"), {"role": "user", "content": [result]}]).after_tool


def test_options_are_read():
    request = chat(
        [said("hi")],
        stream=True,
        n=2,
        stop="end",
        stream_options={"include_usage": True, "continuous_usage_stats": True},
        reasoning_effort="low",
        parallel_tool_calls=False,
        tool_choice={"type": "function", "function": {"name": "f"}},
        max_completion_tokens=7,
        max_tokens=9,
    )
    assert request.stream
    assert (request.choices, request.stop, request.limit) == (2, ("end",), 7)
    assert request.include_usage
    assert request.running_usage
    assert request.thinking
    assert not request.parallel_tools
    assert request.tool_choice == "=f"
    other = messages_of(
        [said("hi")],
        stop_sequences=["a", "b"],
        thinking={"type": "enabled", "budget_tokens": 1024},
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
    )
    assert (other.stop, other.thinking, other.tool_choice, other.parallel_tools) == (
        ("a", "b"),
        True,
        "any",
        False,
    )


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        (Endpoint.CHAT, []),
        (Endpoint.CHAT, {"messages": [said("a")]}),
        (Endpoint.CHAT, {"model": 5, "messages": [said("a")]}),
        (Endpoint.CHAT, {"model": "sim"}),
        (Endpoint.CHAT, {"model": "sim", "messages": []}),
        (Endpoint.CHAT, {"model": "sim", "messages": ["hi"]}),
        (Endpoint.CHAT, {"model": "sim", "messages": [said("a", "king")]}),
        (Endpoint.CHAT, {"model": "sim", "messages": [{"role": "user"}]}),
        (Endpoint.CHAT, {"model": "sim", "messages": [said("a", [])]}),
        (Endpoint.CHAT, {"model": "sim", "messages": [said("a")], "tool_choice": []}),
        (Endpoint.EMBEDDINGS, {"model": "sim", "input": "a", "encoding_format": []}),
        (Endpoint.RESPONSES, {"model": "sim", "input": [{"type": []}]}),
        (Endpoint.RESPONSES, {"model": "sim", "input": [{"role": "user", "content": [{"type": []}]}]}),
        (Endpoint.MESSAGES, {"model": "sim", "max_tokens": 1, "messages": [said("a", {})]}),
        (Endpoint.MESSAGES, {"model": "sim", "max_tokens": 1, "messages": [said([{"type": {}}])]}),
        (Endpoint.CHAT, {"model": "sim", "messages": [said(5)]}),
        (Endpoint.CHAT, {"model": "sim", "messages": [said([{"type": "song"}])]}),
        (Endpoint.CHAT, {"model": "sim", "messages": [said([{"type": "text"}])]}),
        (Endpoint.CHAT, {"model": "sim", "messages": [{"role": "tool", "content": "x"}]}),
        (Endpoint.CHAT, {"model": "sim", "messages": [said("a")], "max_tokens": 0}),
        (Endpoint.CHAT, {"model": "sim", "messages": [said("a")], "max_tokens": "many"}),
        (Endpoint.CHAT, {"model": "sim", "messages": [said("a")], "max_tokens": True}),
        (Endpoint.CHAT, {"model": "sim", "messages": [said("a")], "stream": "yes"}),
        (Endpoint.CHAT, {"model": "sim", "messages": [said("a")], "stop": [5]}),
        (Endpoint.CHAT, {"model": "sim", "messages": [said("a")], "tools": [{"type": "function"}]}),
        (Endpoint.CHAT, {"model": "sim", "messages": [said("a")], "tool_choice": 5}),
        (Endpoint.CHAT, {"model": "sim", "messages": [said("a")], "response_format": {"type": "xml"}}),
        (Endpoint.COMPLETIONS, {"model": "sim", "prompt": {}}),
        (Endpoint.EMBEDDINGS, {"model": "sim"}),
        (Endpoint.EMBEDDINGS, {"model": "sim", "input": []}),
        (Endpoint.EMBEDDINGS, {"model": "sim", "input": "a", "encoding_format": "runes"}),
        (Endpoint.RESPONSES, {"model": "sim"}),
        (Endpoint.RESPONSES, {"model": "sim", "input": [{"type": "dance"}]}),
        (Endpoint.MESSAGES, {"model": "sim", "messages": [said("a")]}),
        (Endpoint.MESSAGES, {"model": "sim", "max_tokens": 1, "messages": [said("a", "tool")]}),
        (Endpoint.MESSAGES, {"model": "sim", "max_tokens": 1, "messages": [said([{"type": "image"}])]}),
        (
            Endpoint.MESSAGES,
            {"model": "sim", "max_tokens": 1, "messages": [said("a")], "thinking": {"type": "x"}},
        ),
        (
            Endpoint.MESSAGES,
            {"model": "sim", "max_tokens": 1, "messages": [said("a")], "thinking": {"type": []}},
        ),
    ],
)
def test_what_the_api_does_not_take_is_a_bad_request(endpoint, body):
    with pytest.raises(BadRequest):
        read(endpoint, body)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "role",
                    "content",
                    "type",
                    "text",
                    "user",
                    "tool_calls",
                    "function",
                    "name",
                    "id",
                    "source",
                    "format",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
MEMBERS = [
    "messages",
    "input",
    "prompt",
    "system",
    "tools",
    "tool_choice",
    "response_format",
    "thinking",
    "output_config",
    "text",
    "reasoning",
    "stop",
    "stop_sequences",
    "stream",
    "stream_options",
    "n",
    "max_tokens",
    "max_completion_tokens",
    "instructions",
    "dimensions",
]


@given(
    st.sampled_from([each for each in Endpoint if not each.opaque]),
    st.dictionaries(st.sampled_from(MEMBERS), json_values, max_size=6),
)
def test_no_body_is_a_defect(endpoint, members):
    try:
        read(endpoint, {"model": "sim", "max_tokens": 5, **members})
    except BadRequest:
        pass
