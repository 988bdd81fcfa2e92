"""A stream over several connections is, byte for byte, what one would have brought."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.client._reading import Cut, NotReproduced, StreamReading
from penstock.messages import Endpoint


def chunk(text, *, finish="null", who="a", created=1):
    told = '{"id":"chatcmpl-%s","created":%d,"choices":[{"index":0,"delta":{"content":"%s"},"finish_reason":%s}]}'
    return b"data: " + (told % (who, created, text, finish)).encode() + b"\n\n"


def numbered(events, first=0):
    return [b"id: %d\n%b" % (number, event) for number, event in enumerate(events, first)]


TOLD = [chunk("one"), chunk("two"), chunk("three"), chunk("", finish='"stop"'), b"data: [DONE]\n\n"]
EVENTS = numbered(TOLD)
WHOLE = b"".join(EVENTS)
MESSAGES = numbered(
    [
        b'event: message_start\ndata: {"type":"message_start","message":{"id":"msg_1"}}\n\n',
        b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"text":"x"}}\n\n',
        b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
    ]
)


def reading(endpoint=Endpoint.CHAT, *, numbered=True, reproducible=False):
    return StreamReading(endpoint, numbered=numbered, reproducible=reproducible)


def test_whole_frames_pass_unchanged():
    stream = reading()
    assert stream.feed(WHOLE) == WHOLE
    assert stream.ended() == b""
    assert stream.is_whole


def test_byte_by_byte_the_same():
    stream = reading()
    assert b"".join(stream.feed(WHOLE[at : at + 1]) for at in range(len(WHOLE))) == WHOLE
    assert stream.is_whole


def test_a_cut_at_any_byte_leaves_no_trace():
    for cut in range(len(WHOLE)):
        check_cut(cut)


def check_cut(cut):
    stream = reading()
    got = stream.feed(WHOLE[:cut])
    if not stream.is_whole:
        with pytest.raises(Cut):
            stream.ended()
        stream.reconnected()
        got += stream.feed(b"".join(EVENTS[stream.last + 1 :]))
    assert got == WHOLE
    assert stream.delivered == len(WHOLE)
    assert stream.ended() == b""


@given(st.lists(st.integers(0, len(WHOLE) - 1), max_size=8), st.integers(1, 40))
def test_any_number_of_cuts_in_any_pieces_leave_no_trace(cuts, size):
    stream = reading()
    got = b""
    for cut in cuts:
        rest = b"".join(EVENTS[stream.last + 1 :])[:cut]
        got += b"".join(stream.feed(rest[at : at + size]) for at in range(0, len(rest), size))
        stream.reconnected()
    got += stream.feed(b"".join(EVENTS[stream.last + 1 :]))
    assert got == WHOLE


def test_events_that_come_again_are_left_out():
    stream = reading()
    got = stream.feed(b"".join(EVENTS[:3]))
    stream.reconnected()
    assert got + stream.feed(WHOLE) == WHOLE


def test_a_hole_is_a_break():
    stream = reading()
    stream.feed(EVENTS[0])
    with pytest.raises(Cut, match="after event 0 came 2"):
        stream.feed(EVENTS[2])


def test_signs_of_life_pass_and_count_for_nothing():
    stream = reading()
    assert stream.feed(b": hb\n" + EVENTS[0]) == b": hb\n" + EVENTS[0]
    assert stream.last == 0
    messages = reading(Endpoint.MESSAGES)
    ping = b'event: ping\ndata: {"type": "ping"}\n\n'
    assert messages.feed(MESSAGES[0] + ping + MESSAGES[1]) == MESSAGES[0] + ping + MESSAGES[1]
    assert messages.last == 1


@pytest.mark.parametrize(
    ("endpoint", "last", "whole"),
    [
        (Endpoint.CHAT, b"data: [DONE]\n\n", True),
        (Endpoint.CHAT, chunk("", finish='"stop"'), False),  # of a gateway, which always sends the terminator
        (Endpoint.CHAT, b'data: {"error": {"code": "upstream_broken"}}\n\n', True),
        (Endpoint.COMPLETIONS, b"data: [DONE]\n\n", True),
        (Endpoint.MESSAGES, b'event: message_stop\ndata: {"type":"message_stop"}\n\n', True),
        (Endpoint.MESSAGES, b'event: error\ndata: {"type":"error","error":{}}\n\n', True),
        (Endpoint.MESSAGES, b'event: message_delta\ndata: {"type":"message_delta"}\n\n', False),
        (Endpoint.RESPONSES, b'event: response.completed\ndata: {"type":"response.completed"}\n\n', True),
        (Endpoint.RESPONSES, b'data: {"type":"response.output_text.delta"}\n\n', False),
        (Endpoint.CHAT, b"data: no json\n\n", False),
    ],
)
def test_only_the_terminator_makes_it_whole(endpoint, last, whole):
    stream = reading(endpoint)
    stream.feed(b"id: 0\n" + last)
    assert stream.is_whole is whole


CHAT_DRAINING = (
    b'data: {"error":{"message":"m","type":"overloaded_error","param":null,"code":"draining"}}\n\n'
)
MESSAGES_DRAINING = (
    b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"m",'
    b'"details":{"error_code":"draining"}},"request_id":"gen_1"}\n\n'
)
RESPONSES_DRAINING = (
    b'event: error\ndata: {"type":"error","sequence_number":0,"code":"draining","message":"m","param":null,'
    b'"error":{"message":"m","type":"overloaded_error","param":null,"code":"draining"}}\n\n'
)


@pytest.mark.parametrize(
    ("endpoint", "event"),
    [
        (Endpoint.CHAT, CHAT_DRAINING),
        (Endpoint.COMPLETIONS, CHAT_DRAINING),
        (Endpoint.MESSAGES, MESSAGES_DRAINING),
        (Endpoint.RESPONSES, RESPONSES_DRAINING),
    ],
)
def test_a_gateway_that_goes_away_ends_nothing(endpoint, event):
    stream = reading(endpoint)
    first, second = numbered([b'data: {"n":1}\n\n', b'data: {"n":2}\n\n'])
    assert stream.feed(first + event) == first
    assert stream.handover == event
    assert not stream.is_whole
    stream.reconnected()
    assert stream.handover == b""
    assert stream.feed(second) == second


def test_words_of_an_answer_or_of_a_plain_provider_hand_nothing_over():
    stream = reading()
    told = b"id: 0\n" + CHAT_DRAINING
    odd = b'data: {"error":{"code":"upstream_broken","message":"it was draining"}}\n\n'
    assert stream.feed(told + odd) == told + odd
    plain = reading(numbered=False)
    assert plain.feed(CHAT_DRAINING) == CHAT_DRAINING
    assert not stream.handover
    assert not plain.handover


def test_of_a_plain_provider_a_finish_reason_will_do_and_nothing_is_held_back():
    stream = reading(numbered=False)
    body = b"".join(TOLD[:4])
    assert stream.feed(body + b"data: [DONE]") == body
    assert stream.ended() == b"data: [DONE]"
    assert stream.is_whole
    cut = reading(numbered=False)
    cut.feed(b"".join(TOLD[:2]))
    with pytest.raises(Cut):
        cut.ended()


def second(text="three", who="b"):
    """The same answer once more, with another id and time."""
    return [
        chunk("one", who=who, created=9),
        chunk("two", who=who, created=9),
        chunk(text, who=who, created=9),
        chunk("", finish='"stop"', who=who),
        b"data: [DONE]\n\n",
    ]


@pytest.mark.parametrize("is_gateway", [True, False])
@pytest.mark.parametrize("had", range(1, 5))
def test_a_second_answer_goes_on_where_the_first_was(had, is_gateway):
    stream = reading(numbered=is_gateway, reproducible=True)
    events = EVENTS if is_gateway else TOLD
    again = numbered(second()) if is_gateway else second()
    got = stream.feed(b"".join(events[:had]))
    stream.restarted(numbered=is_gateway)
    assert stream.feed(b"".join(again)) == b"".join(again[had:])
    assert got == b"".join(events[:had])
    assert stream.is_whole


def test_a_second_answer_may_break_as_well():
    stream = reading(reproducible=True)
    stream.feed(b"".join(EVENTS[:2]))
    stream.restarted(numbered=True)
    again = numbered(second())
    assert stream.feed(again[0]) == b""
    stream.reconnected()  # the same second answer, from where it was
    assert stream.feed(b"".join(again[1:3])) == again[2]
    stream.restarted(numbered=True)  # and a third
    third = numbered(second(who="c"))
    assert stream.feed(b"".join(third)) == b"".join(third[3:])


def test_words_of_two_answers_are_never_mixed():
    stream = reading(reproducible=True)
    stream.feed(b"".join(EVENTS[:3]))
    stream.restarted(numbered=True)
    with pytest.raises(NotReproduced):
        stream.feed(b"".join(numbered(second("four"))))


def test_what_cannot_be_compared_cannot_be_made_again():
    stream = reading()
    assert stream.can_rerun  # nothing has been passed on yet
    stream.feed(EVENTS[0])
    assert not stream.can_rerun
    assert not reading(Endpoint.RESPONSES, reproducible=True)._prints
