"""By what a request that creates a batch is known if it comes again: the same of both APIs."""

from __future__ import annotations

from blake3 import blake3

from penstock.batches.repeated import Naming
from penstock.errors import BadRequest
from penstock.gateway.stages.attach import MAX_KEY_BYTES
from penstock.gateway.uploads import owner_of
from penstock.messages import Tenant
from penstock.net.exchange import Exchange


def naming_of(exchange: Exchange, tenant: Tenant, kind: str, fingerprint: str) -> Naming | None:
    """None: it can be nobody's repetition, and nobody will repeat it.

    :param kind: with what the ids of its batch begin
    :param fingerprint: of its body
    :raises BadRequest: its ``Idempotency-Key`` is too long
    """
    headers = exchange.headers
    key = headers.get(b"idempotency-key", b"")
    if len(key) > MAX_KEY_BYTES:
        raise BadRequest(f"the Idempotency-Key is longer than {MAX_KEY_BYTES} bytes")
    tries = headers.get(b"x-stainless-retry-count")
    if not key and tries is None:
        return None
    said = b"key " + key if key else b"body " + fingerprint.encode()
    name = blake3(b"\n".join((owner_of(tenant, headers).encode(), kind.encode(), said))).hexdigest()
    return Naming(name, fingerprint, bool(key), tries not in {None, b"0"})
