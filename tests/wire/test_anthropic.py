"""Anthropic's Messages: what each member means, and what is refused."""

import json

import pytest
from anthropic.types import Message
from conversations import anthropic_client, fold, stream_of

from penstock.errors import BadRequest, PenstockError, Untranslatable, UpstreamBroken, UpstreamFailed
from penstock.messages import Usage
from penstock.wire import anthropic, chat, left_out, sse, thinking
from penstock.wire.conversation import (
    Answer,
    Audio,
    Document,
    Finished,
    Image,
    OutputFormat,
    PartDelta,
    PartEnded,
    PartStarted,
    Prompt,
    Refusal,
    Started,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
)

HELLO = {"role": "user", "content": "Hello"}
CACHE = {"type": "ephemeral"}
USER = Turn("user", (Text("Hello"),))
TOOL = Tool("f", {"type": "object", "properties": {}})


def body(**members):
    return json.dumps({"model": "m", "max_tokens": 9, "messages": [HELLO], **members}).encode()


def prompt(**members):
    return anthropic.decode_prompt(body(**members))


def asked(*turns, **members):
    members.setdefault("model", "claude-opus-4-7")
    return json.loads(anthropic.encode_prompt(Prompt(turns=turns or (USER,), **members)))


# ---- what callers write ----------------------------------------------------------------------------


def block(**members):
    (turn,) = prompt(messages=[{"role": "user", "content": [members]}]).turns
    (part,) = turn.parts
    return part


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({"type": "text", "text": "t", "cache_control": CACHE}, Text("t", CACHE)),
        (
            {"type": "text", "text": "t", "citations": [{"type": "char_location"}]},
            Text("t", None, ({"type": "char_location"},)),
        ),
        (
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA"}},
            Image(data="AA", media_type="image/png"),
        ),
        (
            {"type": "image", "source": {"type": "url", "url": "https://x"}, "transformations": {}},
            Image("https://x"),
        ),
        (
            {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "AA"}},
            Document(media_type="application/pdf", data="AA"),
        ),
        (
            {
                "type": "document",
                "source": {"type": "text", "media_type": "text/plain", "data": "plain"},
                "title": "t",
                "context": "c",
                "citations": {"enabled": True},
                "cache_control": CACHE,
            },
            Document(media_type="text/plain", text="plain", name="t", context="c", cited=True, cache=CACHE),
        ),
        (
            {
                "type": "document",
                "source": {"type": "url", "url": "https://x"},
                "citations": {"enabled": False},
            },
            Document(media_type="application/pdf", url="https://x"),
        ),
        ({"type": "document", "source": {"type": "file", "file_id": "f"}}, Document(file_id="f")),
        (
            {"type": "document", "source": {"type": "content", "content": "plain"}},
            Document(media_type="text/plain", text="plain"),
        ),
        ({"type": "thinking", "thinking": "hm", "signature": "S"}, Thinking("hm", "S")),
        ({"type": "redacted_thinking", "data": "D"}, Thinking(redacted="D")),
        (
            {"type": "tool_use", "id": "c", "name": "f", "input": {"a": [1]}, "caller": {"type": "direct"}},
            ToolCall("c", "f", '{"a":[1]}'),
        ),
        ({"type": "tool_result", "tool_use_id": "c"}, ToolResult("c", ())),
        ({"type": "tool_result", "tool_use_id": "c", "content": "x"}, ToolResult("c", (Text("x"),))),
        (
            {
                "type": "tool_result",
                "tool_use_id": "c",
                "is_error": True,
                "content": [
                    {"type": "text", "text": "x"},
                    {"type": "image", "source": {"type": "url", "url": "https://x"}},
                ],
            },
            ToolResult("c", (Text("x"), Image("https://x")), failed=True),
        ),
    ],
)
def test_blocks_become_parts(given, part):
    assert block(**given) == part


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"system": "s"}, {"turns": (Turn("system", (Text("s"),)), USER)}),
        (
            {
                "system": [
                    {"type": "text", "text": "s", "cache_control": CACHE},
                    {"type": "text", "text": "t"},
                ]
            },
            {"turns": (Turn("system", (Text("s", CACHE), Text("t"))), USER)},
        ),
        ({"system": ""}, {"turns": (USER,)}),
        (
            {"messages": [HELLO, {"role": "system", "content": "now"}]},
            {"turns": (USER, Turn("system", (Text("now"),)))},
        ),
        ({"stop_sequences": ["x"], "top_k": 4}, {"stop": ("x",), "top_k": 4, "max_output_tokens": 9}),
        ({"metadata": {"user_id": "u"}}, {"user": "u"}),
        ({"service_tier": "standard_only"}, {"service_tier": "default"}),
        ({"service_tier": "auto"}, {"service_tier": "auto"}),
        ({"thinking": {"type": "enabled", "budget_tokens": 2048}}, {"thinking_tokens": 2048}),
        ({"thinking": {"type": "adaptive", "display": "summarized"}}, {"thinking_adaptive": True}),
        ({"thinking": {"type": "disabled"}}, {"thinking_tokens": 0}),
        ({"output_config": {"effort": "max"}}, {"effort": "max"}),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
            {"output": OutputFormat("json_schema", {"type": "object"}, strict=True)},
        ),
        (
            {"output_format": {"type": "json_schema", "schema": {"type": "object"}}},
            {"output": OutputFormat("json_schema", {"type": "object"}, strict=True)},
        ),
        (
            {
                "tools": [
                    {
                        "name": "f",
                        "description": "d",
                        "input_schema": {"type": "object"},
                        "type": "custom",
                        "strict": True,
                        "cache_control": CACHE,
                        "eager_input_streaming": True,
                        "allowed_callers": ["direct"],
                        "defer_loading": False,
                    }
                ]
            },
            {"tools": (Tool("f", {"type": "object"}, "d", True, CACHE),)},
        ),
        ({"tool_choice": {"type": "any"}}, {"tool_choice": ToolChoice("any"), "parallel_tool_calls": None}),
        (
            {"tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": True}},
            {"tool_choice": ToolChoice("tool", "f"), "parallel_tool_calls": False},
        ),
        (
            {"tool_choice": {"type": "auto", "disable_parallel_tool_use": False}},
            {"parallel_tool_calls": True},
        ),
        ({"context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}}, {}),
        ({"cache_control": CACHE, "diagnostics": {}, "speed": "standard", "container": None}, {}),
    ],
)
def test_settings_are_read(members, expected):
    read = prompt(**members)
    assert {name: getattr(read, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"container": "c"}, "container"),
        ({"mcp_servers": [{}]}, "mcp_servers"),
        (
            {"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}},
            "context_management.edits[0].type",
        ),
        (
            {"context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": {"value": 1}}]}},
            "context_management.edits[0].keep",
        ),
        ({"context_management": {"new": 1}}, "context_management.new"),
        ({"inference_geo": "eu"}, "inference_geo"),
        ({"speed": "fast"}, "speed"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"name": "f", "input_schema": {}, "defer_loading": True}]}, "tools[0].defer_loading"),
        (
            {"tools": [{"name": "f", "input_schema": {}, "allowed_callers": ["code_execution_20250825"]}]},
            "tools[0].allowed_callers",
        ),
        ({"tools": [{"name": "f", "input_schema": {}, "input_examples": [{}]}]}, "tools[0].input_examples"),
        ({"thinking": {"type": "adaptive", "display": "omitted"}}, "thinking.display"),
        ({"thinking": {"type": "between_tools"}}, "thinking.type"),
        ({"output_config": {"format": {"type": "regex"}}}, "output_config.format.type"),
        ({"output_config": {"task_budget": {}}}, "output_config.task_budget"),
        ({"metadata": {"user_id": "u", "new": 1}}, "metadata.new"),
    ],
)
def test_what_only_anthropic_knows_is_refused_by_name(members, param):
    with pytest.raises(Untranslatable) as caught:
        prompt(**members)
    assert caught.value.param == param
    assert param in caught.value.message


def test_no_servers_are_none():
    assert prompt(mcp_servers=[]) == prompt()


def test_a_thread_is_refused_in_the_words_by_which_sdks_go_on_without_one():
    """Anthropic's tool runners ask for one unasked, and know this code alone."""
    with pytest.raises(Untranslatable) as caught:
        prompt(thread={"type": "create"})
    assert caught.value.code == "thread_unsupported_request"
    assert caught.value.param == "thread"


@pytest.mark.parametrize(
    ("given", "member"),
    [
        ({"type": "search_result"}, "type"),
        ({"type": "server_tool_use"}, "type"),
        ({"type": "image", "source": {"type": "file", "file_id": "f"}}, "source.type"),
        ({"type": "image", "source": {}, "transformations": {"oversized_image": "error"}}, "transformations"),
        ({"type": "document", "source": {"type": "content", "content": []}}, "source.type"),
        ({"type": "tool_use", "id": "c", "name": "f", "caller": {"type": "code"}}, "caller"),
        (
            {"type": "tool_result", "tool_use_id": "c", "content": [{"type": "tool_reference"}]},
            "content[0].type",
        ),
        ({"type": "tool_result", "tool_use_id": "c", "content": [{"type": "thinking"}]}, "content[0].type"),
        ({"type": "text", "text": "t", "new": 1}, "new"),
    ],
)
def test_blocks_that_only_anthropic_knows_are_refused_by_name(given, member):
    with pytest.raises(Untranslatable) as caught:
        block(**given)
    assert caught.value.param == f"messages[0].content[0].{member}"


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"model": None}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": [], "system": "s"}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages[0].content[0].source"),
        (
            {"messages": [{"role": "system", "content": [{"type": "thinking"}]}]},
            "messages[0].content[0].type",
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": 7}]}
                ]
            },
            "messages[0].content[0].content",
        ),
        ({"system": 7}, "system"),
        ({"tool_choice": {"type": "maybe"}}, "tool_choice.type"),
        ({"thinking": {"type": "enabled", "budget_tokens": 0}}, "thinking.budget_tokens"),
        ({"output_config": {"effort": "extreme"}}, "output_config.effort"),
        ({"stop_sequences": 7}, "stop_sequences"),
    ],
)
def test_a_malformed_request_names_the_member(members, param):
    with pytest.raises(BadRequest) as caught:
        prompt(**members)
    assert caught.value.param == param


# ---- what upstreams are asked ----------------------------------------------------------------------


def messages(*turns, **members):
    return asked(*turns, **members)["messages"]


def said(role, *parts):
    return Turn(role, tuple(Text(part) if isinstance(part, str) else part for part in parts))


def test_system_and_developer_messages_in_front_become_the_system_prompt():
    made = asked(said("system", "a"), said("developer", "b", "c"), USER)
    assert made["system"] == [{"type": "text", "text": text} for text in "abc"]
    assert asked(said("developer", "a"), USER)["system"] == "a"
    assert "system" not in asked()


def test_a_system_message_in_mid_conversation_stays_where_it_was():
    turns = (
        said("system", "s"),
        USER,
        said("assistant", "Hi"),
        said("user", "x"),
        said("developer", "be brief"),
    )
    assert messages(*turns, model="claude-opus-4-8")[2:] == [
        {"role": "user", "content": "x"},
        {"role": "system", "content": "be brief"},
    ]
    assert messages(*turns, model="claude-sonnet-4-5")[2:] == [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "x"},
                {"type": "text", "text": "<system>\nbe brief\n</system>"},
            ],
        }
    ]


@pytest.mark.parametrize(
    "turns",
    [
        (USER, said("assistant", "a"), said("system", "s"), USER),  # behind the assistant's
        (USER, said("system", "s"), USER),  # in front of another of the user's
    ],
)
def test_where_anthropic_allows_no_system_message_it_becomes_part_of_the_users_turn(turns):
    made = messages(*turns, model="claude-opus-5")
    assert [message["role"] for message in made][-1] == "user"
    assert {"type": "text", "text": "<system>\ns\n</system>"} in made[-1]["content"]


def test_several_system_messages_in_a_row_become_one():
    made = messages(USER, said("system", "a"), said("developer", "b"), model="claude-opus-4-8")
    assert made[1] == {
        "role": "system",
        "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
    }


def test_turns_of_one_role_become_one_message():
    results = (Turn("user", (ToolResult("c1", (Text("1"),)),)), Turn("user", (ToolResult("c2", ()),)))
    assert messages(*results, said("user", "go on")) == [
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "c1", "content": "1"},
                {"type": "tool_result", "tool_use_id": "c2"},
                {"type": "text", "text": "go on"},
            ],
        }
    ]


def test_an_assistant_that_said_nothing_is_passed_over():
    assert messages(USER, Turn("assistant", ()), said("user", "Hello?")) == [
        {"role": "user", "content": [{"type": "text", "text": "Hello"}, {"type": "text", "text": "Hello?"}]}
    ]


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (Text("t", CACHE), {"type": "text", "text": "t", "cache_control": CACHE}),
        (Text("t", citations=({"type": "x"},)), {"type": "text", "text": "t", "citations": [{"type": "x"}]}),
        (Refusal("no"), {"type": "text", "text": "no"}),
        (
            Image(data="AA", media_type="image/jpg", detail="high"),
            {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": "AA"}},
        ),
        (
            Image(url="https://x", detail="auto"),
            {"type": "image", "source": {"type": "url", "url": "https://x"}},
        ),
        (
            Document(media_type="application/pdf", data="AA", name="n", cited=True, context="c"),
            {
                "type": "document",
                "source": {"type": "base64", "media_type": "application/pdf", "data": "AA"},
                "title": "n",
                "context": "c",
                "citations": {"enabled": True},
            },
        ),
        (
            Document(media_type="text/markdown", data="w6Q="),
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "ä"}},
        ),
        (
            Document(media_type="text/plain", text="x"),
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "x"}},
        ),
        (Document(url="https://x"), {"type": "document", "source": {"type": "url", "url": "https://x"}}),
        (Thinking("hm", "S"), {"type": "thinking", "thinking": "hm", "signature": "S"}),
        (Thinking(redacted="D"), {"type": "redacted_thinking", "data": "D"}),
        (ToolCall("c", "f", ""), {"type": "tool_use", "id": "c", "name": "f", "input": {}}),
        (
            ToolResult("c", (Image(url="https://x"),), failed=True, cache=CACHE),
            {
                "type": "tool_result",
                "tool_use_id": "c",
                "content": [{"type": "image", "source": {"type": "url", "url": "https://x"}}],
                "is_error": True,
                "cache_control": CACHE,
            },
        ),
    ],
)
def test_parts_become_blocks(part, expected):
    (message,) = messages(said("user", part, "x"))
    assert message["content"][0] == expected


def test_thoughts_of_another_model_stay_behind():
    assert messages(USER, said("assistant", Thinking("hm"), "a"), USER)[1] == {
        "role": "assistant",
        "content": "a",
    }
    assert "thinking" in left_out.NEUTRAL_TO_ANTHROPIC


@pytest.mark.parametrize(
    ("model", "members", "think", "effort", "limit"),
    [
        ("claude-opus-4-7", {}, None, None, anthropic.DEFAULT_MAX_TOKENS),
        ("claude-opus-4-7", {"effort": "high"}, {"type": "adaptive"}, "high", anthropic.DEFAULT_MAX_TOKENS),
        ("claude-opus-4-7", {"effort": "minimal"}, {"type": "adaptive"}, "low", anthropic.DEFAULT_MAX_TOKENS),
        ("claude-opus-4-7", {"effort": "none"}, {"type": "disabled"}, None, anthropic.DEFAULT_MAX_TOKENS),
        (
            "claude-sonnet-4-5",
            {"effort": "low"},
            {"type": "enabled", "budget_tokens": 2048},
            None,
            anthropic.DEFAULT_MAX_TOKENS + 2048,
        ),
        (
            "claude-sonnet-4-5",
            {"effort": "high", "max_output_tokens": 4000},
            {"type": "enabled", "budget_tokens": 2000},
            None,
            4000,
        ),
        (
            "claude-sonnet-4-5",
            {"thinking_adaptive": True, "max_output_tokens": 1500},
            {"type": "enabled", "budget_tokens": 1024},
            None,
            1500,
        ),
        (
            "claude-opus-4-7",
            {"thinking_tokens": 5000, "max_output_tokens": 9000},
            {"type": "enabled", "budget_tokens": 5000},
            None,
            9000,
        ),
    ],
)
def test_how_much_to_think(model, members, think, effort, limit):
    made = asked(model=model, **members)
    assert made.get("thinking") == think
    assert made.get("output_config", {}).get("effort") == effort
    assert made["max_tokens"] == limit


def test_a_limit_without_room_for_thinking_is_refused():
    with pytest.raises(Untranslatable) as caught:
        asked(model="claude-sonnet-4-5", effort="high", max_output_tokens=1024)
    assert caught.value.param == "reasoning_effort"


@pytest.mark.parametrize(
    "model",
    [
        "claude-3-7-sonnet-20250219",
        "claude-sonnet-4-20250514",
        "claude-opus-4-1",
        "claude-opus-4",
        "anthropic/claude-haiku-4.5",
        "claude-sonnet-4@20250514",
        "claude-haiku-4-5-20251001",
    ],
)
def test_models_that_want_a_number_of_thinking_tokens(model):
    assert thinking.takes_budget(model)


@pytest.mark.parametrize(
    "model",
    [
        "claude-opus-4-6",
        "claude-sonnet-4.6",
        "claude-opus-4-8-20260528",
        "claude-opus-4-10",
        "claude-opus-5",
        "sim",
    ],
)
def test_models_that_think_as_they_see_fit(model):
    assert not thinking.takes_budget(model)


@pytest.mark.parametrize(
    ("choice", "parallel", "expected"),
    [
        (None, None, None),
        (None, True, None),
        (None, False, {"type": "auto", "disable_parallel_tool_use": True}),
        (ToolChoice("any"), None, {"type": "any"}),
        (ToolChoice("any"), False, {"type": "any", "disable_parallel_tool_use": True}),
        (ToolChoice("none"), False, {"type": "none"}),
        (ToolChoice("tool", "f"), False, {"type": "tool", "name": "f", "disable_parallel_tool_use": True}),
    ],
)
def test_tool_choice(choice, parallel, expected):
    assert (
        asked(tools=(TOOL,), tool_choice=choice, parallel_tool_calls=parallel).get("tool_choice") == expected
    )


@pytest.mark.parametrize("parameters", [None, {}, {"properties": {}}])
def test_a_tool_always_takes_an_object(parameters):
    (tool,) = asked(tools=(Tool("f", parameters, "d", False, CACHE),))["tools"]
    assert tool["input_schema"]["type"] == "object"
    assert tool["cache_control"] == CACHE
    assert "strict" not in tool


def test_a_schema_keeps_its_description():
    output = OutputFormat("json_schema", {"type": "object"}, "n", "what it is")
    assert asked(output=output)["output_config"]["format"] == {
        "type": "json_schema",
        "schema": {"description": "what it is", "type": "object"},
    }


def test_defaults_are_not_said():
    made = asked(
        temperature=1,
        top_p=1.0,
        frequency_penalty=0,
        logit_bias={},
        logprobs=False,
        verbosity="medium",
        service_tier="auto",
        user="x" * 257,
        metadata={"a": "b"},
        prompt_cache_key="k",
    )
    assert made.keys() == {"model", "messages", "max_tokens"}


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"count": 2}, "n"),
        ({"seed": 0}, "seed"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"presence_penalty": -1}, "presence_penalty"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"logprobs": True}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"verbosity": "high"}, "verbosity"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"temperature": 1.5}, "temperature"),
        ({"output": OutputFormat("json_object")}, "response_format"),
        ({"output": OutputFormat("json_schema")}, "response_format.json_schema"),
        ({"turns": (Turn("assistant", (), "ann"), Turn("assistant", (), "bob"), USER)}, "messages"),
        ({"turns": (said("user", Audio("AA", "wav")),)}, "messages"),
        ({"turns": (said("user", Image(url="x", detail="low")),)}, "messages"),
        ({"turns": (said("user", Image(data="AA", media_type="image/tiff")),)}, "messages"),
        ({"turns": (said("user", Document(file_id="f")),)}, "messages"),
        ({"turns": (said("user", Document(media_type="application/zip", data="AA")),)}, "messages"),
        ({"turns": (said("system", Image(url="x")), USER)}, "messages"),
        ({"turns": (USER, said("system", Image(url="x")))}, "messages"),
    ],
)
def test_what_anthropic_cannot_say_is_refused(members, param):
    with pytest.raises(Untranslatable) as caught:
        anthropic.encode_prompt(Prompt(**{"model": "m", "turns": (USER,), **members}))
    assert caught.value.param == param


@pytest.mark.parametrize(
    "part",
    [
        ToolCall("c", "f", "{broken"),
        ToolCall("c", "f", "[]"),
        Document(media_type="text/plain", data="!"),
        Document(media_type="text/plain", data="é"),
    ],
)
def test_what_is_broken_is_the_callers_fault(part):
    with pytest.raises(BadRequest):
        asked(USER, said("assistant", part), USER)


# ---- what upstreams answer -------------------------------------------------------------------------


def answer(*content, stop_reason="end_turn", **members):
    return anthropic.decode_answer(
        json.dumps(
            {"id": "msg_1", "model": "m", "content": content, "stop_reason": stop_reason, **members}
        ).encode()
    )


def test_a_message_becomes_an_answer():
    read = answer(
        {"type": "thinking", "thinking": "hm", "signature": "S"},
        {"type": "redacted_thinking", "data": "D"},
        {"type": "text", "text": "a", "citations": None},
        {"type": "tool_use", "id": "c", "name": "f", "input": {"a": 1}},
        stop_reason="stop_sequence",
        stop_sequence="END",
        usage={"input_tokens": 1, "output_tokens": 2, "cache_read_input_tokens": 3},
    )
    assert read == Answer(
        id="msg_1",
        model="m",
        parts=(Thinking("hm", "S"), Thinking(redacted="D"), Text("a"), ToolCall("c", "f", '{"a":1}')),
        stop="stop_sequence",
        stop_sequence="END",
        usage=Usage(4, 2, 3),
    )


@pytest.mark.parametrize("reason", [None, "tomorrow"])
def test_a_message_without_a_known_stop_reason_is_no_success(reason):
    with pytest.raises(UpstreamBroken):
        answer({"type": "text", "text": "half"}, stop_reason=reason)


def test_a_block_that_nobody_asked_for_is_refused():
    with pytest.raises(UpstreamBroken, match="server_tool_use"):
        answer({"type": "server_tool_use", "id": "x", "name": "web_search", "input": {}})


@pytest.mark.parametrize(
    ("stop", "reason"),
    [
        ("stop", "end_turn"),
        ("stop_sequence", "stop_sequence"),
        ("length", "max_tokens"),
        ("tool_calls", "tool_use"),
        ("content_filter", "refusal"),
        ("refusal", "refusal"),
        ("pause", "pause_turn"),
        ("context_length", "model_context_window_exceeded"),
    ],
)
def test_stop_reasons(stop, reason):
    made = Answer(id="a", model="m", parts=(Refusal("no"),), stop=stop, usage=Usage())
    read = Message.model_validate_json(anthropic.encode_answer(made))
    assert read.stop_reason == reason
    assert read.content[0].text == "no"
    if stop != "content_filter":
        assert anthropic.decode_answer(anthropic.encode_answer(made)).stop == stop


def test_a_text_without_citations_does_not_speak_of_them():
    """Vercel's AI SDK takes a list or nothing."""
    made = Answer(
        id="a",
        model="m",
        parts=(Text("x"), Refusal("no"), Text("y", citations=({"url": "u"},))),
        stop="stop",
        usage=Usage(),
    )
    assert json.loads(anthropic.encode_answer(made))["content"] == [
        {"type": "text", "text": "x"},
        {"type": "text", "text": "no"},
        {"type": "text", "text": "y", "citations": [{"url": "u"}]},
    ]


def test_arguments_that_are_no_object_are_the_upstreams_fault():
    made = Answer(id="a", model="m", parts=(ToolCall("c", "f", '{"a":'),), stop="tool_calls", usage=Usage())
    with pytest.raises(UpstreamBroken, match="arguments"):
        anthropic.encode_answer(made)


def test_arguments_that_the_limit_cut_off_are_empty():
    made = Answer(id="a", model="m", parts=(ToolCall("c", "f", '{"a":'),), stop="length", usage=Usage())
    read = json.loads(anthropic.encode_answer(made))
    assert read["content"][0]["input"] == {}
    assert read["stop_reason"] == "max_tokens"


def test_a_thought_without_signature_has_an_empty_one():
    made = Answer(id="a", model="m", parts=(Thinking("hm"),), stop="stop", usage=Usage())
    assert Message.model_validate_json(anthropic.encode_answer(made)).content[0].signature == ""


# ---- streams ---------------------------------------------------------------------------------------


def frame(kind, **members):
    return sse.encode(json.dumps({"type": kind, **members}).encode(), kind)


START = frame(
    "message_start", message={"id": "msg_1", "model": "m", "usage": {"input_tokens": 5, "output_tokens": 1}}
)
STOP = [
    frame("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 7}),
    frame("message_stop"),
]


def begin(index, **members):
    return frame("content_block_start", index=index, content_block=members)


def delta(index, **members):
    return frame("content_block_delta", index=index, delta=members)


def end(index):
    return frame("content_block_stop", index=index)


def events(*frames):
    decoder = anthropic.StreamDecoder()
    found = [event for one in frames for event in decoder.feed(one)]
    return found + decoder.close()


def test_a_stream_becomes_events_at_once():
    found = events(
        START,
        frame("ping"),
        begin(0, type="thinking", thinking="", signature=""),
        delta(0, type="thinking_delta", thinking="hm"),
        delta(0, type="signature_delta", signature="S"),
        end(0),
        begin(1, type="text", text=""),
        delta(1, type="text_delta", text="a"),
        delta(1, type="text_delta", text=""),
        delta(1, type="citations_delta", citation={"type": "x"}),
        end(1),
        frame("something_new", a=1),
        *STOP,
    )
    assert found == [
        Started("msg_1", "m", 0, Usage(5, 1)),
        PartStarted(Thinking()),
        PartDelta("hm"),
        PartDelta(signature="S"),
        PartEnded(),
        PartStarted(Text("")),
        PartDelta("a"),
        PartDelta(citation={"type": "x"}),
        PartEnded(),
        Finished("stop", Usage(5, 7)),
    ]


def test_arguments_that_come_with_the_block_are_taken():
    found = events(START, begin(0, type="tool_use", id="c", name="f", input={"a": 1}), end(0), *STOP)
    assert fold(found).parts == (ToolCall("c", "f", '{"a":1}'),)


@pytest.mark.parametrize(
    "frames",
    [
        [begin(0, type="text", text="")],
        [START, START],
        [START, delta(0, type="text_delta", text="x")],
        [START, end(0)],
        [START, begin(0, type="text"), begin(1, type="text")],
        [START, begin(0, type="text"), delta(1, type="text_delta", text="x")],
        [START, begin(0, type="text"), *STOP],
        [START, begin(0, type="server_tool_use", name="x")],
        [START, frame("message_stop")],
        [START, frame("message_delta", delta={"stop_reason": "tomorrow"})],
        [START, b"data: {\n\n"],
        [frame("message_start")],
        [START],
    ],
)
def test_events_where_they_make_no_sense_break_the_stream(frames):
    with pytest.raises(UpstreamBroken):
        events(*frames)


def test_errors_in_mid_stream_are_raised():
    overloaded = frame("error", error={"type": "overloaded_error", "message": "Overloaded"})
    with pytest.raises(PenstockError) as caught:
        events(START, overloaded)
    assert type(caught.value) is UpstreamFailed
    assert caught.value.status == 503


def test_usage_of_another_dialect_is_told_at_the_end():
    encoder = anthropic.StreamEncoder(include_usage=False)
    made = [
        Started("a", "m"),
        PartStarted(Text("")),
        PartDelta("Hi", citation=None),
        PartEnded(),
        Finished("stop", Usage(10, 3, 4, 2, 1)),
    ]
    sent = [one for event in made for one in encoder.feed(event)]
    client = anthropic_client(**stream_of(sent))
    with client.messages.stream(model="m", messages=[], max_tokens=1) as stream:
        read = stream.get_final_message()
    used = read.usage
    assert (used.input_tokens, used.cache_read_input_tokens, used.cache_creation_input_tokens) == (4, 4, 2)
    assert used.output_tokens == 3
    assert used.output_tokens_details.thinking_tokens == 1


def test_citations_are_streamed():
    encoder = anthropic.StreamEncoder()
    where = {
        "type": "char_location",
        "cited_text": "x",
        "document_index": 0,
        "document_title": None,
        "start_char_index": 0,
        "end_char_index": 1,
        "file_id": None,
    }
    made = [
        Started("a", "m"),
        PartStarted(Text("a", citations=(where,))),
        PartDelta(citation=where),
        PartEnded(),
        Finished("stop", Usage()),
    ]
    sent = [one for event in made for one in encoder.feed(event)]
    client = anthropic_client(**stream_of(sent))
    with client.messages.stream(model="m", messages=[], max_tokens=1) as stream:
        (read,) = stream.get_final_message().content
    assert len(read.citations) == 2


# ---- between the two -------------------------------------------------------------------------------


def test_a_tool_loop_of_an_openai_caller_keeps_its_signatures():
    """The answer goes out to an OpenAI caller, comes back in its history, and reaches Anthropic unchanged."""
    blocks = [
        {"type": "thinking", "thinking": "let me see", "signature": "S"},
        {"type": "redacted_thinking", "data": "D"},
        {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": 1}},
    ]
    told = json.loads(chat.encode_answer(answer(*blocks, stop_reason="tool_use")))
    history = {
        "model": "m",
        "messages": [
            HELLO,
            told["choices"][0]["message"],
            {"role": "tool", "tool_call_id": "toolu_1", "content": "42"},
        ],
    }
    sent = json.loads(anthropic.encode_prompt(chat.decode_prompt(json.dumps(history).encode())))
    assert sent["messages"][1]["content"] == blocks


def test_every_reason_for_leaving_something_out_is_given():
    tables = [
        table for table in vars(left_out).values() if isinstance(table, dict) and "__name__" not in table
    ]
    assert len(tables) > 5
    assert all(len(reason) > 10 for table in tables for reason in table.values())
