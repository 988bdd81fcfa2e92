"""Header blocks against hpack, which is by others."""

import hpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.net._hpack import TABLE_SIZE, BadBlock, Packer, TooLarge, Unpacker

NAMES = st.one_of(
    st.sampled_from([b":status", b"content-type", b"set-cookie", b"x-request-id", b"date"]),
    st.text("abcdefghijklmnopqrstuvwxyz0123456789-_", min_size=1, max_size=40).map(str.encode),
)
VALUES = st.one_of(
    st.sampled_from([b"200", b"application/json", b"", b"a b", b"x" * 300, b"y" * 5_000]),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=60).map(str.encode),
)
HEADS = st.lists(st.lists(st.tuples(NAMES, VALUES), min_size=1, max_size=12), min_size=1, max_size=6)


@settings(deadline=None, max_examples=50)
@given(HEADS, st.booleans(), st.lists(st.sampled_from([0, 64, 200, TABLE_SIZE]), max_size=6))
def test_whatever_hpack_packs_is_unpacked(heads, huffman, sizes):
    theirs, ours = hpack.Encoder(), Unpacker(1 << 20)
    for number, head in enumerate(heads):
        if number < len(sizes):
            theirs.header_table_size = sizes[number]
        assert ours.fields(theirs.encode(head, huffman=huffman)) == head


@settings(deadline=None, max_examples=50)
@given(HEADS, st.sampled_from([0, 100, TABLE_SIZE]))
def test_whatever_is_packed_hpack_unpacks_whatever_table_it_has(heads, size):
    ours, theirs = Packer(), hpack.Decoder(max_header_list_size=1 << 20)
    theirs.max_allowed_table_size = size
    for head in heads + heads:
        assert [tuple(field) for field in theirs.decode(ours.block(head), raw=True)] == head


def test_secrets_are_not_to_be_kept_by_anybody():
    ours, theirs = Packer(), hpack.Decoder()
    fields = [(b"authorization", b"Bearer k"), (b"x-api-key", b"k"), (b"user-agent", b"penstock")]
    found = theirs.decode(ours.block(fields), raw=True)
    assert [not field.indexable for field in found] == [True, True, False]


def test_what_is_kept_of_packed_fields_is_bounded():
    ours, theirs = Packer(), hpack.Decoder()
    for number in range(2_000):
        field = (b"x-request-id", b"%d" % number)
        assert theirs.decode(ours.block([field]), raw=True) == [field]
    assert len(ours._kept) <= 512


@given(st.binary(max_size=200))
def test_any_bytes_are_fields_or_a_bad_block_as_hpack_finds(block):
    try:
        found = Unpacker(1 << 20).fields(block)
    except BadBlock:
        return
    assert [tuple(field) for field in hpack.Decoder().decode(block, raw=True)] == found


@pytest.mark.parametrize(
    ("block", "why"),
    [
        (b"\x80", "no such entry"),
        (b"\xbe", "no such entry"),  # the first of an empty table
        (b"\xff\xff\xff\xff\xff\xff\x0f", "a number"),
        (b"\x00", "too early"),
        (b"\x00\x03a", "too early"),
        (b"\x00\x01a\x7f\xff", "too early"),
        (b"\x00\x01a\x81\x00", "Huffman"),
        (b"\x00\x01A\x01b", "no name"),
        (b"\x00\x00\x01b", "no name"),
        (b"\x00\x03a b\x01b", "no name"),
        (b"\x00\x01a\x03b\r\n", "no value"),
        (b"\x00\x01a\x02 b", "no value"),
        (b"\x00\x01a\x01\x00", "no value"),
        (b"\x3f\xe2\x1f", "size"),  # 4,097
        (b"\x88\x20", "size"),  # not at the beginning
    ],
)
def test_what_is_no_header_block(block, why):
    with pytest.raises(BadBlock, match=why):
        Unpacker(1_000).fields(block)


def test_a_small_block_that_unpacks_to_much_is_too_large():
    theirs, ours = hpack.Encoder(), Unpacker(65_536)
    ours.fields(theirs.encode([(b"x", b"y" * 4_000)]))
    bomb = theirs.encode([(b"x", b"y" * 4_000)]) * 60_000
    with pytest.raises(TooLarge):
        ours.fields(bomb)
