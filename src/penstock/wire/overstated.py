"""The most that an answer can have used, by what was asked and what came; a figure beyond that is no measure of it.

A server's defect, or a proxy's, can tell of a billion tokens in an answer of ten words.  Taken for true it would use
up a month's budget of whoever asked.  The bounds here are wide, because what is honest must never be cut: a token is
a byte at least, so what was sent and what came are bounds, and to them comes what a provider may add unseen.
"""

from __future__ import annotations

import re

import msgspec

from penstock.messages import Call, Endpoint, Usage
from penstock.wire.not_json import NOT_JSON

# Tokens of a prompt beside its text: images, files, earlier turns; two of the longest usual windows.
ADDED = 2**21
# Tokens of thinking that is kept back, and that some providers do not count within what was asked for.
HIDDEN = 2**17
LONGEST = 2**20  # tokens of an answer for which nobody set an end
TURNS = 16  # of a model that uses its provider's own tools, within one answer; each reads and writes anew

# Tools that a provider runs itself, and models that have them: it asks the model again with what they brought.
_RUNS_TOOLS = re.compile(
    rb'"[\w./:-]*(?:search|fetch|interpreter|execution|computer|mcp|research|browser|plugins|shell|compound|online)'
    rb'[\w./:-]*"'
)
_SOUND = frozenset({Endpoint.TRANSCRIPTIONS, Endpoint.TRANSLATIONS})
_BYTE_OF_SOUND = 10  # milliseconds; 800 bits a second are less than any codec of speech needs
_SILENCE = 3_600_000  # milliseconds that take no bytes


def believable(call: Call, told: Usage, sent: int, received: int) -> Usage:
    """``told``, or where that is more than can be, the most that can be, marked as estimated.

    :param sent: bytes of the request
    :param received: bytes of the answer
    """
    inputs, output = told.input_tokens, told.output_tokens
    if inputs > sent + ADDED:
        inputs = min(inputs, sent + ADDED * _turns(call))
    if output > HIDDEN:
        asked = call.max_output_tokens
        longest = LONGEST if asked is None else asked + HIDDEN
        if output > longest + received:
            output = min(output, longest * _choices(call) * _turns(call) + received)
    units = told.units
    if call.endpoint in _SOUND:
        units = min(units, sent * _BYTE_OF_SOUND + _SILENCE)
    elif call.endpoint is Endpoint.RERANK:
        units = min(units, sent)  # a search covers a document at least
    if (inputs, output, units) == (told.input_tokens, told.output_tokens, told.units):
        return told
    return msgspec.structs.replace(
        told,
        input_tokens=inputs,
        output_tokens=output,
        cached_input_tokens=min(told.cached_input_tokens, inputs),
        cache_write_tokens=min(told.cache_write_tokens, inputs),
        cache_write_1h_tokens=min(told.cache_write_1h_tokens, inputs),
        audio_input_tokens=min(told.audio_input_tokens, inputs),
        image_input_tokens=min(told.image_input_tokens, inputs),
        reasoning_tokens=min(told.reasoning_tokens, output),
        audio_output_tokens=min(told.audio_output_tokens, output),
        units=units,
        estimated=True,
    )


def _turns(call: Call) -> int:
    return TURNS if call.endpoint.opaque or _RUNS_TOOLS.search(call.body) else 1


def _choices(call: Call) -> int:
    """Answers that were asked for at once."""
    found = 1
    for name in ("n", "best_of"):
        try:
            found = max(found, msgspec.json.decode(call.fields.get(name, b"1"), type=int))
        except NOT_JSON:
            continue
    return found
