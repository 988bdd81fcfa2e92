"""Resources that stand for a generation: its events, its state, its end by order.

::

    GET    /v1/generations/{id}                            what is known of it
    GET    /v1/generations/{id}/events                     its events from an offset on
    GET    /v1/generations/{id}/answer                     the whole answer, in the dialect that was asked for
    POST   /v1/generations/{id}/cancel                     end it now; ?unread=true: unless somebody reads it
    GET    /v1/responses/{id}                              the response, as far as it is
    GET    /v1/responses/{id}?stream=true&starting_after=n its events from a sequence number on
    GET    /v1/responses/{id}/input_items                  what it was asked with, item by item
    POST   /v1/responses/{id}/cancel                       end it now
    DELETE /v1/responses/{id}                              forget it

This file knows paths and words; where the generations are, the pipeline knows.
"""

from __future__ import annotations

import bisect
import re
import time
from collections.abc import Sequence
from typing import Literal
from urllib.parse import parse_qs

import msgspec

from penstock.errors import (
    BadRequest,
    Cancelled,
    Conflict,
    HandedOver,
    MethodNotAllowed,
    NotFound,
    PenstockError,
)
from penstock.gateway.folded import whole_answer
from penstock.gateway.kept.answering import Page, page_of, respond_list
from penstock.gateway.stages.read import refuse
from penstock.gateway.stages.read_adapted import ahead_of_head
from penstock.generation.log import Generation, State
from penstock.messages import Dialect, Endpoint
from penstock.net.exchange import Exchange
from penstock.wire import responses

MAX_BODY = 65_536  # what a request for one of these resources may bring along

_PATH = re.compile(r"/v1/(generations|responses)/([^/]+)(?:/(events|answer|cancel|input_items))?")
_GENERATION_ID = re.compile(r"gen_[0-9a-f]{32}")
_OWN_RESPONSE_ID = re.compile(r"resp_([0-9a-f]{32})")
_METHODS = {
    ("generations", None): {"GET": "state"},
    ("generations", "events"): {"GET": "events"},
    ("generations", "answer"): {"GET": "answer"},
    ("generations", "cancel"): {"POST": "cancel"},
    ("responses", None): {"GET": "response", "DELETE": "delete"},
    ("responses", "cancel"): {"POST": "cancel"},
    ("responses", "input_items"): {"GET": "input_items"},
}
_JSON = [(b"content-type", b"application/json")]
_NUMBER = re.compile(r"[0-9]{1,10}")
_LIST_MOST, _LIST_USUAL = 100, 20


class Asked(msgspec.Struct, frozen=True):
    """What a request wants of a generation.

    ``id`` is the generation's, or empty where only the upstream knew the ``response_id``.  ``after``: the last
    event that the caller has, -1 for none; an index of the log, or a response's sequence number.  ``page``: of a list.
    """

    what: Literal["state", "events", "answer", "cancel", "response", "delete", "input_items"]
    id: str
    response_id: str = ""
    stream: bool = False
    after: int = -1
    unread: bool = False  # only if nobody reads it
    page: Page | None = None


def asked_by(exchange: Exchange) -> Asked | None:
    """What a request wants; None: it is about something else.

    :raises BadRequest: an id or a position that cannot be one
    :raises MethodNotAllowed: right path, wrong method
    """
    path = exchange.path
    if not path.startswith(("/v1/generations/", "/v1/responses/")):
        return None
    match = _PATH.fullmatch(path)
    if match is None:
        return None
    kind, name, rest = match.groups()
    methods = _METHODS.get((kind, rest))
    if methods is None:
        return None
    what = methods.get("GET" if exchange.method == "HEAD" else exchange.method)
    if what is None:
        raise MethodNotAllowed(f"{path} takes {' or '.join(methods)}", allow=", ".join(methods))
    query = parse_qs(exchange.query, keep_blank_values=True)
    if kind == "generations":
        if not _GENERATION_ID.fullmatch(name):
            raise BadRequest("that is no generation's id: gen_ and 32 hexadecimal digits", param="id")
        unread = query.get("unread", ["false"])[-1].lower() == "true"
        return Asked(what, name, after=_after(exchange, query), unread=unread)  # type: ignore[arg-type]
    stream = what == "response" and query.get("stream", ["false"])[-1].lower() == "true"
    return Asked(
        what,  # type: ignore[arg-type]
        generation_of(name),
        name,
        stream,
        _after(exchange, query),
        page=page_of(exchange, most=_LIST_MOST, usual=_LIST_USUAL) if what == "input_items" else None,
    )


def generation_of(response_id: str) -> str:
    """The id of the generation that a response is, where the gateway made its id; else empty."""
    own = _OWN_RESPONSE_ID.fullmatch(response_id)
    return f"gen_{own[1]}" if own else ""


def _after(exchange: Exchange, query: dict[str, list[str]]) -> int:
    if "starting_after" in query:
        name, value = "starting_after", query["starting_after"][-1]
    else:
        name = "last-event-id"
        value = exchange.headers.get(b"last-event-id", b"").decode("latin-1").strip()
        if not value:
            return -1
    if not _NUMBER.fullmatch(value):
        raise BadRequest(f"{name} must be a whole number", param=name)
    return int(value)


def position(asked: Asked, generation: Generation) -> int:
    """The index of the first event that is wanted.

    :raises Conflict: the caller says that it has an event which is not there yet, or never was
    """
    events = generation.events
    readable = generation.readable
    start = asked.after + 1
    if not generation.stream:
        return start  # of the events that its reader makes of it, also those of a response: they are numbered alike
    if not asked.response_id:
        if start > readable:
            raise ahead_of_head(asked.after, readable)
        return start
    if asked.after < 0:
        return 0
    start = bisect.bisect_right(events, asked.after, hi=readable, key=responses.sequence_number)
    if start == readable and (not readable or asked.after > responses.sequence_number(events[readable - 1])):
        raise Conflict(f"sequence number {asked.after} is ahead of the response", code="ahead_of_head")
    return start


def respond_state(
    exchange: Exchange,
    generation: Generation,
    now: float,
    status: int = 200,
    fields: Sequence[tuple[bytes, bytes]] = (),
) -> None:
    """Tell what is known of a generation."""
    error = None if isinstance(generation.error, HandedOver) else generation.error
    usage = generation.usage
    exchange.respond(
        status,
        [*_JSON, *fields],
        msgspec.json.encode(
            {
                "id": generation.id,
                "object": "generation",
                "status": _status(generation),
                "endpoint": generation.endpoint.path,
                "model": generation.model,
                "stream": generation.stream,
                "created": _created(generation, now),
                "events": generation.readable,
                "bytes": generation.size,
                "durable": generation.durable,
                "readers": len(generation.readers),
                "attempts": generation.attempts,
                "continued": generation.seams,
                "usage": msgspec.to_builtins(usage) if usage is not None else None,
                "cost_usd": generation.cost / 1e12,
                "error": None if error is None else {"code": error.code, "message": error.message},
            }
        ),
    )


async def respond_response(exchange: Exchange, generation: Generation, response_id: str, now: float) -> None:
    """Tell a response as far as it is: whole, or what became of it.

    :param response_id: by which it was asked for; empty: the gateway's own
    """
    response_id = response_id or responses.id_of(generation.id)
    if generation.state is State.FINISHED:
        try:
            body = await whole_answer(Endpoint.RESPONSES, generation.events, stream=generation.stream)
        except PenstockError as senseless:
            refuse(exchange, senseless, Dialect.OPENAI, generation.id)
            return
        told = responses.told_as(body, response_id, background=generation.background)
    else:
        status = _status(generation)
        error = generation.error
        told = responses.without_answer(
            generation.body or b"{}",
            name=generation.id,
            model=generation.model,
            created=_created(generation, now),
            status="in_progress" if status == "running" else status,  # type: ignore[arg-type]
            background=generation.background,
            error=error.message if error is not None and status == "failed" else "",
        )
        told = responses.told_as(told, response_id, background=generation.background)
    own = [(b"penstock-generation", generation.id.encode())]
    exchange.respond(200, [*_JSON, *own], told)


def respond_input_items(exchange: Exchange, items: Sequence[tuple[str, bytes]], page: Page) -> None:
    """Tell a page of what a response was asked with.

    :param items: ids and items, the first one first
    :raises NotFound: there is none of the id after which the page begins
    """
    ordered = items[::-1] if page.newest_first else items
    start = 0
    if page.after:
        start = next((index + 1 for index, (item_id, _) in enumerate(ordered) if item_id == page.after), 0)
        if not start:
            raise NotFound("the response was asked with no such item", param="after", code="item_not_found")
    shown = [msgspec.json.decode(item) for _, item in ordered[start : start + page.limit]]
    respond_list(exchange, shown, more=len(ordered) > start + page.limit)


def respond_deleted(exchange: Exchange, response_id: str) -> None:
    """Tell that a response has been forgotten."""
    told = {"id": response_id, "object": "response.deleted", "deleted": True}
    exchange.respond(200, _JSON, msgspec.json.encode(told))


def _status(generation: Generation) -> str:
    if isinstance(generation.error, Cancelled):
        return "cancelled"
    if isinstance(generation.error, HandedOver):  # it goes on elsewhere
        return "running"
    return generation.state.value


def _created(generation: Generation, now: float) -> int:
    return int(time.time() - (now - generation.started))
