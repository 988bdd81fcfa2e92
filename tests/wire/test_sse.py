"""Event streams, with httpx2's and the openai SDK's decoders as independent readers."""

import itertools
import tracemalloc

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai._streaming import SSEDecoder

from penstock.errors import UpstreamBroken
from penstock.wire import sse

CHUNK = b'data: {"choices":[{"delta":{"content":"hi"}}]}\n\n'


def split(document, cuts=()):
    splitter = sse.Splitter()
    edges = [0, *sorted(cut % (len(document) + 1) for cut in cuts), len(document)]
    frames = [
        frame for start, end in itertools.pairwise(edges) for frame in splitter.feed(document[start:end])
    ]
    return frames, splitter.rest


def byte_by_byte(document):
    return split(document, range(len(document)))


def as_httpx2_reads(document):
    response = httpx2.Response(
        200,
        headers={"content-type": "text/event-stream"},
        content=document,
        request=httpx2.Request("GET", "http://x"),
    )
    # The rules dispatch no event whose data is empty; httpx2 does.
    return [
        ("" if event.event == "message" else event.event, event.data)
        for event in httpx2.EventSource(response)
        if event.data
    ]


def as_openai_reads(document):
    return [(e.event or "", e.data) for e in SSEDecoder().iter_bytes(iter([document])) if e.data]


def as_we_read(frames):
    read = [sse.fields(frame) for frame in frames]
    return [(frame.event, frame.data.decode()) for frame in read if frame.data]


def test_frames_come_out_byte_for_byte_with_their_blank_line():
    frames, rest = split(CHUNK * 3)
    assert frames == [CHUNK] * 3
    assert rest == b""


def test_what_is_not_complete_stays_behind():
    frames, rest = split(CHUNK + b"data: half")
    assert frames == [CHUNK]
    assert rest == b"data: half"


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_every_line_ending_closes_a_frame(end):
    document = end.join([b"event: a", b"data: 1", b"", b": hello", b"", b"data: 2", b"", b""])
    for frames, rest in (split(document), byte_by_byte(document)):
        assert [sse.data_of(frame) for frame in frames] == [b"1", b"", b"2"]
        assert sse.fields(frames[0]).event == "a"
        assert rest.strip(b"\r\n") == b""


def test_a_cr_at_the_end_of_a_chunk_does_not_delay_the_frame():
    splitter = sse.Splitter()
    assert splitter.feed(b"data: 1\r\n\r") == [b"data: 1\r\n\r"]
    assert splitter.feed(b"\ndata: 2\r\n\r\n") == [b"data: 2\r\n\r\n"]


def test_crlf_is_one_line_end_and_not_two():
    frames, rest = byte_by_byte(b"event: a\r\ndata: 1\r\n\r\n")
    assert len(frames) == 1
    assert sse.fields(frames[0]).data == b"1"
    assert rest.strip() == b""


def test_line_endings_may_change_in_mid_stream():
    frames, _ = split(b"data: 1\n\ndata: 2\r\n\r\ndata: 3\r\rdata: 4\n\r\ndata: 5\n\n")
    assert [sse.data_of(frame) for frame in frames] == [b"1", b"2", b"3", b"4", b"5"]


@pytest.mark.parametrize("cuts", [(), (1,), (2,), (1, 2), (3,)])
def test_a_byte_order_mark_is_dropped_at_the_start_only(cuts):
    frames, _ = split(b"\xef\xbb\xbf" + CHUNK, cuts)
    assert frames == [CHUNK]
    frames, _ = split(CHUNK + b"\xef\xbb\xbf" + CHUNK, cuts)
    assert sse.data_of(frames[1]) == b""  # the field's name is not "data" then


def test_blank_lines_in_front_of_a_frame_are_no_part_of_it():
    for frames, _ in (
        split(b"\n\n\n" + CHUNK + b"\n\n" + CHUNK),
        byte_by_byte(b"\n\n\n" + CHUNK + b"\n" + CHUNK),
    ):
        assert frames == [CHUNK, CHUNK]


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_frame_without_end_is_refused_before_it_fills_the_memory(end):
    splitter = sse.Splitter(max_frame_bytes=1000)
    splitter.feed(b"data: 1" + end + end)
    endless = [b"data: " + b"x" * 100 + end] * 100
    with pytest.raises(UpstreamBroken):
        list(map(splitter.feed, endless))


def test_a_frame_that_is_whole_but_too_long_is_refused():
    with pytest.raises(UpstreamBroken):
        sse.Splitter(max_frame_bytes=10).feed(CHUNK)
    splitter = sse.Splitter(max_frame_bytes=10)
    splitter.feed(b"data:")
    with pytest.raises(UpstreamBroken):
        splitter.feed(b" 1234567890\n\n")


def test_many_short_frames_in_one_chunk_are_not_too_long():
    assert len(sse.Splitter(max_frame_bytes=len(CHUNK)).feed(CHUNK * 50)) == 50


def test_a_large_frame_in_small_chunks_is_put_together():
    data = b"x" * 300_000
    frames, rest = split(sse.encode(data), range(0, 300_000, 1000))
    assert [sse.data_of(frame) for frame in frames] == [data]
    assert rest == b""


line = st.one_of(
    st.sampled_from(["data", "data:", "data: ", "event: x", "retry: 5", "retry: x", ": comment", "nonsense"]),
    st.text(alphabet="da:té€ \u2028x{}", max_size=12).map(lambda text: "data:" + text),
    st.text(alphabet="ab: ", max_size=6).map(lambda text: "event:" + text),
    st.text(alphabet="abc: ", max_size=6),
    st.just(""),
)
documents = st.lists(st.tuples(line, st.sampled_from(["\n", "\r\n", "\r"]))).map(
    lambda lines: "".join(text + end for text, end in lines).encode()
)
uniform = st.tuples(st.lists(line), st.sampled_from(["\n", "\r\n", "\r"])).map(
    lambda given: "".join(text + given[1] for text in given[0]).encode()
)


@given(st.one_of(documents, uniform), st.lists(st.integers(0, 200), max_size=6))
def test_any_stream_in_any_pieces_reads_as_independent_decoders_read_it(document, cuts):
    whole, _ = split(document)
    pieces, _ = split(document, cuts)
    bytewise, _ = byte_by_byte(document)
    expected = [event for event in as_httpx2_reads(document + b"\n") if event]
    # One more line end: our decoder, as the rules demand, drops what no blank line has closed.
    assert as_we_read(split(document + b"\n")[0]) == expected
    assert as_we_read(whole) == as_we_read(pieces) == as_we_read(bytewise)
    if b"\r" not in document:
        assert b"".join(whole).replace(b"\n", b"") in document.replace(b"\n", b"")


@given(uniform)
def test_the_openai_sdk_reads_the_same_events(document):
    assert as_we_read(split(document)[0]) == as_openai_reads(document)


@given(documents)
def test_the_payload_alone_is_read_as_with_all_fields(document):
    for frame in split(document)[0]:
        assert sse.data_of(frame) == sse.fields(frame).data


@pytest.mark.parametrize(
    ("frame", "data"),
    [
        (b"data: x\n\n", b"x"),
        (b"data:x\n\n", b"x"),
        (b"data:  x\n\n", b" x"),
        (b"data: a\ndata: b\n\n", b"a\nb"),
        (b"data\n\n", b""),
        (b"event: e\ndata: x\n\n", b"x"),
        (b"event:e\ndata:x\n\n", b"x"),
        (b"data: x\nevent: e\n\n", b"x"),
        (b"event: e\ndata: a\ndata: b\n\n", b"a\nb"),
        (b"id: 7\ndata: x\n\n", b"x"),
        (b"data: x\r\n\r\n", b"x"),
        (b"data: a\rdata: b\n\n", b"a\nb"),
        (b": comment\n\n", b""),
        (b": hb\ndata: x\n\n", b"x"),
        (b"event: e\n\n", b""),
        (b"", b""),
    ],
)
def test_payload_of_a_frame(frame, data):
    assert sse.data_of(frame) == data


def test_ids_and_retries_follow_the_rules():
    read = sse.fields(b"id: 5\nretry: 250\ndata: x\n\n")
    assert (read.id, read.retry, read.data) == ("5", 250, b"x")
    assert sse.fields(b"id: a\0b\n\n").id is None
    assert sse.fields(b"id\n\n").id == ""
    assert sse.fields(b"retry: -1\n\n").retry is None
    assert sse.fields(b"retry: 1.5\n\n").retry is None


@given(st.text(), st.sampled_from(["", "error", "content_block_delta"]))
def test_what_is_encoded_is_read_back(text, event):
    data = text.encode()
    frames, rest = split(sse.encode(data, event))
    assert rest == b""
    assert len(frames) == 1
    read = sse.fields(frames[0])
    assert read.event == event
    assert read.data == data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def test_the_state_shows_in_the_repr():
    splitter = sse.Splitter()
    splitter.feed(b"data: 1\r")
    assert repr(splitter) == "<Splitter 8 bytes waiting, CR seen>"


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_a_long_frame_is_not_copied_with_each_of_its_pieces(end):
    splitter = sse.Splitter()
    splitter.feed(b":" + 2 * end + b"data: " + b"x" * 4_000_000)
    splitter.feed(b"x")
    tracemalloc.start()
    try:
        for _ in range(10):
            splitter.feed(b"x" * 10)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()
    assert len(splitter.feed(2 * end)[0]) > 4_000_000


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_a_frame_of_very_many_lines_is_refused_before_anybody_reads_it(end):
    line = b"data: x" + end
    assert len(sse.Splitter().feed(line * (sse.MAX_LINES - 2) + end)) == 1
    frame = line * (sse.MAX_LINES + 2) + end
    with pytest.raises(UpstreamBroken, match="lines"):
        split(frame, range(0, len(frame), 65_536))


@pytest.mark.parametrize("nothing", [b":\n\n", b"data:\n\n", b"x\r\r", b"data: {}\r\n\r\n"])
def test_a_flood_of_events_that_hold_nothing_is_refused(nothing):
    assert len(sse.Splitter().feed(nothing * sse.MAX_FRAMES)) == sse.MAX_FRAMES
    with pytest.raises(UpstreamBroken, match="next to nothing"):
        sse.Splitter().feed(nothing * (sse.MAX_FRAMES + 1))


def test_a_flood_of_small_events_that_hold_something_is_not():
    event = b'data: {"choices":[{"text":"a"}]}\n\n'
    assert sse.Splitter().feed(event * 20_000) == [event] * 20_000
