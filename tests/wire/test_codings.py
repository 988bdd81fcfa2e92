"""Codings against their own libraries: whole, broken off, followed by more, and made to burst."""

import gzip
import hashlib
import json
import zlib

import brotli
import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import BadRequest, BodyTooLarge, DictionaryLacking, UnsupportedMedia
from penstock.wire import codings, forms
from penstock.wire.forms import Form

TEXT = json.dumps(
    [{"role": "user", "content": f"line {number} of a history"} for number in range(3_000)]
).encode()

MUCH = json.dumps([f"line {number} of {number**7}" for number in range(200_000)]).encode()  # 5 MB

ENCODE = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": lambda data: brotli.compress(data, quality=5),
    "zstd": lambda data: zstandard.ZstdCompressor(3).compress(data),
}


def nothing(digest):
    return None


def decoded(body, *names, limit=1 << 20):
    return codings.decoded(body, list(names), limit, nothing)


@pytest.mark.parametrize("name", ENCODE)
def test_a_body_comes_back(name):
    for body in (b"", b"x", TEXT):
        assert decoded(ENCODE[name](body), name) == body


def test_two_codings_are_undone_in_their_order():
    assert decoded(ENCODE["zstd"](ENCODE["gzip"](TEXT)), "gzip", "zstd") == TEXT


def test_what_lies_between_two_codings_is_bound_by_what_was_sent():
    """A second coding makes a body shorter that keeps a decoder busy and gives nothing out: 32 MB of it, of 96 KB."""
    busy = b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + b"\0\0\0\xff\xff" * 400_000 + b"\x03\0" + bytes(8)
    assert decoded(busy, "gzip", limit=4_000_000) == b""
    for outer, encode in ENCODE.items():
        twice = encode(busy)
        assert len(twice) < 10_000
        with pytest.raises(BodyTooLarge, match="larger than 65536 bytes"):
            decoded(twice, "gzip", outer, limit=4_000_000)
        long = ENCODE["gzip"](MUCH)
        assert decoded(encode(long), "gzip", outer, limit=len(MUCH)) == MUCH


def test_frames_without_a_size_and_several_of_them():
    stream = zstandard.ZstdCompressor(3).compressobj()
    first = stream.compress(TEXT[:1_000]) + stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    first += stream.compress(TEXT[1_000:]) + stream.flush()
    assert decoded(first + ENCODE["zstd"](b"more"), "zstd") == TEXT + b"more"
    assert decoded(ENCODE["gzip"](TEXT) + ENCODE["gzip"](b"more"), "gzip") == TEXT + b"more"


@pytest.mark.parametrize("name", ENCODE)
def test_what_breaks_off_or_is_something_else_is_refused(name):
    whole = ENCODE[name](TEXT)
    for body in (
        whole[:-1],
        whole[: len(whole) // 2],
        whole[:1],
        b"",
        b"x" * 100,
        whole[:50] + bytes(50) + whole[100:],
    ):
        if body == b"" and name == "zstd":
            continue  # no frame at all is no bytes
        if body == whole[:50] + bytes(50) + whole[100:] and name == "zstd":
            continue  # it has no checksum unless one is asked for
        with pytest.raises(BadRequest) as told:
            decoded(body, name)
        assert told.value.code == "undecodable"
    if name in {"br", "deflate", "zstd"}:
        with pytest.raises(BadRequest):
            decoded(whole + b"\0\0\0\0\0", name)


@pytest.mark.parametrize("name", ENCODE)
def test_a_bomb_is_refused_before_it_is_in_memory(name):
    import tracemalloc

    bomb = ENCODE[name](bytes(200_000_000))
    tracemalloc.start()
    with pytest.raises(BodyTooLarge):
        decoded(bomb, name, limit=1_000_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 30_000_000
    for exact in (999_999, 1_000_000):
        assert len(decoded(ENCODE[name](bytes(exact)), name, limit=1_000_000)) == exact
    with pytest.raises(BodyTooLarge):
        decoded(ENCODE[name](bytes(1_000_001)), name, limit=1_000_000)


@pytest.mark.parametrize(
    ("name", "empty"),
    [
        ("gzip", gzip.compress(b"")),
        ("zstd", zstandard.ZstdCompressor().compress(b"")),
        ("zstd", b"\x50\x2a\x4d\x18" + bytes(4)),  # to be skipped (RFC 8878, 3.1.2)
    ],
    # Of their own: gzip's frame has the second in which it was made.
    ids=["gzip", "zstd", "zstd to be skipped"],
)
def test_a_body_of_very_many_frames_is_refused(name, empty):
    """Each costs a decoder, and holds nothing: 32 MB of them would keep a core busy for hours."""
    assert decoded(empty * 1_023 + ENCODE[name](TEXT), name) == TEXT
    with pytest.raises(BadRequest, match="more than 1024 parts"):
        decoded(empty * 1_024 + ENCODE[name](TEXT), name)
    with pytest.raises(BadRequest, match="more than 1024 parts"):
        decoded(empty * 400_000, name)


def test_a_window_that_nobody_need_hold_is_refused():
    parameters = zstandard.ZstdCompressionParameters(window_log=27, enable_ldm=True)
    body = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    coded = body.compress(TEXT) + body.flush()
    with pytest.raises(BadRequest):
        decoded(coded, "zstd")


@given(st.sampled_from(sorted(ENCODE)), st.binary(max_size=300))
def test_whatever_comes_is_decoded_or_refused(name, body):
    try:
        decoded(body, name)
    except BadRequest as error:
        assert error.code == "undecodable"


def test_names():
    assert codings.codings_in(b"gzip, ZSTD") == ["gzip", "zstd"]
    assert codings.codings_in(b"x-gzip , identity") == ["gzip"]
    for wrong in (b"lzma", b"gzip, gzip, gzip", b"gzip;q=1"):
        with pytest.raises(UnsupportedMedia):
            codings.codings_in(wrong)


def test_a_growing_history_costs_what_is_new():
    longer = TEXT[:-1] + b', {"role": "user", "content": "and one more"}]'
    coded = codings.with_dictionary(longer, TEXT)
    assert len(coded) < len(TEXT) // 100
    known = {hashlib.sha256(TEXT).digest(): TEXT}
    assert codings.decoded(coded, ["dcz"], 1 << 20, known.get) == longer
    with pytest.raises(DictionaryLacking):
        decoded(coded, "dcz")
    other = {hashlib.sha256(TEXT).digest(): b"something else of the same name"}
    with pytest.raises(BadRequest):
        codings.decoded(coded, ["dcz"], 1 << 20, other.get)
    for wrong in (b"", coded[:39], b"\0" + coded[1:], coded[:-1]):
        with pytest.raises(BadRequest):
            codings.decoded(wrong, ["dcz"], 1 << 20, known.get)


@pytest.mark.parametrize(
    ("accepted", "chosen"),
    [
        (b"gzip, deflate, br, zstd", "zstd"),
        (b"gzip;q=1, zstd;q=0.5", "gzip"),
        (b"gzip", "gzip"),
        (b"*", "zstd"),
        (b"zstd;q=0, *;q=0.5", "br"),
        (b"identity, gzip;q=0.5", ""),
        (b"identity;q=0, gzip;q=0.5", "gzip"),
        (b"deflate", ""),
        (b"", ""),
        (b"gzip;q=x", ""),
        (b"zstd; q=0.8, br ; q = 0.9", "br"),
    ],
)
def test_the_coding_of_an_answer(accepted, chosen):
    assert codings.preferred(accepted, ("zstd", "br", "gzip")) == chosen


def test_each_flush_can_be_decoded_at_once():
    decoders = {
        "gzip": zlib.decompressobj(zlib.MAX_WBITS | 16).decompress,
        "br": brotli.Decompressor().process,
        "zstd": zstandard.ZstdDecompressor().decompressobj().decompress,
    }
    for name, decode in decoders.items():
        encoder = codings.encoder(name)
        for event in (b"data: one\n\n", b"data: two\n\n" * 500, b"data: [DONE]\n\n"):
            assert decode(encoder.encode(event)) == event
        decode(encoder.end())


def test_messagepack_there_and_back():
    value = {
        "model": "m",
        "messages": [{"role": "user", "content": "ä\n"}],
        "n": 1,
        "t": 0.5,
        "x": None,
        "y": True,
    }
    assert json.loads(forms.json_of(msgspec.msgpack.encode(value), Form.MSGPACK)) == value
    assert msgspec.msgpack.decode(forms.answer_in(json.dumps(value).encode(), Form.MSGPACK)) == value
    assert forms.answer_in(b"no JSON", Form.MSGPACK) is None
    for wrong in (b"", b"\xc1", b"\x81\xa1", msgspec.msgpack.encode({"a": 1}) + b"x", b"\x91" * 100_000):
        with pytest.raises(BadRequest):
            forms.json_of(wrong, Form.MSGPACK)


def test_the_form_of_a_body_is_that_of_its_media_type():
    assert forms.form_of(b"application/x-msgpack; charset=binary") is Form.MSGPACK
    assert forms.form_of(b"Application/Protobuf") is Form.PROTOBUF
    assert forms.form_of(b"application/json") is None


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        (b"application/msgpack, application/json;q=0.5", Form.MSGPACK),
        (b"application/json, application/msgpack", None),
        (b"text/event-stream", None),
        (b"application/msgpack;q=0", None),
        (b"application/msgpack; q=0.000, application/x-protobuf", Form.PROTOBUF),
        (b"application/json;q=0, application/msgpack", Form.MSGPACK),
        (b"application/msgpack;q=0.001", Form.MSGPACK),
        (b"application/x-protobuf, application/msgpack", Form.PROTOBUF),
    ],
)
def test_the_form_that_is_wanted_first_is_taken(accept, form):
    assert forms.preferred(accept, embeddings=True) is form


def test_only_embeddings_are_in_protocol_buffers():
    assert forms.preferred(b"application/x-protobuf", embeddings=False) is None
    assert forms.preferred(b"application/x-protobuf, application/msgpack", embeddings=False) is Form.MSGPACK


@pytest.mark.parametrize("body", [b"", TEXT, MUCH], ids=["none", "little", "much"])
def test_a_body_in_zstd_is_the_same_however_many_threads_there_are(body, monkeypatch):
    """Who sends it again after a break goes on in the middle of what came before."""
    made = set()
    for cores in (None, 1, 2, 64):
        monkeypatch.setattr("os.cpu_count", lambda cores=cores: cores)
        made.add(codings.in_zstd(body, 3))
    (coded,) = made
    assert decoded(coded, "zstd", limit=len(MUCH)) == body
    assert len(coded) <= 1.02 * len(ENCODE["zstd"](body))
