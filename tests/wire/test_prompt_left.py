"""What was left out of a prompt, as a header says it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.wire.prompt_left import MOST_TOKENS, Left, read_stated

COUNTS = st.integers(1, 10**9)


@st.composite
def lefts(draw):
    left = Left()
    if draw(st.booleans()):
        left.whitespace = draw(COUNTS)
    if draw(st.booleans()):
        left.paragraphs, left.duplicates = draw(COUNTS), draw(COUNTS)
    if draw(st.booleans()):
        left.turns, left.history = draw(COUNTS), draw(COUNTS)
    left.before = draw(st.integers(0, MOST_TOKENS))
    left.after = draw(st.integers(0, left.before))
    return left


@given(lefts())
def test_what_is_stated_is_read(left):
    assert read_stated(left.stated()) == left
    assert sum(left.tokens_by_kind.values()) == left.tokens


@given(lefts(), lefts())
def test_two_who_leave_out_are_told_of_as_one(one, other):
    both = one.then(other)
    assert (both.before, both.after) == (one.before, other.after)
    assert both.turns == one.turns + other.turns
    assert both.history == one.history + other.history
    assert both.duplicates == one.duplicates + other.duplicates


@given(st.binary(max_size=200))
def test_no_bytes_are_a_defect(value):
    read_stated(value)


@pytest.mark.parametrize(
    "value",
    [
        b"tokens;before=1;after=2",
        b"tokens;before=%d;after=0" % (MOST_TOKENS + 1),
        b"tokens;before=1;after=0\n",
        b" tokens;before=1;after=0",
        b"tokens;before=1;after=0, ",
        b"tokens;before=1;after=0, tokens;before=1;after=0",
        b"history;count=1;bytes=2, whitespace;bytes=3, tokens;before=1;after=0",
        b"tokens;before=+1;after=0",
    ],
)
def test_what_cannot_be_is_not_read(value):
    assert read_stated(value) is None
