"""How the rooms are asked and answer: by which method, for which part of a list, and in JSON."""

from __future__ import annotations

from urllib.parse import parse_qs

import msgspec

from penstock.errors import BadRequest, MethodNotAllowed
from penstock.messages import JSON
from penstock.net.exchange import Exchange

_JSON = [(b"content-type", b"application/json")]


def respond(exchange: Exchange, value: object) -> None:
    """Answer with JSON."""
    exchange.respond(200, _JSON, msgspec.json.encode(value))


def respond_list(exchange: Exchange, items: list[dict[str, JSON]], *, more: bool) -> None:
    """Answer with a page of a list, as OpenAI has them.

    :param items: each has an ``id``
    :param more: whether others follow
    """
    respond(
        exchange,
        {
            "object": "list",
            "data": items,
            "first_id": items[0]["id"] if items else None,
            "last_id": items[-1]["id"] if items else None,
            "has_more": more,
        },
    )


def method_of(exchange: Exchange, *methods: str) -> str:
    """The request's method, if it is one of these; HEAD counts as GET.

    :raises MethodNotAllowed: it is not
    """
    method = "GET" if exchange.method == "HEAD" else exchange.method
    if method not in methods:
        allow = ", ".join(methods)
        message = f"{exchange.path[:100]} takes {allow}, not {exchange.method[:20]}"
        raise MethodNotAllowed(message, allow=allow)
    return method


class Page(msgspec.Struct, frozen=True):
    """Which part of a list is asked for."""

    after: str
    limit: int
    newest_first: bool
    purpose: str


def page_of(exchange: Exchange, *, most: int, usual: int) -> Page:
    """:raises BadRequest: the query has a value that cannot be"""
    query = {name: values[-1] for name, values in parse_qs(exchange.query).items()}
    limit = query.get("limit", str(usual))
    if not (limit.isascii() and limit.isdigit() and len(limit) <= 6 and 1 <= int(limit) <= most):
        raise BadRequest(f"limit must be a number from 1 to {most}", param="limit")
    order = query.get("order", "desc")
    if order not in {"asc", "desc"}:
        raise BadRequest("order must be asc or desc", param="order")
    return Page(query.get("after", ""), int(limit), order == "desc", query.get("purpose", ""))
