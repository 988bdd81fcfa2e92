"""Where a body is cut: by its content, so that changes move no cut but those beside them."""

import random

import pytest

from penstock.client import _cutting
from penstock.client._cutting import LEAST, MOST, blocks

MB = 1_000_000
WORDS = [bytes(random.Random(n).choices(b"abcdefghijklmnopqrstuvwxyz", k=n % 9 + 2)) for n in range(2_000)]
TEXT = b" ".join(random.Random(5).choices(WORDS, k=1_500_000))
NOISE = random.Random(6).randbytes(8 * MB)
EVEN = bytes(5 * MB)


@pytest.mark.parametrize("body", [b"", b"x", TEXT[:LEAST], TEXT[: LEAST + 1], TEXT, NOISE, EVEN, b"ab" * MB])
def test_the_pieces_are_the_body_and_of_bearable_size(body):
    pieces = list(blocks(body))
    assert b"".join(pieces) == body
    assert all(LEAST <= len(piece) <= MOST for piece in pieces[:-1])
    assert all(pieces)


@pytest.mark.parametrize("body", [TEXT, NOISE], ids=["text", "noise"])
@pytest.mark.parametrize("place", [0, 1, 3 * MB, -1])
@pytest.mark.parametrize("change", [b"", b"!", b"something that was inserted " * 999])
def test_a_change_moves_only_what_is_beside_it(body, place, change):
    """Whatever is inserted, or left out."""
    place %= len(body)
    changed = body[:place] + change + body[place + 100 :]
    before = set(blocks(body))
    new = [piece for piece in blocks(changed) if piece not in before]
    assert len(before) > 6
    assert len(new) <= 3


def test_a_place_is_judged_by_what_is_before_it_alone(monkeypatch):
    """And by nothing of how the body is looked through."""
    whole = list(blocks(TEXT))
    monkeypatch.setattr(_cutting, "_STEP", 10_007)
    assert list(blocks(TEXT)) == whole


def test_blocks_are_not_all_as_long_as_they_may_be():
    for body in (TEXT, NOISE):
        assert sum(len(piece) == MOST for piece in blocks(body)) <= 1
