"""Calls of tools are found in a model's text, however it comes in, and nothing else is taken for one."""

from __future__ import annotations

import json

import httpx2
import openai
import pytest
from engine_doubles import LetterBackend, LetterTokenizer, SayingBackend
from hypothesis import given
from hypothesis import strategies as st
from test_server import ask, chat, error, events, play, serving

from penstock.engine.text import Piece
from penstock.engine.tools import Called, ToolText

WEATHER = '{"name": "weather", "arguments": {"city": "Bern"}}'
HERMES = f"<tool_call>\n{WEATHER}\n</tool_call>"
LLAMA = '{"name": "weather", "parameters": {"city": "Bern"}}'
CALL = ("weather", {"city": "Bern"})
CASES = {
    "only text": ("It rains.", ["It rains."]),
    "Hermes": (HERMES, [CALL]),
    "two of them": (f"{HERMES}\n{HERMES}", [CALL, CALL]),
    "text before": (f"Let me see. {HERMES}", ["Let me see. ", CALL]),
    "text between and behind": (
        f"One. {HERMES} Two. {HERMES} Three.",
        ["One. ", CALL, " Two. ", CALL, " Three."],
    ),
    "space before": (f"\n\n{HERMES}\n", [CALL]),
    "Llama": (LLAMA, [CALL]),
    "Llama in space": (f"\n {LLAMA} ", [CALL]),
    "JSON that is no call": ('{"city": "Bern"}', ['{"city": "Bern"}']),
    "JSON behind text": (f"so: {LLAMA}", [f"so: {LLAMA}"]),
    "a tool that was not offered": (HERMES.replace("weather", "rm"), [HERMES.replace("weather", "rm")]),
    "Llama, not offered": (LLAMA.replace("weather", "rm"), [LLAMA.replace("weather", "rm")]),
    "no JSON": ("<tool_call>weather</tool_call>", ["<tool_call>weather</tool_call>"]),
    "no arguments": (
        '<tool_call>{"name":"weather"}</tool_call>',
        ['<tool_call>{"name":"weather"}</tool_call>'],
    ),
    "never closed": (f"<tool_call>{WEATHER}", [f"<tool_call>{WEATHER}"]),
    "nearly begun": ("a < b, <tool", ["a < b, <tool"]),
    "nothing": ("", []),
    "bad, then good": (f"<tool_call>x</tool_call>{HERMES}", ["<tool_call>x</tool_call>", CALL]),
}


def read(text, sizes=(1,), *, whole=True):
    """``(what it comes to, ids)`` of a text that comes in pieces of these sizes, over and over."""
    reader, said, at, turn = ToolText(["weather", "time"]), [], 0, 0
    while at < len(text):
        size = sizes[turn % len(sizes)]
        piece = text[at : at + size]
        said += reader.feed([Piece(piece, list(range(at, at + len(piece))), [])])
        at, turn = at + len(piece), turn + 1
    said += reader.end(whole=whole)
    ids = [token for each in said for token in (each.piece if isinstance(each, Called) else each).ids]
    found = []
    for each in said:
        if isinstance(each, Called):
            found.append((each.name, json.loads(each.arguments)))
        elif found and isinstance(found[-1], str):
            found[-1] += each.text
        elif each.text:
            found.append(each.text)
    return found, ids


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("sizes", [(1,), (2, 3), (7,), (1_000,)])
def test_a_text_comes_to_its_calls_however_it_is_cut(case, sizes):
    text, wanted = CASES[case]
    found, ids = read(text, sizes)
    assert found == wanted
    assert ids == list(range(len(text)))


@given(st.text(alphabet='<>/tool_ca{}":weathrngumsBi ', max_size=60), st.integers(1, 9))
def test_whatever_is_no_call_is_told_to_the_letter(text, size):
    found, ids = read(text, (size,))
    assert "".join(found) == text or not "".join(found).strip()
    assert ids == list(range(len(text)))


def test_a_call_that_was_cut_is_none():
    assert read(LLAMA, whole=False)[0] == [LLAMA]
    assert read(HERMES[:-4], whole=False)[0] == [HERMES[:-4]]


def test_text_is_told_as_soon_as_it_is_certain():
    reader = ToolText(["weather"])
    assert [each.text for each in reader.feed([Piece("It", [1], []), Piece(" rains <", [2], [])])] == [
        "It",
        " rains ",
    ]
    assert [each.text for each in reader.feed([Piece("b", [3], [])])] == ["<b"]


# ---- over HTTP -------------------------------------------------------------------------------------

WRITTEN = HERMES.replace("\n", "")  # its tokens are letters of ASCII
TOOLS = [
    {
        "type": "function",
        "function": {"name": "weather", "description": "of a city", "parameters": {"type": "object"}},
    }
]


def asked(**more):
    return chat(**{"tools": TOOLS, "max_tokens": 200, **more})


def test_a_plain_answer_has_the_call_and_its_reason():
    answer = ask(asked(), backend=SayingBackend(WRITTEN)).json()
    (choice,) = answer["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    (call,) = choice["message"]["tool_calls"]
    assert call["type"] == "function"
    assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == CALL
    assert answer["usage"]["completion_tokens"] == len(WRITTEN)


def test_a_stream_tells_text_at_once_and_each_call_in_one_chunk():
    text = f"See. {WRITTEN}{WRITTEN}"
    told = events(ask(asked(stream=True, return_token_ids=True), backend=SayingBackend(text)))
    deltas = [each["choices"][0]["delta"] for each in told]
    assert "".join(delta.get("content") or "" for delta in deltas) == "See. "
    calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
    assert [call["index"] for call in calls] == [0, 1]
    assert len({call["id"] for call in calls}) == 2
    reasons = [each["choices"][0]["finish_reason"] for each in told]
    assert reasons == [None] * (len(reasons) - 1) + ["tool_calls"]
    ids = [token for each in told for token in each["choices"][0].get("token_ids", ())]
    assert LetterTokenizer().decode(ids) == text


def test_an_answer_without_a_call_is_what_it_would_be_without_tools():
    plain, offered = (
        ask({**chat(max_tokens=50), **more}, backend=SayingBackend("It rains.")).json()
        for more in ({}, {"tools": TOOLS})
    )
    assert plain["choices"] == offered["choices"]


def test_an_answer_that_ends_at_its_limit_within_a_call_is_text():
    (choice,) = ask(asked(max_tokens=20), backend=SayingBackend(WRITTEN)).json()["choices"]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("length", WRITTEN[:20])
    assert "tool_calls" not in choice["message"]


def test_log_probabilities_are_those_of_all_tokens():
    (choice,) = ask(asked(logprobs=True), backend=SayingBackend(WRITTEN)).json()["choices"]
    assert len(choice["logprobs"]["content"]) == len(WRITTEN)


def test_the_conversation_goes_on_with_what_the_tool_said():
    backend = SayingBackend("It rains.")
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bern"}'}}
    messages = [
        {"role": "user", "content": "and?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "rain"},
    ]
    assert ask(asked(messages=messages), backend=backend).status_code == 200
    assert backend.prompts == [
        "[weather]<user>and?<assistant>{{'name': 'weather', 'arguments': {'city': 'Bern'}}}<tool>rain<assistant>"
    ]


def test_tools_are_not_told_of_where_none_may_be_called():
    backend = SayingBackend(WRITTEN)
    (choice,) = ask(asked(tool_choice="none"), backend=backend).json()["choices"]
    assert choice["message"]["content"] == WRITTEN
    assert backend.prompts == ["<user>penstock?<assistant>"]


class DeafTokenizer(LetterTokenizer):
    def render(self, messages, *, answer, tools=(), more=None):
        return super().render(messages, answer=answer)


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"parallel_tool_calls": False}, "parallel_tool_calls"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": ""}}]}, "tools[0].function.name"),
        (
            {
                "messages": [
                    {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}
                ]
            },
            "messages[0].tool_calls",
        ),
    ],
)
def test_what_cannot_be_had_is_refused_by_its_name(more, param):
    status, told = error(ask(asked(**more), backend=LetterBackend()))
    assert (status, told["param"]) == (400, param)


def test_a_model_whose_template_knows_no_tools_refuses_them():
    backend = LetterBackend()
    backend.tokenizer = DeafTokenizer()
    status, told = error(ask(asked(), backend=backend))
    assert (status, told["param"]) == (400, "tools")
    assert "chat template" in told["message"]


def test_openais_sdk_reads_streamed_and_plain_calls():
    async def test():
        async with serving(SayingBackend(WRITTEN)) as (client, _):
            sdk = openai.AsyncOpenAI(
                base_url=str(client.base_url).rstrip("/") + "/v1",
                api_key="any",
                http_client=httpx2.AsyncClient(trust_env=False),
            )
            given = {"model": "m", "messages": [{"role": "user", "content": "?"}], "tools": TOOLS}
            plain = await sdk.chat.completions.create(**given)
            async with sdk.chat.completions.stream(**given) as stream:
                streamed = await stream.get_final_completion()
            for answer in (plain, streamed):
                (call,) = answer.choices[0].message.tool_calls
                assert (call.function.name, json.loads(call.function.arguments)) == CALL
                assert answer.choices[0].finish_reason == "tool_calls"
            await sdk.close()

    play(test())
