import os

import msgspec
import pytest
import zstandard
from blake3 import blake3
from entries import a_key, an_entry

from penstock.cache import entry as entries
from penstock.cache.entry import Sealer, Unusable
from penstock.messages import Usage

SECRET = b"s" * 32
SEALER = Sealer(SECRET, 1 << 20)
KEY = a_key(1)


def forged(payload, *, version=entries.VERSION, coding=0, secret=SECRET, key=KEY, length=None):
    """An entry by somebody who knows how they are made; with the secret, too, unless it is another."""
    head = b"P%c%c%b" % (version, coding, (len(payload) if length is None else length).to_bytes(4, "big"))
    return head + blake3(key + head + payload, key=secret).digest(length=16) + payload


@pytest.mark.parametrize("text", ["", "x", "hello " * 1_000, "".join(map(chr, range(1, 3_000)))])
def test_what_was_sealed_is_opened_as_it_was(text):
    entry = an_entry(text)
    assert SEALER.open(KEY, SEALER.seal(KEY, entry)) == entry
    assert SEALER.open(KEY, SEALER.seal_apart(KEY, entry)) == entry


def test_what_pays_is_compressed_and_what_does_not_is_not():
    entry = an_entry("the same words again and again, " * 500)
    assert len(SEALER.seal(KEY, entry)) < 1_000
    noise = an_entry(os.urandom(10_000))
    assert SEALER.seal(KEY, noise)[2] == 0
    assert SEALER.seal(KEY, an_entry("x" * 300))[2] == 0


@pytest.mark.parametrize("text", ["short", "long " * 1_000])
def test_any_bit_that_was_changed_is_noticed(text):
    sealed = SEALER.seal(KEY, an_entry(text))
    for at in range(len(sealed)):
        for bit in (1, 0x80):
            spoiled = bytearray(sealed)
            spoiled[at] ^= bit
            with pytest.raises(Unusable):
                SEALER.open(KEY, bytes(spoiled))


@pytest.mark.parametrize("text", ["short", "long " * 1_000])
def test_any_length_that_is_too_short_is_noticed(text):
    sealed = SEALER.seal(KEY, an_entry(text))
    for length in range(len(sealed)):
        with pytest.raises(Unusable) as caught:
            SEALER.open(KEY, sealed[:length])
        assert caught.value.reason == "truncated"


PAYLOAD = msgspec.msgpack.encode(an_entry())
POISON = {
    "nothing": (b"", "truncated"),
    "no entry at all": (b"\x80\x04\x95pickle, for those who would load it" * 2, "tampered"),
    "another version": (forged(PAYLOAD, version=entries.VERSION + 1), "version"),
    "an older version": (forged(PAYLOAD, version=0), "version"),
    "another key's": (forged(PAYLOAD, key=a_key(2)), "tampered"),
    "sealed with another secret": (forged(PAYLOAD, secret=bytes(32)), "tampered"),
    "something added": (forged(PAYLOAD) + b"x", "tampered"),
    "a length that lies": (forged(PAYLOAD, length=3), "tampered"),
    "a length beyond the end": (forged(PAYLOAD, length=2**32 - 1), "truncated"),
    "another coding": (forged(PAYLOAD, coding=1), "undecodable"),
    "no MessagePack": (forged(b"\xc1" * 50), "undecodable"),
    "other members": (forged(msgspec.msgpack.encode({"events": []})), "undecodable"),
    "members of other types": (forged(msgspec.msgpack.encode([1] * 16)), "undecodable"),
    "text that is no UTF-8": (forged(PAYLOAD.replace(b"chat", b"\xff\xfe\xff\xfe")), "undecodable"),
    "a bomb": (forged(zstandard.compress(bytes(1 << 26)), coding=1), "undecodable"),
    "half a bomb": (forged(zstandard.compress(PAYLOAD)[:-3], coding=1), "undecodable"),
}


@pytest.mark.parametrize(("sealed", "reason"), POISON.values(), ids=POISON)
def test_poison_is_a_miss_of_a_known_reason(sealed, reason):
    with pytest.raises(Unusable) as caught:
        SEALER.open(KEY, sealed)
    assert caught.value.reason == reason


def test_an_entry_knows_about_how_much_memory_it_takes():
    small, large = an_entry("x"), an_entry("x" * 100_000)
    assert 1_000 < small.size < 2_000
    assert 100_000 < large.size < 102_000
    many = an_entry(events=(b"x",) * 1_000)
    assert many.size > 40_000


def test_entries_of_before_have_not_all_that_entries_have_and_those_of_later_may_have_more():
    entry = an_entry(took=2.5, says_cached=True)
    members = msgspec.structs.astuple(entry)
    for made, expected in (
        (members[:-2], an_entry()),
        (members[:-1], an_entry(took=2.5)),
        ((*members, "of a later version"), entry),
    ):
        assert SEALER.open(KEY, SEALER.seal(KEY, made)) == expected


def test_what_is_told_of_an_entrys_usage_may_be_another_one():
    assert an_entry(usage=Usage(7, 3, 1)).usage_told == Usage(7, 3, 1)
    assert an_entry(usage=Usage(7, 3, 1), says_cached=True).usage_told == Usage(7, 3, 7)
