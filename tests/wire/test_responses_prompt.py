"""What a request for a response means in neutral form, and what is refused, by which name."""

import base64
import json

import pytest

from penstock.errors import BadRequest, Untranslatable
from penstock.wire.conversation import (
    Audio,
    Document,
    Image,
    OutputFormat,
    Refusal,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
)
from penstock.wire.responses import decode_prompt, read_settings
from penstock.wire.responses._reasoning import seal, unseal

WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "Tell the weather",
    "parameters": {"type": "object", "properties": {"town": {"type": "string"}}},
    "strict": True,
}
TIME = {"type": "function", "name": "time", "parameters": None, "strict": None}
PNG = base64.b64encode(b"\x89PNG").decode()


def prompt(**members):
    return decode_prompt(json.dumps({"model": "m", "input": "hi", **members}).encode())


def turns(*items, **members):
    return prompt(input=list(items), **members).turns


def refused(kind=Untranslatable, **members):
    with pytest.raises(kind) as caught:
        prompt(**members)
    if kind is BadRequest:
        assert not isinstance(caught.value, Untranslatable)
    return caught.value


# ---- what is understood ----


def test_a_string_is_one_user_turn_after_the_instructions():
    assert prompt(instructions="Be brief").turns == (
        Turn("system", (Text("Be brief"),)),
        Turn("user", (Text("hi"),)),
    )


def test_settings_reach_the_prompt():
    found = prompt(
        stream=True,
        max_output_tokens=100,
        temperature=0.5,
        top_p=0.25,
        user="u",
        service_tier="flex",
        prompt_cache_key="k",
        text={"verbosity": "low"},
        reasoning={"effort": "high", "summary": "auto"},
        truncation="disabled",
        store=True,
        metadata={"a": "b"},
        max_tool_calls=3,
        background=False,
        previous_response_id=None,
        stream_options={"include_obfuscation": True},
        prompt_cache_retention="24h",
        prompt_cache_options={"mode": "implicit"},
    )
    assert (found.model, found.stream, found.max_output_tokens) == ("m", True, 100)
    assert (found.temperature, found.top_p, found.user) == (0.5, 0.25, "u")
    assert (found.service_tier, found.prompt_cache_key) == ("flex", "k")
    assert (found.verbosity, found.effort) == ("low", "high")
    assert found.include_usage
    assert found.metadata is None


def test_null_says_nothing():
    nothing = dict.fromkeys(
        (
            "instructions",
            "stream",
            "stream_options",
            "tools",
            "tool_choice",
            "parallel_tool_calls",
            "max_tool_calls",
            "max_output_tokens",
            "temperature",
            "top_p",
            "top_logprobs",
            "include",
            "text",
            "reasoning",
            "truncation",
            "user",
            "safety_identifier",
            "prompt_cache_key",
            "prompt_cache_retention",
            "service_tier",
            "store",
            "metadata",
            "background",
            "previous_response_id",
            "conversation",
            "prompt",
            "context_management",
            "moderation",
            "prompt_cache_options",
            "image",
            "access_programs",
        )
    )
    assert prompt(**nothing) == prompt()


def test_a_safety_identifier_stands_in_for_the_user_it_replaced():
    assert prompt(safety_identifier="s").user == "s"
    assert prompt(safety_identifier="s", user="s").user == "s"
    assert refused(safety_identifier="s", user="u").param == "safety_identifier"


def test_easy_messages_keep_role_and_order():
    assert turns(
        {"role": "developer", "content": "d"},
        {
            "role": "user",
            "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}],
        },
        {"type": "message", "role": "assistant", "content": "c"},
        {"role": "system", "content": "s"},
        {"role": "user", "content": "e"},
        {"role": "user", "content": "f"},
    ) == (
        Turn("developer", (Text("d"),)),
        Turn("user", (Text("a"), Text("b"))),
        Turn("assistant", (Text("c"),)),
        Turn("system", (Text("s"),)),
        Turn("user", (Text("e"),)),
        Turn("user", (Text("f"),)),
    )


def test_output_items_come_back_as_one_assistant_turn():
    thinking = Thinking("why", "signed")
    assert turns(
        {"role": "user", "content": "q"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": seal(thinking)},
        {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "status": "completed",
            "phase": None,
            "content": [
                {"type": "output_text", "text": "let me see", "annotations": [], "logprobs": []},
                {"type": "refusal", "refusal": "not that"},
            ],
        },
        {
            "type": "function_call",
            "id": "fc_1",
            "call_id": "c1",
            "name": "f",
            "arguments": "{}",
            "status": "completed",
        },
        {"type": "function_call", "call_id": "c2", "name": "g", "arguments": '{"a":1}'},
        {"type": "function_call_output", "call_id": "c1", "output": "sun"},
        {
            "type": "function_call_output",
            "call_id": "c2",
            "output": [
                {"type": "input_text", "text": "t"},
                {"type": "input_image", "image_url": "https://x/y.png"},
                {"type": "input_file", "file_url": "https://x/y.pdf"},
            ],
        },
        {"role": "user", "content": "and?"},
    ) == (
        Turn("user", (Text("q"),)),
        Turn(
            "assistant",
            (
                thinking,
                Text("let me see"),
                Refusal("not that"),
                ToolCall("c1", "f", "{}"),
                ToolCall("c2", "g", '{"a":1}'),
            ),
        ),
        Turn(
            "user",
            (
                ToolResult("c1", (Text("sun"),)),
                ToolResult("c2", (Text("t"), Image(url="https://x/y.png"), Document(url="https://x/y.pdf"))),
            ),
        ),
        Turn("user", (Text("and?"),)),
    )


def test_readable_reasoning_without_a_seal_is_reasoning_without_a_signature():
    text = {"type": "reasoning_text", "text": "a"}
    summary = {"type": "summary_text", "text": "b"}
    both = {"type": "reasoning", "id": "rs_1", "summary": [summary], "content": [text, text]}
    short = {"type": "reasoning", "id": "rs_1", "summary": [summary, summary], "encrypted_content": None}
    assert turns(both, short) == (Turn("assistant", (Thinking("aa"), Thinking("b\n\nb"))),)


def test_a_message_after_a_call_belongs_to_the_same_turn():
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    first, second = {"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}
    assert turns(first, call, second) == (
        Turn("assistant", (Text("a"), ToolCall("c", "f", "{}"), Text("b"))),
    )
    assert turns(first, second, call) == (
        Turn("assistant", (Text("a"),)),
        Turn("assistant", (Text("b"), ToolCall("c", "f", "{}"))),
    )


@pytest.mark.parametrize(
    ("part", "meant"),
    [
        ({"type": "input_text", "text": "t"}, Text("t")),
        (
            {"type": "input_text", "text": "t", "prompt_cache_breakpoint": {"mode": "explicit"}},
            Text("t", cache={"type": "ephemeral"}),
        ),
        (
            {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}", "detail": "auto"},
            Image(data=PNG, media_type="image/png"),
        ),
        (
            {"type": "input_image", "image_url": "https://x/y.png", "detail": "high", "file_id": None},
            Image(url="https://x/y.png", detail="high"),
        ),
        (
            {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBE"},
            Document(media_type="application/pdf", data="JVBE", name="a.pdf"),
        ),
        (
            {"type": "input_file", "filename": "a.PDF", "file_data": "JVBE"},
            Document(media_type="application/pdf", data="JVBE", name="a.PDF"),
        ),
        ({"type": "input_file", "file_id": "file-1"}, Document(file_id="file-1")),
        ({"type": "input_file", "file_url": "https://x/y.pdf"}, Document(url="https://x/y.pdf")),
        ({"type": "input_audio", "input_audio": {"data": "UklG", "format": "wav"}}, Audio("UklG", "wav")),
    ],
)
def test_content_parts(part, meant):
    assert turns({"role": "user", "content": [part]}) == (Turn("user", (meant,)),)


def test_function_tools():
    assert prompt(tools=[WEATHER, TIME], parallel_tool_calls=False).tools == (
        Tool("weather", WEATHER["parameters"], "Tell the weather", strict=True),
        Tool("time", {"type": "object", "properties": {}}),
    )
    assert prompt(tools=[WEATHER], parallel_tool_calls=False).parallel_tool_calls is False


@pytest.mark.parametrize(
    ("choice", "meant"),
    [
        ("auto", ToolChoice("auto")),
        ("none", ToolChoice("none")),
        ("required", ToolChoice("any")),
        ({"type": "function", "name": "time"}, ToolChoice("tool", "time")),
    ],
)
def test_tool_choices(choice, meant):
    assert prompt(tools=[WEATHER, TIME], tool_choice=choice).tool_choice == meant


def test_to_allow_some_tools_is_to_offer_no_others():
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "time"}]}
    found = prompt(tools=[WEATHER, TIME], tool_choice=allowed)
    assert [tool.name for tool in found.tools] == ["time"]
    assert found.tool_choice == ToolChoice("any")


def test_settings_of_tools_mean_nothing_without_tools():
    found = prompt(tool_choice="auto", parallel_tool_calls=True, tools=[])
    assert found.tool_choice is None
    assert found.parallel_tool_calls is None
    assert refused(BadRequest, tool_choice="required").param == "tool_choice"


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, OutputFormat("json_object")),
        (
            {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True},
            OutputFormat("json_schema", {"type": "object"}, "n", strict=True),
        ),
        (
            {"type": "json_schema", "name": "n", "schema": {}, "description": "d"},
            OutputFormat("json_schema", {}, "n", "d"),
        ),
    ],
)
def test_text_formats(given, meant):
    assert prompt(text={"format": given}).output == meant


def test_logprobs_are_asked_for_by_include_or_by_number():
    asked = prompt(include=["message.output_text.logprobs"], top_logprobs=2)
    assert (asked.logprobs, asked.top_logprobs) == (True, 2)
    assert prompt(top_logprobs=0, stream=True).logprobs is None
    assert refused(top_logprobs=1, stream=True).param == "top_logprobs"
    assert prompt(include=["reasoning.encrypted_content"]).logprobs is None


AGENTS = {
    "type": "namespace",
    "name": "agents",
    "description": "For agents.",
    "tools": [{**WEATHER, "name": "spawn"}, {**TIME, "name": "close"}],
}


def test_a_function_in_a_namespace_has_one_name_for_an_upstream():
    """Codex has such tools, and Codex's labels go with every request of its."""
    found = prompt(tools=[WEATHER, AGENTS], client_metadata={"thread_id": "t"})
    assert [tool.name for tool in found.tools] == ["weather", "agents__spawn", "agents__close"]
    assert found.tools[1].description == "For agents.\n\nTell the weather"
    assert found.tools[2].description == ""


def test_a_call_in_a_namespace_is_said_as_the_upstream_said_it():
    call = {
        "type": "function_call",
        "call_id": "c",
        "name": "close",
        "arguments": "{}",
        "namespace": "agents",
    }
    result = {"type": "function_call_output", "call_id": "c", "output": "done", "namespace": "agents"}
    assert turns(call, result, tools=[AGENTS]) == (
        Turn("assistant", (ToolCall("c", "agents__close", "{}"),)),
        Turn("user", (ToolResult("c", (Text("done"),)),)),
    )


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"name": ""}, "tools[0].name"),
        ({"tools": 7}, "tools[0].tools"),
        ({"tools": [7]}, "tools[0].tools"),
    ],
)
def test_a_malformed_namespace_names_the_member(members, param):
    assert refused(BadRequest, tools=[{**AGENTS, **members}]).param == param


# ---- what is refused ----


@pytest.mark.parametrize(
    ("members", "param", "says"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id", "whole conversation"),
        ({"conversation": "conv_1"}, "conversation", "whole conversation"),
        ({"conversation": {"id": "conv_1"}}, "conversation", "whole conversation"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt", "templates"),
        ({"background": True}, "background", "listened"),
        ({"truncation": "auto"}, "truncation", "disabled"),
        ({"context_management": [{"type": "compaction"}]}, "context_management", "context_management"),
        ({"include": ["everything"]}, "include[0]", "everything"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format.type", "grammar"),
        ({"reasoning": {"summary": "concise"}}, "reasoning.summary", "concise"),
        ({"reasoning": {"mode": "pro"}}, "reasoning.mode", "mode"),
        ({"surprise": 1}, "surprise", "surprise"),
        ({"text": {"surprise": 1}}, "text.surprise", "surprise"),
        (
            {"tool_choice": {"type": "web_search_preview"}, "tools": [WEATHER]},
            "tool_choice.type",
            "web_search",
        ),
        ({"tools": [{**WEATHER, "defer_loading": True}]}, "tools[0].defer_loading", "defer_loading"),
        ({"tools": [{**WEATHER, "async": True}]}, "tools[0].async", "async"),
        ({"tools": [{**WEATHER, "surprise": True}]}, "tools[0].surprise", "surprise"),
    ],
)
def test_what_cannot_be_translated_is_refused_by_name(members, param, says):
    error = refused(**members)
    assert error.param == param
    assert says in error.message


@pytest.mark.parametrize(
    "kind",
    [
        "web_search",
        "web_search_preview",
        "file_search",
        "computer",
        "computer_use_preview",
        "code_interpreter",
        "mcp",
        "image_generation",
        "local_shell",
        "shell",
        "apply_patch",
        "tool_search",
    ],
)
def test_hosted_tools_are_refused_by_name(kind):
    error = refused(tools=[WEATHER, {"type": kind, "name": "x"}])
    assert error.param == "tools[1].type"
    assert kind in error.message
    allowed = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": kind}]}
    assert kind in refused(tools=[WEATHER], tool_choice=allowed).message
    inside = {"type": "namespace", "name": "n", "tools": [{"type": kind, "name": "x"}]}
    assert refused(tools=[inside]).param == "tools[0].tools[0].type"


@pytest.mark.parametrize(
    ("item", "param"),
    [
        ({"type": "item_reference", "id": "msg_1"}, "input[0]"),
        ({"id": "msg_1"}, "input[0]"),
        ({"type": "custom_tool_call", "call_id": "c", "name": "n", "input": "", "new": 1}, "input[0].new"),
        ({"type": "web_search_call", "id": "ws_1", "status": "completed"}, "input[0].type"),
        ({"type": "compaction", "encrypted_content": "x"}, "input[0].type"),
        ({"type": "reasoning", "id": "rs_1", "summary": []}, "input[0].encrypted_content"),
        (
            {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAAAB"},
            "input[0].encrypted_content",
        ),
        ({"role": "user", "content": [{"type": "output_text", "text": "x"}]}, "input[0].content[0].type"),
        ({"role": "user", "content": [{"type": "video", "url": "x"}]}, "input[0].content[0].type"),
        (
            {"role": "user", "content": [{"type": "input_image", "file_id": "file-1"}]},
            "input[0].content[0].file_id",
        ),
        (
            {"role": "user", "content": [{"type": "input_text", "text": "x", "surprise": 1}]},
            "input[0].content[0].surprise",
        ),
        ({"role": "user", "content": "x", "name": "n"}, "input[0].name"),
        ({"role": "assistant", "content": "x", "phase": "commentary"}, "input[0].phase"),
        (
            {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_audio"}]},
            "input[0].output[0].type",
        ),
    ],
)
def test_items_that_cannot_be_translated_are_refused_by_name(item, param):
    assert refused(input=[item]).param == param


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b"{", None),
        (b"[]", None),
        (b'{"input": "x"}', "model"),
        (b'{"model": "m"}', "input"),
        (b'{"model": "m", "input": ""}', "input"),
        (b'{"model": "m", "input": []}', "input"),
        (b'{"model": "m", "input": 7}', "input"),
        (b'{"model": 1, "input": "x"}', "model"),
        (b'{"model": "m", "input": ["x"]}', "input[0]"),
        (b'{"model": "m", "input": [{}]}', "input[0]"),
        (b'{"model": "m", "input": [{"role": "robot", "content": "x"}]}', "input[0].role"),
        (b'{"model": "m", "input": [{"role": "user"}]}', "input[0].content"),
        (
            b'{"model": "m", "input": [{"role": "user", "content": [{"text": "x"}]}]}',
            "input[0].content[0].type",
        ),
        (b'{"model": "m", "input": [{"type": "function_call_output", "output": ""}]}', "input[0].call_id"),
        (
            b'{"model": "m", "input": [{"type": "function_call", "call_id": "c", "name": "f"}]}',
            "input[0].arguments",
        ),
        (
            b'{"model": "m", "input": [{"role": "user", "content": [{"type": "input_file"}]}]}',
            "input[0].content[0]",
        ),
        (
            b'{"model": "m", "input": [{"role": "user", "content": [{"type": "input_image", "image_url": "data:x"}]}]}',
            "input[0].content[0].image_url",
        ),
        (b'{"model": "m", "input": "x", "temperature": "hot"}', "temperature"),
        (b'{"model": "m", "input": "x", "tool_choice": "must"}', "tool_choice"),
        (b'{"model": "m", "input": "x", "tools": [{"type": "function"}]}', "tools[0].name"),
        (
            b'{"model": "m", "input": "x", "text": {"format": {"type": "json_schema", "name": "n"}}}',
            "text.format.schema",
        ),
        (
            b'{"model": "m", "input": "x", "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]}}',
            "tool_choice.tools[0].name",
        ),
    ],
)
def test_malformed_requests_are_bad_requests_that_name_the_member(body, param):
    with pytest.raises(BadRequest) as caught:
        decode_prompt(body)
    assert not isinstance(caught.value, Untranslatable)
    assert caught.value.param == param


def test_deep_nesting_is_refused_and_not_a_crash():
    with pytest.raises(BadRequest):
        decode_prompt(b'{"model": "m", "input": "x", "metadata": ' + b"[" * 100_000)


# ---- reasoning ----


@pytest.mark.parametrize(
    "thinking", [Thinking("text é", "sig+/="), Thinking(redacted="xx"), Thinking("no signature"), Thinking()]
)
def test_reasoning_survives_the_round_trip(thinking):
    assert unseal(seal(thinking), "here") == thinking


@pytest.mark.parametrize(
    "damaged", ["penstock1.", "penstock1.!!!!", "penstock1.e30=", "penstock1.WyJhIl0", "penstock1.é"]
)
def test_damaged_reasoning_is_a_bad_request(damaged):
    with pytest.raises(BadRequest, match="damaged") as caught:
        unseal(damaged, "here")
    assert not isinstance(caught.value, Untranslatable)


# ---- settings ----


def test_settings_repeat_the_request_byte_for_byte():
    settings = read_settings(
        b'{"model":"m","input":"x","tools":[ {"type":"function"} ],"temperature":0.50,"text":null}'
    )
    assert bytes(settings.tools) == b'[ {"type":"function"} ]'
    assert bytes(settings.temperature) == b"0.50"
    assert bytes(settings.text) == b'{"format":{"type":"text"}}'
    assert bytes(settings.parallel_tool_calls) == b"true"


@pytest.mark.parametrize(
    ("reasoning", "summary"),
    [
        (None, False),
        ({"effort": "high"}, False),
        ({"summary": None}, False),
        ({"summary": "auto"}, True),
        ({"generate_summary": "detailed"}, True),
    ],
)
def test_a_summary_is_wanted_only_when_asked_for(reasoning, summary):
    body = json.dumps({"model": "m", "input": "x", "reasoning": reasoning}).encode()
    assert read_settings(body).reasoning_as_summary is summary
