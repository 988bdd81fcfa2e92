"""Who is calling: key to tenant, tier and permitted models, from a local snapshot.

Keys are stored as SHA-256 hashes.  A plain hash is right here, where a password would need a slow one: a key has
256 random bits, so there is nothing to guess.  The hash also makes the look-up independent of the key's
text; the final comparison is constant-time all the same.

A key that ends is one of the known keys until then, and costs no more than any other: what has ended is taken out
when its time has come (:meth:`Keyring.end`), not looked for with each call.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from math import inf

from penstock.config.expiry import ends_at, moment
from penstock.config.model import KeyConfig
from penstock.config.patterns import match
from penstock.errors import Forbidden, KeyExpired, Unauthenticated
from penstock.messages import Call, Headers, Tenant
from penstock.wire.credentials import bearer, key_in
from penstock.wire.pages import is_foreign

ANONYMOUS = Tenant()
MAX_BEARERS = 16_384
_NOBODY = (bytes(32), ANONYMOUS)


class Keyring:
    """The known keys.  Without any, every caller is the default tenant, unless some may come.

    :param awaited: whether keys come and go, so that nobody may call while there are none
    """

    __slots__ = ("_bearers", "_end_of", "_ended", "_ends", "_known", "open")

    def __init__(self, keys: Sequence[KeyConfig], *, awaited: bool = False) -> None:
        self.open = not keys and not awaited
        """Whether anybody may call."""
        self._known: dict[bytes, tuple[bytes, Tenant]] = {}
        # Authorization values that were right: hashed once, not each time.
        self._bearers: dict[bytes, Tenant] = {}
        self._ends: list[tuple[float, bytes]] = []  # the next one last
        self._ended: dict[bytes, tuple[float, Tenant]] = {}
        for key in keys:
            digest = bytes.fromhex(key.hash.removeprefix("sha256:"))
            tenant = Tenant(name=key.tenant, key_name=key.name, tier=key.tier, models=tuple(key.models))
            self._known[digest] = (digest, tenant)
            if key.expires:
                self._ends.append((ends_at(key.expires), digest))
        self._ends.sort(reverse=True)
        self._end_of = {self._known[digest][1].key_name: at for at, digest in self._ends}

    def __repr__(self) -> str:
        return f"<Keyring of {len(self._known)} keys, and {len(self._ended)} that have ended>"

    @property
    def next_end(self) -> float:
        """The Unix time at which the next key ends; infinite if none does."""
        return self._ends[-1][0] if self._ends else inf

    def end(self, now: float) -> None:
        """Know those keys no more whose time is over.

        :param now: Unix time
        """
        while self.next_end <= now:
            at, digest = self._ends.pop()
            self._ended[digest] = at, self._known.pop(digest)[1]
            self._bearers.clear()

    def end_of(self, tenant: Tenant) -> float:
        """The Unix time at which the key ends that a tenant came with; infinite if it does not."""
        return self._end_of.get(tenant.key_name, inf)

    def tenant(self, headers: Headers) -> Tenant:
        """Whose key this request presents.

        :raises Unauthenticated: none, or one that nobody knows
        :raises KeyExpired: one that has ended
        :raises Forbidden: there are no keys, and a page of another origin calls in the name of who looks at it
        """
        if self.open:
            if b"origin" in headers and is_foreign(headers):
                raise Forbidden(
                    "a page of another origin may not call a gateway without keys: give it some",
                    code="foreign_origin",
                )
            return ANONYMOUS
        value = headers.get(b"authorization", b"")
        known_bearer = self._bearers.get(value)
        if known_bearer is not None:
            return known_bearer
        key = bearer(value)
        by_bearer = bool(key)
        if not by_bearer:
            key = headers.get(b"x-api-key", b"")
        if not key:
            raise Unauthenticated(
                "no API key: send it as 'Authorization: Bearer …' or 'x-api-key: …'", code="missing_api_key"
            )
        digest = hashlib.sha256(key).digest()
        known, tenant = self._known.get(digest, _NOBODY)
        if not hmac.compare_digest(digest, known):
            raise self._unknown(digest)
        if by_bearer:
            if len(self._bearers) >= MAX_BEARERS:
                self._bearers.clear()
            self._bearers[value] = tenant
        return tenant

    def _unknown(self, digest: bytes) -> Unauthenticated:
        if digest not in self._ended:
            return Unauthenticated("this API key is not known here")
        at, tenant = self._ended[digest]
        return KeyExpired(
            f"this API key ended at {moment(at)}: ask whoever gave it to you for another",
            key=tenant.key_name,
            tenant=tenant.name,
        )


def owner_of(tenant: Tenant, headers: Headers) -> str:
    """Whose that is which a caller keeps here: the tenant's; where the gateway has no keys, the key's for the provider."""
    key = key_in(headers) if tenant is ANONYMOUS else b""
    return f"{tenant.name}/{hashlib.sha256(key).hexdigest()[:32]}" if key else tenant.name


def permit(call: Call) -> None:
    """May this tenant use this model?

    A version is asked for as ``model@version``: who may use the model may not choose among its versions for that.

    :raises Forbidden: its key names models, and this is none of them
    """
    models = call.tenant.models
    if models:
        name = f"{call.model}@{call.version}" if call.version else call.model
        if not any(match(pattern, name) is not None for pattern in models):
            raise Forbidden(
                f"this key may not use the model {name!r}", code="model_not_permitted", param="model"
            )
