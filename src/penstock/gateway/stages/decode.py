"""What does the caller ask?  The few members of the body that the gateway needs, and the body as it came."""

from __future__ import annotations

from penstock.generation.log import new_id
from penstock.messages import Call, Endpoint, Tenant
from penstock.net.exchange import Exchange
from penstock.wire import request


def decode(exchange: Exchange, endpoint: Endpoint, tenant: Tenant, now: float) -> Call:
    """The call that a request makes, its whole body being there.

    :raises penstock.errors.BadRequest: the body is not one that the endpoint takes
    :raises ConnectionError: the caller left before it had asked
    """
    body = exchange.whole_body()
    opening = request.read(endpoint, body)
    fields, stream = opening.fields, opening.stream
    if opening.background:
        fields, body = request.streamed(fields, opening.model)
        stream = True
    return Call(  # by position: by name it takes twice as long
        new_id(),
        endpoint,
        opening.model,
        stream,
        fields,
        body,
        exchange.headers,
        now,
        tenant,
        opening.max_output_tokens,
        opening.include_usage,
        opening.running_usage,
        opening.background,
        opening.background and not opening.stream,
    )
