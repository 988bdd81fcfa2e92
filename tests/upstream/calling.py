"""Calls, the logs of their answers, and upstreams that nobody has asked yet."""

import json

from penstock.config.model import UpstreamConfig
from penstock.generation.log import Generation
from penstock.messages import Call, Endpoint, Tenant
from penstock.testing import FakeClock
from penstock.upstream.http import HTTPUpstream
from penstock.wire import request

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
MESSAGE = {**CHAT, "max_tokens": 9}
BODIES = {
    Endpoint.CHAT: CHAT,
    Endpoint.COMPLETIONS: {"model": "m", "prompt": "hi"},
    Endpoint.EMBEDDINGS: {"model": "m", "input": "hi"},
    Endpoint.RESPONSES: {"model": "m", "input": "hi"},
    Endpoint.MESSAGES: MESSAGE,
    Endpoint.INPUT_TOKENS: {"model": "m", "input": "hi"},
    Endpoint.COUNT_TOKENS: MESSAGE,
}


def a_call(endpoint=Endpoint.CHAT, headers=(), **members):
    body = json.dumps({**BODIES[endpoint], **members}, separators=(",", ":")).encode()
    opening = request.read(endpoint, body)
    return Call(
        id="gen_" + "0" * 32,
        endpoint=endpoint,
        model=opening.model,
        stream=opening.stream,
        fields=opening.fields,
        body=body,
        headers=dict(headers),
        received=0.0,
        tenant=Tenant(),
    )


def generation_of(call):
    return Generation(
        call.id,
        endpoint=call.endpoint,
        tenant="default",
        model="m",
        stream=call.stream,
        started=0.0,
        max_bytes=1 << 20,
    )


def upstream(kind="openai", base_url="http://up.test:81/v1", *, open_gateway=False, clock=None, **more):
    config = UpstreamConfig(kind=kind, base_url=base_url, **more)
    return HTTPUpstream(
        "up", config, clock or FakeClock(), connect_timeout=1.0, forward_credentials=open_gateway
    )
