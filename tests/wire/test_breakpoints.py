import json

import msgspec
import pytest

from penstock.messages import Endpoint
from penstock.wire.breakpoints import Lifetime, Marks, blocks_of, marked, parts_of

BODY = {
    "tools": [{"name": "a"}, {"name": "b"}],
    "system": "Be kind.",
    "messages": [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "image", "source": {}}]},
    ],
}
MARK = {"type": "ephemeral"}


def fields(body):
    return {name: msgspec.Raw(json.dumps(value).encode()) for name, value in body.items()}


def marks(tools=False, system=False, last=False, at=-1):
    now = Lifetime.MINUTES
    return Marks(now if tools else None, (at, now) if system else None, ((-1, now),) if last else ())


def changed(body, **where):
    changes = marked(parts_of(Endpoint.MESSAGES, fields(body)), marks(**where))
    return {name: json.loads(value) for name, value in changes.items()}


def test_marks_stand_on_the_last_block_of_each_part():
    assert changed(BODY, tools=True, system=True, last=True) == {
        "tools": [{"name": "a"}, {"name": "b", "cache_control": MARK}],
        "system": [{"type": "text", "text": "Be kind.", "cache_control": MARK}],
        "messages": [
            *BODY["messages"][:2],
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "x"},
                    {"type": "image", "source": {}, "cache_control": MARK},
                ],
            },
        ],
    }
    assert changed(BODY) == {}


def test_turns_before_the_last_keep_their_bytes():
    body = b'[ {"role":"user",  "content":"\\u00e9"}, {"role":"user","content":"y"}]'
    parts = parts_of(Endpoint.MESSAGES, {"messages": msgspec.Raw(body)})
    changes = marked(parts, marks(last=True))
    assert b'{"role":"user",  "content":"\\u00e9"}' in changes["messages"]


def test_what_is_marked_keeps_its_bytes_too():
    body = {
        "tools": b'[{"name":"a", "input_schema":{"maximum":1e400,"x":12345678901234567890123}}]',
        "system": b'[ {"type":"text","text":"caf\\u00e9"} ]',
        "messages": b'[{"role":"user","content":[{"type":"image","source":{"data":"AA\\/="}}]}]',
    }
    parts = parts_of(Endpoint.MESSAGES, {name: msgspec.Raw(text) for name, text in body.items()})
    mark = b',"cache_control":{"type":"ephemeral"}'
    assert marked(parts, marks(tools=True, system=True, last=True)) == {
        "tools": body["tools"][:-2] + mark + b"}]",
        "system": b'[{"type":"text","text":"caf\\u00e9"' + mark + b"}]",
        "messages": body["messages"][:-4] + mark + b"}]}]",
    }


def test_a_tool_that_is_loaded_later_takes_no_mark():
    tools = [{"name": "a"}, {"name": "b", "defer_loading": True}, {"name": "c", "defer_loading": True}]
    found = changed({**BODY, "tools": tools}, tools=True)
    assert [tool.get("cache_control") for tool in found["tools"]] == [MARK, None, None]
    assert changed({**BODY, "tools": tools[1:]}, tools=True) == {}


def test_any_block_of_a_system_prompt_can_be_marked():
    blocks = [{"type": "text", "text": text} for text in ("always so", "now it is noon")]
    found = changed({**BODY, "system": blocks}, system=True, at=0)
    assert found["system"] == [{**blocks[0], "cache_control": MARK}, blocks[1]]
    assert changed({**BODY, "system": blocks}, system=True, at=2) == {}


def test_several_turns_can_be_marked():
    parts = parts_of(Endpoint.MESSAGES, fields(BODY))
    where = Marks(turns=((-3, Lifetime.MINUTES), (-1, Lifetime.MINUTES), (-7, Lifetime.MINUTES)))
    turns = json.loads(marked(parts, where)["messages"])
    assert ["cache_control" in str(turn) for turn in turns] == [True, False, True]


def test_the_blocks_of_a_turn_are_counted():
    assert [blocks_of(json.dumps(turn).encode()) for turn in BODY["messages"]] == [1, 1, 2]
    assert [blocks_of(text) for text in (b"3", b"{}", b'{"content":[]}')] == [1, 1, 1]


def test_a_chats_first_turn_is_its_system_prompt_if_it_instructs():
    turns = [{"role": "developer", "content": "d"}, {"role": "user", "content": "u"}]
    parts = parts_of(Endpoint.CHAT, fields({"messages": turns}))
    assert (len(parts.system), len(parts.messages)) == (1, 1)
    parts = parts_of(Endpoint.CHAT, fields({"messages": turns[1:]}))
    assert (len(parts.system), len(parts.messages)) == (0, 1)
    assert parts_of(Endpoint.CHAT, fields({"messages": [3]})).messages == (b"3",)


@pytest.mark.parametrize(
    "content", ["", [], [{"type": "text", "text": ""}], [{"type": "thinking", "thinking": "x"}], [3], 3, None]
)
def test_what_cannot_be_marked_is_left(content):
    body = {"messages": [{"role": "user", "content": content}], "system": content, "tools": content}
    assert changed(body, tools=isinstance(content, str), system=True, last=True) == {}


@pytest.mark.parametrize("body", [{}, {"messages": None}, {"messages": 3}, {"messages": []}])
def test_a_prompt_without_turns_has_nothing_to_mark(body):
    parts = parts_of(Endpoint.MESSAGES, fields(body))
    assert parts is None or marked(parts, marks(tools=True, system=True, last=True)) == {}


def test_the_parts_of_a_response_are_its_instructions_and_its_input():
    parts = parts_of(Endpoint.RESPONSES, fields({"instructions": "i", "input": "hello"}))
    assert (parts.system, parts.messages) == ((b'"i"',), (b'"hello"',))
