"""The official SDKs, through a running gateway, to upstreams of either dialect.

Each test runs once with an upstream that is asked in OpenAI's dialect and once with one that is asked in
Anthropic's.
"""

import base64
import json

import anthropic
import openai
import pydantic
import pytest

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
SCHEMA = {
    "type": "object",
    "properties": {"town": {"type": "string"}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["town", "days"],
    "additionalProperties": False,
}
CHAT_TOOL = {
    "type": "function",
    "function": {"name": "forecast", "description": "Tell the weather", "parameters": SCHEMA},
}
RESPONSES_TOOL = {
    "type": "function",
    "name": "forecast",
    "description": "Tell the weather",
    "parameters": SCHEMA,
    "strict": False,
}
MESSAGES_TOOL = {"name": "forecast", "description": "Tell the weather", "input_schema": SCHEMA}


class Person(pydantic.BaseModel):
    name: str
    age: int
    likes: list[str]


def billed(simulators, upstream):
    """What the upstream charged for its last request."""
    return simulators[upstream].bill()["by_request"][-1]


def is_forecast(arguments):
    return set(arguments) == {"town", "days"} and isinstance(arguments["days"], int)


# ---- OpenAI: chat completions ----------------------------------------------------------------------


class TestChat:
    CONVERSATION = (
        {"role": "system", "content": "Be brief. Ünïcode stays."},
        {"role": "user", "content": "What is a penstock?"},
        {"role": "assistant", "content": "A pipe."},
        {"role": "user", "content": [{"type": "text", "text": "And"}, {"type": "text", "text": " why?"}]},
    )

    def test_a_plain_answer_is_whole_and_billed_as_told(self, openai_client, heard, upstream, simulators):
        answer = openai_client.chat.completions.create(
            model=f"{upstream}/plain", messages=self.CONVERSATION, max_tokens=200
        )
        assert answer.choices[0].message.content == heard.expected()
        assert answer.choices[0].finish_reason == "stop"
        bill = billed(simulators, upstream)
        assert answer.usage.prompt_tokens == bill["input_tokens"]
        assert answer.usage.completion_tokens == bill["output_tokens"] == 64
        assert answer.usage.total_tokens == answer.usage.prompt_tokens + 64
        assert answer.id
        assert answer.created > 1_700_000_000

    def test_a_stream_says_the_same(self, openai_client, heard, upstream, simulators):
        chunks = list(
            openai_client.chat.completions.create(
                model=f"{upstream}/plain",
                messages=self.CONVERSATION,
                stream=True,
                stream_options={"include_usage": True},
            )
        )
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text == heard.expected()
        assert chunks[0].choices[0].delta.role == "assistant"
        assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
        assert chunks[-1].choices == []
        assert chunks[-1].usage.completion_tokens == 64
        assert chunks[-1].usage.prompt_tokens == billed(simulators, upstream)["input_tokens"]
        assert len({chunk.id for chunk in chunks}) == 1
        assert all(chunk.created > 1_700_000_000 for chunk in chunks)

    def test_without_asking_there_is_no_usage_chunk(self, openai_client, upstream):
        stream = openai_client.chat.completions.create(
            model=f"{upstream}/plain", messages=self.CONVERSATION, stream=True
        )
        chunks = list(stream)
        assert chunks[-1].choices[0].finish_reason
        assert all(chunk.choices for chunk in chunks)

    def test_the_accumulator_follows_a_stream(self, openai_client, heard, upstream):
        with openai_client.chat.completions.stream(
            model=f"{upstream}/plain", messages=self.CONVERSATION
        ) as stream:
            deltas = [event.delta for event in stream if event.type == "content.delta"]
            final = stream.get_final_completion()
        assert "".join(deltas) == final.choices[0].message.content == heard.expected()

    def test_a_limit_cuts_and_says_so(self, openai_client, heard, upstream):
        answer = openai_client.chat.completions.create(
            model=f"{upstream}/plain", messages=self.CONVERSATION, max_completion_tokens=7
        )
        assert answer.choices[0].finish_reason == "length"
        assert answer.choices[0].message.content == heard.expected(7)

    @pytest.mark.parametrize("stream", [False, True])
    def test_a_tool_is_called_and_answered(self, openai_client, heard, upstream, stream):
        messages = [{"role": "user", "content": "Please call the tool for Bonn."}]
        asked = {"model": f"{upstream}/plain", "tools": [CHAT_TOOL]}
        if stream:
            with openai_client.chat.completions.stream(messages=messages, **asked) as opened:
                pieces = [
                    e.arguments_delta for e in opened if e.type == "tool_calls.function.arguments.delta"
                ]
                choice = opened.get_final_completion().choices[0]
            assert len([piece for piece in pieces if piece]) > 1
            assert "".join(pieces) == choice.message.tool_calls[0].function.arguments
        else:
            choice = openai_client.chat.completions.create(messages=messages, **asked).choices[0]
        assert choice.finish_reason == "tool_calls"
        (call,) = choice.message.tool_calls
        assert call.function.name == "forecast"
        assert is_forecast(json.loads(call.function.arguments))
        messages.append(choice.message.to_dict(mode="json"))
        messages.append({"role": "tool", "tool_call_id": call.id, "content": "Sun."})
        answer = openai_client.chat.completions.create(messages=messages, **asked)
        assert answer.choices[0].finish_reason == "stop"
        assert answer.choices[0].message.content == heard.expected()

    @pytest.mark.parametrize("stream", [False, True])
    def test_parallel_calls_stay_apart(self, openai_client, upstream, stream):
        asked = {
            "model": f"{upstream}/two-calls",
            "messages": [{"role": "user", "content": "Both."}],
            "tools": [CHAT_TOOL],
        }
        if stream:
            with openai_client.chat.completions.stream(**asked) as opened:
                message = opened.get_final_completion().choices[0].message
        else:
            message = openai_client.chat.completions.create(**asked).choices[0].message
        first, second = message.tool_calls
        assert first.id != second.id
        assert is_forecast(json.loads(first.function.arguments))
        assert is_forecast(json.loads(second.function.arguments))

    @pytest.mark.parametrize(
        ("choice", "calls"),
        [("none", 0), ("required", 1), ({"type": "function", "function": {"name": "forecast"}}, 1)],
    )
    def test_a_tool_choice_is_heard(self, openai_client, upstream, choice, calls):
        message = (
            openai_client.chat.completions.create(
                model=f"{upstream}/plain",
                messages=[{"role": "user", "content": "Well?"}],
                tools=[CHAT_TOOL],
                tool_choice=choice,
            )
            .choices[0]
            .message
        )
        assert len(message.tool_calls or ()) == calls

    @pytest.mark.parametrize("stream", [False, True])
    def test_structured_output_is_parsed(self, openai_client, upstream, stream):
        asked = {
            "model": f"{upstream}/plain",
            "messages": [{"role": "user", "content": "Who?"}],
            "response_format": Person,
        }
        if stream:
            with openai_client.chat.completions.stream(**asked) as opened:
                message = opened.get_final_completion().choices[0].message
        else:
            message = openai_client.chat.completions.parse(**asked).choices[0].message
        assert isinstance(message.parsed, Person)

    def test_an_image_is_seen(self, openai_client, heard, upstream, simulators):
        url = f"data:image/png;base64,{PNG}"
        parts = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": url}}]
        answer = openai_client.chat.completions.create(
            model=f"{upstream}/plain", messages=[{"role": "user", "content": parts}]
        )
        assert answer.choices[0].message.content == heard.expected()
        assert PNG in simulators[upstream].requests()[-1]["body"]

    def test_reasoning_is_told_apart(self, openai_client, upstream):
        answer = openai_client.chat.completions.create(
            model=f"{upstream}/thinking", messages=self.CONVERSATION
        )
        message = answer.choices[0].message
        assert message.content
        assert message.model_extra["reasoning_content"]
        assert message.model_extra["reasoning_content"] not in message.content

    def test_cached_tokens_are_told(self, openai_client, upstream, simulators):
        answer = openai_client.chat.completions.create(model=f"{upstream}/cached", messages=self.CONVERSATION)
        assert answer.usage.prompt_tokens_details.cached_tokens == 3
        assert answer.usage.prompt_tokens == billed(simulators, upstream)["input_tokens"]


# ---- OpenAI: responses -----------------------------------------------------------------------------


class TestResponses:
    CONVERSATION = (
        {"role": "user", "content": "What is a penstock?"},
        {"role": "assistant", "content": "A pipe."},
        {
            "role": "user",
            "content": [{"type": "input_text", "text": "And"}, {"type": "input_text", "text": " why?"}],
        },
    )

    def test_a_plain_answer_is_whole_and_billed_as_told(self, openai_client, heard, upstream, simulators):
        response = openai_client.responses.create(
            model=f"{upstream}/plain",
            instructions="Be brief. Ünïcode stays.",
            input=self.CONVERSATION,
            metadata={"a": "b"},
            tools=[RESPONSES_TOOL],
            max_output_tokens=200,
        )
        assert response.output_text == heard.expected()
        assert response.status == "completed"
        assert response.instructions == "Be brief. Ünïcode stays."
        assert response.metadata == {"a": "b"}
        assert response.max_output_tokens == 200
        assert response.tools[0].name == "forecast"
        assert response.store is False
        assert response.created_at > 1_700_000_000
        assert response.model == f"{upstream}/plain"
        bill = billed(simulators, upstream)
        assert response.usage.input_tokens == bill["input_tokens"]
        assert response.usage.output_tokens == bill["output_tokens"] == 64

    def test_the_accumulator_follows_a_stream(self, openai_client, heard, upstream):
        with openai_client.responses.stream(
            model=f"{upstream}/plain", input=self.CONVERSATION, metadata={"a": "b"}
        ) as stream:
            events = list(stream)
            final = stream.get_final_response()
        deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
        assert "".join(deltas) == final.output_text == heard.expected()
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert events[0].type == "response.created"
        assert events[0].response.metadata == final.metadata == {"a": "b"}
        assert events[0].response.created_at > 1_700_000_000
        assert events[-1].type == "response.completed"
        assert final.usage.output_tokens == 64

    def test_a_limit_makes_it_incomplete(self, openai_client, heard, upstream):
        asked = {"model": f"{upstream}/plain", "input": self.CONVERSATION, "max_output_tokens": 7}
        response = openai_client.responses.create(**asked)
        assert response.status == "incomplete"
        assert response.incomplete_details.reason == "max_output_tokens"
        assert response.output_text == heard.expected(7)
        last = list(openai_client.responses.create(**asked, stream=True))[-1]
        assert last.type == "response.incomplete"
        assert last.response.output_text == heard.expected(7)

    @pytest.mark.parametrize("stream", [False, True])
    def test_a_tool_is_called_and_answered(self, openai_client, heard, upstream, stream):
        items = [{"role": "user", "content": "Please call the tool for Bonn."}]
        asked = {"model": f"{upstream}/plain", "tools": [RESPONSES_TOOL]}
        if stream:
            with openai_client.responses.stream(input=items, **asked) as opened:
                pieces = [e.delta for e in opened if e.type == "response.function_call_arguments.delta"]
                output = opened.get_final_response().output
            assert len(pieces) > 1
            assert "".join(pieces) == output[-1].arguments
        else:
            output = openai_client.responses.create(input=items, **asked).output
        call = output[-1]
        assert (call.type, call.name) == ("function_call", "forecast")
        assert is_forecast(json.loads(call.arguments))
        items += output
        items.append({"type": "function_call_output", "call_id": call.call_id, "output": "Sun."})
        response = openai_client.responses.create(input=items, **asked)
        assert response.output_text == heard.expected()

    @pytest.mark.parametrize("stream", [False, True])
    def test_parallel_calls_stay_apart(self, openai_client, upstream, stream):
        asked = {"model": f"{upstream}/two-calls", "input": "Both.", "tools": [RESPONSES_TOOL]}
        if stream:
            with openai_client.responses.stream(**asked) as opened:
                output = opened.get_final_response().output
        else:
            output = openai_client.responses.create(**asked).output
        calls = [item for item in output if item.type == "function_call"]
        assert len({call.call_id for call in calls}) == len({call.id for call in calls}) == 2
        assert all(is_forecast(json.loads(call.arguments)) for call in calls)

    @pytest.mark.parametrize("stream", [False, True])
    def test_structured_output_is_parsed(self, openai_client, upstream, stream):
        asked = {"model": f"{upstream}/plain", "input": "Who?", "text_format": Person}
        if stream:
            with openai_client.responses.stream(**asked) as opened:
                response = opened.get_final_response()
        else:
            response = openai_client.responses.parse(**asked)
        assert isinstance(response.output_parsed, Person)

    def test_an_image_is_seen(self, openai_client, heard, upstream, simulators):
        parts = [
            {"type": "input_text", "text": "What is it?"},
            {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}", "detail": "auto"},
        ]
        response = openai_client.responses.create(
            model=f"{upstream}/plain", input=[{"role": "user", "content": parts}]
        )
        assert response.output_text == heard.expected()
        assert PNG in simulators[upstream].requests()[-1]["body"]

    @pytest.mark.parametrize("stream", [False, True])
    def test_reasoning_comes_and_goes_back(self, openai_client, upstream, stream, simulators):
        items = [{"role": "user", "content": "Please call the tool."}]
        asked = {"model": f"{upstream}/thinking", "tools": [RESPONSES_TOOL], "reasoning": {"summary": "auto"}}
        if stream:
            with openai_client.responses.stream(input=items, **asked) as opened:
                output = opened.get_final_response().output
        else:
            output = openai_client.responses.create(input=items, **asked).output
        reasoning, call = output
        (summary,) = reasoning.summary
        assert summary.text
        items += [*output, {"type": "function_call_output", "call_id": call.call_id, "output": "Sun."}]
        assert openai_client.responses.create(input=items, **asked).output_text
        assert summary.text in simulators[upstream].requests()[-1]["body"]

    @pytest.mark.parametrize(
        ("asked", "param"),
        [
            ({"previous_response_id": "resp_1"}, "previous_response_id"),
            ({"conversation": "conv_1"}, "conversation"),
            ({"truncation": "auto"}, "truncation"),
            ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ],
    )
    def test_what_needs_more_than_the_upstream_has_is_refused(self, openai_client, upstream, asked, param):
        with pytest.raises(openai.BadRequestError) as caught:
            openai_client.responses.create(model=f"{upstream}/plain", input="hi", **asked)
        assert caught.value.param == param
        assert caught.value.code == "untranslatable"

    def test_tokens_are_counted_by_the_upstream_or_estimated(self, openai_client, upstream):
        asked = {"model": f"{upstream}/plain", "input": "How long is this?"}
        answer = openai_client.responses.input_tokens.with_raw_response.count(**asked)
        assert answer.parse().object == "response.input_tokens"
        assert answer.parse().input_tokens > 0
        assert ("penstock-estimated" in answer.headers) is (upstream == "openai")


# ---- Anthropic: messages ---------------------------------------------------------------------------


class TestMessages:
    CONVERSATION = (
        {"role": "user", "content": "What is a penstock?"},
        {"role": "assistant", "content": "A pipe."},
        {"role": "user", "content": [{"type": "text", "text": "And"}, {"type": "text", "text": " why?"}]},
    )
    SYSTEM = "Be brief. Ünïcode stays."

    def test_a_plain_answer_is_whole_and_billed_as_told(self, anthropic_client, heard, upstream, simulators):
        message = anthropic_client.messages.create(
            model=f"{upstream}/plain", system=self.SYSTEM, messages=self.CONVERSATION, max_tokens=200
        )
        (block,) = message.content
        assert block.text == heard.expected()
        assert message.stop_reason == "end_turn"
        bill = billed(simulators, upstream)
        assert message.usage.input_tokens == bill["input_tokens"]
        assert message.usage.output_tokens == bill["output_tokens"] == 64
        assert message.id

    def test_the_accumulator_follows_a_stream(self, anthropic_client, heard, upstream, simulators):
        with anthropic_client.messages.stream(
            model=f"{upstream}/plain", system=self.SYSTEM, messages=self.CONVERSATION, max_tokens=200
        ) as stream:
            text = "".join(stream.text_stream)
            final = stream.get_final_message()
        assert text == final.content[0].text == heard.expected()
        assert final.stop_reason == "end_turn"
        assert final.usage.output_tokens == 64
        assert final.usage.input_tokens == billed(simulators, upstream)["input_tokens"]

    def test_a_limit_cuts_and_says_so(self, anthropic_client, heard, upstream):
        message = anthropic_client.messages.create(
            model=f"{upstream}/plain", messages=self.CONVERSATION, max_tokens=7
        )
        assert message.stop_reason == "max_tokens"
        assert message.content[0].text == heard.expected(7)

    @pytest.mark.parametrize("stream", [False, True])
    def test_a_tool_is_called_and_answered(self, anthropic_client, heard, upstream, stream):
        messages = [{"role": "user", "content": "Please call the tool for Bonn."}]
        asked = {"model": f"{upstream}/plain", "tools": [MESSAGES_TOOL], "max_tokens": 200}
        if stream:
            with anthropic_client.messages.stream(messages=messages, **asked) as opened:
                pieces = [event.partial_json for event in opened if event.type == "input_json"]
                message = opened.get_final_message()
            assert len([piece for piece in pieces if piece]) > 1
            assert json.loads("".join(pieces)) == message.content[-1].input
        else:
            message = anthropic_client.messages.create(messages=messages, **asked)
        assert message.stop_reason == "tool_use"
        call = message.content[-1]
        assert call.name == "forecast"
        assert is_forecast(call.input)
        messages.append({"role": "assistant", "content": message.content})
        messages.append(
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "Sun."}]}
        )
        answer = anthropic_client.messages.create(messages=messages, **asked)
        assert answer.stop_reason == "end_turn"
        assert answer.content[0].text == heard.expected()

    @pytest.mark.parametrize("stream", [False, True])
    def test_parallel_calls_stay_apart(self, anthropic_client, upstream, stream):
        asked = {
            "model": f"{upstream}/two-calls",
            "messages": [{"role": "user", "content": "Both."}],
            "tools": [MESSAGES_TOOL],
            "max_tokens": 200,
        }
        if stream:
            with anthropic_client.messages.stream(**asked) as opened:
                message = opened.get_final_message()
        else:
            message = anthropic_client.messages.create(**asked)
        first, second = (block for block in message.content if block.type == "tool_use")
        assert first.id != second.id
        assert is_forecast(first.input)
        assert is_forecast(second.input)

    @pytest.mark.parametrize(
        ("choice", "calls"),
        [({"type": "none"}, 0), ({"type": "any"}, 1), ({"type": "tool", "name": "forecast"}, 1)],
    )
    def test_a_tool_choice_is_heard(self, anthropic_client, upstream, choice, calls):
        message = anthropic_client.messages.create(
            model=f"{upstream}/plain",
            messages=[{"role": "user", "content": "Well?"}],
            tools=[MESSAGES_TOOL],
            tool_choice=choice,
            max_tokens=200,
        )
        assert len([block for block in message.content if block.type == "tool_use"]) == calls

    @pytest.mark.parametrize("stream", [False, True])
    def test_structured_output_is_parsed(self, anthropic_client, upstream, stream):
        asked = {
            "model": f"{upstream}/plain",
            "messages": [{"role": "user", "content": "Who?"}],
            "max_tokens": 200,
            "output_format": Person,
        }
        if stream:
            with anthropic_client.messages.stream(**asked) as opened:
                message = opened.get_final_message()
        else:
            message = anthropic_client.messages.parse(**asked)
        assert isinstance(message.parsed_output, Person)

    def test_an_image_is_seen(self, anthropic_client, heard, upstream, simulators):
        source = {"type": "base64", "media_type": "image/png", "data": PNG}
        parts = [{"type": "text", "text": "What is it?"}, {"type": "image", "source": source}]
        message = anthropic_client.messages.create(
            model=f"{upstream}/plain", messages=[{"role": "user", "content": parts}], max_tokens=200
        )
        assert message.content[0].text == heard.expected()
        assert PNG in simulators[upstream].requests()[-1]["body"]

    def test_a_document_is_read(self, anthropic_client, heard, upstream, simulators):
        data = base64.b64encode(b"%PDF-1.4 nothing").decode()
        source = {"type": "base64", "media_type": "application/pdf", "data": data}
        parts = [{"type": "text", "text": "What is it?"}, {"type": "document", "source": source}]
        message = anthropic_client.messages.create(
            model=f"{upstream}/plain", messages=[{"role": "user", "content": parts}], max_tokens=200
        )
        assert message.content[0].text == heard.expected()
        assert data in simulators[upstream].requests()[-1]["body"]

    @pytest.mark.parametrize("stream", [False, True])
    def test_thinking_is_told_apart(self, anthropic_client, upstream, stream):
        asked = {"model": f"{upstream}/thinking", "messages": self.CONVERSATION, "max_tokens": 200}
        if stream:
            with anthropic_client.messages.stream(**asked) as opened:
                message = opened.get_final_message()
        else:
            message = anthropic_client.messages.create(**asked)
        thinking, text = message.content
        assert thinking.type == "thinking"
        assert thinking.thinking
        assert text.text

    def test_tokens_are_counted_by_the_upstream_or_estimated(self, anthropic_client, upstream):
        asked = {"model": f"{upstream}/plain", "messages": self.CONVERSATION}
        answer = anthropic_client.messages.with_raw_response.count_tokens(**asked)
        assert answer.parse().input_tokens > 0
        assert ("penstock-estimated" in answer.headers) is (upstream == "openai")


# ---- errors ----------------------------------------------------------------------------------------


@pytest.fixture(params=["chat", "responses", "messages"])
def form(request):
    return request.param


class Caller:
    """One way of asking, with the exceptions of its SDK; keeps the text that came."""

    def __init__(self, form, client, *, stream):
        self.form = form
        self.client = client
        self.sdk = anthropic if form == "messages" else openai
        self.text = ""
        self._stream = stream

    def ask(self, model, client=None, prompt="hi", **more):
        client = client or self.client
        more |= {"model": model, "stream": self._stream}
        messages = [{"role": "user", "content": prompt}]
        if self.form == "chat":
            answer = client.chat.completions.create(messages=messages, **more)
        elif self.form == "responses":
            answer = client.responses.create(input=prompt, **more)
        else:
            answer = client.messages.create(messages=messages, max_tokens=100, **more)
        return [self._heard(event) for event in answer] if self._stream else answer

    def _heard(self, event):
        if self.form == "chat":
            self.text += event.choices[0].delta.content or ""
        elif event.type == "response.output_text.delta":
            self.text += event.delta
        elif event.type == "content_block_delta":
            self.text += event.delta.text
        return event


@pytest.fixture(params=[False, True], ids=["plain", "stream"])
def caller(form, request, client):
    return Caller(form, client, stream=request.param)


@pytest.fixture
def streaming(form, client):
    return Caller(form, client, stream=True)


@pytest.fixture
def client(form, openai_client, anthropic_client):
    return anthropic_client if form == "messages" else openai_client


class TestErrors:
    @pytest.mark.parametrize(
        ("script", "status", "error"),
        [
            ("400", 400, "BadRequestError"),
            ("context-length", 400, "BadRequestError"),
            ("content-filter", 400, "BadRequestError"),
            ("404", 404, "NotFoundError"),
            ("429", 429, "RateLimitError"),
            ("500", 502, "InternalServerError"),
            ("401", 502, "InternalServerError"),  # the gateway's key, not the caller's
            ("reset", 502, "InternalServerError"),
            ("garbage", 502, "InternalServerError"),
            ("html", 502, "InternalServerError"),
        ],
    )
    def test_an_upstreams_refusal_is_the_sdks_own_exception(self, caller, upstream, script, status, error):
        with pytest.raises(getattr(caller.sdk, error)) as caught:
            caller.ask(f"{upstream}/{script}")
        assert caught.value.status_code == status
        assert caught.value.response.headers["penstock-generation"].startswith("gen_")

    def test_an_overload_is_a_server_error(self, caller, upstream):
        with pytest.raises(caller.sdk.InternalServerError) as caught:
            caller.ask(f"{upstream}/529")
        assert caught.value.status_code == 503

    def test_a_prompt_that_is_too_long_has_a_code(self, openai_client, upstream):
        with pytest.raises(openai.BadRequestError) as caught:
            openai_client.chat.completions.create(
                model=f"{upstream}/context-length", messages=[{"role": "user", "content": "hi"}]
            )
        assert caught.value.code == "context_length_exceeded"

    def test_one_failure_is_retried_and_the_caller_does_not_notice(self, caller, upstream, request):
        assert caller.ask(f"{upstream}/500-once", prompt=request.node.name)

    @pytest.mark.parametrize("script", ["cut", "closed", "malformed", "error-event", "stalled"])
    def test_a_stream_that_breaks_delivers_what_came_and_then_raises(
        self, streaming, heard, upstream, script
    ):
        with pytest.raises(streaming.sdk.APIError):
            streaming.ask(f"{upstream}/{script}")
        assert streaming.text == heard.expected(5)

    @pytest.mark.parametrize("script", ["malformed-once", "error-event-once"])
    def test_a_fault_before_anything_was_delivered_is_mended(
        self, streaming, heard, upstream, script, simulators
    ):
        prompt = f"{streaming.form} {script}"  # "once" is once for each prompt
        streaming.ask(f"{upstream}/{script}", prompt=prompt)
        assert streaming.text == heard.expected()
        while (bill := simulators[upstream].bill())["in_flight"]:
            pass  # the simulator has yet to see that the broken one was hung up on
        both = bill["by_request"][-2:]  # as they ended, which may be the other way round
        broken, whole = sorted(one["output_tokens"] for one in both)
        assert 5 <= broken <= whole == 64  # it goes on until it is hung up on, or may have said all by then

    @pytest.mark.parametrize("script", ["no-terminator", "no-done"])
    def test_a_stream_without_its_end_is_not_taken_for_whole(self, streaming, heard, upstream, script):
        with pytest.raises(streaming.sdk.APIError):
            streaming.ask(f"{upstream}/{script}")
        assert streaming.text == heard.expected()

    @pytest.mark.parametrize("script", ["cut", "closed", "stalled"])
    def test_a_plain_answer_that_breaks_is_a_server_error(self, form, client, upstream, script):
        caller = Caller(form, client, stream=False)
        with pytest.raises(caller.sdk.InternalServerError) as caught:
            caller.ask(f"{upstream}/{script}")
        assert caught.value.status_code == (504 if script == "stalled" else 502)

    def test_an_unknown_model_is_not_found(self, caller):
        with pytest.raises(caller.sdk.NotFoundError) as caught:
            caller.ask("no-such-model")
        assert "no-such-model" in str(caught.value)

    @pytest.mark.parametrize("wrong", ["", "wrong"])
    def test_a_wrong_key_is_an_authentication_error(self, caller, client, wrong):
        with pytest.raises(caller.sdk.AuthenticationError):
            caller.ask("openai/plain", client=client.with_options(api_key=wrong or "x" * 46))

    def test_a_key_without_the_right_is_a_permission_error(self, caller, client, key):
        narrow = client.with_options(api_key="narrow" + key)
        assert caller.ask("openai/plain", client=narrow)
        with pytest.raises(caller.sdk.PermissionDeniedError):
            caller.ask("anthropic/plain", client=narrow)

    def test_a_malformed_request_is_a_bad_request_that_names_the_member(self, caller, upstream):
        with pytest.raises(caller.sdk.BadRequestError) as caught:
            caller.ask(f"{upstream}/plain", extra_body={"tools": "none"})
        assert "tools" in str(caught.value)
