"""The vocabulary: what the parts of Penstock say to each other.

A **call** is one request of one caller.  It is answered from a **generation**, the append-only log of
the **events** of one answer, which one or more **attempts** at upstreams fill.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from math import inf
from typing import Any, Protocol, TypeAlias

import msgspec

from penstock.errors import Window

Event: TypeAlias = bytes
"""One entry of a generation's log, in the dialect of its endpoint.

For a streamed answer: one whole SSE frame, its blank line included, without an ``id:`` line (the
reader adds it: the id is the event's index in the log).  For a plain answer: the body, as one event.
"""

Headers: TypeAlias = Mapping[bytes, bytes]
"""Header fields: names in lower case; a repeated field's values joined by ``", "``."""


class Dialect(enum.Enum):
    OPENAI = "openai"
    ANTHROPIC = "anthropic"


class Endpoint(enum.Enum):
    """The operations that are relayed: dialect, path, whether a call may ask for a stream, whether it is opaque, its unit.

    What is **opaque** goes through as bytes: no other API has a form for it, and the gateway reads of a request the
    model's name and of an answer what it used.  A request may be a form, an answer may be sound, or a stream if its
    upstream chooses: what was asked for does not count.

    The **unit** is what ``Usage.units`` of such a call are, where its provider charges for something but tokens.
    """

    CHAT = (Dialect.OPENAI, "/v1/chat/completions", True)
    COMPLETIONS = (Dialect.OPENAI, "/v1/completions", True)
    EMBEDDINGS = (Dialect.OPENAI, "/v1/embeddings", False)
    RESPONSES = (Dialect.OPENAI, "/v1/responses", True)
    INPUT_TOKENS = (Dialect.OPENAI, "/v1/responses/input_tokens", False)
    COMPACT = (Dialect.OPENAI, "/v1/responses/compact", False)
    MESSAGES = (Dialect.ANTHROPIC, "/v1/messages", True)
    COUNT_TOKENS = (Dialect.ANTHROPIC, "/v1/messages/count_tokens", False)
    MODERATIONS = (Dialect.OPENAI, "/v1/moderations", False, True)
    IMAGES_GENERATIONS = (Dialect.OPENAI, "/v1/images/generations", False, True, "images")
    IMAGES_EDITS = (Dialect.OPENAI, "/v1/images/edits", False, True, "images")
    IMAGES_VARIATIONS = (Dialect.OPENAI, "/v1/images/variations", False, True, "images")
    SPEECH = (Dialect.OPENAI, "/v1/audio/speech", False, True, "characters")
    TRANSCRIPTIONS = (Dialect.OPENAI, "/v1/audio/transcriptions", False, True, "milliseconds")
    TRANSLATIONS = (Dialect.OPENAI, "/v1/audio/translations", False, True, "milliseconds")
    RERANK = (Dialect.OPENAI, "/v1/rerank", False, True, "searches")

    dialect: Dialect
    path: str
    streams: bool
    opaque: bool
    unit: str
    label: str

    __hash__ = object.__hash__  # Enum's own is a Python function, and endpoints are keys on the hot path

    def __init__(
        self, dialect: Dialect, path: str, streams: bool, opaque: bool = False, unit: str = ""
    ) -> None:
        self.dialect = dialect
        self.path = path
        self.streams = streams
        self.opaque = opaque
        self.unit = unit
        self.label = self.name.lower()


BY_PATH = {endpoint.path: endpoint for endpoint in Endpoint}
"""Every endpoint, by its path."""


class Usage(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What one answer used: tokens, and what else its provider charges for.

    ``input_tokens`` counts the whole prompt and includes ``cached_input_tokens`` (read from the
    provider's prompt cache), ``cache_write_tokens`` and ``audio_input_tokens``; ``output_tokens``
    includes ``reasoning_tokens`` and ``audio_output_tokens``; ``cache_write_tokens`` includes
    ``cache_write_1h_tokens``, which are kept for an hour, and ``input_tokens`` includes ``image_input_tokens``.
    ``units`` are what is not counted in tokens: images of the endpoints of images, milliseconds of sound of
    transcriptions and translations, characters of speech, searches of rerank (``Endpoint.unit``).  (Anthropic
    reports the cached parts beside ``input_tokens``; ``wire`` adds them up.)  ``estimated`` says that at least
    one figure was counted by us, because the provider's own never came.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    audio_input_tokens: int = 0
    audio_output_tokens: int = 0
    estimated: bool = False
    cache_write_1h_tokens: int = 0
    image_input_tokens: int = 0
    units: int = 0


class Outcome(enum.Enum):
    """How an attempt ended; every ledger row is settled with exactly one of them."""

    COMPLETED = "completed"  # finish reason and terminator came
    PARTIAL = "partial"  # the upstream broke after the first token
    CANCELLED = "cancelled"  # the last reader left, or the caller cancelled
    FAILED = "failed"  # no token came
    HEDGED_AWAY = "hedged_away"
    CACHED = "cached"  # answered by a kept answer
    JOINED = "joined"  # ... by the answer to an identical call that was under way
    ATTACHED = "attached"  # ... by the answer to the call that this one repeated
    CONTINUED = "continued"

    __hash__ = object.__hash__  # as of endpoints


SAVING = frozenset({Outcome.CACHED, Outcome.JOINED, Outcome.ATTACHED})
"""Outcomes of calls for which no upstream was asked: the row's usage is what was saved, and it costs nothing."""


class Tenant(msgspec.Struct, frozen=True):
    """Whom a key belongs to, and what it may do.  ``models`` holds patterns; empty: every model."""

    name: str = "default"
    key_name: str = "anonymous"
    tier: str = "standard"
    models: tuple[str, ...] = ()


class Reservation(Protocol):
    """What a call was allowed to use, until it is known what it did use.

    It is held once by the caller's request, and once more by the producer of its answer, if that is asked
    for; when both have let go, what it still holds is free again.

    :ivar settled: whether it is known what it did use
    """

    settled: bool

    def hold(self) -> None:
        """One more holds it."""

    def settle(self, usage: Usage, cost: int) -> None:
        """What upstreams delivered, and its cost in 1e-12 US dollars.  Only the first time counts."""

    def release(self) -> None:
        """One less holds it."""

    def hand_on(self) -> Reservation:
        """Tokens and money go over to a call that is made behind this one's answer, which has cost nothing; what is
        returned is held by nobody yet.
        """

    def windows(self) -> tuple[Window | None, Window | None]:
        """The tightest limits of requests and of tokens, as they stand now."""


class Trace(msgspec.Struct, eq=False):
    """Spans are recorded of a call: its own, and those of its attempts.  Ids in hexadecimal."""

    trace_id: str
    span_id: str  # the call's own
    parent_id: str  # of the span that its caller was in; "": the trace begins here
    state: bytes  # tracestate, as the caller has it
    put: Callable[[Any], None]  # who takes what has ended; neither waits nor raises
    new_id: Callable[[], str]  # of one more span
    last: tuple[str, str, str] = ("", "", "")  # span, upstream and model of the attempt that began last


class Reduction(msgspec.Struct, frozen=True):
    """How a call may be answered with less than it asks for, because of the load."""

    stale: bool = False  # by a kept answer that is too old otherwise
    smaller: str = ""  # by this model
    max_tokens: int | None = None  # by at most so many tokens

    @property
    def changes(self) -> bool:
        """Whether another call is asked in its place."""
        return bool(self.smaller) or self.max_tokens is not None


class Call(msgspec.Struct, eq=False):
    """One request of one caller, decoded as far as the gateway needs it.

    ``fields`` are the top-level members of the JSON body in their order, each value undecoded: bytes
    that nobody must change are never parsed, nor written anew.  Of a form (``wire.form``) they are its parts, each
    text as a JSON string, each file as its digest.  An opaque endpoint's ``stream`` is False: whether its answer
    streams, the answer tells.
    """

    id: str  # the generation's id: "gen_" and 32 hexadecimal digits
    endpoint: Endpoint
    model: str  # as the caller names it
    stream: bool
    fields: dict[str, msgspec.Raw]
    body: bytes
    headers: Headers
    received: float  # monotonic clock, seconds
    tenant: Tenant
    max_output_tokens: int | None = None
    include_usage: bool = False  # the caller asked for the usage chunk of an OpenAI stream
    running_usage: bool = False  # and for the usage so far in every chunk
    background: bool = False  # goes on although nobody reads it
    deferred: bool = False  # and the caller asks for the answer later
    promised: bool = False  # as it prefers (``Prefer``); else a response's body has said so
    reservation: Reservation | None = None  # where limits hold for it, from its admission on
    changed: bytes = b""  # what was left out of the prompt here, as the caller is told
    left_out: int = 0  # tokens that were left out of it here, and by its caller, about
    reduction: Reduction | None = None  # where the load permits less than it asks for
    degraded: bytes = b""  # what it got less, as the caller is told
    on_wait: Callable[[Call], None] | None = None  # told when it had to wait for its turn; None: nobody is
    version: str = ""  # of the model, where the caller wants a certain one
    named: str = ""  # the model that the caller names, where another one is asked in its stead
    # As its caller wrote it, where the conversation that it names was put before it.
    asked: Call | None = None
    trace: Trace | None = None  # None: nothing is recorded of it
    wait: float = 0.0  # of one that is deferred: seconds for which its caller waits all the same
    # Monotonic, seconds: from then on a first token, or a plain answer, is of no use, as the caller or its tier says.
    deadline: float = inf


class Attempt(msgspec.Struct, eq=False, gc=False, array_like=True):
    """One upstream call, and one row of the ledger: opened before a byte leaves, settled exactly once."""

    id: str  # generation id, "/", attempt number
    generation: str
    number: int  # from 1
    tenant: str
    key_name: str
    tier: str
    endpoint: str
    model: str  # as the caller named it
    upstream: str
    upstream_model: str
    started: float  # Unix time, seconds
    reserved: Usage
    outcome: Outcome | None = None
    usage: Usage = Usage()
    cost: int = 0  # in 1e-12 US dollars, so that sums are exact
    status: int = 0  # HTTP status of the upstream; 0: none came
    error: str = ""  # a code of penstock.errors
    first_token: float | None = None  # seconds from the attempt's start
    duration: float | None = None  # seconds
    saved: int = 0  # what it would have cost, if its outcome is one that saves; in 1e-12 US dollars
    row: int = 0  # its place in this process's part of the ledger, below nought for savings; 0: none yet
    answer: str = ""  # its answer's id at an upstream that tells afterwards what it has cost
    label: str = ""  # what its caller says that the call is for
    left_out: int = 0  # tokens that its prompt would have had more, had nothing been left out of it; about
    cache_saved: int = (
        0  # what the provider's prompt cache saved, less what it took to write; in 1e-12 US dollars
    )
    cache_missed: int = 0  # what it could have saved besides, had it kept what was sent again; the same

    def __repr__(self) -> str:
        state = self.outcome.value if self.outcome else "open"
        return f"<Attempt {self.id} {self.upstream}/{self.upstream_model} {state} {self.usage}>"


PROCESS_DIED = "process_died"
"""The error of an attempt whose process ended before it was settled."""

DIED_ELSEWHERE = "died_elsewhere"
"""The same, in the ledger of who took its answer over, where the attempt's own row is in another ledger."""


class Spent(msgspec.Struct, frozen=True):
    """What was spent under these names since the day, and since the month, began; in 1e-12 US dollars."""

    key: str
    tenant: str
    tier: str
    model: str
    upstream: str
    upstream_model: str
    day: int
    month: int


JSON: TypeAlias = Any
"""A decoded JSON value."""
