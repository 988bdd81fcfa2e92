from __future__ import annotations

from penstock.lab.text import SPELT, salted, tokens

DIGEST = 0x0123456789ABCDEF
RING = 65_536


def joined(digest, start, stop):
    return b"".join(tokens(digest, start, stop)).decode()


def test_the_text_is_the_same_on_every_machine():
    assert joined(DIGEST, 0, 8) == "vosos rizal mïférén hekium rehel nevium vatat liteum"


def test_a_stretch_is_the_same_however_it_is_cut():
    whole = tokens(DIGEST, 0, 300)
    for cut in (0, 1, SPELT - 1, SPELT, SPELT + 1, 299):
        assert tokens(DIGEST, 0, cut) + tokens(DIGEST, cut, 300) == whole
    assert [tokens(DIGEST, i, i + 1)[0] for i in range(300)] == whole


def test_texts_go_on_past_the_end_of_the_ring():
    last = 0xFFFF << 48
    assert len(tokens(last, 0, 3 * RING)) == 3 * RING
    assert tokens(last, RING, RING + 9) == tokens(last, 0, RING + 9)[-9:]


def test_every_part_of_the_digest_changes_the_opening():
    opening = joined(DIGEST, 0, SPELT + 8)
    for bit in range(64):
        assert joined(DIGEST ^ 1 << bit, 0, SPELT + 8) != opening


def test_words_are_short_and_need_no_escaping_and_some_are_not_ascii():
    words = [token.decode().strip() for token in tokens(DIGEST, 0, RING)]
    assert max(map(len, words)) <= 7
    assert min(map(len, words)) >= 2
    assert all(word.isalpha() for word in words)
    assert 0.01 < sum(not word.isascii() for word in words) / len(words) < 0.1


def test_a_salt_makes_another_text_and_none_makes_the_same():
    assert salted(DIGEST, 0) == DIGEST
    assert len({salted(DIGEST, salt) for salt in range(2_000)}) == 2_000
    assert all(0 <= salted(DIGEST, salt) < 1 << 64 for salt in range(2_000))
