"""A call, decoded as the gateway would."""

import json

from penstock.messages import Call, Endpoint, Tenant
from penstock.wire import request


def a_call(tenant=None, *, endpoint=Endpoint.CHAT, headers=(), **body):
    asked = {"model": "m", **body}
    asked |= {"input": "x"} if endpoint is Endpoint.EMBEDDINGS else {"messages": []}
    data = json.dumps(asked).encode()
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
