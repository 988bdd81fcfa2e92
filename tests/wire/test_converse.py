"""Converse's form.  Amazon's own service model, as its SDK has it, judges what is written."""

import base64
import json
import zlib

import pytest
from botocore.eventstream import EventStreamBuffer
from botocore.session import Session
from botocore.validate import ParamValidator

from penstock.errors import BadRequest, PenstockError, Untranslatable, UpstreamBroken
from penstock.lab.clouds import encoded
from penstock.messages import Dialect, Endpoint, Usage
from penstock.wire import anthropic, chat, converse, own
from penstock.wire.translate import translation

LLAMA, NOVA = "meta.llama3-3-70b-instruct-v1:0", "us.amazon.nova-lite-v1:0"
CLAUDE = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
PNG = base64.b64encode(b"\x89PNG" + bytes(20)).decode()
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def service():
    return Session().get_service_model("bedrock-runtime")


@pytest.fixture(scope="module")
def valid(service):
    """Whether Amazon's SDK would take a body as parameters of its call."""
    shape = service.operation_model("Converse").input_shape

    def check(body):
        report = ParamValidator().validate({"modelId": "m", **_with_bytes(body)}, shape)
        assert not report.has_errors(), report.generate_report()
        return body

    return check


def _with_bytes(value):
    if isinstance(value, list):
        return [_with_bytes(item) for item in value]
    if isinstance(value, dict):
        blobs = {"bytes", "redactedContent"}
        return {
            key: base64.b64decode(item) if key in blobs else _with_bytes(item) for key, item in value.items()
        }
    return value


def asked(endpoint, body, model=LLAMA):
    prompt = translation(endpoint, Dialect.ANTHROPIC, json.dumps(body).encode(), "gen_1").prompt(
        json.dumps({"model": "m", **body}).encode(), model
    )
    return json.loads(converse.encode_prompt(prompt))


def of_chat(model=LLAMA, **body):
    return asked(Endpoint.CHAT, {"messages": HELLO, **body}, model)


def of_message(model=LLAMA, **body):
    return asked(Endpoint.MESSAGES, {"messages": HELLO, "max_tokens": 9, **body}, model)


# ---- which models ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "speaks"),
    [
        (LLAMA, True),
        (NOVA, True),
        ("deepseek.r1-v1:0", True),
        ("us.deepseek.r1-v1:0", True),
        ("us-gov.amazon.nova-pro-v1:0", True),
        ("qwen.qwen3-32b-v1:0", True),
        ("ai21.jamba-1-5-large-v1:0", True),
        ("arn:aws:bedrock:us-east-1::foundation-model/mistral.mistral-large-2402-v1:0", True),
        ("arn:aws:bedrock:us-east-1:1:inference-profile/us.meta.llama3-3-70b-instruct-v1:0", True),
        (CLAUDE, False),
        ("anthropic.claude-v2", False),
        ("arn:aws:bedrock:us-east-1:1:inference-profile/" + CLAUDE, False),
        ("arn:aws:bedrock:us-east-1:1:application-inference-profile/abc123", False),
        ("arn:aws:bedrock:us-east-1:1:provisioned-model/abc123", False),
        ("claude-sonnet-4-5", False),
        ("m", False),
    ],
)
def test_which_models_are_asked_by_converse(model, speaks):
    assert converse.speaks_converse(model) is speaks


# ---- requests --------------------------------------------------------------------------------------


def test_a_whole_conversation_is_what_amazons_sdk_would_send(valid):
    body = of_chat(
        NOVA,
        messages=[
            {"role": "system", "content": [{"type": "text", "text": "S", "cache_control": {"type": "ephemeral"}}]},
            {"role": "developer", "content": "D"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "look"},
                    {"type": "image_url", "image_url": {"url": f"data:image/jpg;base64,{PNG}"}},
                    {"type": "file", "file": {"filename": "a_b.pdf", "file_data": f"data:application/pdf;base64,{PNG}"}},
                    {"type": "file", "file": {"filename": "a_b.pdf", "file_data": f"data:text/csv;base64,{PNG}"}},
                    {"type": "input_audio", "input_audio": {"data": PNG, "format": "wav"}},
                ],
            },
            {
                "role": "assistant",
                "content": "I see",
                "tool_calls": [
                    {"id": "t1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Bonn"}'}}
                ],
            },
            {"role": "tool", "tool_call_id": "t1", "content": "rain"},
            {"role": "user", "content": "and?"},
            {"role": "system", "content": "Hurry."},
        ],
        max_completion_tokens=7,
        temperature=0.5,
        top_p=0.9,
        top_k=5,
        stop="END",
        tools=[{"type": "function", "function": {"name": "weather", "parameters": SCHEMA, "strict": True}}],
        tool_choice={"type": "function", "function": {"name": "weather"}},
        service_tier="flex",
        response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}},
        guardrailConfig={"guardrailIdentifier": "g", "guardrailVersion": "1"},
        requestMetadata={"team": "a"},
    )  # fmt: skip
    assert valid(body) == {
        "system": [{"text": "S"}, {"cachePoint": {"type": "default"}}, {"text": "D"}],
        "messages": [
            {
                "role": "user",
                "content": [
                    {"text": "look"},
                    {"image": {"format": "jpeg", "source": {"bytes": PNG}}},
                    {"document": {"format": "pdf", "name": "a b pdf", "source": {"bytes": PNG}}},
                    {"document": {"format": "csv", "name": "a b pdf (2)", "source": {"bytes": PNG}}},
                    {"audio": {"format": "wav", "source": {"bytes": PNG}}},
                ],
            },
            {
                "role": "assistant",
                "content": [
                    {"text": "I see"},
                    {"toolUse": {"toolUseId": "t1", "name": "weather", "input": {"city": "Bonn"}}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"toolResult": {"toolUseId": "t1", "content": [{"text": "rain"}]}},
                    {"text": "and?"},
                    {"text": "<system>\nHurry.\n</system>"},
                ],
            },
        ],
        "toolConfig": {
            "tools": [{"toolSpec": {"name": "weather", "inputSchema": {"json": SCHEMA}, "strict": True}}],
            "toolChoice": {"tool": {"name": "weather"}},
        },
        "inferenceConfig": {"maxTokens": 7, "temperature": 0.5, "topP": 0.9, "stopSequences": ["END"]},
        "outputConfig": {
            "textFormat": {
                "type": "json_schema",
                "structure": {
                    "jsonSchema": {"schema": json.dumps(SCHEMA, separators=(",", ":")), "name": "n"}
                },
            }
        },
        "serviceTier": {"type": "flex"},
        "guardrailConfig": {"guardrailIdentifier": "g", "guardrailVersion": "1"},
        "requestMetadata": {"team": "a"},
        "additionalModelRequestFields": {"inferenceConfig": {"topK": 5}},
    }


def test_blocks_of_messages(valid):
    minutes, hour = {"type": "ephemeral"}, {"type": "ephemeral", "ttl": "1h"}
    result = {
        "type": "tool_result",
        "tool_use_id": "t",
        "is_error": True,
        "content": [{"type": "text", "text": "no", "cache_control": minutes}],
    }
    body = of_message(
        CLAUDE,
        messages=[
            *HELLO,
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "s"},
                    {"type": "redacted_thinking", "data": PNG},
                    {"type": "tool_use", "id": "t", "name": "n", "input": {}, "cache_control": hour},
                ],
            },
            {"role": "user", "content": [result]},
        ],
        tools=[{"name": "n", "input_schema": SCHEMA, "cache_control": minutes}],
    )
    point = {"cachePoint": {"type": "default"}}
    valid(body)
    assert body["messages"][1]["content"] == [
        {"reasoningContent": {"reasoningText": {"text": "hm", "signature": "s"}}},
        {"reasoningContent": {"redactedContent": PNG}},
        {"toolUse": {"toolUseId": "t", "name": "n", "input": {}}},
        {"cachePoint": {"type": "default", "ttl": "1h"}},
    ]
    told = {"toolUseId": "t", "content": [{"text": "no"}], "status": "error"}
    assert body["messages"][2]["content"] == [{"toolResult": told}, point]
    assert body["toolConfig"]["tools"][1] == point


def test_responses_are_asked_too(valid):
    body = asked(
        Endpoint.RESPONSES,
        {"input": "hi", "instructions": "S", "additionalModelRequestFields": {"x": 1}},
    )
    assert valid(body) == {
        "system": [{"text": "S"}],
        "messages": [{"role": "user", "content": [{"text": "hi"}]}],
        "additionalModelRequestFields": {"x": 1},
    }


def test_models_that_keep_no_prompts_get_no_marks():
    said = [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}]
    body = of_message(messages=[{"role": "user", "content": said}])
    assert body["messages"] == [{"role": "user", "content": [{"text": "a"}]}]


@pytest.mark.parametrize(
    ("model", "keeps"),
    [
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", True),
        ("anthropic.claude-3-7-sonnet-20250219-v1:0", True),
        ("anthropic.claude-3-5-haiku-20241022-v1:0", True),
        ("anthropic.claude-3-5-sonnet-20240620-v1:0", False),
        ("anthropic.claude-3-haiku-20240307-v1:0", False),
        ("anthropic.claude-v2:1", False),
        ("anthropic.claude-instant-v1", False),
        ("amazon.nova-pro-v1:0", True),
        ("meta.llama3-3-70b-instruct-v1:0", False),
        ("arn:aws:bedrock:eu-west-1:1:application-inference-profile/x", False),
    ],
)
def test_which_models_keep_prompts(model, keeps):
    assert converse.keeps_prompts(model) == keeps


def test_no_limit_is_made_up():
    assert "inferenceConfig" not in of_chat()


@pytest.mark.parametrize(
    ("model", "said", "fields"),
    [
        (CLAUDE, {"reasoning_effort": "low"}, {"thinking": {"type": "enabled", "budget_tokens": 2048}}),
        (CLAUDE, {"thinking": {"type": "disabled"}}, {"thinking": {"type": "disabled"}}),
        (
            "anthropic.claude-opus-4-8",
            {"reasoning_effort": "max"},
            {"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}},
        ),
        (
            "us.amazon.nova-2-lite-v1:0",
            {"reasoning_effort": "minimal"},
            {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": "low"}},
        ),
        ("openai.gpt-oss-120b-1:0", {"reasoning_effort": "high"}, {"reasoning_effort": "high"}),
        (
            "openai.gpt-oss-120b-1:0",
            {"thinking": {"type": "enabled", "budget_tokens": 5000}},
            {"reasoning_effort": "medium"},
        ),
        ("openai.gpt-5-v1:0", {"reasoning_effort": "high"}, {"reasoning": {"effort": "high"}}),
        (LLAMA, {"thinking": {"type": "disabled"}}, None),
        (LLAMA, {"reasoning_effort": "none"}, None),
        ("mistral.mistral-large-2402-v1:0", {"top_k": 5}, {"top_k": 5}),
        (
            NOVA,
            {"top_k": 5, "additionalModelRequestFields": {"a": 1}},
            {"inferenceConfig": {"topK": 5}, "a": 1},
        ),
    ],
)
def test_what_has_no_name_is_said_in_the_models_own_words(valid, model, said, fields):
    assert valid(of_chat(model, **said)).get("additionalModelRequestFields") == fields


IMAGE = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
CALLED = [
    *HELLO,
    {"role": "assistant", "tool_calls": [{"id": "t", "function": {"name": "n", "arguments": "{}"}}]},
    {"role": "tool", "tool_call_id": "t", "content": "x"},
]
TOOLS = [{"type": "function", "function": {"name": "n"}}]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"n": 2}, "n"),
        ({"seed": 1}, "seed"),
        ({"frequency_penalty": 0.1}, "frequency_penalty"),
        ({"presence_penalty": 0.1}, "presence_penalty"),
        ({"logit_bias": {"1": 1}}, "logit_bias"),
        ({"logprobs": True}, "logprobs"),
        ({"verbosity": "low"}, "verbosity"),
        ({"service_tier": "scale"}, "service_tier"),
        ({"temperature": 1.5}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_k": 5}, "top_k"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"tools": TOOLS, "parallel_tool_calls": False}, "parallel_tool_calls"),
        ({"tools": TOOLS, "messages": CALLED, "tool_choice": "none"}, "tool_choice"),
        ({"messages": [{"role": "user", "content": [IMAGE]}]}, "messages"),
        ({"additionalModelResponseFieldPaths": ["/x"]}, "additionalModelResponseFieldPaths"),
    ],
)
def test_what_converse_cannot_say_is_refused_by_name(body, param):
    with pytest.raises(Untranslatable) as raised:
        of_chat(**body)
    assert raised.value.param == param


def test_tools_that_may_not_be_called_are_not_told():
    assert "toolConfig" not in of_chat(tools=TOOLS, tool_choice="none")


def test_what_lies_in_s3_is_named(valid):
    source = {"type": "url", "url": "s3://bucket/a.jpg"}
    body = valid(of_message(messages=[{"role": "user", "content": [{"type": "image", "source": source}]}]))
    [block] = body["messages"][0]["content"]
    assert block["image"] == {"format": "jpeg", "source": {"s3Location": {"uri": "s3://bucket/a.jpg"}}}


@pytest.mark.parametrize("dialect", [chat, anthropic])
@pytest.mark.parametrize("name", own.CONVERSE)
def test_its_own_members_are_refused_everywhere_else(dialect, name):
    body = json.dumps({"model": "m", "max_tokens": 5, "messages": HELLO, name: {"a": 1}}).encode()
    with pytest.raises(Untranslatable) as raised:
        dialect.encode_prompt(dialect.decode_prompt(body))
    assert raised.value.param == name


def test_its_own_members_must_be_objects():
    with pytest.raises(BadRequest):
        of_chat(guardrailConfig="g")


# ---- going on --------------------------------------------------------------------------------------


def prompt_of(**body):
    return chat.decode_prompt(json.dumps({"model": NOVA, "messages": HELLO, **body}).encode())


def test_an_answers_beginning_is_the_last_turn():
    body = json.loads(converse.encode_prompt(converse.prefilled(prompt_of(max_tokens=10), "so far", 4)))
    assert body["messages"][-1] == {"role": "assistant", "content": [{"text": "so far"}]}
    assert body["inferenceConfig"] == {"maxTokens": 6}


def test_the_callers_own_beginning_and_the_answers_are_one():
    own_beginning = [*HELLO, {"role": "assistant", "content": "I say: "}]
    body = json.loads(converse.encode_prompt(converse.prefilled(prompt_of(messages=own_beginning), "so", 1)))
    assert body["messages"][-1] == {"role": "assistant", "content": [{"text": "I say: so"}]}
    with pytest.raises(Untranslatable):
        converse.prompted(prompt_of(messages=own_beginning), "so", "so", 1)


def test_a_model_is_asked_in_words_to_go_on():
    body = json.loads(converse.encode_prompt(converse.prompted(prompt_of(max_tokens=3), "so far", "far", 9)))
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "user"]
    assert "far" in body["messages"][-1]["content"][0]["text"]
    assert body["inferenceConfig"] == {"maxTokens": 1}


# ---- answers ---------------------------------------------------------------------------------------

USAGE = {"inputTokens": 5, "outputTokens": 7, "totalTokens": 12}


def answer(*content, reason="end_turn", usage=USAGE):
    message = {"role": "assistant", "content": list(content)}
    body = {"output": {"message": message}, "stopReason": reason, "usage": usage, "metrics": {"latencyMs": 1}}
    return json.dumps(body).encode()


def test_a_plain_answer_is_a_message():
    body = answer(
        {"reasoningContent": {"reasoningText": {"text": "hm", "signature": "s"}}},
        {"reasoningContent": {"redactedContent": PNG}},
        {"text": "hi"},
        {"toolUse": {"toolUseId": "t", "name": "n", "input": {"a": [1, None]}}},
        reason="tool_use",
    )
    told = json.loads(converse.message_of(body, "mine", "msg_1"))
    assert (told["id"], told["model"], told["stop_reason"]) == ("msg_1", "mine", "tool_use")
    assert told["content"] == [
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "redacted_thinking", "data": PNG},
        {"type": "text", "text": "hi"},
        {"type": "tool_use", "id": "t", "name": "n", "input": {"a": [1, None]}},
    ]


def test_what_the_cache_gave_and_took_is_a_part_of_the_input():
    details = [{"ttl": "1h", "inputTokens": 2}, {"ttl": "5m", "inputTokens": 1}]
    cache = {"cacheReadInputTokens": 10, "cacheWriteInputTokens": 3, "cacheDetails": details}
    used = converse.decode_answer(answer({"text": "a"}, usage={**USAGE, **cache})).usage
    assert used == Usage(18, 7, cached_input_tokens=10, cache_write_tokens=3, cache_write_1h_tokens=2)


@pytest.mark.parametrize(
    ("reason", "stop"),
    [
        ("end_turn", "stop"),
        ("max_tokens", "length"),
        ("stop_sequence", "stop_sequence"),
        ("tool_use", "tool_calls"),
        ("guardrail_intervened", "content_filter"),
        ("content_filtered", "content_filter"),
        ("model_context_window_exceeded", "context_length"),
        ("malformed_model_output", None),
        ("malformed_tool_use", None),
        ("a new one", None),
    ],
)
def test_stop_reasons(reason, stop):
    if stop is not None:
        assert converse.decode_answer(answer({"text": "a"}, reason=reason)).stop == stop
        return
    with pytest.raises(UpstreamBroken):
        converse.decode_answer(answer({"text": "a"}, reason=reason))


def test_all_stop_reasons_that_amazon_knows_are_known(service):
    known = set(service.shape_for("StopReason").enum)
    bad = {reason for reason in known if reason.startswith("malformed")}
    for reason in known - bad:
        converse.decode_answer(answer({"text": "a"}, reason=reason))
    assert bad


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"message":"no"}',
        answer({"citationsContent": {}}),
        answer({"toolUse": {"toolUseId": "t", "name": "n", "input": {}, "type": "server_tool_use"}}),
        answer({"text": "a"}, usage={**USAGE, "inputTokens": -1}),
        answer({"text": "a"}, usage={**USAGE, "outputTokens": 2**41}),
        answer({"text": "a"})[:-9],
    ],
)
def test_what_is_no_answer(body):
    with pytest.raises(UpstreamBroken):
        converse.message_of(body, "m", "msg_1")


# ---- streams ---------------------------------------------------------------------------------------


def events(*said):
    return b"".join(
        encoded({":event-type": name, ":message-type": "event"}, json.dumps(payload).encode())
        for name, payload in said
    )


def text(words, index=0):
    return "contentBlockDelta", {"delta": {"text": words}, "contentBlockIndex": index, "p": "abc"}


def thought(index=0, **delta):
    return "contentBlockDelta", {"delta": {"reasoningContent": delta}, "contentBlockIndex": index}


def ended(index=0):
    return "contentBlockStop", {"contentBlockIndex": index}


START = ("messageStart", {"role": "assistant"})
STOP = ("messageStop", {"stopReason": "end_turn"})
METADATA = ("metadata", {"usage": USAGE, "metrics": {"latencyMs": 1}})
CALL = (
    "contentBlockStart",
    {"start": {"toolUse": {"toolUseId": "t", "name": "n"}}, "contentBlockIndex": 2},
)


def arguments(words, index=2):
    return "contentBlockDelta", {"delta": {"toolUse": {"input": words}}, "contentBlockIndex": index}


WHOLE = (
    START,
    thought(text="h"),
    thought(text="m"),
    thought(signature="s"),
    ended(),
    text("he", 1),
    text("llo", 1),
    ended(1),
    CALL,
    arguments('{"a"'),
    arguments(":1}"),
    ended(2),
    STOP,
    METADATA,
)


def folded(data):
    stream = converse.ConverseStream(model="mine", name="msg_1")
    frames = stream.feed(data)
    payloads = [frame.split(b"data: ", 1)[1].rstrip() for frame in frames]
    try:
        next(anthropic.fold_stream(iter(payloads), None))
    except StopIteration as whole:
        return json.loads(whole.value)


def test_a_stream_is_a_streamed_message():
    told = folded(events(*WHOLE))
    assert (told["id"], told["model"], told["stop_reason"]) == ("msg_1", "mine", "end_turn")
    assert [block["type"] for block in told["content"]] == ["thinking", "text", "tool_use"]
    assert told["content"][0]["thinking"] == "hm"
    assert told["content"][0]["signature"] == "s"
    assert told["content"][1]["text"] == "hello"
    assert told["content"][2]["input"] == {"a": 1}
    assert (told["usage"]["input_tokens"], told["usage"]["output_tokens"]) == (5, 7)


def test_amazons_library_reads_the_same_messages():
    buffer = EventStreamBuffer()
    buffer.add_data(events(*WHOLE))
    read = [(message.headers[":event-type"], json.loads(message.payload)) for message in buffer]
    assert read == list(WHOLE)


def test_it_does_not_matter_where_it_is_cut():
    data = events(*WHOLE)
    stream = converse.ConverseStream(model="mine", name="msg_1")
    frames = [frame for place in range(len(data)) for frame in stream.feed(data[place : place + 1])]
    assert frames == converse.ConverseStream(model="mine", name="msg_1").feed(data)


def test_blocks_under_one_index_and_empty_ones_are_understood():
    same = events(START, thought(text="h"), text("a"), ended(), ended(1), STOP, METADATA)
    assert [block["type"] for block in folded(same)["content"]] == ["thinking", "text"]


def test_encrypted_thoughts_and_events_of_later_days():
    told = folded(events(START, thought(redactedContent=PNG), ended(), ("news", {}), STOP, METADATA))
    assert told["content"] == [{"type": "redacted_thinking", "data": PNG}]


@pytest.mark.parametrize(
    "said",
    [
        (text("a"),),
        (START, START),
        (START, ended(), text("a"), STOP, text("b", 1)),
        (START, text("a", 1), text("b", 0)),
        (START, text("a"), arguments("{}", 0)),
        (START, arguments("{}")),
        (START, METADATA),
        (STOP,),
        (START, STOP, STOP),
        (START, STOP, METADATA, METADATA),
        (START, ("messageStop", {"stopReason": "malformed_tool_use"})),
        (START, ("messageStop", {})),
        (START, ("contentBlockDelta", {"delta": {"citation": {}}, "contentBlockIndex": 0})),
        (START, ("contentBlockStart", {"start": {"image": {"format": "png"}}, "contentBlockIndex": 0})),
        (START, ("contentBlockDelta", [])),
        (("messageStart", {"role": "user"}),),
    ],
)
def test_events_that_make_no_sense(said):
    stream = converse.ConverseStream()
    with pytest.raises(UpstreamBroken):
        [stream.feed(events(one)) for one in said]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("throttlingException", "rate_limit_error"),
        ("validationException", "invalid_request_error"),
        ("serviceUnavailableException", "overloaded_error"),
        ("internalServerException", "api_error"),
        ("modelStreamErrorException", "api_error"),
    ],
)
def test_exceptions_are_error_events(name, kind):
    fields = {":message-type": "exception", ":exception-type": name}
    stream = converse.ConverseStream()
    [frame] = stream.feed(events(START) + encoded(fields, b'{"message":"no"}'))[1:]
    assert frame.startswith(b"event: error\n")
    assert json.loads(frame.split(b"data: ", 1)[1])["error"] == {"type": kind, "message": "no"}


def test_hostile_bytes_break_the_stream_and_nothing_else():
    data = events(*WHOLE)
    for seed in range(2_000):
        digest = zlib.crc32(seed.to_bytes(4, "big"))
        place = digest % len(data)
        spoiled = data[:place] + bytes([data[place] ^ (1 + digest % 255)]) + data[place + 1 :]
        try:
            converse.ConverseStream(1 << 16).feed(spoiled)
        except PenstockError:
            continue
