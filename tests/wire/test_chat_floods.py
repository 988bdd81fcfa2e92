"""Streams of chats that say more than any answer does: what they cost stays in proportion to what came."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import UpstreamBroken
from penstock.wire import sse
from penstock.wire.chat import stream
from penstock.wire.chat.stream import StreamDecoder


def frame(**delta):
    return sse.encode(json.dumps({"id": "x", "choices": [{"index": 0, "delta": delta}]}).encode())


def calls(*entries):
    return frame(tool_calls=[dict(entry) for entry in entries])


def feed(decoder, frames):
    for each in frames:
        decoder.feed(each)


def call(number=None, call_id=None, name=None, arguments=""):
    entry = {"function": {"name": name, "arguments": arguments}}
    return {**entry, **({} if number is None else {"index": number}), **({"id": call_id} if call_id else {})}


@pytest.mark.parametrize("number", [0, None], ids=["all 0", "unnumbered"])
@pytest.mark.parametrize("arguments", ["{", "{}"], ids=["open", "whole"])
def test_no_answer_calls_thousands_of_tools(number, arguments):
    made = (calls(call(number, f"c{at}", "f", arguments)) for at in range(10_000))
    with pytest.raises(UpstreamBroken, match="more tools"):
        feed(StreamDecoder(), made)
    assert next(made, None) is not None


def waiting():
    """A decoder whose first call stays open while a second one waits."""
    decoder = StreamDecoder()
    decoder.feed(calls(call(0, "a", "f", "{"), call(1, "b", "g", "{")))
    return decoder


@pytest.mark.parametrize(
    "delta",
    [
        {"tool_calls": [call(1, arguments='"' + "x" * 10_000)]},
        {"tool_calls": [call(1, arguments="1")]},
        {"reasoning_details": [{"data": "d" * 5_000}]},
        {"reasoning_details": [{"signature": "s" * 5_000}]},
    ],
    ids=["long", "short", "hidden", "signed"],
)
def test_what_waits_behind_an_open_call_has_a_bound(delta):
    with pytest.raises(UpstreamBroken, match="open at once"):
        feed(waiting(), itertools.repeat(frame(**delta), 300_000))


def test_what_has_gone_out_waits_no_more(monkeypatch):
    monkeypatch.setattr(stream, "_MOST_WAITING", 10_000)
    decoder = StreamDecoder()
    for number in range(100):  # each pair waits for some 1,000 characters only
        decoder.feed(calls(call(2 * number, f"a{number}", "f", "{"), call(2 * number + 1, f"b{number}", "f")))
        decoder.feed(calls(call(2 * number + 1, arguments='{"x": "' + "y" * 1_000 + '"}')))
        decoder.feed(calls(call(2 * number, arguments="}")))


def test_arguments_are_parsed_once_however_many_pieces_they_come_in(monkeypatch):
    read = []
    parse = stream._json_value
    monkeypatch.setattr(stream, "_json_value", lambda text: (read.append(len(text)), parse(text))[1])
    decoder = waiting()
    for _ in range(2_000):
        decoder.feed(calls(call(0, arguments='"x": {}, ')))
    decoder.feed(calls(call(0, arguments='"y": 1}')))
    assert len(read) == 1
    decoder.feed(calls(call(1, arguments="}")))
    decoder.feed(calls(call(1, arguments=" ")))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text('a"\\{}[] ,', max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text('k"\\}', max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(
    st.dictionaries(st.text('k"\\}', max_size=3), JSON, max_size=3) | st.lists(JSON, max_size=3), st.data()
)
def test_arguments_are_whole_with_their_last_character_and_not_before(value, data):
    text = json.dumps(value, indent=data.draw(st.sampled_from([None, 1])))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    arguments = stream._Arguments()
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        assert not arguments.complete or start == len(text)
        arguments.add(text[start:end])
    assert arguments.complete
    arguments.add(" \n")
    assert arguments.complete
    arguments.add("}")
    assert not arguments.complete


@pytest.mark.parametrize("text", ["", " ", "{", "}", "]{}", '{"a": }', '"x', "{} {}"])
def test_arguments_that_are_no_json_are_never_whole(text):
    arguments = stream._Arguments()
    arguments.add(text)
    assert not arguments.complete


@pytest.mark.parametrize("text", ["null", '"{"', "12", " {} "])
def test_arguments_may_be_any_json_in_one_piece(text):
    arguments = stream._Arguments()
    arguments.add(text)
    assert arguments.complete
