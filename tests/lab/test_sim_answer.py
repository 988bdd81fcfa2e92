from __future__ import annotations

import msgspec

from penstock.lab.answer import THINKING_TOKENS, answer
from penstock.lab.scenario import parse
from penstock.lab.text import tokens
from penstock.lab.transcript import Request
from penstock.messages import Endpoint

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def reply(script="", choice=0, **members):
    return answer(Request(Endpoint.CHAT, "sim", digest=0x1234567890ABCDEF, **members), parse(script), choice)


def text(part):
    return msgspec.json.decode(b'"' + part.escaped() + b'"')


def test_an_answer_is_as_long_as_it_wants_to_be():
    said = reply("tokens=10")
    assert (said.count, said.stop) == (10, "stop")
    assert text(said.parts[0]) == b"".join(tokens(0x1234567890ABCDEF, 0, 10)).decode()


def test_the_limit_cuts_it_short():
    assert (reply("tokens=10", limit=4).count, reply("tokens=10", limit=4).stop) == (4, "length")
    assert reply("tokens=10", limit=10).stop == "stop"


def test_max_fills_the_limit():
    assert (reply("tokens=max", limit=1_000).count, reply("tokens=max", limit=1_000).stop) == (1_000, "stop")


def test_choices_differ():
    assert len({text(reply(choice=i).parts[0]) for i in range(4)}) == 4


def test_a_stop_sequence_ends_the_text_before_it():
    whole = text(reply("tokens=20").parts[0])
    words = whole.split(" ")
    said = reply("tokens=20", stop=("@", words[9][:2] + words[9][2:], words[5]))
    assert (said.stop, said.stop_sequence) == ("stop_sequence", words[5])
    assert text(said.parts[0]) == whole[: whole.index(words[5])]
    assert said.count in {5, 6}  # the space before the word is a token begun
    assert reply("tokens=20", stop=("@",)).stop == "stop"


def test_a_stop_sequence_may_lie_over_several_tokens():
    whole = text(reply("tokens=20").parts[0])
    stop = whole[12:30]
    assert text(reply("tokens=20", stop=(stop,)).parts[0]) == whole[:12]


def test_a_stop_sequence_beyond_the_limit_is_not_reached():
    words = text(reply("tokens=20").parts[0]).split(" ")
    said = reply("tokens=20", stop=(words[15],), limit=3)
    assert (said.stop, said.count) == ("length", 3)


def test_thinking_comes_first_and_counts():
    said = reply("tokens=5", thinking=True)
    assert [part.kind for part in said.parts] == ["thinking", "text"]
    assert (said.count, said.thinking) == (THINKING_TOKENS + 5, THINKING_TOKENS)
    assert text(said.parts[0]) != text(said.parts[1])
    cut = reply("tokens=5", thinking=True, limit=4)
    assert ([part.kind for part in cut.parts], cut.stop, cut.count) == (["thinking"], "length", 4)
    exact = reply("tokens=5", thinking=True, limit=THINKING_TOKENS)
    assert (exact.stop, exact.count) == ("length", THINKING_TOKENS)


TOOLS = (("weather", "", SCHEMA), ("time", "", {}))


def names(said):
    return [part.name for part in said.parts if part.kind == "tool"]


def test_tools_are_called_when_asked_for_or_forced():
    assert names(reply(tools=TOOLS)) == []
    assert names(reply(tools=TOOLS, last_said="Please Call the tool.")) == ["weather"]
    assert names(reply("tool", tools=TOOLS)) == ["weather"]
    assert names(reply(tools=TOOLS, tool_choice="any")) == ["weather"]
    assert names(reply(tools=TOOLS, tool_choice="=time")) == ["time"]
    assert names(reply("tool", tools=TOOLS, tool_choice="none")) == []
    assert names(reply("tool")) == []


def test_after_a_tools_result_comes_text():
    assert names(reply("tool", tools=TOOLS, after_tool=True)) == []
    assert names(reply("tool", tools=TOOLS, after_tool=True, tool_choice="any")) == []


def test_several_tools_at_once_unless_forbidden():
    assert names(reply("tool,parallel=3", tools=TOOLS)) == ["weather", "time", "weather"]
    assert names(reply("tool,parallel=3", tools=TOOLS, parallel_tools=False)) == ["weather"]


def test_arguments_fit_the_schema_and_come_in_pieces():
    said = reply("tool", tools=TOOLS)
    part = said.parts[0]
    assert said.stop == "tool_calls"
    assert part.count >= 2
    assert set(msgspec.json.decode(text(part))) == {"city"}
    short = reply(tools=TOOLS, tool_choice="=time").parts[0]
    assert (short.count, text(short)) == (2, "{}")


def test_structured_output_fits_the_schema():
    said = reply(schema=SCHEMA)
    assert set(msgspec.json.decode(text(said.parts[0]))) == {"city"}
    assert isinstance(msgspec.json.decode(text(reply(schema={}).parts[0])), dict)
    cut = reply(schema=SCHEMA, limit=1)
    assert (cut.stop, cut.parts[0].whole) == ("length", False)
