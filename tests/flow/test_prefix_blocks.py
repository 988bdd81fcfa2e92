import tracemalloc

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from penstock.flow import prefix_blocks
from penstock.flow.prefix_blocks import (
    BLOCK_BYTES,
    BLOCK_TOKENS,
    LIFETIME,
    MANY,
    MAX_BLOCKS,
    MAX_BYTES,
    Record,
    cut,
)


def text(count, name="a"):
    """So many blocks, and a bit."""
    return b"".join((b"%s %d " % (name.encode(), i)).ljust(BLOCK_BYTES, b".") for i in range(count)) + b"end"


def prompt(count, name="a"):
    return cut([text(count, name)], b"")


def record(*prompts, now=0.0):
    made = Record()
    for each in prompts:
        made.enter(each, now)
    return made


# ---- cutting ----


def test_prompts_have_the_blocks_in_common_that_their_beginnings_have():
    one, other = cut([text(3), text(2, "b")], b""), cut([text(3), text(4, "c")], b"")
    assert one.chain[:3] == other.chain[:3]
    assert not set(one.chain[3:]) & set(other.chain)


def test_the_same_block_after_another_beginning_is_another_block():
    same = b"x" * BLOCK_BYTES
    assert not set(cut([b"a" * BLOCK_BYTES, same], b"").chain) & set(
        cut([b"b" * BLOCK_BYTES, same], b"").chain
    )


def test_a_block_that_is_repeated_is_each_time_another_one():
    assert len(set(cut([b"x" * BLOCK_BYTES * 50], b"").chain)) == 50


def test_where_a_prompt_is_divided_into_parts_makes_no_difference():
    whole = text(5)
    for at in (0, 1, BLOCK_BYTES, 2_500):
        assert cut([whole[:at], msgspec.Raw(whole[at:])], b"").chain == cut([whole], b"").chain


def test_another_seed_makes_other_blocks():
    assert not set(cut([text(3)], b"m").chain) & set(cut([text(3)], b"n").chain)


def test_a_prompt_shorter_than_a_block_has_none_but_is_told_from_others():
    one, other = cut([b"hello"], b""), cut([b"bye"], b"")
    assert one.chain == other.chain == ()
    assert one.after(0) != other.after(0)


def test_of_a_huge_prompt_no_more_than_its_beginning_is_looked_at():
    huge = cut([b"x" * BLOCK_BYTES * (MAX_BLOCKS + 3), b"y" * 10_000_000], b"")
    assert len(huge.chain) == MAX_BLOCKS
    assert huge.tokens == ((MAX_BLOCKS + 3) * BLOCK_BYTES + 10_000_000) / 4
    assert huge.end == cut([b"x" * BLOCK_BYTES * MAX_BLOCKS, b"z"], b"").end


@given(st.lists(st.binary(max_size=3_000), max_size=5), st.binary(max_size=2_000))
def test_a_longer_prompt_has_all_blocks_of_a_shorter_one(pieces, more):
    shorter, longer = cut(pieces, b"s"), cut([*pieces, more], b"s")
    assert longer.chain[: len(shorter.chain)] == shorter.chain
    assert shorter.beyond(len(shorter.chain)) < BLOCK_TOKENS


# ---- what a server was sent ----


def test_what_was_sent_is_known_as_far_as_it_is_common():
    made = record(prompt(5))
    assert made.known(prompt(5), 1.0) == 5
    assert made.known(prompt(8), 1.0) == 5
    assert made.known(prompt(2), 1.0) == 2
    assert made.known(prompt(5, "b"), 1.0) == 0
    assert made.known(cut([text(3)[:-3], text(4, "b")], b""), 1.0) == 3


def test_after_its_time_a_block_is_taken_to_be_gone_unless_it_is_sent_again():
    made = record(prompt(5))
    assert made.known(prompt(5), LIFETIME) == 5
    assert made.known(prompt(5), LIFETIME + 1.0) == 0
    made.enter(prompt(2), LIFETIME)
    assert made.known(prompt(5), LIFETIME + 1.0) == 2


def test_what_came_to_nothing_is_not_known():
    made = record(prompt(3))
    made.enter(prompt(6), 1.0)
    made.remove(prompt(6).chain[3:])
    assert made.known(prompt(6), 1.0) == 3


def test_a_beginning_that_many_conversations_have_is_common_and_a_conversation_is_not():
    made = record(prompt(4))
    for turn in range(5, 12):  # a conversation goes on
        made.enter(prompt(turn), 0.0)
    assert made.common(prompt(12), made.known(prompt(12), 0.0)) == 0
    for i in range(MANY):
        made.enter(cut([text(2)[:-3], text(3, f"other {i}")], b""), 0.0)
    assert made.common(prompt(12), made.known(prompt(12), 0.0)) == 2
    assert made.common(prompt(12, "b"), 0) == 0


def test_millions_of_distinct_prompts_and_repeated_blocks_keep_within_the_bytes(monkeypatch):
    monkeypatch.setattr(prefix_blocks, "_KEPT_BLOCKS", prefix_blocks._KEPT_BLOCKS // 16)
    monkeypatch.setattr(prefix_blocks, "_KEPT_PARTINGS", prefix_blocks._KEPT_PARTINGS // 16)
    made = Record()
    tracemalloc.start()
    try:
        # A third each: new prompts, ones that part from each other, one block again and again.
        for i in range(3_000):
            made.enter(cut([b"%d" % i * BLOCK_BYTES], b""), float(i))
            made.enter(cut([text(i % 90, "t")[:-3], b"%d" % i * BLOCK_BYTES], b""), float(i))
            made.enter(cut([b"x" * (i % 100) * BLOCK_BYTES], b""), float(i))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < MAX_BYTES / 16 * 1.1
    assert held > MAX_BYTES / 16 * 0.6  # or the figures are not those of what is held


def test_partings_are_bounded_by_themselves(monkeypatch):
    monkeypatch.setattr(prefix_blocks, "_KEPT_PARTINGS", 3)
    made = record(prompt(9))
    for at in range(1, 8):  # it is parted from after each of its blocks
        for i in range(MANY):
            made.enter(cut([text(9)[: at * BLOCK_BYTES], text(2, f"{at} {i}")], b""), 0.0)
    commons = {made.common(prompt(9), known) for known in range(10)}
    assert commons == {0, 5, 6, 7}


def test_what_is_sent_again_stays_longer_than_what_came_after_it(monkeypatch):
    monkeypatch.setattr(prefix_blocks, "_KEPT_BLOCKS", 10)
    made = record(prompt(4), prompt(4, "b"), prompt(4))
    made.enter(prompt(5, "c"), 1.0)
    assert made.known(prompt(4), 1.0) == 4
    assert made.known(prompt(4, "b"), 1.0) == 1


def test_the_first_blocks_of_a_prompt_stay_longest(monkeypatch):
    monkeypatch.setattr(prefix_blocks, "_KEPT_BLOCKS", 10)
    made = record(prompt(6))
    made.enter(prompt(7, "b"), 1.0)
    assert made.known(prompt(6), 1.0) == 3
    assert made.known(prompt(7, "b"), 1.0) == 7
