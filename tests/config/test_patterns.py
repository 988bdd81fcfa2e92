"""Which entry a model's name means."""

from hypothesis import given
from hypothesis import strategies as st

from penstock.config.patterns import match, resolve

text = st.text(alphabet="ab-", max_size=6)


@given(text, text, text)
def test_a_star_stands_for_any_text_between_head_and_tail(head, middle, tail):
    assert match(f"{head}*{tail}", head + middle + tail) == middle


@given(text, text, text)
def test_what_the_star_stands_for_gives_the_name_back(head, tail, name):
    found = match(f"{head}*{tail}", name)
    if found is None:
        assert not (name.startswith(head) and name.endswith(tail) and len(name) >= len(head + tail))
    else:
        assert head + found + tail == name


def test_head_and_tail_do_not_share_letters():
    assert match("ab*ba", "aba") is None
    assert match("ab*ba", "abba") == ""


def test_an_exact_name_goes_before_every_pattern_and_the_longest_pattern_before_the_rest():
    names = ["*", "gpt-*", "gpt-4*", "gpt-4o", "*-4o"]
    assert resolve(names, "gpt-4o") == "gpt-4o"
    assert resolve(names, "gpt-4.1") == "gpt-4*"
    assert resolve(names, "gpt-5") == "gpt-*"
    assert resolve(names, "o3") == "*"
    assert resolve(["a"], "b") is None


def test_of_equally_long_patterns_the_first_wins():
    assert resolve(["a*", "*b"], "ab") == "a*"
    assert resolve(["*b", "a*"], "ab") == "*b"
