"""The body of a request, decoded no further than the gateway must.

The body's top-level members are split into undecoded values (:class:`msgspec.Raw`): 0.6 µs for 1 KB, where a
full decode takes 7.7 µs.  What goes to an upstream of the same dialect is put together from those same
bytes, so a prompt is never parsed, nor written anew, and a provider's prompt cache sees the prefix it
knows.  As only one reading of the members exists (the last one of a repeated name counts), nobody can
be authorised for one model and served by another.  Servers in Go read a member in whatever case its name is written,
so ``Model`` beside ``model`` would be a second reading, and is refused.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeAlias, TypeVar

import msgspec

from penstock.errors import BadRequest
from penstock.messages import Dialect, Endpoint
from penstock.wire._json_values import ALWAYS_TAKEN, check_asked
from penstock.wire.not_json import NOT_JSON, why_not_json

_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_string = msgspec.json.Decoder(str).decode
_boolean = msgspec.json.Decoder(bool).decode
_integer: Callable[[msgspec.Raw], int | None] = msgspec.json.Decoder(int | None).decode
_encode = msgspec.json.Encoder().encode

_TRUE = b"true"

# More than any model makes, and a number that every ledger and every upstream can hold.
MAX_TOKENS = 2**31 - 1
# Ten times what all APIs have together; each takes some 300 bytes of memory beside its text.
MOST_MEMBERS = 1_000
_BRACKET = ord("[")
_RESPONSES, _MESSAGES = Endpoint.RESPONSES, Endpoint.MESSAGES
_MAY_LACK_INPUT = frozenset({_RESPONSES, Endpoint.INPUT_TOKENS, Endpoint.COMPACT})

_REQUIRED: dict[Endpoint, tuple[str, str]] = {
    Endpoint.CHAT: ("messages", "an array"),
    Endpoint.COMPLETIONS: ("prompt", ""),
    Endpoint.EMBEDDINGS: ("input", ""),
    Endpoint.RESPONSES: ("input", ""),
    Endpoint.INPUT_TOKENS: ("input", ""),
    Endpoint.COMPACT: ("input", ""),
    Endpoint.MESSAGES: ("messages", "an array"),
    Endpoint.COUNT_TOKENS: ("messages", "an array"),
}

_OUTPUT_LIMITS: dict[Endpoint, tuple[str, ...]] = {
    Endpoint.CHAT: ("max_completion_tokens", "max_tokens"),
    Endpoint.COMPLETIONS: ("max_tokens",),
    Endpoint.RESPONSES: ("max_output_tokens",),
    Endpoint.MESSAGES: ("max_tokens",),
}


# What the gateway goes by; in other letters they would go on unread, to servers that may not care for the case.
_READ = frozenset(
    {
        "background",
        "best_of",
        "model",
        "n",
        "service_tier",
        "stream",
        "stream_options",
        *(name for names in _OUTPUT_LIMITS.values() for name in names),
    }
)


_USUAL = _READ | {  # of nearly every call, and in small letters: seen at a glance
    "input",
    "messages",
    "prompt",
    "response_format",
    "seed",
    "stop",
    "system",
    "temperature",
    "tool_choice",
    "tools",
    "top_p",
    "user",
}


Extra: TypeAlias = dict[str, msgspec.Raw] | None
"""Members that a body gets where it has them not; None: it gets none."""


class StreamOptions(msgspec.Struct):
    include_usage: bool = False
    continuous_usage_stats: bool = False


_stream_options = msgspec.json.Decoder(StreamOptions | None).decode


class Opening(msgspec.Struct, frozen=True):
    """What the gateway needs to know of a body."""

    fields: dict[str, msgspec.Raw]
    model: str
    stream: bool
    max_output_tokens: int | None
    include_usage: bool
    running_usage: bool
    background: bool = False


def read(endpoint: Endpoint, body: bytes) -> Opening:
    """Split a body and check what the gateway itself relies on.

    That it says how long the answer may be where it must (:func:`check_unlimited`), is for another to see: not only its caller can.

    :raises BadRequest: not JSON, not an object, of too many values, or a member that is missing or of the wrong
        type; ``param`` names it
    """
    if len(body) > ALWAYS_TAKEN:
        check_asked(body)
    try:
        fields = _members(body)
    except NOT_JSON as error:
        raise BadRequest(why_not_json(body, error), code="invalid_json") from None
    if not _USUAL.issuperset(fields):
        check_names(fields)
    model = fields.get("model")
    if model is None:
        raise BadRequest("the body must name a model", param="model", code="missing_parameter")
    name = _typed(_string, model, "model", "a string")
    if not name or len(name) > 256:
        raise BadRequest("model must be a string of 1 to 256 characters", param="model")
    required, shape = _REQUIRED[endpoint]
    value = fields.get(required)
    if value is None:
        if endpoint not in _MAY_LACK_INPUT:  # may stand on `prompt` or `previous_response_id` alone
            raise BadRequest(f"the body must have {required}", param=required, code="missing_parameter")
    elif shape and memoryview(value)[0] != _BRACKET:
        raise BadRequest(f"{required} must be {shape}", param=required, code="invalid_type")
    stream = False
    if endpoint.streams and (wanted := fields.get("stream")) is not None and bytes(wanted) != b"null":
        stream = _typed(_boolean, wanted, "stream", "a boolean")
    include_usage = running_usage = False
    if (options := fields.get("stream_options")) is not None:
        chosen = _typed(_stream_options, options, "stream_options", "an object")
        if chosen is not None:
            include_usage = chosen.include_usage
            running_usage = chosen.continuous_usage_stats
    background = False
    if endpoint is _RESPONSES and (wanted := fields.get("background")) is not None:
        background = bytes(wanted) != b"null" and _typed(_boolean, wanted, "background", "a boolean")
    limit = output_limit(endpoint, fields)
    return Opening(fields, name, stream, limit, include_usage, running_usage, background)


def check_names(fields: dict[str, msgspec.Raw]) -> None:
    """Refuse what servers that are lenient with names would read as another member, and members without number.

    :raises BadRequest: a name differs from that of a member, or of one that the gateway reads, in the case alone;
        or there are more than :data:`MOST_MEMBERS`
    """
    if len(fields) > MOST_MEMBERS:
        raise BadRequest(f"the body has more than {MOST_MEMBERS} members")
    names = "".join(fields)
    if names.islower() and names.isascii():
        return
    for name in fields:
        plain = name.casefold()  # of the ASCII letters, Go takes ſ for s and the sign of Kelvin for k, too
        if plain != name and (plain in _READ or plain in fields):
            raise BadRequest(f"{name} could be read as {plain}; write that, and once", param=name)


def streamed(fields: dict[str, msgspec.Raw], model: str) -> tuple[dict[str, msgspec.Raw], bytes]:
    """The members and the body of a background request as an upstream is asked: for a stream, there and then."""
    members = {name: value for name, value in fields.items() if name != "background"}
    members["stream"] = msgspec.Raw(_TRUE)
    return members, rewritten(members, model)


def members(body: bytes) -> dict[str, msgspec.Raw]:
    """The top-level members of a body that has been made here, undecoded."""
    return _members(body)


def output_limits(endpoint: Endpoint) -> tuple[str, ...]:
    """The members of a request that say how long the answer may be; none: it has no such."""
    return _OUTPUT_LIMITS.get(endpoint, ())


def limited(endpoint: Endpoint, fields: dict[str, msgspec.Raw], tokens: int) -> dict[str, msgspec.Raw]:
    """The members of a request for an answer of at most so many tokens."""
    names = _OUTPUT_LIMITS[endpoint]
    limit = msgspec.Raw(b"%d" % tokens)
    members = fields.copy()
    for name in [name for name in names if name in fields] or names[:1]:
        members[name] = limit
    return members


def rewritten(fields: dict[str, msgspec.Raw], model: str, changes: dict[str, bytes] | None = None) -> bytes:
    """The body for an upstream of the same dialect: its model's name, every other value byte for byte.

    :param changes: members to set, as JSON text
    """
    members = fields.copy()
    members["model"] = _name(model)
    if changes:
        for name, value in changes.items():
            members[name] = msgspec.Raw(value)
    return _encode(members)


def with_members(body: bytes, more: dict[str, msgspec.Raw]) -> bytes:
    """The body with these among its members, but for those that it has; the others keep their bytes."""
    members = _members(body)
    lacking = {name: value for name, value in more.items() if name not in members}
    return _encode(members | lacking) if lacking else body


@functools.lru_cache(1024)
def _name(model: str) -> msgspec.Raw:
    return msgspec.Raw(_encode(model))


def usage_wanted(opening: dict[str, msgspec.Raw], *, running: bool) -> bytes:
    """``stream_options`` that make an OpenAI stream tell its usage, the caller's other options kept."""
    options: dict[str, msgspec.Raw] = {}
    if (given := opening.get("stream_options")) is not None and bytes(given) != b"null":
        options = _members(given)
    options["include_usage"] = msgspec.Raw(_TRUE)
    if running:
        options["continuous_usage_stats"] = msgspec.Raw(_TRUE)
    return _encode(options)


def output_limit(endpoint: Endpoint, fields: dict[str, msgspec.Raw]) -> int | None:
    """The tokens that the answer may have; the larger one, where there are two: which of them an upstream heeds, it alone knows.

    :raises BadRequest: a limit is none
    """
    most: int | None = None
    for name in _OUTPUT_LIMITS.get(endpoint, ()):
        if (value := fields.get(name)) is not None:
            limit = _typed(_integer, value, name, "an integer")
            if limit is not None:
                if not 0 <= limit <= MAX_TOKENS:
                    raise BadRequest(f"{name} must lie between 0 and {MAX_TOKENS}", param=name)
                if most is None or limit > most:
                    most = limit
    return most


def check_unlimited(endpoint: Endpoint) -> None:
    """Whether a request need not say how long the answer may be.

    :raises BadRequest: it must
    """
    if endpoint is _MESSAGES:
        raise BadRequest("the body must have max_tokens", param="max_tokens", code="missing_parameter")


_T = TypeVar("_T")


def _typed(decode: Callable[[msgspec.Raw], _T], value: msgspec.Raw, name: str, shape: str) -> _T:
    try:
        return decode(value)
    except NOT_JSON:
        raise BadRequest(f"{name} must be {shape}", param=name, code="invalid_type") from None


def dialect_of(path: str) -> Dialect:
    """The dialect in which a caller of this path expects its errors."""
    return Dialect.ANTHROPIC if path.startswith("/v1/messages") else Dialect.OPENAI
