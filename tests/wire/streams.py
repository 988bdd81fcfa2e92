"""For the tests of folding and unfolding: answers to draw, the SDKs as oracles, and the simulator's streams."""

import copy
import json

from conversations import anthropic_client, arguments, json_objects, openai_client, stream_of, word
from hypothesis import strategies as st
from openai.lib.streaming.chat import ChatCompletionStreamState

from penstock.lab import anthropic, openai, responses
from penstock.lab.answer import answer
from penstock.lab.prompt import read
from penstock.lab.scenario import parse
from penstock.messages import Endpoint
from penstock.wire import sse

# ---- the simulator ---------------------------------------------------------------------------------

PLAIN = {**openai.PLAIN, Endpoint.MESSAGES: anthropic.message, Endpoint.RESPONSES: responses.response}
STREAMED = {
    **openai.STREAMED,
    Endpoint.MESSAGES: anthropic.message_stream,
    Endpoint.RESPONSES: responses.response_stream,
}
WEATHER = {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]}


def request_for(endpoint, *, tools=False, **more):
    body = {"model": "sim", **more}
    if endpoint is Endpoint.COMPLETIONS:
        return {**body, "prompt": "Tell me"}
    if endpoint is Endpoint.RESPONSES:
        tool = {"type": "function", "name": "weather", "parameters": WEATHER}
        return {**body, "input": "Tell me", **({"tools": [tool]} if tools else {})}
    body["messages"] = [{"role": "user", "content": "Tell me"}]
    if endpoint is Endpoint.MESSAGES:
        body["max_tokens"] = 1000
        tool = {"name": "weather", "input_schema": WEATHER}
    else:
        tool = {"type": "function", "function": {"name": "weather", "parameters": WEATHER}}
    return {**body, **({"tools": [tool]} if tools else {})}


def simulated(endpoint, script="", **more):
    """The simulator's plain body, and the frames of its stream, for one call."""
    request = read(endpoint, request_for(endpoint, **more))
    answers = [answer(request, parse(script), choice) for choice in range(request.choices)]
    given = (request, answers, 7, 1_700_000_000, 3)
    stream = STREAMED[endpoint](*given)
    sent = stream.opening + stream.render(0, stream.total) + stream.finish + stream.terminator
    return PLAIN[endpoint](*given), sse.Splitter().feed(sent)


# ---- the SDKs --------------------------------------------------------------------------------------


def as_sdk_folds(endpoint, frames):
    """The answer that the provider's own SDK puts together of these frames."""
    if endpoint is Endpoint.MESSAGES:
        with anthropic_client(**stream_of(frames)).messages.stream(
            model="m", max_tokens=10, messages=[{"role": "user", "content": "hi"}]
        ) as stream:
            return stream.get_final_message().to_dict(mode="json")
    client = openai_client(**stream_of(frames))
    if endpoint is Endpoint.RESPONSES:
        with client.responses.stream(model="m", input="hi") as stream:
            closing = [
                event for event in stream if event.type in {"response.completed", "response.incomplete"}
            ]
        return closing[-1].response.to_dict(mode="json")
    state = ChatCompletionStreamState()
    chunks = client.chat.completions.create(
        model="m", messages=[{"role": "user", "content": "hi"}], stream=True
    )
    for chunk in chunks:
        state.handle_chunk(chunk)
    return state.current_completion_snapshot.to_dict(mode="json")


# What SDKs add to an answer, or keep of a stream that is no part of an answer.
_ADDED = {"parsed", "parsed_arguments", "parsed_output"}


def bare(value):
    """An answer without what is null, and without what an SDK adds."""
    if isinstance(value, dict):
        found = {
            name: bare(member) for name, member in value.items() if member is not None and name not in _ADDED
        }
        for call in found.get("tool_calls") or ():
            call.pop("index", None)
        return found
    if isinstance(value, list):
        return [bare(entry) for entry in value]
    return value


# ---- cutting ---------------------------------------------------------------------------------------

_TEXTS = ("content", "refusal", "reasoning_content", "text", "thinking", "partial_json", "arguments")


def recut(frames, size):
    """The same stream, its texts in pieces of this size."""
    cut = []
    for frame in frames:
        fields = sse.fields(frame)
        if fields.data == b"[DONE]":
            cut.append(frame)
        else:
            cut += [sse.encode(json.dumps(piece).encode(), fields.event) for piece in _cut(fields.data, size)]
    return cut


def _cut(data, size):
    event = json.loads(data)
    places = [choice.get("delta", choice) for choice in event.get("choices", ())]
    for choice in event.get("choices", ()):
        places += [call["function"] for call in choice.get("delta", {}).get("tool_calls", ())]
    if isinstance(event.get("delta"), dict):
        places.append(event["delta"])
    for number, place in enumerate(places):
        for name in _TEXTS:
            text = place.get(name)
            if isinstance(text, str) and len(text) > size:
                place[name] = text[:size]
                yield event
                for start in range(size, len(text), size):
                    yield _piece(event, number, name, text[start : start + size])
                return
    yield event


def _piece(event, number, name, text):
    event = copy.deepcopy(event)
    if "choices" not in event:
        event["delta"] = {"type": event["delta"]["type"], name: text}
        return event
    (choice,) = event["choices"]
    if choice.get("logprobs"):
        choice["logprobs"] = None
    if "delta" not in choice:
        choice[name] = text
    elif number == 0:
        choice["delta"] = {name: text}
    else:
        (call,) = choice["delta"]["tool_calls"]
        choice["delta"] = {"tool_calls": [{"index": call["index"], "function": {name: text}}]}
    return event


# ---- answers to draw -------------------------------------------------------------------------------

texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=30)
unknown = st.dictionaries(
    word.map("x_{}".format), st.booleans() | st.integers(-9, 9) | texts | json_objects, max_size=2
)
counts = st.integers(0, 1000)


def token(text):
    return {"token": text, "logprob": -0.5, "bytes": list(text.encode()), "top_logprobs": []}


def _tool_calls(name, given):
    return [
        {"id": f"call_{number}", "type": "function", "function": {"name": name, "arguments": each}}
        for number, each in enumerate(given)
    ]


@st.composite
def chat_choices(draw, index):
    content = draw(st.none() | texts)
    message = {"role": "assistant", "content": content, **draw(unknown)}
    if draw(st.booleans()):
        message["refusal"] = draw(st.none() | texts.filter(bool))
    if draw(st.booleans()):
        message["reasoning_content"] = draw(texts)
    if given := draw(st.lists(arguments | st.just(""), max_size=3)):
        message["tool_calls"] = _tool_calls(draw(word), given)
    logprobs = None
    if content and draw(st.booleans()):
        logprobs = {"content": [token(letter) for letter in content], "refusal": None}
    reason = draw(st.sampled_from(["stop", "length", "tool_calls", "content_filter"]))
    return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason}


@st.composite
def chat_bodies(draw):
    usage = {"prompt_tokens": draw(counts), "completion_tokens": draw(counts), "total_tokens": draw(counts)}
    return {
        "id": draw(word),
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": draw(word),
        "choices": [draw(chat_choices(index)) for index in range(draw(st.integers(1, 3)))],
        "usage": {**usage, **draw(unknown)},
        "system_fingerprint": draw(word),
        **draw(unknown),
    }


@st.composite
def completion_bodies(draw):
    def choice(index):
        text = draw(texts)
        logprobs = {
            "tokens": list(text),
            "token_logprobs": [-0.5] * len(text),
            "top_logprobs": [{"index": -0.5}] * len(text),
            "text_offset": list(range(len(text))),
        }
        return {
            "text": text,
            "index": index,
            "logprobs": draw(st.sampled_from([None, logprobs])),
            "finish_reason": draw(st.sampled_from(["stop", "length"])),
            "stop_reason": draw(st.none() | word | counts),
        }

    return {
        "id": draw(word),
        "object": "text_completion",
        "created": 1_700_000_000,
        "model": draw(word),
        "choices": [choice(index) for index in range(draw(st.integers(1, 3)))],
        "usage": {"prompt_tokens": draw(counts), "completion_tokens": draw(counts)},
    }


citations = st.builds(
    lambda text: {
        "type": "char_location",
        "cited_text": text,
        "document_index": 0,
        "document_title": None,
        "start_char_index": 0,
        "end_char_index": len(text),
    },
    texts,
)


def _tool_use(kind, prefix, names):
    return st.builds(
        lambda number, name, given: {"type": kind, "id": f"{prefix}_{number}", "name": name, "input": given},
        counts,
        names,
        json_objects,
    )


blocks = st.one_of(
    st.builds(lambda text: {"type": "text", "text": text}, texts),
    st.builds(
        lambda text, cited: {"type": "text", "text": text, "citations": cited},
        texts,
        st.lists(citations, max_size=2),
    ),
    st.builds(lambda text, sign: {"type": "thinking", "thinking": text, "signature": sign}, texts, word),
    st.builds(lambda data: {"type": "redacted_thinking", "data": data}, word),
    _tool_use("tool_use", "toolu", word),
    _tool_use("server_tool_use", "srvtoolu", st.just("web_search")),
    st.builds(
        lambda name: {
            "type": "web_search_tool_result",
            "tool_use_id": name,
            "content": [
                {
                    "type": "web_search_result",
                    "url": "https://example.org",
                    "title": name,
                    "encrypted_content": name,
                    "page_age": None,
                }
            ],
        },
        word,
    ),
)


@st.composite
def messages(draw):
    usage = {
        "input_tokens": draw(counts),
        "cache_creation_input_tokens": draw(counts),
        "cache_read_input_tokens": draw(counts),
        "cache_creation": {
            "ephemeral_5m_input_tokens": draw(counts),
            "ephemeral_1h_input_tokens": 0,
        },
        "output_tokens": draw(counts),
        "service_tier": "standard",
    }
    if draw(st.booleans()):
        usage["server_tool_use"] = {"web_search_requests": draw(counts), "web_fetch_requests": 0}
    if draw(st.booleans()):
        usage["output_tokens_details"] = {"thinking_tokens": draw(counts)}
    body = {
        "id": draw(word),
        "type": "message",
        "role": "assistant",
        "model": draw(word),
        "content": draw(st.lists(blocks, max_size=4)),
        "stop_reason": draw(st.sampled_from(["end_turn", "max_tokens", "tool_use", "stop_sequence"])),
        "stop_sequence": draw(st.none() | word),
        "usage": usage,
        **draw(unknown),
    }
    if draw(st.booleans()):
        body["container"] = {"id": draw(word), "expires_at": "2026-01-01T00:00:00Z"}
    return body


parts = st.one_of(
    st.builds(
        lambda text, cited: {
            "type": "output_text",
            "text": text,
            "annotations": [
                {"type": "url_citation", "url": url, "title": "t", "start_index": 0, "end_index": 1}
                for url in cited
            ],
            "logprobs": [],
        },
        texts,
        st.lists(word, max_size=2),
    ),
    st.builds(lambda text: {"type": "refusal", "refusal": text}, texts),
)


@st.composite
def items(draw, index):
    kind = draw(
        st.sampled_from(["message", "function_call", "reasoning", "web_search_call", "custom_tool_call"])
    )
    item = {"id": f"it_{index}", "type": kind, "status": "completed"}
    if kind == "message":
        return {**item, "role": "assistant", "content": draw(st.lists(parts, max_size=3))}
    if kind == "function_call":
        return {**item, "call_id": f"call_{index}", "name": draw(word), "arguments": draw(arguments)}
    if kind == "custom_tool_call":
        return {**item, "call_id": f"call_{index}", "name": draw(word), "input": draw(texts)}
    if kind == "web_search_call":
        return {**item, "action": {"type": "search", "query": draw(word)}}
    summary = [{"type": "summary_text", "text": text} for text in draw(st.lists(texts, max_size=2))]
    content = [{"type": "reasoning_text", "text": text} for text in draw(st.lists(texts, max_size=2))]
    return {**item, "summary": summary, "content": content, "encrypted_content": draw(st.none() | word)}


@st.composite
def response_bodies(draw):
    status = draw(st.sampled_from(["completed", "incomplete"]))
    output = [draw(items(index)) for index in range(draw(st.integers(0, 4)))]
    return {
        "id": f"resp_{draw(word)}",
        "object": "response",
        "created_at": 1_700_000_000,
        "status": status,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "instructions": None,
        "metadata": {},
        "model": draw(word),
        "output": output,
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": {
            "input_tokens": draw(counts),
            "input_tokens_details": {"cached_tokens": draw(counts), "cache_write_tokens": 0},
            "output_tokens": draw(counts),
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": draw(counts),
        },
        **draw(unknown),
    }


BODIES = {
    Endpoint.CHAT: chat_bodies(),
    Endpoint.COMPLETIONS: completion_bodies(),
    Endpoint.MESSAGES: messages(),
    Endpoint.RESPONSES: response_bodies(),
}


# ---- what no provider would send ------------------------------------------------------------------

MEMBERS = [
    "index",
    "id",
    "type",
    "text",
    "content",
    "delta",
    "tool_calls",
    "function",
    "arguments",
    "name",
    "logprobs",
    "message",
    "finish_reason",
    "input",
    "citation",
    "partial_json",
    "usage",
    "x",
]
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["", "a", "text", "thinking", "stop"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(MEMBERS),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
