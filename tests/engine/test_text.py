"""Text comes with exactly the ids that it was made of."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.engine.text import TextStream, text_of

PIECES = [bytes([byte]) for byte in range(256)]  # a token for each byte
WHOLE = "a 漢 é 🙂 <end> b"


def decode(ids):
    return bytes(ids).decode("utf-8", "replace")


@pytest.fixture(params=["bytes", "window"])
def stream(request):
    pieces = PIECES if request.param == "bytes" else None
    return lambda stops=(), prompt=(): TextStream(text_of(pieces, decode, prompt), stops)


def read(stream, ids, step=1):
    """All pieces, and the end's own."""
    told = []
    for at in range(0, len(ids), step):
        told += stream.feed(ids[at : at + step], [])
        if stream.stopped:
            return told
    return [*told, stream.end()]


@pytest.mark.parametrize("step", [1, 2, 5, 100])
def test_ids_and_text_are_whole(stream, step):
    told = read(stream(), list(WHOLE.encode()), step)
    assert "".join(piece.text for piece in told) == WHOLE
    assert bytes(token for piece in told for token in piece.ids).decode() == WHOLE


def test_each_piece_is_the_text_of_its_ids(stream):
    for piece in read(stream(), list(WHOLE.encode())):
        assert bytes(piece.ids).decode() == piece.text


@given(st.binary(max_size=40))
def test_bytes_that_are_no_text_are_told_all_the_same(data):
    told = read(TextStream(text_of(PIECES, decode, ())), list(data))
    assert bytes(token for piece in told for token in piece.ids) == data


@given(st.text(max_size=20), st.text(max_size=20))
def test_a_cut_between_two_pieces_goes_on_with_the_same_text(before, after):
    ids = list((before + after).encode("utf-8", "surrogatepass"))
    told = read(TextStream(text_of(PIECES, decode, ())), ids)
    for count in range(len(told)):
        known = [token for piece in told[:count] for token in piece.ids]
        rest = read(TextStream(text_of(PIECES, decode, known)), ids[len(known) :])
        whole = "".join(piece.text for piece in [*told[:count], *rest])
        assert whole == "".join(piece.text for piece in told)


@pytest.mark.parametrize("stop", ["<end>", "d>", ">", "nd> b"])
@pytest.mark.parametrize("step", [1, 3, 100])
def test_nothing_of_a_stop_sequence_is_told(stream, stop, step):
    reading = stream((stop, "never"))
    told = read(reading, list(WHOLE.encode()), step)
    assert "".join(piece.text for piece in told) == WHOLE[: WHOLE.index(stop)]
    assert reading.stopped


def test_the_first_of_two_stop_sequences_counts(stream):
    told = read(stream(("<end>", "é")), list(WHOLE.encode()))
    assert "".join(piece.text for piece in told) == "a 漢 "


def test_what_only_began_like_a_stop_sequence_is_told(stream):
    told = read(stream(("<endless>",)), list(WHOLE.encode()))
    assert "".join(piece.text for piece in told) == WHOLE


def test_what_may_be_the_beginning_of_a_stop_sequence_waits(stream):
    reading = stream(("<end>",))
    assert [piece.text for piece in reading.feed(list(b"ab<e"), [])] == ["a", "b"]
    assert [piece.text for piece in reading.feed(list(b"x"), [])] == ["<", "e", "x"]


@given(
    st.lists(st.sampled_from("ab"), max_size=12), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3)
)
def test_stop_sequences_are_found_as_in_the_whole_text(letters, stops):
    text = "".join(letters)
    told = read(TextStream(text_of(PIECES, decode, ()), stops), list(text.encode()))
    # An answer ends as soon as one is there: of those that end first, the one that began first.
    ends = [at + len(stop) for stop in stops if (at := text.find(stop)) >= 0]
    cut = text[: min(ends)] if ends else text
    begins = [at for stop in stops if (at := cut.find(stop)) >= 0]
    assert "".join(piece.text for piece in told) == (cut[: min(begins)] if begins else text)


def test_log_probabilities_stay_with_their_tokens(stream):
    reading = stream()
    (piece,) = reading.feed(list("漢".encode()), [-1.0, -2.0, -3.0])
    assert (piece.text, piece.logprobs) == ("漢", [-1.0, -2.0, -3.0])


def test_the_text_of_a_word_depends_on_what_stands_before_it():
    """As with tokenizers that leave out a space at the beginning of a text."""
    words = ["Hello", "world"]

    def joined(ids):
        return " ".join(words[token] for token in ids)

    alone, after = TextStream(text_of(None, joined, ())), TextStream(text_of(None, joined, (0,)))
    assert [piece.text for piece in alone.feed([0, 1], [])] == ["Hello", " world"]
    assert [piece.text for piece in after.feed([1], [])] == [" world"]
