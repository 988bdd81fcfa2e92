"""Who is calling: key to tenant, tier and permitted models, from a local snapshot.

Keys are stored as SHA-256 hashes.  A plain hash is right here, where a password would need a slow one: a key has
256 random bits, so there is nothing to guess.  The hash also makes the look-up independent of the key's
text; the final comparison is constant-time all the same.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from penstock.config.model import KeyConfig
from penstock.config.patterns import match
from penstock.errors import Forbidden, Unauthenticated
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

    __slots__ = ("_bearers", "_known", "open")

    def __init__(self, keys: Sequence[KeyConfig], *, awaited: bool = False) -> None:
        self.open = not keys and not awaited
        """Whether anybody may call."""
        self._known: dict[bytes, tuple[bytes, Tenant]] = {}
        # Authorization values that were right: hashed once, not each time.
        self._bearers: dict[bytes, Tenant] = {}
        for key in keys:
            digest = bytes.fromhex(key.hash.removeprefix("sha256:"))
            tenant = Tenant(name=key.tenant, key_name=key.name, tier=key.tier, models=tuple(key.models))
            self._known[digest] = (digest, tenant)

    def __repr__(self) -> str:
        return f"<Keyring of {len(self._known)} keys>"

    def tenant(self, headers: Headers) -> Tenant:
        """Whose key this request presents.

        :raises Unauthenticated: none, or one that nobody knows
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
            raise Unauthenticated("this API key is not known here")
        if by_bearer:
            if len(self._bearers) >= MAX_BEARERS:
                self._bearers.clear()
            self._bearers[value] = tenant
        return tenant


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
