"""What is said as spans of calls, their attempts, and requests that became none; never what was asked or answered.

Names are those of OpenTelemetry's semantic conventions: for HTTP of version 1.44.0, for generative AI of the
version that they had when they got a repository of their own (v0.1.0); what neither has begins with ``penstock.``.
Tokens are told of attempts alone: whoever adds up all spans counts none of them twice.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from penstock.messages import Attempt, Call, Endpoint, Outcome, Tenant, Trace

Value: TypeAlias = str | bool | int | float
Why: TypeAlias = Literal["first", "retry", "fallback", "hedge", "continuation"]

PICO = 1e-12
_SERVER_ERROR = 500
MOST_PATH = 200  # characters of a path that are told: who has no key may ask for whatever it likes
# http.request.method says _OTHER of others, whose names are the callers'.
_METHODS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})
_ROUTES = {endpoint.label: endpoint.path for endpoint in Endpoint}
_OPERATIONS = {
    Endpoint.CHAT: "chat",
    Endpoint.MESSAGES: "chat",
    Endpoint.RESPONSES: "chat",
    Endpoint.COMPLETIONS: "text_completion",
    Endpoint.EMBEDDINGS: "embeddings",
}
# Well-known values of gen_ai.provider.name, by the end of the host's name.
_PROVIDERS = {
    "api.openai.com": "openai",
    "openai.azure.com": "azure.ai.openai",
    "services.ai.azure.com": "azure.ai.inference",
    "generativelanguage.googleapis.com": "gcp.gemini",
    "api.anthropic.com": "anthropic",
    "cohere.com": "cohere",
    "cohere.ai": "cohere",
    "deepseek.com": "deepseek",
    "groq.com": "groq",
    "mistral.ai": "mistral_ai",
    "perplexity.ai": "perplexity",
    "x.ai": "x_ai",
}
_OF_KINDS = {"bedrock": "aws.bedrock", "vertex": "gcp.vertex_ai"}
_NO_FAULT = frozenset({Outcome.COMPLETED, Outcome.CONTINUED, Outcome.HEDGED_AWAY, Outcome.CANCELLED})


class Link(msgspec.Struct, frozen=True):
    """Another span that this one has to do with: ``why`` is ``continues`` or ``shares``."""

    trace_id: str
    span_id: str
    why: str


class Span(msgspec.Struct, frozen=True):
    """Ids in hexadecimal, moments in seconds since 1970; ``error``: why its status is an error, if it is one."""

    trace: Trace
    span_id: str
    parent_id: str
    name: str
    kind: Literal["server", "client"]
    start: float
    end: float
    attributes: dict[str, Value]
    error: str = ""
    links: tuple[Link, ...] = ()


class Server(msgspec.Struct, frozen=True):
    """Where an upstream listens, and of which kind it is in the configuration."""

    kind: str
    host: str
    port: int

    @property
    def provider(self) -> str:
        """``gen_ai.provider.name``: what the API that is spoken says, where the host is nobody's that is known."""
        of_kind = _OF_KINDS.get(self.kind)
        if of_kind is not None:
            return of_kind
        for end, provider in _PROVIDERS.items():
            if self.host == end or self.host.endswith("." + end):
                return provider
        return self.kind


class AttemptEnded(msgspec.Struct, frozen=True):
    """An attempt whose row is settled."""

    trace: Trace
    span_id: str
    why: Why
    link: Link | None
    attempt: Attempt
    endpoint: Endpoint
    server: Server
    stream: bool
    max_tokens: int | None
    shared: bool  # its request was that of other calls, too
    response_model: str  # as the answer names it; "": it is not known
    response_id: str

    def span(self) -> Span:
        """What is said of it."""
        attempt = self.attempt
        outcome, usage = attempt.outcome, attempt.usage
        assert outcome is not None, "its row is settled"
        operation = _OPERATIONS.get(self.endpoint, attempt.endpoint)
        said: dict[str, Value] = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": self.server.provider,
            "gen_ai.request.model": attempt.upstream_model,
            "server.address": self.server.host,
            "server.port": self.server.port,
            "penstock.generation": attempt.generation,
            "penstock.attempt": attempt.number,
            "penstock.attempt.why": self.why,
            "penstock.attempt.outcome": outcome.value,
            "penstock.upstream": attempt.upstream,
            "penstock.cost_usd": attempt.cost * PICO,
            "gen_ai.usage.input_tokens": usage.input_tokens,
            "gen_ai.usage.output_tokens": usage.output_tokens,
        }
        further: dict[str, Value | None] = {
            "gen_ai.request.stream": self.stream,
            "gen_ai.request.max_tokens": self.max_tokens,
            "gen_ai.response.model": self.response_model,
            "gen_ai.response.id": self.response_id,
            "gen_ai.usage.cache_read.input_tokens": usage.cached_input_tokens,
            "gen_ai.usage.cache_creation.input_tokens": usage.cache_write_tokens,
            "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens,
            "penstock.usage.estimated": usage.estimated,
            "penstock.usage.shared": self.shared,
            "http.response.status_code": attempt.status,
            "error.type": attempt.error,
        }
        said |= {name: value for name, value in further.items() if value}
        if self.stream and attempt.first_token is not None:
            said["gen_ai.response.time_to_first_chunk"] = attempt.first_token
        return Span(
            self.trace,
            self.span_id,
            self.trace.span_id,
            f"{operation} {attempt.upstream_model}",
            "client",
            attempt.started,
            attempt.started + (attempt.duration or 0.0),
            said,
            "" if outcome in _NO_FAULT else attempt.error,
            () if self.link is None else (self.link,),
        )


def asked(call: Call) -> tuple[Endpoint, str, str, str, str, bool]:
    """What a span says of its call: the call itself would keep its prompt in memory until the span is sent."""
    tenant = call.tenant
    return call.endpoint, call.model, tenant.name, tenant.key_name, tenant.tier, call.stream


class CallEnded(msgspec.Struct, frozen=True):
    """A call whose caller has its answer, or has left."""

    trace: Trace
    endpoint: Endpoint  # from here to ``stream``: as ``asked`` gives it
    model: str
    tenant: str
    key: str
    tier: str
    stream: bool
    generation: str
    how: str  # it came by its answer: a Penstock-Status, or "refused"
    status: int
    error: str
    ended: float  # seconds since 1970
    duration: float  # seconds
    first: float | None = None  # seconds until the first event
    attempts: int = 0
    seams: int = 0
    cost: int = 0  # in 1e-12 US dollars
    saved: int = 0  # the same
    link: Link | None = None

    def span(self) -> Span:
        """What is said of it."""
        method, route = "POST", self.endpoint.path
        said: dict[str, Value] = {
            "http.request.method": method,
            "http.route": route,
            "url.path": route,
            "http.response.status_code": self.status,
            "gen_ai.operation.name": _OPERATIONS.get(self.endpoint, self.endpoint.label),
            "gen_ai.request.model": self.model,
            "penstock.generation": self.generation,
            "penstock.status": self.how,
            "penstock.tenant": self.tenant,
            "penstock.key": self.key,
            "penstock.tier": self.tier,
            "penstock.attempts": self.attempts,
            "penstock.seams": self.seams,
            "penstock.cost_usd": self.cost * PICO,
        }
        further: dict[str, Value | None] = {
            "gen_ai.request.stream": self.stream,
            "penstock.saved_usd": self.saved * PICO,
            "error.type": self.error,
        }
        said |= {name: value for name, value in further.items() if value}
        if self.first is not None:
            said["penstock.first_token_s"] = self.first
        # A caller's own mistake is no error of the server's; a stream that broke is, though it began with 200.
        failed = self.status >= _SERVER_ERROR or (self.error and self.status < 400)
        return Span(
            self.trace,
            self.trace.span_id,
            self.trace.parent_id,
            f"{method} {route}",
            "server",
            self.ended - self.duration,
            self.ended,
            said,
            (self.error or str(self.status)) if failed else "",
            () if self.link is None else (self.link,),
        )


class RequestRefused(msgspec.Struct, frozen=True):
    """A request that got an error before it was a call: a wrong key, no such path, a body that is none."""

    trace: Trace
    method: str
    path: str
    label: str  # what it is called in metrics
    tenant: Tenant | None  # None: whose it was is not known
    status: int
    error: str
    ended: float  # seconds since 1970

    def span(self) -> Span:
        """What is said of it.  It has no length: what there was to wait for is the listener's."""
        known, route = self.method in _METHODS, _ROUTES.get(self.label, "")
        said: dict[str, Value] = {
            "http.request.method": self.method if known else "_OTHER",
            "url.path": self.path[:MOST_PATH],
            "http.response.status_code": self.status,
            "penstock.status": "refused",
            "error.type": self.error,
        }
        if route:
            said["http.route"] = route
        tenant = self.tenant
        if tenant is not None:
            said |= {
                "penstock.tenant": tenant.name,
                "penstock.key": tenant.key_name,
                "penstock.tier": tenant.tier,
            }
        return Span(
            self.trace,
            self.trace.span_id,
            self.trace.parent_id,
            f"{self.method if known else 'HTTP'} {route}".rstrip(),
            "server",
            self.ended,
            self.ended,
            said,
            self.error if self.status >= _SERVER_ERROR else "",
        )
