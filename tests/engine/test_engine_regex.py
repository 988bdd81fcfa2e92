"""Which regular expressions an answer can be ruled by, and that they stay what they were."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.engine.pattern import MAX_DEPTH
from penstock.engine.productions import of_pattern
from penstock.engine.regex import MAX_LETTERS, any_of, read
from penstock.errors import BadRequest

RULED = [
    r"[0-9]{3}-[0-9]{4}",
    r"^(yes|no)$",
    r"^yes$|^no$",
    r"\w{1,8}@\w{1,8}\.com",
    r"[äöü]{2}漢",
    r"a+?b",
    r"(?P<twice>ab){2}c",
    r"\.\*\[\]\{\}\\\^\$\|\?\+\(\)\-/",
    r"[^a-z\s]{3}",
    r"(a|)b",
    r"(?:a|b|)c?",
    r"\D\W\S",
    r"[\]\-\\^\[]{4}",
    r"[-a]{2}[a-]",
    r"[^]]{2}",
    r"[\x41-\x43]\u6f22",
    r"(ab?){1,3}",
    r"x{0}y",
    r"\d{2,}",
    r"((((a))))",
    "\t\n a\\t\\n",
    r"a{,3}b",
    r"(a|bc|def)(g|h)*i",
    r"[ -~]{5}",
    r"#\"'<>,;:=!%&~`@ {}",
    r".{1,9}a",
]


def written_anew(said):
    return of_pattern(read(said)).regex()


@pytest.mark.parametrize("expression", RULED)
@settings(max_examples=20)
@given(data=st.data())
def test_what_is_written_anew_matches_the_same(expression, data):
    """Python's own reading of both is the oracle."""
    text = data.draw(st.from_regex(expression, fullmatch=True) | st.text("ab-c \n9", max_size=6))
    wanted, written = re.compile(expression, re.ASCII), re.compile(written_anew(expression), re.ASCII)
    if (
        re.search(r"[^\S \t\n\r]|\$", text + expression[-1]) is None
    ):  # other blanks, and a newline before the end
        assert bool(wanted.fullmatch(text)) == bool(written.fullmatch(text))


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("", "empty"),
        ("()", "empty"),
        ("(a", "not closed"),
        ("a)", "not opened"),
        ("[a", "too early"),
        ("a\\", "too early"),
        ("*a", "nothing to repeat"),
        ("a**", "again"),
        ("a{2}{3}", "again"),
        ("(a?)*", "may be nothing"),
        ("a{3,2}", "smaller number first"),
        ("a{1,1001}", "repetitions"),
        ("[z-a]", "span"),
        ("(?=a)b", "looking around"),
        ("(?i)a", "flags"),
        (r"(a)\1", r"\\1"),
        (r"\bfoo", r"\\b"),
        (r"\p{L}", r"\\p"),
        (r"\x4", "hexadecimal"),
        ("a^b", "anchor"),
        ("(^a)", "anchor"),
        ("a$b", "anchor"),
        ("\x00", "cannot be written"),
        ("a" * (MAX_LETTERS + 1), "letters"),
        ("(" * (MAX_DEPTH + 1) + "a" + ")" * (MAX_DEPTH + 1), "deeper"),
        ("(.{1,500}){2}", "becomes more"),
        ("((a{100}){100}){100}", "becomes more"),
    ],
)
def test_what_a_library_might_not_survive_is_refused(expression, why):
    with pytest.raises(BadRequest, match=why) as caught:
        read(expression, "guided_regex")
    assert caught.value.param == "guided_regex"


@given(st.text(st.sampled_from("ab^$.|?*+()[]{}\\-0123,:<>P=!wds漢\n"), max_size=20))
def test_whatever_is_asked_is_refused_or_is_an_expression(text):
    try:
        written = written_anew(text)
    except BadRequest:
        return
    assert re.compile(written)


@given(
    st.lists(
        st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S")), min_size=1, max_size=8),
        min_size=1,
        max_size=5,
    )
)
def test_a_choice_matches_its_texts_and_nothing_else(texts):
    written = re.compile(of_pattern(any_of(texts)).regex())
    assert all(written.fullmatch(text) for text in texts)
    assert not written.fullmatch(texts[0] + "\n")


@pytest.mark.parametrize("texts", [[], ["a", ""]])
def test_a_choice_of_nothing_is_none(texts):
    with pytest.raises(BadRequest):
        any_of(texts, "guided_choice")
