"""A call, decoded as the gateway would."""

import json

from penstock.messages import Call, Endpoint, Tenant
from penstock.wire import opaque, request

_REQUIRED = {Endpoint.EMBEDDINGS: {"input": "x"}, Endpoint.COMPLETIONS: {"prompt": "x"}}


def a_call(tenant=None, *, endpoint=Endpoint.CHAT, headers=(), **body):
    asked = {"model": "m", **body}
    asked = {**_REQUIRED.get(endpoint, {"messages": []}), **asked}
    data = json.dumps(asked).encode()
    if endpoint.opaque:
        read = opaque.read(endpoint, {}, data)
        return Call("gen_0", endpoint, read.model, False, read.fields, read.body, {}, 0.0, tenant or Tenant())
    opening = request.read(endpoint, data)
    return Call(
        id="gen_0",
        endpoint=endpoint,
        model=opening.model,
        stream=opening.stream,
        fields=opening.fields,
        body=data,
        headers=dict(headers),
        received=0.0,
        tenant=tenant or Tenant(),
        max_output_tokens=opening.max_output_tokens,
    )
