import json
import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.config.model import PromptConfig
from penstock.messages import Endpoint
from penstock.wire.tidy import LEAST_REPEATED, tidied

DOCUMENT = "All about the gated pipe that feeds a turbine. " * 10


def fields(turns, member="messages"):
    return {"model": msgspec.Raw(b'"m"'), member: msgspec.Raw(json.dumps(turns).encode())}


def tidy(*turns, endpoint=Endpoint.CHAT, member="messages", **policy):
    found = tidied(endpoint, fields(turns, member), PromptConfig(**policy))
    if found is None:
        return list(turns), None
    members, left = found
    assert bytes(members["model"]) == b'"m"'
    return json.loads(bytes(members[member])), left


def user(content):
    return {"role": "user", "content": content}


def test_a_long_indentation_is_no_work():
    """Nine seconds of CPU time, where each of its spaces is taken for the beginning of the line's end."""
    turn = user("a\n" + " " * 60_000 + "b")
    began = time.process_time()
    assert tidy(turn, whitespace=True) == ([turn], None)
    assert time.process_time() - began < 3


def assistant(content):
    return {"role": "assistant", "content": content}


def test_superfluous_white_space_goes_and_code_stays():
    text = "a  b \n\n\n\n    indented  so\t\n```\nx  = 1 \n\n\n\n```\nend"
    turns, left = tidy(user(text), whitespace=True)
    assert turns[0]["content"] == "a b\n\n    indented so\n```\nx  = 1 \n\n\n\n```\nend"
    assert left.whitespace == len(text) - len(turns[0]["content"])


def test_a_long_paragraph_is_there_once():
    turns, left = tidy(
        user(f"Use this:\n\n{DOCUMENT}\n\nWhat is it?"),
        assistant(DOCUMENT),
        user(f"{DOCUMENT}\n\nAnd who made it?"),
        duplicates=True,
    )
    assert turns[0]["content"].count("gated") == 10
    assert turns[1]["content"] == DOCUMENT
    assert turns[2]["content"] == "And who made it?"
    assert left.paragraphs == 1


def test_a_short_paragraph_may_be_there_twice():
    short = "x" * (LEAST_REPEATED - 1)
    assert tidy(user(short + "\n\n" + short), duplicates=True)[1] is None


def test_a_turn_never_loses_every_word():
    turns, _ = tidy(user(DOCUMENT), user(DOCUMENT), duplicates=True)
    assert turns[1]["content"] == DOCUMENT
    assert tidy(user("   \n\n\n\n "), whitespace=True)[0] == [user("   \n\n\n\n ")]


def test_the_oldest_exchanges_go_whole():
    long = "x" * 400
    turns = [
        {"role": "system", "content": long},
        user("one " + long),
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
        {"role": "tool", "tool_call_id": "1", "content": long},
        assistant(long),
        user("two " + long),
        assistant("2"),
        user("three"),
    ]
    kept, left = tidy(*turns, history_tokens=300)
    assert kept == [turns[0], *turns[5:]]
    assert left.turns == 4
    kept, left = tidy(*turns, history_tokens=1)
    assert kept == [turns[0], turns[7]]
    assert tidy(*turns, history_tokens=10_000)[1] is None


IMAGES = {
    Endpoint.CHAT: {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 1_000_000}},
    Endpoint.MESSAGES: {
        "type": "image",
        "source": {"type": "base64", "media_type": "image/png", "data": "A" * 1_000_000},
    },
    Endpoint.RESPONSES: {"type": "input_image", "image_url": "data:image/png;base64," + "A" * 1_000_000},
}


@pytest.mark.parametrize("endpoint", IMAGES)
@pytest.mark.parametrize("place", [0, 2, 4])
def test_an_image_counts_as_a_model_counts_it(endpoint, place):
    turns = [user("one"), assistant("1"), user("two"), assistant("2"), user("three")]
    turns[place] = user([IMAGES[endpoint]])
    member = "input" if endpoint is Endpoint.RESPONSES else "messages"
    assert tidy(*turns, endpoint=endpoint, member=member, history_tokens=2_000)[1] is None
    kept, left = tidy(*turns, endpoint=endpoint, member=member, history_tokens=1_000)
    assert kept == turns[4 if place else 2 :]
    assert left.after <= left.before


def test_a_tools_result_is_no_beginning_of_an_exchange():
    turns = [
        user("one"),
        {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "f", "input": {}}]},
        user([{"type": "tool_result", "tool_use_id": "1", "content": "x" * 900}]),
        assistant("done"),
        user("two"),
    ]
    kept, _ = tidy(*turns, endpoint=Endpoint.MESSAGES, history_tokens=10)
    assert kept == [turns[4]]


def test_only_what_is_asked_for_is_done():
    text = f"a  b\n\n{DOCUMENT}\n\n{DOCUMENT}"
    assert tidy(*[user(text)] * 20) == ([user(text)] * 20, None)


def test_turns_that_lose_nothing_keep_their_bytes():
    body = b'[{"role":"user","content":"\\u00e9  x"}, {"content" :"y","role":"user", "n":1.0}]'
    members, _ = tidied(Endpoint.CHAT, {"messages": msgspec.Raw(body)}, PromptConfig(whitespace=True))
    assert b'{"content" :"y","role":"user", "n":1.0}' in bytes(members["messages"])


@pytest.mark.parametrize("value", ['"hello  you"', "3", "null", "[3, null, {}]", "[]", '[{"role":"user"}]'])
def test_what_is_no_list_of_turns_is_left_as_it_is(value):
    policy = PromptConfig(whitespace=True, duplicates=True, history_tokens=1)
    assert tidied(Endpoint.RESPONSES, {"input": msgspec.Raw(value.encode())}, policy) is None


def test_parts_are_shortened_and_what_is_no_text_stays():
    parts = [{"type": "input_text", "text": "a  b"}, {"type": "input_image", "image_url": "x  y"}]
    turns, left = tidy(user(parts), endpoint=Endpoint.RESPONSES, member="input", whitespace=True)
    assert turns[0]["content"] == [{"type": "input_text", "text": "a b"}, parts[1]]
    assert left.whitespace == 1


def test_what_was_left_out_is_stated_exactly():
    _, left = tidy(user("a   " * 99 + "b"), whitespace=True)
    assert left.stated() == b"whitespace;bytes=198, tokens;before=100;after=50"


@given(
    st.lists(st.tuples(st.sampled_from(["user", "assistant", "system"]), st.text(max_size=300)), max_size=6)
)
def test_words_are_never_changed_by_closing_up(turns):
    said = [{"role": role, "content": text} for role, text in turns]
    kept, _ = tidy(*said, whitespace=True)
    for before, after in zip(said, kept, strict=True):
        assert before["content"].split() == after["content"].split()


def test_a_turn_that_would_be_empty_stays_and_is_not_counted():
    said = "x" * LEAST_REPEATED
    kept, left = tidy(user(said), user(f" {said}"), user(" \n "), whitespace=True, duplicates=True)
    assert kept == [user(said), user(f" {said}"), user(" \n ")]
    assert left is None


@given(st.text(max_size=200))
def test_doing_it_twice_changes_nothing_more(text):
    once, _ = tidy(user(text), whitespace=True)
    assert tidy(*once, whitespace=True)[1] is None
