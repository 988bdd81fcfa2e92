import pytest

from penstock.cli._terminal import harmless, one_line


@pytest.mark.parametrize("sequence", ["\x1b]52;c;eA==\x07", "\x1b[2J", "\x9b2J", "a\rb", "\x7f\b"])
def test_a_terminal_is_not_told_what_to_do(sequence):
    assert not any(ord(sign) < 0x20 or 0x7F <= ord(sign) < 0xA0 for sign in harmless(sequence))


def test_what_belongs_in_one_line_stays_there():
    assert (
        one_line("a\n\tb\x1b")
        == "a\N{REPLACEMENT CHARACTER}" + "\N{REPLACEMENT CHARACTER}b" + "\N{REPLACEMENT CHARACTER}"
    )


def test_text_is_shown_as_it_is():
    text = "Ünïcödé, 汉字 🙂\n\tand an indented line"
    assert harmless(text) == text
