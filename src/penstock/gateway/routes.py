"""What each path of the data port is: the relayed endpoints, the model list, the caller's key, and signs of life."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NoReturn
from urllib.parse import unquote

import msgspec

from penstock import __version__
from penstock.config.patterns import match
from penstock.errors import MethodNotAllowed, NotFound, UnknownModel
from penstock.gateway import elsewhere
from penstock.gateway.stages.route import Router
from penstock.messages import BY_PATH, Dialect, Endpoint, Tenant
from penstock.net.exchange import Exchange
from penstock.wire.request import dialect_of

MODELS = "/v1/models"
KEY = "/v1/key"
RELAYED: dict[str, Endpoint] = {
    **BY_PATH,
    "/rerank": Endpoint.RERANK,  # where vLLM and Cohere's SDK have it
    "/v2/rerank": Endpoint.RERANK,
}

_SLASHES = re.compile("/{2,}")
_VERSIONS = re.compile("^(/v1)+(?=/)")
# Paths that are there if files are kept.
_ON_DISK = re.compile("/v1/(files|uploads|blocks|batches|messages/batches)(/|$)")
_CONTROL = re.compile(
    "/(readyz|metrics|v1/(cache|config|explain|keys|ledger|reload|upstreams|versions|workers))(/|$)"
)
_HEALTH = re.compile("/(health|livez|ping)(/|$)")  # as other gateways call it
# OpenAI's, as its SDK asks for them where a base URL lacks the /v1; other proxies have them there, too.
_UNVERSIONED = re.compile(
    "/(chat|completions|embeddings|responses|messages|moderations|images|audio|models|files|uploads|batches|conversations)(/|$)"
)

_JSON = [(b"content-type", b"application/json")]
_CREATED = 1_700_000_000  # the API wants a time of creation; a name in a configuration has none


def endpoint_of(exchange: Exchange) -> Endpoint | None:
    """The relayed endpoint that a request is for; None: one of the gateway's own.

    :raises MethodNotAllowed: right path, wrong method
    """
    endpoint = RELAYED.get(exchange.path)
    if endpoint is None:
        return None
    if exchange.method != "POST":
        message = f"{exchange.path} takes POST, not {_shown(exchange.method)}"
        if b"upgrade" in exchange.headers:
            message += ": there are no WebSockets here, so ask for a stream of events"
        elif exchange.method == "GET":
            message += elsewhere.where(exchange.path)
        raise MethodNotAllowed(message, allow="POST")
    return endpoint


def set_version(exchange: Exchange) -> bool:
    """Give a path of OpenAI's that lacks its ``/v1`` one; False: the path is not of that kind."""
    if not _UNVERSIONED.match(exchange.path):
        return False
    exchange.path = "/v1" + exchange.path
    return True


def serve_own(exchange: Exchange, router: Router, tenant: Tenant) -> None:
    """Answer one of the gateway's own paths.

    :raises NotFound: there is no such path
    """
    path = exchange.path
    if path == MODELS:
        _read_only(exchange)
        serve_models(exchange, router, tenant, {})
    elif path.startswith("/v1/models/"):
        _read_only(exchange)
        name = unquote(path.removeprefix("/v1/models/"))  # models are called "org/name", too
        model, _ = router.wanted(name, exchange.headers)
        if not router.knows(model) or not _permitted(tenant, name):
            raise UnknownModel(f"the model {name!r} is not known here", param="model")
        _respond(exchange, _model(exchange, name))
    elif path == "/":
        _read_only(exchange)
        _respond(exchange, {"name": "penstock", "version": __version__})
    else:
        _unknown(path)


def lists_models(exchange: Exchange) -> bool:
    """Whether the model list is asked for."""
    return exchange.path == MODELS and exchange.method in {"GET", "HEAD"}


def serve_models(
    exchange: Exchange, router: Router, tenant: Tenant, known: Mapping[str, Sequence[str]]
) -> None:
    """Answer with the models that a tenant may use.

    :param known: what upstreams have, by their names
    """
    _respond(exchange, _models(exchange, router, tenant, known))


def asks_for_key(exchange: Exchange) -> bool:
    """Whether a caller wants to know of its key; :func:`serve_key` answers.

    :raises MethodNotAllowed: or to change it
    """
    if exchange.path != KEY:
        return False
    _read_only(exchange)
    return True


def serve_key(exchange: Exchange, described: Mapping[str, object]) -> None:
    """Answer with what a caller may know of its key."""
    headers = [*_JSON, (b"cache-control", b"no-store")]
    exchange.respond(200, headers, msgspec.json.encode(described))


def is_public(path: str) -> bool:
    """Whether a path is answered without a key: for load balancers, which have none."""
    return path == "/healthz"


def serve_public(exchange: Exchange) -> None:
    """Answer a path that :func:`is_public`."""
    _read_only(exchange)
    exchange.respond(200, [(b"content-type", b"text/plain")], b"ok\n")


def dialect_for(exchange: Exchange) -> Dialect:
    """The dialect in which the caller expects an error: the path's, else that of its SDK's header field."""
    return Dialect.ANTHROPIC if _is_anthropic(exchange) else dialect_of(exchange.path)


def label_of(path: str) -> str:
    """What a path is called in metrics and logs."""
    endpoint = RELAYED.get(path)
    return "other" if endpoint is None else endpoint.label


def _unknown(path: str) -> NoReturn:
    raise NotFound(f"there is no {_shown(path)} here{_hint(path)}")


def _hint(path: str) -> str:
    """What to do about a path that is not there.

    Base URLs are set wrong in three ways: what the right path is, and how one comes to it.  Others have the wrong port.
    """
    tidy = _SLASHES.sub("/", path).rstrip("/")
    if _ON_DISK.match(path):
        return ": the configuration has no files.directory"
    if _CONTROL.match(path):
        return "; it is on the control port"
    if _HEALTH.match(path):
        return "; /healthz is, without a key"
    right = "/v1" + _VERSIONS.sub("", tidy)
    if right not in RELAYED and right != MODELS:
        return elsewhere.where(path)
    if tidy.startswith("/v1/v1/"):
        return f"; {right} is: the SDK adds the /v1 itself, so the base URL must end before it"
    if not tidy.startswith("/v1/"):
        return f"; {right} is: the base URL must end in /v1"
    return f"; {right} is, with no more slashes than that"


def _shown(text: str) -> str:
    return text if len(text) <= 100 else text[:100] + "…"


def _read_only(exchange: Exchange) -> None:
    if exchange.method not in {"GET", "HEAD"}:
        message = f"{_shown(exchange.path)} takes GET, not {_shown(exchange.method)}"
        raise MethodNotAllowed(message, allow="GET, HEAD")


def _respond(exchange: Exchange, value: object) -> None:
    exchange.respond(200, _JSON, msgspec.json.encode(value))


def _permitted(tenant: Tenant, name: str) -> bool:
    return not tenant.models or any(match(pattern, name) is not None for pattern in tenant.models)


def _models(
    exchange: Exchange, router: Router, tenant: Tenant, known: Mapping[str, Sequence[str]]
) -> dict[str, object]:
    names = [name for name in router.names(known) if _permitted(tenant, name)]
    # Who may use one version alone sees that: the name without it would be refused.
    names += [name for name in tenant.models if "@" in name and "*" not in name and router.split(name)[1]]
    models = [_model(exchange, name) for name in names]
    if _is_anthropic(exchange):
        return {
            "data": models,
            "has_more": False,
            "first_id": names[0] if names else None,
            "last_id": names[-1] if names else None,
        }
    return {"object": "list", "data": models}


def _model(exchange: Exchange, name: str) -> dict[str, object]:
    if _is_anthropic(exchange):
        return {"type": "model", "id": name, "display_name": name, "created_at": "2023-11-14T22:13:20Z"}
    return {"id": name, "object": "model", "created": _CREATED, "owned_by": "penstock"}


def _is_anthropic(exchange: Exchange) -> bool:
    return b"anthropic-version" in exchange.headers
