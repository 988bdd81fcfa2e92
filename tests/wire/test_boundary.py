"""Where a text may be cut so that a model can go on with it, and what of its continuation is new."""

import json

import pytest

from penstock.wire.boundary import (
    ANCHOR,
    LEAST_REPEATED,
    PREAMBLE,
    Mismatch,
    anchor_of,
    anchored,
    joined,
    safe_end,
    without_repetition,
)
from penstock.wire.sse import Splitter, fields

FENCES = ["```", "```py", "~~~", "~~~ py", "````md", "`", "``", "~"]
BEFORE_THEM = [
    "",
    "   ",
    "\t",
    "      ",
    "> ",
    ">",
    "> > ",
    "- ",
    "* ",
    "+ ",
    "1. ",
    "12) ",
    "- > ",
    "  1.\t",
    ">\t",
]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        (" \n\t ", ""),
        ("so", "so"),
        ("so ", "so"),
        ("so\n\n  ", "so"),
        ("so\u00a0\u2003", "so"),
        ("so é", "so é"),
        ("so 😀", "so 😀"),
        ("so \ud83d", "so"),
        ("so\ud83d\ud83d", "so"),
        ("so \ud83d\n", "so"),
    ],
)
def test_no_white_space_and_no_half_pair_is_shown_at_the_end(text, shown):
    assert text[: safe_end(text)] == shown


@pytest.mark.parametrize("after", ["", "\n", "\n\n", " \n", "\r\n"])
@pytest.mark.parametrize("before", BEFORE_THEM)
@pytest.mark.parametrize("fence", FENCES)
def test_a_fence_at_the_end_is_not_shown(fence, before, after):
    for said in ("Thus:\n", "Thus:\n\n", "Thus:\n```sh\n"):
        text = f"{said}{before}{fence}{after}"
        assert text[: safe_end(text)] == "Thus:"
    assert safe_end(f"{before}{fence}{after}") == 0


@pytest.mark.parametrize("before", BEFORE_THEM)
@pytest.mark.parametrize("line", ["so", "`code`", "~5", "-", "a ```", "1", "* a `b", ">", "-```", "1.```"])
def test_a_line_that_is_none_is_shown(line, before):
    for text in (f"Thus:\n{before}{line}", f"Thus:\n```py\n{before}{line}"):
        assert safe_end(text) == len(text.rstrip())


@pytest.mark.parametrize(
    ("delivered", "shown", "head", "new"),
    [
        ("one", 3, " two", " two"),
        ("one ", 3, " two", "two"),
        ("one ", 3, "two", "two"),
        ("one\n\n", 3, "\n", None),
        ("one\n\n", 3, "\n\ntwo", "two"),
        ("one ", 3, "", None),
        ("a\n```py\n", 1, "\n```", None),
        ("a\n```py\n", 1, "\n```py\nx = 1", "x = 1"),
        ("a\n```py\n", 1, "```py\nx = 1", "x = 1"),
        ("a\n\n```p", 1, "\n```python\n", "ython\n"),
        ("a \ud83d", 1, " \ud83d\ude00", "\ude00"),
    ],
)
def test_what_was_not_shown_is_not_delivered_twice(delivered, shown, head, new):
    assert joined(delivered, shown, head, whole=False) == new


@pytest.mark.parametrize("head", ["\n```rb\n", "\n```", "so", ""])
def test_a_continuation_that_does_not_write_it_again_is_refused(head):
    with pytest.raises(Mismatch):
        joined("a\n```py\n", 1, head, whole=True)


def test_a_short_continuation_that_ends_in_white_space_is_whole():
    assert joined("one\n\n", 3, "\n", whole=True) == ""


@pytest.mark.parametrize(
    "text", ["Thus: ", "Thus:\n> ```py\n", "Thus:\n- ```p", "so \ud83d", "so", "a\n\n```\n"]
)
def test_who_writes_on_from_what_was_shown_completes_the_text_however_it_comes(text):
    rest = {"\ud83d": "\ude00."}.get(text[-1], " and on")
    shown = safe_end(text)
    written = text[shown:] + rest
    for cut in range(len(written) + 1):
        new = joined(text, shown, written[:cut], whole=False)
        if new is not None:
            break
    assert text + new + written[cut:] == text + rest


REPEATED = "the gate at the penstock's head"


@pytest.mark.parametrize(
    ("delivered", "head", "new"),
    [
        (f"They close {REPEATED}", f"{REPEATED} slowly", " slowly"),
        (f"Open {REPEATED}. Close {REPEATED}", f"{REPEATED} slowly", f"{REPEATED} slowly"),
        ("so " + "=" * 40, "=" * 40 + " so", "=" * 40 + " so"),
        ("a b c d e f", "d e f g", "d e f g"),
        ("They close it", " slowly", " slowly"),
    ],
    ids=["once", "a refrain", "a rule", "too short", "nothing"],
)
def test_only_a_repetition_that_cannot_be_meant_is_left_out(delivered, head, new):
    assert without_repetition(delivered, head, whole=False) == new
    assert len(REPEATED) >= LEAST_REPEATED


def test_what_may_become_a_repetition_is_waited_for_but_not_beyond_its_end():
    delivered = f"They close {REPEATED}"
    assert without_repetition(delivered, REPEATED, whole=False) is None
    assert without_repetition(delivered, REPEATED, whole=True) == ""
    assert without_repetition(delivered, "", whole=False) == ""


def test_an_anchor_is_of_whole_words():
    text = "word " * 40 + "penstock  \n"
    anchor = anchor_of(text)
    assert len(anchor) <= ANCHOR
    assert anchor.split() == ["word"] * (len(anchor.split()) - 1) + ["penstock"]
    assert anchor_of("short \n") == "short"
    assert anchor_of(" \n") == ""


@pytest.mark.parametrize(
    ("delivered", "head", "new"),
    [
        ("as is said", "Sure: as is", None),
        ("as is said", "Sure: as is said here", " here"),
        ("as is said \n", "as is said ", None),
        ("as is said \n", "as is said \nhere", "here"),
        ("as is said ", "as is said, here", ", here"),
    ],
)
def test_what_is_said_before_the_anchor_is_left_out(delivered, head, new):
    assert anchored(delivered, anchor_of(delivered), head, whole=False) == new


def test_an_anchor_that_does_not_come_is_not_waited_for_for_ever():
    with pytest.raises(Mismatch):
        anchored("as is said", "as is said", "x" * (PREAMBLE + 11), whole=False)
    with pytest.raises(Mismatch):
        anchored("as is said", "as is said", "no", whole=True)


def test_a_character_that_comes_in_two_pieces_is_whole_before_it_is_a_text():
    """The bytes of one letter are split wherever a connection likes; an escape's halves are two letters here."""
    frame = 'data: {"text":"é😀"}\n\n'.encode()
    for cut in range(1, len(frame)):
        splitter = Splitter()
        (whole,) = [*splitter.feed(frame[:cut]), *splitter.feed(frame[cut:])]
        text = json.loads(fields(whole).data)["text"]
        assert safe_end(text) == len(text) == 2
    half = json.loads('"so \\ud83d"')
    assert safe_end(half) == 2
