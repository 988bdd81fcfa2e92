"""What does this request ask?

The contract: of a body only that is read which the gateway needs; what nobody must change stays as it came.  Where a
model has versions, the name that the caller gives is taken apart into model and version; where its prompts are to be
tidied, nobody behind this stage sees what they were; where it has parameters, everybody takes them for the caller's.
"""

from __future__ import annotations

import time

from penstock.config.model import PromptConfig
from penstock.flow.deadline import told_of
from penstock.gateway.stages.route import Router
from penstock.generation.log import new_id
from penstock.messages import Call, Endpoint, Headers, Tenant
from penstock.wire import opaque, prefer, request
from penstock.wire.prompt_left import Left, read_stated
from penstock.wire.tidy import ENDPOINTS, tidied

# Whose caller may come back for the answer; a response may say that in its body, too, which counts more.
_PROMISED = frozenset(
    {Endpoint.CHAT, Endpoint.COMPLETIONS, Endpoint.MESSAGES, Endpoint.EMBEDDINGS, Endpoint.RESPONSES}
)


def decode(
    endpoint: Endpoint, headers: Headers, body: bytes, tenant: Tenant, now: float, router: Router
) -> Call:
    """The call that a request makes.

    :raises penstock.errors.BadRequest: it makes none
    """
    if endpoint.opaque:
        return _decode_opaque(endpoint, headers, body, tenant, now, router)
    opening = request.read(endpoint, body)
    fields, stream, model = opening.fields, opening.stream, opening.model
    if opening.background:
        fields, body = request.streamed(fields, model)
        stream = True
    version = ""
    if router.has_versions:
        model, version = router.wanted(model, headers)
        # As if the name said it, so that calls for two versions are no repetitions.
        if b"penstock-version" in headers:
            body = request.rewritten(fields, named(model, version))
    limit = opening.max_output_tokens
    if router.has_parameters and (completed := router.completed(endpoint, model, fields)) is not None:
        fields, body = completed, request.rewritten(completed, named(model, version))
        limit = request.output_limit(endpoint, fields)
    if limit is None:
        request.check_unlimited(endpoint)
    call = Call(  # by position: by name it takes twice as long
        new_id(),
        endpoint,
        model,
        stream,
        fields,
        body,
        headers,
        now,
        tenant,
        limit,
        opening.include_usage,
        opening.running_usage,
        opening.background,
        opening.background and not opening.stream,
    )
    if version:
        call.version = version
    if b"prefer" in headers and endpoint in _PROMISED and not opening.background:
        preferred = prefer.read(headers[b"prefer"])
        if preferred.responds_async:
            call.background = call.deferred = call.promised = True
            call.wait = preferred.wait
    if router.deadlines or b"penstock-deadline" in headers:
        call.deadline = told_of(call, router.deadlines, time.time)
    return call


def _decode_opaque(
    endpoint: Endpoint, headers: Headers, body: bytes, tenant: Tenant, now: float, router: Router
) -> Call:
    """The same, where requests may be forms, and only the answer tells whether it streams."""
    opening = opaque.read(endpoint, headers, body)
    model, version = opening.model, ""
    if router.has_versions:
        model, version = router.wanted(model, headers)
    call = Call(new_id(), endpoint, model, False, opening.fields, opening.body, headers, now, tenant)
    if version:
        call.version = version
        call.body = opaque.renamed(call, named(model, version))
    if router.deadlines or b"penstock-deadline" in headers:
        call.deadline = told_of(call, router.deadlines, time.time)
    return call


def named(model: str, version: str) -> str:
    """The name by which a caller asks for this version of a model."""
    return f"{model}@{version}" if version else model


def heed_left_out(call: Call) -> None:
    """What its caller says that it has left out of the prompt itself, if that can be."""
    left = read_stated(call.headers[b"penstock-prompt-changed"])
    if left is not None and call.endpoint in ENDPOINTS:
        call.left_out = left.tokens


def tidy(call: Call, policy: PromptConfig) -> Left | None:
    """Leave out of the prompt what the configuration says, and the caller has not; what that was."""
    found = tidied(call.endpoint, call.fields, policy)
    if found is None:
        return None
    fields, left = found
    call.changed = left.stated()
    call.left_out += left.tokens
    call.fields, call.body = fields, request.rewritten(fields, named(call.model, call.version))
    return left
