"""How a provider is asked afterwards what an answer has cost, and what it tells.

Two forms, by the capability ``usage_lookup``:

* ``generation``, OpenRouter's: each answer's head has ``X-Generation-Id``, and ``GET {base}/generation?id=ID`` tells
  tokens and cost, also of answers that were cut, once they have been accounted for; 404 until then.
* ``stored``, OpenAI's: a chat completion that was made with ``store: true``, or a response that was not made with
  ``store: false``, can be had once more by the id that its first event or its body begins with.

No provider can be asked by an id of ours.  So of a call that broke off before its answer's head came, nothing can be
asked: its row stays an estimate.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal
from urllib.parse import quote

import msgspec

from penstock.ledger.prices import UNITS_PER_DOLLAR
from penstock.messages import Call, Endpoint, Event, Headers, Usage
from penstock.wire.not_json import NOT_JSON
from penstock.wire.overstated import ADDED, TURNS
from penstock.wire.usage import usage_of_body

Form = Literal["generation", "stored"]

MAX_ID = 200  # characters
_MOST_DOLLARS = 10_000  # what is more is no price of an answer
_MOST_TOKENS = ADDED * TURNS  # what is more is no count of them; what was asked is not at hand any more
_HEADER = b"x-generation-id"
_WITHIN = 1_024  # bytes of an answer's beginning in which its id stands
_ID = re.compile(rb'"id"\s*:\s*"([\x21\x23-\x5b\x5d-\x7e]{1,200})"')
_STORED = {Endpoint.CHAT.label: Endpoint.CHAT, Endpoint.RESPONSES.label: Endpoint.RESPONSES}


class Told(msgspec.Struct, frozen=True):
    """What the provider has charged; ``cost`` in 1e-12 US dollars, None: it tells tokens only."""

    usage: Usage
    cost: int | None = None


class _Generation(msgspec.Struct):
    native_tokens_prompt: int
    native_tokens_completion: int
    native_tokens_cached: int | None = None
    native_tokens_reasoning: int | None = None
    total_cost: float | None = None


class _Answer(msgspec.Struct):
    data: _Generation


_generation = msgspec.json.Decoder(_Answer).decode


def id_in_head(form: Form, headers: Headers) -> str:
    """The answer's id, if its head tells it; else empty."""
    name = headers.get(_HEADER, b"") if form == "generation" else b""
    return name.decode("latin-1") if len(name) <= MAX_ID else ""


def id_in(form: Form, call: Call, first: Event) -> str:
    """The id of an answer that begins so, if it can be asked for by that; else empty."""
    if form != "stored" or not is_stored(call.endpoint, call.fields):
        return ""
    found = _ID.search(first, 0, _WITHIN)
    return found[1].decode("ascii") if found is not None else ""


def is_stored(endpoint: Endpoint, fields: Mapping[str, msgspec.Raw]) -> bool:
    """Whether OpenAI keeps the answer to such a call."""
    store = bytes(fields.get("store", b""))
    return (
        store == b"true"
        if endpoint is Endpoint.CHAT
        else endpoint is Endpoint.RESPONSES and store != b"false"
    )


def target(form: Form, endpoint: str, answer: str) -> str:
    """The path, below the API's base, and query that the answer is asked for with; empty: it cannot be."""
    if form == "generation":
        return f"/generation?id={quote(answer, safe='')}"
    stored = _STORED.get(endpoint)
    return f"{stored.path.removeprefix('/v1')}/{quote(answer, safe='')}" if stored is not None else ""


def read(form: Form, endpoint: str, status: int, body: bytes) -> Told | None:
    """What the provider tells; None: nothing that can be used, or not yet."""
    if status != 200:
        return None
    try:
        return _read_generation(body) if form == "generation" else _read_stored(endpoint, body)
    except NOT_JSON:
        return None


def _read_generation(body: bytes) -> Told | None:
    data = _generation(body).data
    cached, reasoning = data.native_tokens_cached or 0, data.native_tokens_reasoning or 0
    counts = (data.native_tokens_prompt, data.native_tokens_completion, cached, reasoning)
    if not all(0 <= count <= _MOST_TOKENS for count in counts):
        return None
    cost = data.total_cost
    if cost is not None and not 0 <= cost < _MOST_DOLLARS:
        return None
    usage = Usage(counts[0], counts[1], cached_input_tokens=cached, reasoning_tokens=reasoning)
    return Told(usage, None if cost is None else round(cost * UNITS_PER_DOLLAR))


def _read_stored(endpoint: str, body: bytes) -> Told | None:
    stored = _STORED.get(endpoint)
    usage = usage_of_body(stored, body) if stored is not None else None
    if usage is None or usage.estimated or max(usage.input_tokens, usage.output_tokens) > _MOST_TOKENS:
        return None
    return Told(usage)
