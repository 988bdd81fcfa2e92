"""By what a request that creates a batch is known if it comes again: the same of both APIs."""

from __future__ import annotations

import msgspec
from blake3 import blake3

from penstock.batches.repeated import Naming
from penstock.errors import BadRequest
from penstock.gateway.stages.attach import MAX_KEY_BYTES
from penstock.gateway.stages.authenticate import owner_of
from penstock.messages import Tenant
from penstock.net.exchange import Exchange


class Repeatable(msgspec.Struct, frozen=True):
    """What its head says of it, before its body is read.

    :ivar kind: with what the ids of its batch begin
    :ivar key: its ``Idempotency-Key``; empty: it has none
    :ivar is_retry: its SDK says that it asks once more
    """

    owner: str
    kind: str
    key: bytes
    is_retry: bool

    @property
    def may_repeat(self) -> bool:
        """Whether it may be a request that came before."""
        return bool(self.key) or self.is_retry

    def naming(self, fingerprint: str) -> Naming:
        """:param fingerprint: of its body"""
        said = b"key " + self.key if self.key else b"body " + fingerprint.encode()
        name = blake3(b"\n".join((self.owner.encode(), self.kind.encode(), said))).hexdigest()
        return Naming(name, fingerprint, bool(self.key), self.is_retry)


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
    return Repeatable(owner_of(tenant, headers), kind, key, tries not in {None, b"0"})
