"""OpenAI's own SDK as the oracle: it sends the requests, and reads what the encoders write."""

import json

import httpx2
import openai
import pydantic
import pytest
from openai.types.responses import Response, ResponseStreamEvent

from penstock.errors import RateLimited, Untranslatable, UpstreamBroken
from penstock.messages import Usage
from penstock.wire.conversation import (
    Answer,
    Finished,
    PartDelta,
    PartEnded,
    PartStarted,
    Refusal,
    Started,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
    Turn,
)
from penstock.wire.responses import StreamEncoder, decode_prompt, encode_answer, read_settings

USAGE = Usage(
    input_tokens=10, output_tokens=5, cached_input_tokens=4, cache_write_tokens=2, reasoning_tokens=3
)
any_event = pydantic.TypeAdapter(ResponseStreamEvent)


class Upstream:
    """Answers as it is told to, by way of the encoders; remembers the prompts."""

    def __init__(self, answer, fail_after=None, error=None):
        self.answer = answer
        self.fail_after = fail_after
        self.error = error
        self.prompts = []
        self.sent = b""

    def client(self):
        transport = httpx2.MockTransport(self.handle)
        return openai.OpenAI(
            api_key="k",
            base_url="http://penstock/v1",
            max_retries=0,
            http_client=httpx2.Client(transport=transport),
        )

    def handle(self, request):
        assert request.url.path == "/v1/responses"
        body = request.read()
        prompt = decode_prompt(body)
        self.prompts.append(prompt)
        settings = read_settings(body)
        if not prompt.stream:
            self.sent = encode_answer(self.answer, settings)
            return httpx2.Response(200, content=self.sent, headers={"content-type": "application/json"})
        encoder = StreamEncoder(settings)
        frames = [
            frame for event in events_of(self.answer)[: self.fail_after] for frame in encoder.feed(event)
        ]
        if self.error is not None:
            frames += encoder.fail(self.error)
        self.sent = b"".join(frames)
        return httpx2.Response(200, content=self.sent, headers={"content-type": "text/event-stream"})


def events_of(answer, size=3):
    """The answer, streamed in pieces."""
    events = [Started(answer.id, answer.model, answer.created)]
    for part in answer.parts:
        if isinstance(part, ToolCall):
            opened, text = ToolCall(part.id, part.name, ""), part.arguments
        elif isinstance(part, Thinking):
            opened, text = Thinking(redacted=part.redacted), part.text
        else:
            opened, text = type(part)(""), part.text
        events.append(PartStarted(opened))
        events += [PartDelta(text[start : start + size]) for start in range(0, len(text), size)]
        if isinstance(part, Thinking) and part.signature:
            events.append(PartDelta(signature=part.signature))
        if isinstance(part, Text):
            events += [PartDelta(citation=citation) for citation in part.citations]
        events.append(PartEnded())
    events.append(Finished(answer.stop, answer.usage, answer.stop_sequence))
    return events


def answer(*parts, stop="stop", **members):
    return Answer(
        id="chatcmpl-abc",
        model="m-2026",
        parts=parts,
        stop=stop,
        usage=USAGE,
        created=1_700_000_000,
        **members,
    )


def names(sent):
    return [line[len(b"event: ") :].decode() for line in sent.splitlines() if line.startswith(b"event: ")]


def events_in(sent):
    """Every frame, strictly validated as the event that its name says."""
    found = []
    for frame in sent.split(b"\n\n")[:-1]:
        name, _, data = frame.partition(b"\n")
        event = any_event.validate_json(data.removeprefix(b"data: "), strict=True)
        assert name == b"event: " + event.type.encode()
        found.append(event)
    assert [event.sequence_number for event in found] == list(range(len(found)))
    return found


WEATHER = {
    "type": "function",
    "name": "weather",
    "parameters": {
        "type": "object",
        "properties": {"town": {"type": "string"}},
        "additionalProperties": False,
    },
    "strict": True,
}


def test_a_plain_answer():
    upstream = Upstream(answer(Text("Hello there")))
    response = upstream.client().responses.create(
        model="m",
        input="hi",
        instructions="Be brief",
        temperature=0.5,
        max_output_tokens=50,
        metadata={"a": "b"},
        tools=[WEATHER],
    )
    Response.model_validate_json(upstream.sent, strict=True)
    assert response.output_text == "Hello there"
    assert response.id == "resp_abc"
    assert response.status == "completed"
    assert response.model == "m-2026"
    assert response.created_at == 1_700_000_000
    assert response.instructions == "Be brief"
    assert response.temperature == 0.5
    assert response.max_output_tokens == 50
    assert response.metadata == {"a": "b"}
    assert response.tools[0].name == "weather"
    assert response.store is False
    assert response.error is None
    assert response.incomplete_details is None
    assert response.usage.input_tokens == 10
    assert response.usage.input_tokens_details.cached_tokens == 4
    assert response.usage.input_tokens_details.cache_write_tokens == 2
    assert response.usage.output_tokens_details.reasoning_tokens == 3
    assert response.usage.total_tokens == 15


@pytest.mark.parametrize(
    "given",
    [
        answer(Text("Hello there")),
        answer(Text("a"), Text("b"), Refusal("no")),
        answer(ToolCall("c1", "weather", '{"town":"Bonn"}'), stop="tool_calls"),
        answer(
            Thinking("let me think", "sig"), Text("on it"), ToolCall("c1", "weather", "{}"), stop="tool_calls"
        ),
        answer(Thinking(redacted="xxx"), Text("ok")),
        answer(Text("cut of"), stop="length"),
        answer(stop="content_filter"),
        answer(),
    ],
    ids=lambda given: f"{'+'.join(type(part).__name__ for part in given.parts)}-{given.stop}",
)
@pytest.mark.parametrize("summary", [None, "auto"])
def test_every_event_is_valid_and_the_last_one_says_what_a_plain_answer_says(given, summary):
    upstream = Upstream(given)
    client = upstream.client()
    asked = {"model": "m", "input": "hi", "reasoning": {"summary": summary}}
    plain = client.responses.create(**asked)
    Response.model_validate_json(upstream.sent, strict=True)
    list(client.responses.create(**asked, stream=True))
    events = events_in(upstream.sent)
    assert [event.type for event in events[:2]] == ["response.created", "response.in_progress"]
    assert events[0].response.status == events[1].response.status == "in_progress"
    assert events[-1].response.to_dict() == plain.to_dict()


def test_a_text_stream_has_every_event_in_order():
    upstream = Upstream(answer(Text("Hello")))
    with upstream.client().responses.stream(model="m", input="hi") as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert "".join(deltas) == final.output_text == "Hello"
    assert names(upstream.sent) == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]


def test_the_accumulator_sees_each_snapshot_grow():
    upstream = Upstream(
        answer(Text("one two"), ToolCall("c1", "weather", '{"town":"Bonn"}'), stop="tool_calls")
    )
    texts, arguments = [], []
    with upstream.client().responses.stream(model="m", input="hi", tools=[WEATHER]) as stream:
        for event in stream:
            if event.type == "response.output_text.delta":
                texts.append(event.snapshot)
            elif event.type == "response.function_call_arguments.delta":
                arguments.append(event.snapshot)
        final = stream.get_final_response()
    assert texts == ["one", "one tw", "one two"]
    assert arguments[-1] == '{"town":"Bonn"}'
    call = final.output[1]
    assert (call.call_id, call.name, call.parsed_arguments) == ("c1", "weather", {"town": "Bonn"})


def test_parallel_calls_are_items_of_their_own():
    given = answer(
        ToolCall("c1", "weather", '{"town":"Bonn"}'),
        ToolCall("c2", "weather", '{"town":"Ulm"}'),
        stop="tool_calls",
    )
    with Upstream(given).client().responses.stream(model="m", input="hi", tools=[WEATHER]) as stream:
        final = stream.get_final_response()
    assert [(item.call_id, item.arguments) for item in final.output] == [
        ("c1", '{"town":"Bonn"}'),
        ("c2", '{"town":"Ulm"}'),
    ]
    assert final.output[0].id != final.output[1].id


class Person(pydantic.BaseModel):
    name: str
    age: int


def test_structured_output_is_parsed():
    upstream = Upstream(answer(Text('{"name":"Ada","age":36}')))
    client = upstream.client()
    found = client.responses.parse(model="m", input="hi", text_format=Person)
    assert found.output_parsed == Person(name="Ada", age=36)
    wanted = upstream.prompts[0].output
    assert (wanted.kind, wanted.name, wanted.strict) == ("json_schema", "Person", True)
    with client.responses.stream(model="m", input="hi", text_format=Person) as stream:
        parsed = [event.parsed for event in stream if event.type == "response.output_text.done"]
        assert stream.get_final_response().output_parsed == Person(name="Ada", age=36)
    assert parsed == [Person(name="Ada", age=36)]


def test_a_tool_loop_gives_back_what_the_model_said():
    said = (Thinking("let me think", "sig"), Text("on it"), ToolCall("c1", "weather", '{"town":"Bonn"}'))
    upstream = Upstream(answer(*said, stop="tool_calls"))
    client = upstream.client()
    items = [{"role": "user", "content": "hi"}]
    for stream in (False, True):
        if stream:
            with client.responses.stream(model="m", input=items, tools=[WEATHER]) as opened:
                output = opened.get_final_response().output
        else:
            output = client.responses.create(model="m", input=items, tools=[WEATHER]).output
        items = [{"role": "user", "content": "hi"}]
        items += output
        items.append({"type": "function_call_output", "call_id": "c1", "output": "sun"})
        client.responses.create(model="m", input=items, tools=[WEATHER])
        assert upstream.prompts[-1].turns == (
            Turn("user", (Text("hi"),)),
            Turn("assistant", said),
            Turn("user", (ToolResult("c1", (Text("sun"),)),)),
        )


def test_reasoning_is_text_unless_a_summary_was_asked_for():
    upstream = Upstream(answer(Thinking("let me think", "sig"), Text("ok")))
    client = upstream.client()
    shown = client.responses.create(model="m", input="hi").output[0]
    assert [part.text for part in shown.content] == ["let me think"]
    assert shown.summary == []
    shown = client.responses.create(model="m", input="hi", reasoning={"summary": "auto"}).output[0]
    assert [part.text for part in shown.summary] == ["let me think"]

    list(client.responses.create(model="m", input="hi", stream=True))
    assert (
        "".join(e.delta for e in events_in(upstream.sent) if e.type == "response.reasoning_text.delta")
        == "let me think"
    )
    list(client.responses.create(model="m", input="hi", stream=True, reasoning={"summary": "detailed"}))
    order = [name for name in names(upstream.sent) if "reasoning" in name]
    assert order == [
        "response.reasoning_summary_part.added",
        *["response.reasoning_summary_text.delta"] * 4,
        "response.reasoning_summary_text.done",
        "response.reasoning_summary_part.done",
    ]


def test_a_refusal_is_a_completed_response():
    upstream = Upstream(answer(Refusal("I cannot"), stop="refusal"))
    client = upstream.client()
    response = client.responses.create(model="m", input="hi")
    assert response.status == "completed"
    assert response.output[0].content[0].refusal == "I cannot"
    list(client.responses.create(model="m", input="hi", stream=True))
    found = events_in(upstream.sent)
    assert "".join(e.delta for e in found if e.type == "response.refusal.delta") == "I cannot"
    assert [e.refusal for e in found if e.type == "response.refusal.done"] == ["I cannot"]
    assert found[-1].type == "response.completed"


@pytest.mark.parametrize(
    ("stop", "reason"),
    [
        ("length", "max_output_tokens"),
        ("context_length", "max_output_tokens"),
        ("content_filter", "content_filter"),
        ("refusal", "content_filter"),
        ("pause", None),
    ],
)
def test_an_answer_that_was_cut_is_incomplete_and_so_is_its_last_item(stop, reason):
    upstream = Upstream(answer(Text("so"), ToolCall("c1", "weather", '{"town":"Bo'), stop=stop))
    client = upstream.client()
    response = client.responses.create(model="m", input="hi")
    list(client.responses.create(model="m", input="hi", stream=True))
    last = events_in(upstream.sent)[-1]
    assert last.type == "response.incomplete"
    for found in (response, last.response):
        assert found.status == "incomplete"
        assert found.incomplete_details.reason == reason
        assert [item.status for item in found.output] == ["completed", "incomplete"]
    done = [e.item.status for e in events_in(upstream.sent) if e.type == "response.output_item.done"]
    assert done == ["completed", "incomplete"]


@pytest.mark.parametrize("stop", ["stop", "stop_sequence", "tool_calls"])
def test_an_answer_that_came_to_its_end_is_completed(stop):
    assert (
        Upstream(answer(Text("x"), stop=stop)).client().responses.create(model="m", input="hi").status
        == "completed"
    )


@pytest.mark.parametrize("heard", range(8))
@pytest.mark.parametrize("accumulated", [False, True])
def test_a_stream_that_breaks_off_is_raised_by_the_sdk(heard, accumulated):
    """Wherever it breaks, what came before it is delivered, and no truncated answer looks whole."""
    given = answer(Text("Hel"), ToolCall("c1", "weather", "{}"))
    upstream = Upstream(given, fail_after=heard, error=UpstreamBroken("the upstream broke off"))
    client = upstream.client()
    with pytest.raises(openai.APIError, match="the upstream broke off") as caught:  # noqa: PT012
        if accumulated:
            with client.responses.stream(model="m", input="hi") as stream:
                list(stream)
        else:
            list(client.responses.create(model="m", input="hi", stream=True))
    assert caught.value.code == "upstream_broken"
    failed = events_in(upstream.sent)[-1]
    assert failed.type == "response.failed"
    assert failed.response.status == "failed"
    assert failed.response.error.code == "server_error"
    texts = [p.text for item in failed.response.output if item.type == "message" for p in item.content]
    assert texts == ([] if heard < 2 else [""] if heard == 2 else ["Hel"])


def test_the_error_of_a_failed_response_says_whose_fault_it_was():
    for error, code in (
        (RateLimited("slow down"), "rate_limit_exceeded"),
        (Untranslatable("no"), "invalid_prompt"),
    ):
        upstream = Upstream(answer(), fail_after=1, error=error)
        with pytest.raises(openai.APIError):
            list(upstream.client().responses.create(model="m", input="hi", stream=True))
        assert events_in(upstream.sent)[-1].response.error.code == code


def test_nothing_follows_the_end():
    encoder = StreamEncoder()
    for event in events_of(answer(Text("x"))):
        encoder.feed(event)
    assert encoder.fail(UpstreamBroken("late")) == []
    assert "ended" in repr(encoder)


def test_annotations_say_where_in_their_text_they_belong():
    web = {"type": "web_search_result_location", "url": "https://x", "title": "X", "cited_text": "c"}
    chat = {
        "type": "url_citation",
        "url_citation": {"start_index": 1, "end_index": 2, "url": "https://y", "title": "Y"},
    }
    page = {
        "type": "page_location",
        "document_index": 1,
        "document_title": "D",
        "cited_text": "c",
        "start_page_number": 2,
        "end_page_number": 3,
    }
    upstream = Upstream(answer(Text("Hello", citations=(web, chat, page))))
    client = upstream.client()
    plain = client.responses.create(model="m", input="hi").output[0].content[0].annotations
    with client.responses.stream(model="m", input="hi") as stream:
        streamed = stream.get_final_response().output[0].content[0].annotations
    events_in(upstream.sent)
    assert names(upstream.sent).count("response.output_text.annotation.added") == 3
    for found in (plain, streamed):
        assert [(a.type, a.start_index, a.end_index, a.url) for a in found[:2]] == [
            ("url_citation", 0, 5, "https://x"),
            ("url_citation", 1, 2, "https://y"),
        ]
        assert (found[2].type, found[2].filename, found[2].index) == ("file_citation", "D", 1)
        assert found[2].to_dict()["start_page_number"] == 2


def test_logprobs_of_a_chat_completion_become_those_of_the_text():
    token = {
        "token": "é",
        "logprob": -0.5,
        "bytes": None,
        "top_logprobs": [{"token": "e", "logprob": -1.0, "bytes": [101]}],
    }
    upstream = Upstream(answer(Text("é"), logprobs={"content": [token], "refusal": None}))
    response = upstream.client().responses.create(
        model="m", input="hi", include=["message.output_text.logprobs"], top_logprobs=1
    )
    Response.model_validate_json(upstream.sent, strict=True)
    (found,) = response.output[0].content[0].logprobs
    assert (found.token, found.logprob, found.bytes) == ("é", -0.5, [0xC3, 0xA9])
    assert found.top_logprobs[0].token == "e"


def test_an_image_reaches_the_prompt():
    upstream = Upstream(answer(Text("a cat")))
    image = {"type": "input_image", "image_url": "data:image/png;base64,iVBO", "detail": "auto"}
    upstream.client().responses.create(
        model="m", input=[{"role": "user", "content": [{"type": "input_text", "text": "what?"}, image]}]
    )
    text, picture = upstream.prompts[0].turns[0].parts
    assert text == Text("what?")
    assert (picture.media_type, picture.data) == ("image/png", "iVBO")


def test_a_stream_is_json_that_any_reader_of_event_streams_can_follow():
    upstream = Upstream(answer(Text('line\n\n"quoted"\r\u2028end')))
    list(upstream.client().responses.create(model="m", input="hi", stream=True))
    text = "".join(e.delta for e in events_in(upstream.sent) if e.type == "response.output_text.delta")
    assert text == 'line\n\n"quoted"\r\u2028end'
    for line in upstream.sent.split(b"\n"):
        assert line == b"" or line.startswith((b"event: ", b"data: {"))
        if line.startswith(b"data: "):
            json.loads(line[6:])
