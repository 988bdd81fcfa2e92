import pytest

from penstock.errors import PenstockError, UpstreamBroken
from penstock.messages import Endpoint, Usage
from penstock.wire import sse
from penstock.wire.progress import progress


def taken(watch, frames):
    kept = []
    watch.take(frames, kept)
    return kept


def chunk(text):
    return sse.encode(text.encode())


DELTA = chunk('{"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}],"usage":null}')
RUNNING = chunk(
    '{"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}],'
    '"usage":{"prompt_tokens":5,"completion_tokens":1,"total_tokens":6}}'
)
STOP = chunk('{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}')
USAGE = chunk('{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":7,"total_tokens":12}}')
DONE = sse.encode(b"[DONE]")

START = sse.encode(
    b'{"type":"message_start","message":{"usage":{"input_tokens":9,"output_tokens":1}}}', "message_start"
)
TEXT = sse.encode(
    b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a"}}',
    "content_block_delta",
)
MESSAGE_DELTA = sse.encode(
    b'{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":4}}',
    "message_delta",
)
MESSAGE_STOP = sse.encode(b'{"type":"message_stop"}', "message_stop")


def test_a_chat_stream_is_complete_after_finish_reason_and_terminator():
    watch = progress(Endpoint.CHAT)
    assert taken(watch, [DELTA, STOP, USAGE]) == [DELTA, STOP, USAGE]
    assert not watch.complete
    assert taken(watch, [DONE]) == [DONE]
    assert watch.complete
    assert watch.usage == Usage(input_tokens=5, output_tokens=7)


def test_a_terminator_without_a_finish_reason_is_a_break():
    with pytest.raises(UpstreamBroken):
        progress(Endpoint.CHAT).take([DELTA, DONE], [])


def test_the_usage_chunk_that_nobody_asked_for_is_kept_back_and_still_counted():
    watch = progress(Endpoint.CHAT, keep_usage=False)
    assert taken(watch, [DELTA, STOP, USAGE, DONE]) == [DELTA, STOP, DONE]
    assert watch.usage.output_tokens == 7


def test_running_usage_is_known_in_mid_answer():
    watch = progress(Endpoint.CHAT, keep_usage=False)
    assert taken(watch, [RUNNING]) == [RUNNING]
    assert watch.usage == Usage(input_tokens=5, output_tokens=1)


def test_keep_alive_comments_are_no_events():
    assert taken(progress(Endpoint.CHAT), [b": processing\n\n", DELTA]) == [DELTA]


@pytest.mark.parametrize("endpoint", [Endpoint.CHAT, Endpoint.MESSAGES, Endpoint.RESPONSES])
@pytest.mark.parametrize("data", [b"{", b'{"choices": [}', b"nonsense", b"[1,2]", b"\xff", b"[" * 100_000])
def test_an_event_that_makes_no_sense_is_a_break(endpoint, data):
    with pytest.raises(UpstreamBroken):
        progress(endpoint).take([sse.encode(data)], [])


@pytest.mark.parametrize(
    ("endpoint", "ending"),
    [
        (Endpoint.CHAT, [STOP, DONE]),
        (Endpoint.MESSAGES, [START, MESSAGE_DELTA, MESSAGE_STOP]),
        (Endpoint.RESPONSES, [chunk('{"type":"response.completed","response":{}}')]),
    ],
)
def test_what_follows_the_end_is_no_part_of_the_answer(endpoint, ending):
    watch = progress(endpoint)
    kept = []
    watch.take([*ending, DELTA], kept)
    watch.take([sse.encode(b"nonsense")], kept)
    assert kept == ending
    assert watch.complete


def test_an_anthropic_stream_adds_up_its_usage():
    watch = progress(Endpoint.MESSAGES)
    frames = [START, TEXT, MESSAGE_DELTA, MESSAGE_STOP]
    assert taken(watch, frames) == frames
    assert watch.complete
    assert watch.usage == Usage(input_tokens=9, output_tokens=4)


def test_an_anthropic_stop_without_a_stop_reason_is_a_break():
    with pytest.raises(UpstreamBroken):
        progress(Endpoint.MESSAGES).take([START, TEXT, MESSAGE_STOP], [])


@pytest.mark.parametrize(
    ("endpoint", "frame"),
    [
        (Endpoint.CHAT, chunk('{"error":{"message":"too busy","type":"server_error","code":503}}')),
        (
            Endpoint.MESSAGES,
            sse.encode(b'{"type":"error","error":{"type":"overloaded_error","message":"too busy"}}', "error"),
        ),
        (
            Endpoint.RESPONSES,
            sse.encode(b'{"type":"error","code":"server_error","message":"too busy"}', "error"),
        ),
    ],
)
def test_an_error_event_is_the_upstreams_own_error(endpoint, frame):
    with pytest.raises(PenstockError, match="too busy"):
        progress(endpoint).take([frame], [])


def test_what_came_before_the_break_in_the_same_piece_is_kept():
    kept = []
    with pytest.raises(UpstreamBroken):
        progress(Endpoint.CHAT).take([DELTA, DONE], kept)
    assert kept == [DELTA]


@pytest.mark.parametrize(
    "frame",
    [
        b'data:{"choices":[]}\n\n',
        b'data: {"choices":[]}\r\n\r\n',
        b'data: {"choices":\ndata: []}\n\n',
        b'event: x\ndata: {"choices":[]}\nid: 4\n\n',
        b'id: 4\ndata: {"choices":[]}\n\n',
    ],
)
def test_a_frame_may_be_written_in_any_way_that_the_specification_allows(frame):
    (event,) = taken(progress(Endpoint.CHAT), [frame])
    assert sse.fields(event).data == sse.fields(frame).data
    assert sse.fields(event).id is None


@pytest.mark.parametrize("endpoint", [Endpoint.CHAT, Endpoint.MESSAGES, Endpoint.RESPONSES])
def test_an_upstreams_own_event_ids_make_way_for_the_logs(endpoint):
    data = b'{"type":"ping","choices":[]}'
    frames = [b"id: 77\nevent: ping\ndata: " + data + b"\n\n"]
    assert taken(progress(endpoint), frames) == [b"event: ping\ndata: " + data + b"\n\n"]


def test_a_line_that_is_no_data_is_not_read_as_data():
    assert taken(progress(Endpoint.CHAT), [b'xxxxxx{"error":{"message":"no"}}\n\n']) == []


def test_the_usage_so_far_is_taken_out_for_who_did_not_ask_for_it():
    watch = progress(Endpoint.CHAT, keep_usage=True, keep_running=False)
    (event, closing) = taken(watch, [RUNNING, USAGE])
    assert sse.fields(event).data == (
        b'{"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}'
    )
    assert closing == USAGE
    assert watch.usage.output_tokens == 7


def test_a_terminator_loses_its_id_like_every_other_event():
    assert taken(progress(Endpoint.CHAT), [STOP, b"id: 9\ndata: [DONE]\n\n"])[1] == DONE
