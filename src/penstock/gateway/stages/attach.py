"""Is this call the repetition of one that is being answered already?

The contract (DESIGN 5.1): the same ``Idempotency-Key`` of the same tenant, a resume request, or an SDK's own
retry leads to the generation that is there already, so that nothing is computed or paid for twice.

Today: ``Idempotency-Key`` while the first call is running.  The same key with another body is refused.
"""

from __future__ import annotations

import hashlib

from penstock.errors import BadRequest, KeyReused
from penstock.generation.log import Generation, State
from penstock.messages import Call

MAX_KEY_BYTES = 255

_Name = tuple[str, bytes]


class Attachments:
    """Running generations by tenant and idempotency key."""

    __slots__ = ("_running",)

    def __init__(self) -> None:
        self._running: dict[_Name, tuple[bytes, Generation]] = {}

    def __repr__(self) -> str:
        return f"<Attachments {len(self._running)} running>"

    def find(self, call: Call) -> Generation | None:
        """The running generation of this call's idempotency key.

        :raises KeyReused: the key came with another body before
        :raises BadRequest: the key is too long
        """
        name = _name(call)
        if name is None or name not in self._running:
            return None
        fingerprint, generation = self._running[name]
        if generation.state is not State.RUNNING or generation.abandoned:
            # Abandoned: what is still received is settled, but nobody will get a whole answer of it.  A client
            # that hung up and comes back with its key needs a new one.
            del self._running[name]
            return None
        if fingerprint != _fingerprint(call):
            raise KeyReused("this Idempotency-Key belongs to a call with another body")
        return generation

    def remember(self, call: Call, generation: Generation) -> None:
        """A new generation began for this call."""
        name = _name(call)
        if name is not None:
            self._running[name] = (_fingerprint(call), generation)

    def forget(self, call: Call, generation: Generation) -> None:
        """The generation's producer is done."""
        if self._running:
            name = _name(call)
            if name is not None and self._running.get(name, (b"", None))[1] is generation:
                del self._running[name]


def _name(call: Call) -> _Name | None:
    key = call.headers.get(b"idempotency-key")
    if not key:
        return None
    if len(key) > MAX_KEY_BYTES:
        raise BadRequest(f"the Idempotency-Key is longer than {MAX_KEY_BYTES} bytes")
    return call.tenant.name, key


def _fingerprint(call: Call) -> bytes:
    return hashlib.blake2b(call.endpoint.path.encode() + b"\n" + call.body, digest_size=16).digest()
