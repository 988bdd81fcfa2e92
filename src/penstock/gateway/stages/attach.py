"""Is this call the repetition of one that is there already?

The contract: the same ``Idempotency-Key`` of the same tenant, or an SDK's own retry, leads to the
generation that is there already, running or finished, so that nothing is computed or paid for twice.  A
generation that failed, or was given up, answers nobody: the repetition is a new call.

- ``Idempotency-Key``: the key says it all; the same key with another body is refused.
- An SDK's retry says so (``x-stainless-retry-count`` above 0) and has the body of an earlier call.  There may be
  several such calls, for an application may well ask the same thing five times at once: the one that a
  caller has lost is the likeliest, oldest first.  A call whose answer went out whole is repeated only
  within :data:`LAST_BYTES` of its end, for the answer's last bytes may have been lost.

Whose call it is: the tenant's.  Where the gateway has no keys all callers are one tenant, and the key that they
bring for the provider tells them apart.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Collection, Hashable

from blake3 import blake3

from penstock.errors import BadRequest, KeyReused
from penstock.gateway.stages.authenticate import ANONYMOUS
from penstock.generation.log import Generation, State
from penstock.generation.names import Names
from penstock.generation.registry import Registry
from penstock.generation.store import Record, StoreUnavailable
from penstock.generation.written import Name
from penstock.messages import Call, Endpoint
from penstock.wire.credentials import key_in

MAX_KEY_BYTES = 255
LAST_BYTES = 10.0  # seconds
GRACE = 10.0  # seconds; SDKs wait at most 8 before a retry
RECENT = LAST_BYTES + GRACE  # seconds after its end for which a call may be the repetition of another
COMES_BACK = 60.0  # seconds for the readers of a process that has died: first they have to find out

_TAIL = 128  # bytes of a body's end that tell most bodies of one length apart


def find(call: Call, registry: Registry, now: float) -> Generation | None:
    """The generation that this call asks for once more.

    :raises KeyReused: the key came with another body before
    :raises BadRequest: the key is too long
    """
    headers = call.headers
    key = headers.get(b"idempotency-key")
    if key:
        return _of_key(call, key, registry)
    if headers.get(b"x-stainless-retry-count", b"0") != b"0":
        return _retried(call, registry.named(_shape(call)), now) or _shared(call, registry, now)
    return None


def remember(call: Call, generation: Generation, registry: Registry) -> None:
    """A new generation began for this call: let its repetitions find it."""
    headers = call.headers
    if key := headers.get(b"idempotency-key"):
        registry.bind(generation, _name(call, key))
    elif b"x-stainless-retry-count" in headers:
        registry.bind(generation, _shape(call))


def remember_joined(call: Call, generation: Generation, registry: Registry) -> bool:
    """Let the repetitions of a call find the generation of another that it shares, whose body may be a different one.

    An SDK's retry joins once more while that runs; after its end it must be known by what it asks itself.

    :returns: whether other processes are to know it, too, and do not by an earlier one of the same name
    """
    headers = call.headers
    if key := headers.get(b"idempotency-key"):
        name = _name(call, key)
        registry.bind(generation, ("joined", name))
        registry.bind(generation, ("joined", name, *_asked(call)))
        return True
    if b"x-stainless-retry-count" not in headers:
        return False
    shape = _as_joined(call)
    is_new = not is_first(call) or generation not in registry.named(shape)
    registry.bind(generation, shape)
    return is_new


# ---- what other processes know ----


def may_be_elsewhere(call: Call) -> bool:
    """Whether the call may be the repetition of one that another process knows."""
    headers = call.headers
    return bool(headers.get(b"idempotency-key")) or headers.get(b"x-stainless-retry-count", b"0") != b"0"


def can_come_back(call: Call) -> bool:
    """Whether anybody could ask for this call's answer once more: a plain answer has told nobody its id."""
    headers = call.headers
    return (
        call.stream
        or call.background
        or call.endpoint is Endpoint.RESPONSES
        or b"idempotency-key" in headers
        or b"x-stainless-retry-count" in headers
    )


def has_name(call: Call) -> bool:
    """Whether other processes may find this call's answer by more than its id."""
    headers = call.headers
    return bool(headers.get(b"idempotency-key")) or b"x-stainless-retry-count" in headers


def is_first(call: Call) -> bool:
    """Whether the call is one that its SDK will repeat."""
    return b"idempotency-key" not in call.headers and call.headers.get(b"x-stainless-retry-count") == b"0"


async def find_elsewhere(call: Call, names: Names, longest: float = math.inf) -> Record | None:
    """The stored generation that this call asks for once more; None: the call is new, and its name is taken.

    A store that does not answer in time knows nothing.

    :param longest: seconds until the call's answer is of no use
    :raises KeyReused: the key came with another body before
    """
    name = stored_name(call)
    named = b"idempotency-key" in call.headers
    old = ""
    loop = asyncio.get_running_loop()
    until = loop.time() + names.patience(longest, named=named)
    try:
        for _ in range(3):
            claim = await names.claim(name, call.id, old, patience=until - loop.time())
            if claim.won:
                return None
            record = await names.claimed(claim, patience=until - loop.time())
            if record is not None and record.state is not State.FAILED:
                if claim.fingerprint != name.fingerprint:
                    raise KeyReused("this Idempotency-Key belongs to a call with another body")
                if named or names.is_recent(record, RECENT):
                    return record
            old = claim.generation
    except StoreUnavailable as error:
        names.unheard(error, named=named)
    return None


def stored_name(call: Call) -> Name:
    """What other processes may find this call's answer by."""
    print_ = blake3(call.endpoint.path.encode() + b"\n" + call.body).digest(16)
    key = call.headers.get(b"idempotency-key")
    return Name(
        _stored_owner(call), "key " + key.decode("latin-1") if key else "request " + print_.hex(), print_
    )


def _stored_owner(call: Call) -> str:
    tenant = call.tenant
    if tenant is ANONYMOUS and (key := key_in(call.headers)):
        return tenant.name + " " + blake3(key).hexdigest(16)
    return tenant.name


def grace(call: Call, *, started: bool) -> float:
    """How long to wait for a caller who has left, in seconds.

    :param started: whether it has had a part of the answer: then an SDK does not repeat the call
    """
    if b"idempotency-key" in call.headers or (not started and b"x-stainless-retry-count" in call.headers):
        return GRACE
    return 0.0


def _of_key(call: Call, key: bytes, registry: Registry) -> Generation | None:
    name = _name(call, key)
    for generation in registry.named(("joined", name)):
        if _answers(generation):
            if generation not in registry.named(("joined", name, *_asked(call))):
                raise KeyReused("this Idempotency-Key belongs to a call with another body")
            return generation
    for generation in registry.named(name):
        if _answers(generation):
            if generation.endpoint is not call.endpoint or generation.body != call.body:
                raise KeyReused("this Idempotency-Key belongs to a call with another body")
            return generation
    return None


def _retried(call: Call, earlier: Collection[Generation], now: float) -> Generation | None:
    found = None
    for generation in earlier:
        if not _answers(generation) or generation.body != call.body:
            continue
        if generation.delivered:
            if found is None and generation.ended and now - generation.ended < LAST_BYTES:
                found = generation
        elif not generation.readers:
            return generation
        elif found is None or found.delivered:
            found = generation
    return found


def _shared(call: Call, registry: Registry, now: float) -> Generation | None:
    """What an earlier call like this one had joined.  Whether that caller has had all of it, nobody has noted."""
    for generation in registry.named(_as_joined(call)):
        if _answers(generation) and (not generation.ended or now - generation.ended < RECENT):
            return generation
    return None


def _answers(generation: Generation) -> bool:
    return generation.state is not State.FAILED and not generation.abandoned


def _name(call: Call, key: bytes) -> Hashable:
    if len(key) > MAX_KEY_BYTES:
        raise BadRequest(f"the Idempotency-Key is longer than {MAX_KEY_BYTES} bytes")
    return "idempotency", _whose(call), key


def _shape(call: Call) -> Hashable:
    body = call.body
    return "request", _whose(call), call.endpoint, len(body), body[-_TAIL:]


def _as_joined(call: Call) -> Hashable:
    return "joined", _whose(call), *_asked(call)


def _asked(call: Call) -> tuple[Endpoint, bytes]:
    """What a call asks; its body itself would be kept with a generation that is not known to hold it."""
    return call.endpoint, blake3(call.body).digest(16)


def _whose(call: Call) -> Hashable:
    tenant = call.tenant
    return (tenant.name, key_in(call.headers)) if tenant is ANONYMOUS else tenant.name
