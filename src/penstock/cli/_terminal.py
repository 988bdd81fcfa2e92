"""Text of somebody else, on a terminal."""

from __future__ import annotations

# ECMA-48: C0 and C1 but for tab and line feed, and DEL.  With them a text moves the cursor over what stands there, writes
# to the clipboard, or has the terminal type something.
_OBEYED = dict.fromkeys({*range(0x20), *range(0x7F, 0xA0)} - {0x09, 0x0A}, "\N{REPLACEMENT CHARACTER}")
_IN_A_LINE = _OBEYED | dict.fromkeys((0x09, 0x0A, 0x2028, 0x2029), "\N{REPLACEMENT CHARACTER}")


def harmless(text: str) -> str:
    """The text with U+FFFD for each character that a terminal would obey instead of showing it."""
    return text.translate(_OBEYED)


def one_line(text: str) -> str:
    """The same for a text that stands in a line, or a table's cell, beside others: it begins no line of its own."""
    return text.translate(_IN_A_LINE)
