import json

import msgspec
import pytest

from penstock.messages import Endpoint
from penstock.wire.breakpoints import Lifetime, marked, parts_of

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


def changed(body, **where):
    wanted = {name: Lifetime.MINUTES if where.get(name) else None for name in ("tools", "system", "last")}
    changes = marked(parts_of(Endpoint.MESSAGES, fields(body)), **wanted)
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
    changes = marked(parts, tools=None, system=None, last=Lifetime.MINUTES)
    assert b'{"role":"user",  "content":"\\u00e9"}' in changes["messages"]


@pytest.mark.parametrize(
    "content", ["", [], [{"type": "text", "text": ""}], [{"type": "thinking", "thinking": "x"}], [3], 3, None]
)
def test_what_cannot_be_marked_is_left(content):
    body = {"messages": [{"role": "user", "content": content}], "system": content, "tools": content}
    assert changed(body, tools=isinstance(content, str), system=True, last=True) == {}


@pytest.mark.parametrize("body", [{}, {"messages": None}, {"messages": 3}, {"messages": []}])
def test_a_prompt_without_turns_has_nothing_to_mark(body):
    parts = parts_of(Endpoint.MESSAGES, fields(body))
    assert parts is None or marked(parts, tools=True, system=True, last=True) == {}


def test_the_parts_of_a_response_are_its_instructions_and_its_input():
    parts = parts_of(Endpoint.RESPONSES, fields({"instructions": "i", "input": "hello"}))
    assert (parts.system, parts.messages) == (b'"i"', (b'"hello"',))
