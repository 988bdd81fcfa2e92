"""Which calls are the same question?

A key is a keyed BLAKE3 hash of **everything** in a request but the few members of :data:`UNTELLING`, which
cannot change the answer.  So a member that is newer than this gateway is in the key, and a field that
somebody forgot makes a miss, never a wrong answer.

Two requests have one key only if they mean the same to every reader of JSON.  The top-level members are
taken by their decoded names, in sorted order, and the last one of a repeated name counts, as it does for
the upstream (``wire.request.rewritten``).  Each value is hashed as its own bytes: what differs in spacing,
in the order of nested members, in escapes, in number forms (1, 1.0, 1e0) or in Unicode's normal forms is
another question here.  That costs a hit now and then; to look closer would cost each call more, and to be
wrong would cost trust.

What is hashed cannot be read in two ways.  It is a MessagePack array of strings of known length, then the
members as JSON text; the text decodes, by the same parser that split the body, to exactly the members that
it was made of, so different members have different texts.
"""

from __future__ import annotations

from functools import lru_cache

import msgspec
from blake3 import blake3

from penstock.messages import Call, Endpoint
from penstock.wire.credentials import key_in
from penstock.wire.not_json import NOT_JSON

SCHEMA_VERSION = 1
"""Changes with whatever is hashed, or with what an entry means."""

PUBLIC_SECRET = b"penstock cache keys, no secret\0\0"
"""For keys that do not leave the process; 32 bytes, as BLAKE3 wants."""

_CHAT = frozenset(
    {
        "stream",  # the form of the answer: one entry serves both
        "stream_options",
        "user",  # whom to blame for abuse
        "safety_identifier",
        "metadata",  # for the provider's dashboard
        "prompt_cache_key",  # what a prompt costs, not what comes of it
        "prompt_cache_retention",
    }
)

UNTELLING: dict[Endpoint, frozenset[str]] = {
    Endpoint.CHAT: _CHAT,
    Endpoint.COMPLETIONS: frozenset({"stream", "stream_options", "user"}),
    Endpoint.EMBEDDINGS: frozenset({"user"}),
    Endpoint.RESPONSES: frozenset({"stream", "stream_options"}),  # the answer repeats all the others
    Endpoint.MESSAGES: frozenset({"stream", "metadata"}),
    Endpoint.INPUT_TOKENS: frozenset(),
    Endpoint.COMPACT: frozenset(),
    Endpoint.COUNT_TOKENS: frozenset(),
    # Of those that are relayed as bytes the form of the answer is the upstream's, so what asks for one counts.
    **{endpoint: frozenset({"user"}) for endpoint in Endpoint if endpoint.opaque},
}
"""Members that cannot change the answer."""

TELLING_HEADERS = (
    b"openai-beta",
    b"anthropic-beta",
    b"anthropic-version",
    b"x-sim-ttft-ms",
    b"x-sim-tokens-per-second",
    b"x-sim-output-tokens",
    b"x-sim-scenario",
    b"x-sim-key",
)
"""The caller's header fields that reach an upstream and change its answer."""

# Of what does not stream, or only if its upstream chooses, the answers that have another form each time.
_VARIED = frozenset({endpoint for endpoint in Endpoint if endpoint.opaque} | {Endpoint.COMPACT}) - {
    Endpoint.MODERATIONS,
    Endpoint.RERANK,
}

_TELLING = frozenset(TELLING_HEADERS)

_EFFECTS = frozenset(
    {
        "background",
        "container",
        "conversation",
        "mcp_servers",
        "store",
        "thread",
        "tools",
        "web_search_options",
    }
)

_members = msgspec.json.Encoder(order="sorted").encode
_strings = msgspec.msgpack.Encoder().encode
_number = msgspec.json.Decoder(float).decode
_integer = msgspec.json.Decoder(int).decode


class _Tool(msgspec.Struct, gc=False):
    type: str = "custom"  # Anthropic's own tools alone name a type, and the caller's may be absent


_tools = msgspec.json.Decoder(list[_Tool] | None).decode
_CALLERS_TOOLS = frozenset({"function", "custom"})  # run by the caller, so the answer only asks for them


def key(call: Call, *, model_version: str, scope: str, secret: bytes = PUBLIC_SECRET) -> bytes:
    """The name under which an answer to this question is kept: 32 bytes.

    The form of the answer (streamed or plain, with or without usage chunk) is not in it.

    :param model_version: what stands behind the model's name now; another model gives other answers
    :param scope: who may share an answer, see :func:`scope_of`
    :param secret: 32 bytes that all who share a cache know: outsiders can then neither name an entry nor
        find out from its name what was asked
    """
    untelling = UNTELLING[call.endpoint]
    headers = call.headers
    told: list[tuple[bytes, bytes]] = []
    if not _TELLING.isdisjoint(headers):
        told = [(name, headers[name]) for name in TELLING_HEADERS if name in headers]
    preamble = _strings((SCHEMA_VERSION, call.endpoint.path, scope, model_version, told))
    members = {name: value for name, value in call.fields.items() if name not in untelling}
    return blake3(preamble + _members(members), key=secret).digest()


def derived(secret: str | None) -> tuple[bytes, bytes]:
    """What a configured secret becomes: the secret of keys, and that of entries' seals.

    Without one both are known to everybody: then a seal tells damage, but no forgery.
    """
    given = PUBLIC_SECRET if secret is None else secret.encode()
    return (
        blake3(given, derive_key_context="penstock cache keys").digest(),
        blake3(given, derive_key_context="penstock cache entries").digest(),
    )


def scope_of(call: Call, *, shared: bool = False, open_to_all: bool = False) -> str:
    """Who may share an answer: the tenant, or everybody.

    :param open_to_all: the gateway has no keys of its own, so all callers are one tenant and the provider
        tells them apart: then only those who present the same key to it share.  This holds even for
        ``shared``, or somebody without any right at the provider would get its answers here.
    """
    if open_to_all:
        return _scope_of_key(key_in(call.headers))
    return "shared" if shared else "tenant:" + call.tenant.name


@lru_cache(1_024)
def _scope_of_key(key: bytes) -> str:
    return "key:" + blake3(key, derive_key_context="penstock cache scope of a caller's key").hexdigest()


def is_deterministic(call: Call) -> bool:
    """Whether the caller asked for one answer rather than any: temperature 0, or a seed.

    Embeddings, counts of tokens, moderations and ranks have only one.
    """
    if not call.endpoint.streams:
        return call.endpoint not in _VARIED
    fields = call.fields
    if (temperature := fields.get("temperature")) is not None:
        try:
            if _number(temperature) == 0:
                return True
        except NOT_JSON:
            pass
    if (seed := fields.get("seed")) is not None:
        try:
            _integer(seed)
        except NOT_JSON:
            return False
        return True
    return False


def has_effects(call: Call) -> bool:
    """Whether the call does more than ask, or asks about more than it says: its answer must not be shared.

    It stores something at the provider or goes on with something that is stored there, runs in the
    background, or lets the provider run tools, which look at the world as it is now and may change it.
    """
    fields = call.fields
    if call.asked is not None:  # it is added to a conversation
        return True
    if _EFFECTS.isdisjoint(fields):
        return False
    return (
        _is_set(fields, "store", b"true")
        or _is_set(fields, "background", b"true")
        or _is_set(fields, "conversation")
        or _is_set(fields, "container")
        or _is_set(fields, "thread")
        or _is_set(fields, "web_search_options")
        or (_is_set(fields, "mcp_servers") and bytes(fields["mcp_servers"]) != b"[]")
        or ("tools" in fields and not _only_callers_tools(fields["tools"]))
    )


def _is_set(fields: dict[str, msgspec.Raw], name: str, wanted: bytes = b"") -> bool:
    value = fields.get(name)
    if value is None:
        return False
    text = bytes(value)
    return text == wanted if wanted else text != b"null"


def _only_callers_tools(tools: msgspec.Raw) -> bool:
    try:
        return all(tool.type in _CALLERS_TOOLS for tool in _tools(tools) or ())
    except NOT_JSON:
        return False
