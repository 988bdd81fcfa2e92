"""Conversations for the tests of translation: strategies that draw them, and what folds and cuts answers."""

import json

import anthropic
import httpx2
import msgspec
import openai
from hypothesis import strategies as st

from penstock.messages import Usage
from penstock.wire.conversation import (
    Answer,
    Document,
    Finished,
    Image,
    OutputFormat,
    PartDelta,
    PartEnded,
    PartStarted,
    Prompt,
    Started,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
)

# ---- guests ----------------------------------------------------------------------------------------


def stream_of(frames):
    return {"headers": {"content-type": "text/event-stream"}, "content": b"".join(frames)}


def openai_client(**response):
    return openai.OpenAI(api_key="k", base_url="http://x/v1", max_retries=0, http_client=_transport(response))


def anthropic_client(**response):
    return anthropic.Anthropic(
        api_key="k", base_url="http://x", max_retries=0, http_client=_transport(response)
    )


def _transport(response):
    response.setdefault("headers", {"content-type": "application/json"})
    return httpx2.Client(transport=httpx2.MockTransport(lambda _: httpx2.Response(200, **response)))


# ---- answers ---------------------------------------------------------------------------------------


def fold(events):
    """The answer that a stream of events tells; checks that its parts are strictly sequential."""
    started, parts, finished, opened = None, [], None, None
    for event in events:
        assert finished is None, "nothing follows the end"
        if isinstance(event, Started):
            assert started is None
            started = event
        elif isinstance(event, PartStarted):
            assert started is not None
            assert opened is None, "parts do not overlap"
            opened = event.part
        elif isinstance(event, PartDelta):
            assert opened is not None
            if isinstance(opened, ToolCall):
                opened = msgspec.structs.replace(opened, arguments=opened.arguments + event.text)
            elif isinstance(opened, Thinking):
                opened = Thinking(
                    opened.text + event.text, event.signature or opened.signature, opened.redacted
                )
            else:
                opened = type(opened)(text=opened.text + event.text)
        elif isinstance(event, PartEnded):
            parts.append(opened)
            opened = None
        else:
            assert opened is None
            finished = event
    return Answer(
        id=started.id,
        model=started.model,
        created=started.created,
        parts=tuple(parts),
        stop=finished.stop,
        stop_sequence=finished.stop_sequence,
        usage=finished.usage,
    )


def cut(answer, sizes=(3,)):
    """The events of a streamed answer, its texts cut into pieces of these sizes in turn."""
    yield Started(answer.id, answer.model, answer.created)
    for part in answer.parts:
        if isinstance(part, ToolCall):
            yield PartStarted(ToolCall(part.id, part.name, ""))
            text = part.arguments
        elif isinstance(part, Thinking) and part.redacted:
            yield PartStarted(part)
            text = ""
        else:
            yield PartStarted(type(part)(text=""))
            text = part.text
        for index in range(1000):
            if not text:
                break
            size = sizes[index % len(sizes)]
            yield PartDelta(text[:size])
            text = text[size:]
        if isinstance(part, Thinking) and part.signature:
            yield PartDelta(signature=part.signature)
        yield PartEnded()
    yield Finished(answer.stop, answer.usage, answer.stop_sequence)


text = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=30)
word = st.text(st.sampled_from("abcXYZ_09"), min_size=1, max_size=8)
json_objects = st.dictionaries(
    word, st.none() | st.booleans() | st.integers(-9, 9) | text | st.lists(text, max_size=2), max_size=3
)
arguments = json_objects.map(lambda value: json.dumps(value, separators=(",", ":"), ensure_ascii=False))
thoughts = st.one_of(
    st.builds(Thinking, text, word),
    st.builds(Thinking, redacted=word),
)


def calls(prefix):
    return st.lists(st.tuples(word, arguments), max_size=3).map(
        lambda found: tuple(ToolCall(f"{prefix}_{i}", name, given) for i, (name, given) in enumerate(found))
    )


@st.composite
def usages(draw):
    cached, written, fresh = (draw(st.integers(0, 1000)) for _ in range(3))
    output = draw(st.integers(0, 1000))
    return Usage(
        input_tokens=cached + written + fresh,
        output_tokens=output,
        cached_input_tokens=cached,
        cache_write_tokens=written,
        reasoning_tokens=draw(st.integers(0, output)),
    )


@st.composite
def answers(draw):
    """Answers that both dialects can hold: thoughts, one text, calls; chat knows no other order."""
    parts = [*draw(st.lists(thoughts, max_size=2)), *(Text(t) for t in draw(st.lists(text, max_size=1)))]
    made = draw(calls("call"))
    stops = ["tool_calls", "length"] if made else ["stop", "length"]
    return Answer(
        id=draw(word),
        model=draw(word),
        created=1_700_000_000,
        parts=(*parts, *made),
        stop=draw(st.sampled_from(stops)),
        usage=draw(usages()),
    )


# ---- prompts ---------------------------------------------------------------------------------------

base64 = st.sampled_from(["AAAA", "iVBORw0KGgo=", "/9j/4AAQ"])
images = st.one_of(
    st.builds(Image, url=word.map(lambda name: f"https://example.org/{name}.png")),
    st.builds(Image, data=base64, media_type=st.sampled_from(["image/png", "image/jpeg", "image/webp"])),
)
files = st.builds(
    Document, media_type=st.just("application/pdf"), data=base64, name=word.map("{}.pdf".format)
)
schemas = st.dictionaries(word, st.just({"type": "string"}), max_size=2).map(
    lambda properties: {"type": "object", "properties": properties, "additionalProperties": False}
)
tools = st.builds(Tool, word, schemas, st.just("") | text, st.sampled_from([None, True]))


@st.composite
def prompts(draw):
    """Prompts that both dialects can hold as they are."""
    turns = []
    if system := draw(st.lists(text, max_size=2)):
        turns.append(Turn("system", tuple(Text(t) for t in system)))
    for number in range(draw(st.integers(0, 2))):
        turns.append(
            Turn("user", tuple(draw(st.lists(text.map(Text) | images | files, min_size=1, max_size=3))))
        )
        made = draw(calls(f"call_{number}"))
        spoken = draw(st.lists(text.map(Text), min_size=0 if made else 1, max_size=1))
        turns.append(Turn("assistant", (*draw(st.lists(thoughts, max_size=2)), *spoken, *made)))
        if made:
            results = tuple(
                ToolResult(call.id, tuple(Text(t) for t in draw(st.lists(text, min_size=1, max_size=2))))
                for call in made
            )
            turns.append(Turn("user", results))
            turns.append(Turn("assistant", (Text(draw(text)),)))
    turns.append(Turn("user", tuple(draw(st.lists(text.map(Text) | images | files, min_size=1, max_size=3)))))
    given_tools = tuple(draw(st.lists(tools, max_size=2)))
    choice = None
    parallel = None
    if given_tools:
        choice = draw(
            st.none()
            | st.builds(ToolChoice, st.sampled_from(["auto", "none", "any"]))
            | st.just(ToolChoice("tool", given_tools[0].name))
        )
        parallel = None if choice is None or choice.mode == "none" else draw(st.sampled_from([None, False]))
    return Prompt(
        model="claude-opus-4-8",
        turns=tuple(turns),
        stream=draw(st.booleans()),
        tools=given_tools,
        tool_choice=choice,
        parallel_tool_calls=parallel,
        output=draw(
            st.none()
            | st.builds(
                OutputFormat, st.just("json_schema"), schemas, st.just("answer"), strict=st.just(True)
            )
        ),
        max_output_tokens=draw(st.integers(1, 100_000)),
        temperature=draw(st.none() | st.sampled_from([0, 0.5])),
        top_p=draw(st.none() | st.sampled_from([0.1, 0.9])),
        stop=tuple(draw(st.lists(word, max_size=2))),
        effort=draw(st.sampled_from(["", "low", "medium", "high", "max"])),
        user=draw(st.just("") | word),
        service_tier=draw(st.sampled_from(["", "default"])),
    )
