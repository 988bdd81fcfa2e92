"""Prompts of a given length, cheaply: slices of one long text.

A token is 4 bytes, as the simulator counts.  Calls whose trace knows their blocks get the same 512 tokens for
the same id, so that whatever caches prefixes sees the reuse that production had; other prompts begin with a
number of their own and are all different.
"""

from __future__ import annotations

import functools

from penstock.lab.text import tokens
from penstock.lab.trace import BLOCK_TOKENS, TraceCall
from penstock.lab.transcript import BYTES_PER_TOKEN

_BLOCK = BLOCK_TOKENS * BYTES_PER_TOKEN
_STRIDE = 7_919  # a prime, so that neighbours begin at different words


@functools.cache
def _source() -> bytes:
    """ASCII without anything that JSON would escape, half a megabyte."""
    return b"".join(tokens(0, 0, 80_000)).decode().encode("ascii", "replace")


def _stretch(offset: int, length: int) -> bytes:
    source = _source()
    offset %= len(source)
    part = source[offset : offset + length]
    while len(part) < length:
        part += source[: length - len(part)]
    return part


def prompt(call: TraceCall, index: int, salt: str = "") -> bytes:
    """The text of one call, ``4 * input_tokens`` bytes of ASCII.

    :param index: of the call in its trace
    :param salt: another salt, other prompts: for a second replay that must find nothing cached
    """
    length = max(1, call.input_tokens) * BYTES_PER_TOKEN
    if not call.blocks:
        return (b"%b%x " % (salt.encode(), index) + _stretch(index * _STRIDE, length))[:length]
    blocks = [
        (b"%b#%x " % (salt.encode(), block) + _stretch(block * _STRIDE, _BLOCK))[:_BLOCK]
        for block in call.blocks
    ]
    text = b"".join(blocks)
    if len(text) < length:  # the trace names fewer blocks than the length needs
        text += _stretch(call.blocks[-1] * _STRIDE, length - len(text))
    return text[:length]
