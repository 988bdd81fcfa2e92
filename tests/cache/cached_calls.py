"""Calls as the cache sees them."""

from penstock.generation.log import new_id
from penstock.messages import Call, Endpoint, Tenant
from penstock.wire import opaque, request

BODY = b'{"model":"m","messages":[{"role":"user","content":"hi"}],"max_tokens":9}'


def a_call(endpoint=Endpoint.CHAT, body=BODY, *, headers=(), tenant=None, received=1_000.0):
    if endpoint.opaque:
        found = opaque.read(endpoint, dict(headers), body)
        owner = tenant or Tenant()
        members = (found.model, False, found.fields, found.body, dict(headers), received, owner)
        return Call(new_id(), endpoint, *members)
    opening = request.read(endpoint, body)
    return Call(
        id=new_id(),
        endpoint=endpoint,
        model=opening.model,
        stream=opening.stream,
        fields=opening.fields,
        body=body,
        headers=dict(headers),
        received=received,
        tenant=tenant or Tenant(),
        max_output_tokens=opening.max_output_tokens,
        include_usage=opening.include_usage,
        running_usage=opening.running_usage,
    )
