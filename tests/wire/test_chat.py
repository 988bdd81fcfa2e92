"""Chat completions: what each member means, and what is refused."""

import json

import pytest
from conversations import fold, openai_client, stream_of

from penstock.errors import BadRequest, PenstockError, Untranslatable, UpstreamBroken, UpstreamFailed
from penstock.messages import Usage
from penstock.wire import anthropic, chat, sse
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
FUNCTION = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def prompt(*messages, **members):
    body = {"model": "m", "messages": list(messages) or [HELLO], **members}
    return chat.decode_prompt(json.dumps(body).encode())


def asked(*turns, **members):
    members.setdefault("model", "m")
    return json.loads(chat.encode_prompt(Prompt(turns=turns or (Turn("user", (Text("Hello"),)),), **members)))


# ---- what callers write ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "turn"),
    [
        ({"role": "system", "content": "s"}, Turn("system", (Text("s"),))),
        ({"role": "developer", "content": [{"type": "text", "text": "s"}]}, Turn("developer", (Text("s"),))),
        ({"role": "user", "content": "u", "name": "ann"}, Turn("user", (Text("u"),), "ann")),
        (
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "t", "cache_control": {"type": "ephemeral"}},
                    {"type": "image_url", "image_url": {"url": "https://x/y.png", "detail": "high"}},
                    {"type": "image_url", "image_url": {"url": "data:image/PNG;base64,AAAA"}},
                    {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
                    {
                        "type": "file",
                        "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AA=="},
                    },
                    {
                        "type": "file",
                        "file": {"file_id": "file-1"},
                        "prompt_cache_breakpoint": {"mode": "explicit"},
                    },
                ],
            },
            Turn(
                "user",
                (
                    Text("t", {"type": "ephemeral"}),
                    Image(url="https://x/y.png", detail="high"),
                    Image(data="AAAA", media_type="image/png"),
                    Audio("AAAA", "wav"),
                    Document(media_type="application/pdf", data="AA==", name="a.pdf"),
                    Document(file_id="file-1"),
                ),
            ),
        ),
        (
            # What the SDK gives back when an answer is appended to the history as it is.
            {
                "role": "assistant",
                "content": "a",
                "refusal": None,
                "annotations": [],
                "audio": None,
                "function_call": None,
                "tool_calls": None,
            },
            Turn("assistant", (Text("a"),)),
        ),
        (
            {
                "role": "assistant",
                "content": None,
                "reasoning_content": "hm",
                "tool_calls": [
                    {
                        "id": "c1",
                        "type": "function",
                        "function": {"name": "f", "arguments": "{}"},
                        "index": 0,
                    },
                    {"id": "c2", "type": "function", "function": {"name": "g", "arguments": ""}},
                ],
            },
            Turn("assistant", (Thinking("hm"), ToolCall("c1", "f", "{}"), ToolCall("c2", "g", ""))),
        ),
        (
            {
                "role": "assistant",
                "content": [{"type": "text", "text": "a"}, {"type": "refusal", "refusal": "no"}],
                "reasoning_content": "hm",
                "reasoning": "hm",
                "reasoning_details": [
                    {"type": "reasoning.text", "text": "h", "signature": "S", "index": 0},
                    {"type": "reasoning.encrypted", "data": "D", "index": 1},
                ],
            },
            Turn("assistant", (Thinking("h", "S"), Thinking(redacted="D"), Text("a"), Refusal("no"))),
        ),
        (
            {"role": "tool", "tool_call_id": "c1", "content": "42", "name": "f"},
            Turn("user", (ToolResult("c1", (Text("42"),)),)),
        ),
        (
            {
                "role": "tool",
                "tool_call_id": "c1",
                "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
            },
            Turn("user", (ToolResult("c1", (Text("a"), Text("b"))),)),
        ),
    ],
)
def test_messages_become_turns(message, turn):
    assert prompt(message).turns == (turn,)


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"max_tokens": 5}, {"max_output_tokens": 5}),
        ({"max_tokens": 5, "max_completion_tokens": 7}, {"max_output_tokens": 7}),
        ({"stop": "x"}, {"stop": ("x",)}),
        ({"stop": ["x", "y"]}, {"stop": ("x", "y")}),
        ({"n": None}, {"count": 1}),
        ({"safety_identifier": "s"}, {"user": "s"}),
        (
            {"stream": True, "stream_options": {"include_usage": True}},
            {"stream": True, "include_usage": True},
        ),
        ({"tools": [FUNCTION]}, {"tools": (Tool("f", {"type": "object"}),)}),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "strict": True, "description": "d"}}]},
            {"tools": (Tool("f", {"type": "object", "properties": {}}, "d", True),)},
        ),
        ({"tool_choice": "required"}, {"tool_choice": ToolChoice("any")}),
        (
            {"tool_choice": {"type": "function", "function": {"name": "f"}}},
            {"tool_choice": ToolChoice("tool", "f")},
        ),
        ({"response_format": {"type": "text"}}, {"output": None}),
        ({"response_format": {"type": "json_object"}}, {"output": OutputFormat("json_object")}),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "schema": {}, "strict": True},
                }
            },
            {"output": OutputFormat("json_schema", {}, "n", "", True)},
        ),
        ({"reasoning_effort": "high"}, {"effort": "high"}),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, {"thinking_tokens": 2000}),
        ({"thinking": {"type": "disabled"}}, {"thinking_tokens": 0}),
        ({"store": False, "modalities": ["text"], "prediction": {"type": "content"}}, {}),
        ({"prompt_cache_options": {}, "prompt_cache_retention": "24h"}, {}),
        ({"something_new": None}, {}),
        ({"stream_options": {"include_obfuscation": False}}, {"include_usage": False}),
    ],
)
def test_settings_are_read(members, expected):
    read = prompt(**members)
    assert {name: getattr(read, name) for name in expected} == expected


def allowing(*tools, mode="auto", **more):
    """Members of a request that has two tools, and allows these."""
    allowed = {"mode": mode, "tools": tools, **more}
    return {
        "tools": [FUNCTION, {"type": "custom", "custom": {"name": "write"}}],
        "tool_choice": {"type": "allowed_tools", "allowed_tools": allowed},
    }


@pytest.mark.parametrize(("mode", "meant"), [("auto", "auto"), ("required", "any")])
@pytest.mark.parametrize("kind", ["function", "custom"])
def test_to_allow_some_of_the_tools_is_to_offer_no_others(kind, mode, meant):
    name = {"function": FUNCTION["function"]["name"], "custom": "write"}[kind]
    members = allowing({"type": kind, kind: {"name": name}}, mode=mode)
    found = chat.decode_prompt(json.dumps({"model": "m", "messages": [HELLO], **members}).encode())
    assert [tool.name for tool in found.tools] == [name]
    assert found.tool_choice == ToolChoice(meant)


LARK = {"type": "grammar", "grammar": {"syntax": "lark", "definition": "start: /a/"}}


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"something_new": 1}, "something_new"),
        ({"store": True}, "store"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"functions": [{}]}, "functions"),
        ({"function_call": "auto"}, "function_call"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"moderation": {"model": "x"}}, "moderation"),
        ({"tools": [{"type": "other", "custom": {"name": "x"}}]}, "tools[0].type"),
        ({"tools": [{"type": "custom", "custom": {"name": "x", "new": 1}}]}, "tools[0].custom.new"),
        ({"tools": [{"type": "custom", "custom": {"name": "x", "format": LARK}}]}, "tools[0].custom.format"),
        ({"tools": [{**FUNCTION, "new": 1}]}, "tools[0].new"),
        ({"tool_choice": {"type": "hosted_tools"}}, "tool_choice.type"),
        (allowing({"type": "function", "function": {"name": "f"}}, new=1), "tool_choice.allowed_tools.new"),
        (allowing({"type": "mcp"}), "tool_choice.allowed_tools.tools[0].type"),
        ({"response_format": {"type": "grammar"}}, "response_format.type"),
        ({"thinking": {"type": "between_tools"}}, "thinking.type"),
        ({"thinking": {"type": "adaptive", "display": "omitted"}}, "thinking.display"),
        ({"stream_options": {"include_usage": True, "new": 1}}, "stream_options.new"),
        ({"messages": [{"role": "function", "content": "x"}]}, "messages[0].role"),
        ({"messages": [HELLO, {**HELLO, "new": 1}]}, "messages[1].new"),
        ({"messages": [{"role": "assistant", "audio": {"id": "x"}}]}, "messages[0].audio"),
        ({"messages": [{"role": "assistant", "content": "x", "prefix": True}]}, "messages[0].prefix"),
        ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "messages[0].content[0].type"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"id": "x", "type": "other"}]}]},
            "messages[0].tool_calls[0].type",
        ),
    ],
)
def test_what_only_openai_knows_is_refused_by_name(members, param):
    body = {"model": "m", "messages": [HELLO], **members}
    with pytest.raises(Untranslatable) as caught:
        chat.decode_prompt(json.dumps(body).encode())
    assert caught.value.param == param
    assert param in caught.value.message


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"model": None}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": "x"}, "messages"),
        ({"messages": [7]}, "messages[0]"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "ghost", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0].image_url",
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:x"}}]}
                ]
            },
            "messages[0].content[0].image_url.url",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "file", "file": {}}]}]},
            "messages[0].content[0].file",
        ),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"id": "x"}]}]},
            "messages[0].tool_calls[0].function",
        ),
        (
            {"messages": [{"role": "system", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0].type",
        ),
        ({"temperature": "hot"}, "temperature"),
        ({"max_tokens": True}, "max_tokens"),
        ({"stream": "yes"}, "stream"),
        ({"stop": [1]}, "stop"),
        ({"tools": {}}, "tools"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tool_choice": "maybe"}, "tool_choice"),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice.allowed_tools"),
        (allowing(), "tool_choice.allowed_tools.tools"),
        (
            allowing({"type": "function", "function": {"name": "f"}}, mode="any"),
            "tool_choice.allowed_tools.mode",
        ),
        (allowing({"type": "function"}), "tool_choice.allowed_tools.tools[0].function"),
        (
            allowing({"type": "function", "function": {"name": "none"}}),
            "tool_choice.allowed_tools.tools[0].function.name",
        ),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"reasoning_effort": "extreme"}, "reasoning_effort"),
    ],
)
def test_a_malformed_request_names_the_member(members, param):
    body = {"model": "m", "messages": [HELLO], **members}
    with pytest.raises(BadRequest) as caught:
        chat.decode_prompt(json.dumps(body).encode())
    assert caught.value.param == param


# ---- what upstreams are asked ----------------------------------------------------------------------

RESULT = ToolResult("c1", (Text("a"), Image(url="https://x/y.png"), Document(text="plain", name="n")))


@pytest.mark.parametrize(
    ("turn", "messages"),
    [
        (Turn("system", (Text("s"),)), [{"role": "system", "content": "s"}]),
        (
            Turn("user", (Text("a"), Text("b"))),
            [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
        ),
        (
            Turn("user", (Image(data="AA", media_type="image/png", detail="low"),)),
            [
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "image_url",
                            "image_url": {"url": "data:image/png;base64,AA", "detail": "low"},
                        }
                    ],
                }
            ],
        ),
        (
            Turn("user", (Document(media_type="application/pdf", data="AA"),)),
            [
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "file",
                            "file": {
                                "filename": "document.pdf",
                                "file_data": "data:application/pdf;base64,AA",
                            },
                        }
                    ],
                }
            ],
        ),
        (
            Turn("user", (Document(text="plain", name="n", context="c"), Audio("AA", "mp3"))),
            [
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "text",
                            "text": "<document>\n<title>n</title>\n<context>c</context>\nplain\n</document>",
                        },
                        {"type": "input_audio", "input_audio": {"data": "AA", "format": "mp3"}},
                    ],
                }
            ],
        ),
        (
            Turn("user", (ToolResult("c1", (Text("x"),)), ToolResult("c2", (), failed=True), Text("and"))),
            [
                {"role": "tool", "tool_call_id": "c1", "content": "x"},
                {"role": "tool", "tool_call_id": "c2", "content": "The tool failed: "},
                {"role": "user", "content": "and"},
            ],
        ),
        (
            Turn("user", (RESULT, ToolResult("c2", (Text("z"),)))),
            [
                {"role": "tool", "tool_call_id": "c1", "content": "a"},
                {"role": "tool", "tool_call_id": "c2", "content": "z"},
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "What the tool call c1 returned:"},
                        {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
                        {"type": "text", "text": "<document>\n<title>n</title>\nplain\n</document>"},
                    ],
                },
            ],
        ),
    ],
)
def test_turns_become_messages(turn, messages):
    assert asked(turn)["messages"] == messages


def test_an_assistants_turn_becomes_one_message():
    spoken = Turn(
        "assistant",
        (Thinking("hm", "S"), Text("a"), Text("b"), Refusal("no"), ToolCall("c1", "f", "")),
    )
    assert asked(spoken, Turn("user", (Text("u"),)))["messages"][0] == {
        "role": "assistant",
        "content": "ab",
        "refusal": "no",
        "reasoning_content": "hm",
        "reasoning_details": [{"type": "reasoning.text", "text": "hm", "signature": "S", "index": 0}],
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
    }


def test_thoughts_without_signature_go_back_by_their_plain_name_only():
    message = asked(Turn("assistant", (Thinking("hm"), ToolCall("c", "f", "{}"))), Turn("user", ()))[
        "messages"
    ][0]
    assert message["reasoning_content"] == "hm"
    assert "reasoning_details" not in message
    assert message["content"] is None


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("gpt-5.2", "max_completion_tokens"),
        ("o3-mini", "max_completion_tokens"),
        ("openai/gpt-4.1", "max_completion_tokens"),
        ("gpt-oss-120b", "max_tokens"),
        ("openai/gpt-oss-20b", "max_tokens"),
        ("mistral-large", "max_tokens"),
        ("deepseek-chat", "max_tokens"),
        ("sim", "max_tokens"),
    ],
)
def test_the_limit_has_the_name_that_the_server_knows(model, name):
    body = asked(model=model, max_output_tokens=9, prompt_cache_key="k")
    assert body[name] == 9
    assert ("prompt_cache_key" in body) == (name == "max_completion_tokens")


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"thinking_tokens": 0}, "none"),
        ({"thinking_tokens": 1024}, "low"),
        ({"thinking_tokens": 8000}, "medium"),
        ({"thinking_tokens": 32000}, "high"),
        ({"thinking_adaptive": True}, None),
        ({"thinking_adaptive": True, "effort": "xhigh"}, "xhigh"),
        ({"thinking_tokens": 9000, "effort": "low"}, "low"),
        ({}, None),
    ],
)
def test_thinking_becomes_effort(members, expected):
    assert asked(**members).get("reasoning_effort") == expected


def test_a_stream_is_always_asked_for_its_usage():
    assert asked(stream=True)["stream_options"] == {"include_usage": True}
    assert "stream_options" not in asked()


def test_what_says_nothing_is_not_sent():
    assert asked(
        service_tier="auto", user="x" * 65, metadata={"a": "b"}, parallel_tool_calls=False
    ).keys() == {
        "model",
        "messages",
    }


@pytest.mark.parametrize(
    ("prompt", "param"),
    [
        (Prompt(model="m", turns=(Turn("user", ()),), top_k=5), "top_k"),
        (Prompt(model="m", turns=(Turn("user", ()), Turn("assistant", (Text("The"),)))), "messages"),
        (Prompt(model="m", turns=(Turn("user", (Document(text="x", cited=True),)),)), "citations"),
        (Prompt(model="m", turns=(Turn("user", (Document(url="https://x"),)),)), "messages"),
        (Prompt(model="m", turns=(Turn("user", (Document(file_id="x"),)),)), "messages"),
        (Prompt(model="m", turns=(Turn("user", (Document(data="x", context="c"),)),)), "messages"),
        (Prompt(model="m", turns=(Turn("system", (Image(url="x"),)),)), "messages"),
        (Prompt(model="m", turns=(Turn("assistant", (Image(url="x"),)), Turn("user", ()))), "messages"),
        (Prompt(model="m", turns=(Turn("user", (Thinking("x"),)),)), "messages"),
    ],
)
def test_what_a_completion_cannot_say_is_refused(prompt, param):
    with pytest.raises(Untranslatable) as caught:
        chat.encode_prompt(prompt)
    assert caught.value.param == param


# ---- what upstreams answer -------------------------------------------------------------------------


def answer(message, finish_reason="stop", **choice):
    body = {
        "id": "chatcmpl-1",
        "created": 5,
        "model": "m",
        "choices": [{"message": message, "finish_reason": finish_reason, **choice}],
    }
    return chat.decode_answer(json.dumps(body).encode())


def test_answers_of_many_servers_are_understood():
    assert answer({"content": "", "reasoning": "hm"}).parts == (Thinking("hm"),)
    assert answer({"content": None, "refusal": "no"}).stop == "refusal"
    mistral = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "h"}, {"type": "text", "text": "m"}]},
        {"type": "text", "text": "a"},
    ]
    assert answer({"content": mistral}).parts == (Thinking("hm"), Text("a"))
    ollama = {"content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]}
    read = answer(ollama)
    assert read.parts == (ToolCall("call_1_0", "f", '{"a":1}'),)
    assert read.stop == "tool_calls"
    vllm = answer({"content": "a"}, stop_reason="END")
    assert (vllm.stop, vllm.stop_sequence) == ("stop_sequence", "END")
    assert answer({"content": "a"}, stop_reason=128001).stop == "stop"


@pytest.mark.parametrize("reason", [None, "", "abort", "error", "insufficient_system_resource", "tomorrow"])
def test_an_answer_that_was_broken_off_is_no_success(reason):
    with pytest.raises(UpstreamBroken):
        answer({"content": "half"}, reason)


@pytest.mark.parametrize(
    ("stop", "parts", "finish"),
    [
        ("stop", (), "stop"),
        ("stop_sequence", (), "stop"),
        ("length", (), "length"),
        ("context_length", (), "length"),
        ("pause", (), "length"),
        ("tool_calls", (), "tool_calls"),
        ("content_filter", (), "content_filter"),
        ("refusal", (), "content_filter"),
        ("refusal", (Refusal("no"),), "stop"),
    ],
)
def test_finish_reasons(stop, parts, finish):
    made = Answer(id="a", model="m", parts=parts, stop=stop, usage=Usage())
    assert json.loads(chat.encode_answer(made))["choices"][0]["finish_reason"] == finish


# ---- streams ---------------------------------------------------------------------------------------


def frames(*deltas, finish="stop", head=None, usage=None):
    made = [
        {"id": "chatcmpl-1", "model": "m", "created": 5, "choices": [{"index": 0, "delta": d}]}
        for d in deltas
    ]
    if finish:
        made.append({"id": "chatcmpl-1", "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    if usage:
        made.append({"choices": [], "usage": usage})
    return [sse.encode(json.dumps(chunk).encode()) for chunk in [*(head or []), *made]] + [
        b"data: [DONE]\n\n"
    ]


def events(*deltas, **options):
    decoder = chat.StreamDecoder()
    found = [event for frame in frames(*deltas, **options) for event in decoder.feed(frame)]
    return found + decoder.close()


def call(index, arguments=None, name=None, call_id=None):
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    delta = {"index": index, "function": function}
    if call_id:
        delta |= {"id": call_id, "type": "function"}
    return {"tool_calls": [delta]}


def test_a_stream_becomes_events_at_once():
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    assert events(
        {"role": "assistant", "content": ""}, {"content": "Hel"}, {"content": "lo"}, usage=usage
    ) == [
        Started("chatcmpl-1", "m", 5),
        PartStarted(Text("")),
        PartDelta("Hel"),
        PartDelta("lo"),
        PartEnded(),
        Finished("stop", Usage(3, 2)),
    ]


def test_thoughts_text_and_calls_follow_each_other():
    found = fold(
        events(
            {"reasoning_content": "h"},
            {"reasoning_content": "m"},
            {"content": "a"},
            call(0, "", "f", "c0"),
            call(0, '{"x":'),
            call(0, "1}"),
            call(1, '{"y":2}', "g", "c1"),
            finish="tool_calls",
        )
    )
    assert found.parts == (
        Thinking("hm"),
        Text("a"),
        ToolCall("c0", "f", '{"x":1}'),
        ToolCall("c1", "g", '{"y":2}'),
    )


def test_interleaved_arguments_are_put_in_order():
    found = events(
        call(0, '{"x"', "f", "c0"),
        call(1, '{"y"', "g", "c1"),
        call(0, ":1}"),
        call(1, ":2}"),
        {"content": "late"},
        finish="tool_calls",
    )
    assert fold(found).parts == (
        ToolCall("c0", "f", '{"x":1}'),
        ToolCall("c1", "g", '{"y":2}'),
        Text("late"),
    )
    # The second waits no longer than it must: it begins as soon as the first is whole.
    begun = [e.part.name for e in found[: found.index(PartDelta(":2}"))] if isinstance(e, PartStarted)]
    assert begun == ["f", "g"]


def test_several_fragments_in_one_chunk_are_taken_apart():
    both = {"tool_calls": [*call(0, "{}", "f", "c0")["tool_calls"], *call(1, "{}", "g", "c1")["tool_calls"]]}
    assert fold(events({**both, "content": "a", "reasoning": "h"}, finish="tool_calls")).parts == (
        Thinking("h"),
        Text("a"),
        ToolCall("c0", "f", "{}"),
        ToolCall("c1", "g", "{}"),
    )


def test_calls_that_are_all_numbered_zero_are_told_apart_by_their_ids():
    found = fold(events(call(0, '{"x":1}', "f", "c0"), call(0, '{"y":2}', "g", "c1"), finish="stop"))
    assert found.parts == (ToolCall("c0", "f", '{"x":1}'), ToolCall("c1", "g", '{"y":2}'))
    assert found.stop == "tool_calls"


def test_calls_without_number_or_id_are_taken():
    found = fold(
        events(
            {"tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]},
            {"tool_calls": [{"id": "c9", "function": {"name": "g", "arguments": "{"}}]},
            {"tool_calls": [{"id": "c9", "function": {"arguments": "}"}}]},
            {"tool_calls": [{"function": {"arguments": " "}}]},
        )
    )
    assert found.parts == (ToolCall("call_1_0", "f", '{"a":1}'), ToolCall("c9", "g", "{} "))


def test_a_name_that_is_repeated_in_each_chunk_counts_once():
    found = fold(events(call(0, "{", "f", "c0"), call(0, "}", "f", "c0")))
    assert found.parts == (ToolCall("c0", "f", "{}"),)


@pytest.mark.parametrize(
    "deltas",
    [
        [call(0, "{}")],
        [call(0, "{}", "f", "c0"), call(1, "{}", "g", "c1"), call(0, "more")],
    ],
)
def test_calls_that_make_no_sense_break_the_stream(deltas):
    with pytest.raises(UpstreamBroken):
        events(*deltas)


def test_signatures_of_openrouter_are_kept_and_words_count_once():
    details = [{"type": "reasoning.text", "text": "hm", "index": 0}]
    signed = [{"type": "reasoning.text", "signature": "S", "index": 0}]
    hidden = [{"type": "reasoning.encrypted", "data": "D", "index": 1}]
    found = events(
        {"reasoning": "hm", "reasoning_details": details},
        {"reasoning_details": signed},
        {"reasoning_details": hidden},
        {"reasoning_details": [{"type": "reasoning.text", "signature": "only"}, "nonsense"]},
        {"content": "a"},
    )
    assert fold(found).parts == (Thinking("hm", "S"), Thinking(redacted="D"), Thinking("", "only"), Text("a"))
    assert fold(events({"reasoning_details": details}, {"content": "a"})).parts == (Thinking("hm"), Text("a"))


def test_thoughts_that_mistral_streams_as_content_are_told_from_text():
    thought = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]
    assert fold(events({"content": thought}, {"content": thought}, {"content": "a"})).parts == (
        Thinking("hmhm"),
        Text("a"),
    )
    with pytest.raises(UpstreamBroken, match="unknown kind"):
        events({"content": [{"type": "image_url"}]})


def test_a_late_delta_waits_behind_a_call_that_is_not_whole():
    found = fold(events(call(0, "{", "f", "c0"), {"content": "a"}, {"content": "b"}, call(0, "}")))
    assert found.parts == (ToolCall("c0", "f", "{}"), Text("ab"))


def test_a_chunk_after_the_finish_reason_may_hold_usage_but_no_more_content():
    usage = {"prompt_tokens": 1, "completion_tokens": 1}
    assert fold(events({"content": "a"}, usage=usage)).usage == Usage(1, 1)
    late = frames({"content": "a"})
    late.insert(2, frames({"content": "b"})[0])
    decoder = chat.StreamDecoder()
    with pytest.raises(UpstreamBroken):
        list(map(decoder.feed, late))


def test_all_figures_of_usage_are_told():
    used = Usage(10, 9, 1, 2, 3, 4, 5)
    made = Answer(id="a", model="m", parts=(), stop="stop", usage=used)
    assert chat.decode_answer(chat.encode_answer(made)).usage == used


def test_the_first_chunk_may_hold_no_choices():
    azure = [{"id": "", "model": "", "choices": [], "prompt_filter_results": []}]
    assert fold(events({"content": "a"}, head=azure)).parts == (Text("a"),)


def test_usage_is_taken_from_the_last_chunk_that_has_it():
    decoder = chat.StreamDecoder()
    chunks = [
        {
            "id": "1",
            "choices": [{"delta": {"content": "a"}}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 1},
        },
        {
            "id": "1",
            "choices": [{"delta": {}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 2},
        },
    ]
    found = [e for c in chunks for e in decoder.feed(sse.encode(json.dumps(c).encode()))]
    found += decoder.feed(b"data: [DONE]\n\n")
    assert found[-1] == Finished("stop", Usage(3, 2))


def test_only_the_first_choice_is_followed():
    decoder = chat.StreamDecoder()
    chunk = {"id": "1", "choices": [{"index": 1, "delta": {"content": "other"}, "finish_reason": "stop"}]}
    assert decoder.feed(sse.encode(json.dumps(chunk).encode())) == [Started("1", "")]


@pytest.mark.parametrize("reason", ["abort", "error"])
def test_a_stream_that_was_broken_off_is_no_success(reason):
    with pytest.raises(UpstreamBroken, match=reason):
        events({"content": "half"}, finish=reason)


def test_a_terminator_without_a_finish_reason_is_no_success():
    with pytest.raises(UpstreamBroken, match="finish reason"):
        events({"content": "half"}, finish=None)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b'{"error":{"message":"out of memory","type":"server_error"}}', UpstreamFailed),
        (b'{"error":"out of memory"}', UpstreamFailed),
        (b'{"object":"error","message":"no","choices":7}', UpstreamFailed),
        (b'{"choices":7}', UpstreamBroken),
        (b"{", UpstreamBroken),
    ],
)
def test_errors_in_mid_stream_are_raised(data, kind):
    with pytest.raises(PenstockError) as caught:
        chat.StreamDecoder().feed(sse.encode(data))
    assert type(caught.value) is kind


def test_a_call_without_arguments_gets_an_object_that_can_be_parsed():
    encoder = chat.StreamEncoder()
    made = [
        Started("a", "m"),
        PartStarted(ToolCall("c", "f", "")),
        PartEnded(),
        Finished("tool_calls", Usage()),
    ]
    sent = [frame for event in made for frame in encoder.feed(event)]
    with openai_client(**stream_of(sent)).chat.completions.stream(
        model="m", messages=[], tools=[FUNCTION]
    ) as stream:
        read = stream.get_final_completion()
    assert read.choices[0].message.tool_calls[0].function.arguments == "{}"


def test_a_refusal_is_streamed_as_one():
    encoder = chat.StreamEncoder()
    made = [
        Started("a", "m"),
        PartStarted(Refusal("I ")),
        PartDelta("won't"),
        PartEnded(),
        Finished("refusal", Usage()),
    ]
    sent = [frame for event in made for frame in encoder.feed(event)]
    with openai_client(**stream_of(sent)).chat.completions.stream(model="m", messages=[]) as stream:
        read = stream.get_final_completion()
    assert read.choices[0].message.refusal == "I won't"
    assert read.choices[0].finish_reason == "stop"


def test_parts_may_begin_with_what_they_hold():
    begun = (Text("te"), Thinking("th"), ToolCall("c", "f", '{"a"'))
    rest = ("xt", "ought", ":1}")
    for dialect in (chat, anthropic):
        encoder, decoder = dialect.StreamEncoder(), dialect.StreamDecoder()
        made = [Started("a", "m")]
        for part, more in zip(begun, rest, strict=True):
            made += [PartStarted(part), PartDelta(more), PartEnded()]
        made.append(Finished("tool_calls", Usage()))
        found = [e for event in made for frame in encoder.feed(event) for e in decoder.feed(frame)]
        texts = [getattr(part, "arguments", None) or part.text for part in fold(found).parts]
        assert texts == ["text", "thought", '{"a":1}']
