"""By what a request that creates a batch is known if it comes again: the same of both APIs."""

from __future__ import annotations

from blake3 import blake3

from penstock.batches.repeated import Asked, Naming
from penstock.errors import BadRequest
from penstock.gateway.stages.attach import MAX_KEY_BYTES
from penstock.gateway.stages.authenticate import owner_of
from penstock.messages import Tenant
from penstock.net.exchange import Exchange


class Repeatable(Asked, frozen=True):
    """What its head says of it, before its body is read.

    :ivar kind: with what the ids of its batch begin
    :ivar key: its ``Idempotency-Key``; empty: it has none
    """

    owner: str
    kind: str
    key: bytes

    def naming(self, fingerprint: str) -> Naming:
        """:param fingerprint: of its body"""
        said = b"key " + self.key if self.key else b"body " + fingerprint.encode()
        name = blake3(b"\n".join((self.owner.encode(), self.kind.encode(), said))).hexdigest()
        return Naming(name, fingerprint, is_key=self.is_key, is_retry=self.is_retry)


def repeatable(exchange: Exchange, tenant: Tenant, kind: str) -> Repeatable | None:
    """None: it can be nobody's repetition, and nobody will repeat it.

    :raises BadRequest: its ``Idempotency-Key`` is too long
    """
    headers = exchange.headers
    key = headers.get(b"idempotency-key", b"")
    if len(key) > MAX_KEY_BYTES:
        raise BadRequest(f"the Idempotency-Key is longer than {MAX_KEY_BYTES} bytes")
    tries = headers.get(b"x-stainless-retry-count")
    if not key and tries is None:
        return None
    is_retry = tries not in {None, b"0"}
    return Repeatable(owner_of(tenant, headers), kind, key, is_key=bool(key), is_retry=is_retry)
