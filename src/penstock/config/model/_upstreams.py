"""Who answers: where they are, what they can do, and how much they are asked."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from penstock.config.model._calls import TimeoutConfig
from penstock.config.model._section import (
    Above,
    Amount,
    Bytes,
    NotNegative,
    Positive,
    Seconds,
    Section,
    Share,
)
from penstock.config.secret import Secret


class PoolConfig(Section, frozen=True):
    """Connections to one upstream, per worker process."""

    max_open: Positive = 1_000  # connections, busy and idle
    max_idle: Annotated[int, msgspec.Meta(ge=0)] = 100  # kept for the next call
    max_life: Seconds = 3_600.0  # a connection that is older is not used again
    idle_timeout: Seconds = 60.0  # an idle connection is closed after so long
    max_waiting: Annotated[int, msgspec.Meta(ge=0)] = 1_000  # calls that wait for a connection; more: 503


class ConcurrencyConfig(Section, frozen=True):
    """How many calls an upstream gets at once; the others wait in a queue, whose order ``tiers`` decides."""

    limit: Positive = 100  # calls at once, at most, of all that share it
    # who has them together: the workers of this machine, or through `limits.redis` the gateways on all machines
    shared: Literal["workers", "machines"] = "workers"
    adaptive: bool = True  # find out between least and limit how many it can take
    least: Positive = 1  # calls at once that it always gets
    start: Positive = 8  # an adaptive limit begins so: with fewer than the upstream can take
    # an adaptive limit falls when first tokens take so many times longer than usual
    tolerance: Annotated[float, msgspec.Meta(ge=1)] = 2.0
    max_waiting: NotNegative = 1_000  # places in the queue; 0: who cannot go at once is refused
    follow_headers: bool = True  # keep to the rate limits that its answers tell of


class BreakerConfig(Section, frozen=True):
    """When an upstream is left in peace, for each of its models."""

    error_ratio: Share = 0.5  # open when more than this share of the calls fail
    slow_first_token: Seconds = 0.0  # a streamed call whose first token takes longer is slow; 0: none is
    slow_tokens_per_second: Amount = 0.0  # one whose tokens come more slowly, too; 0: none is
    slow_ratio: Share = 0.9  # open when this share of the calls is slow
    least_calls: Positive = 20  # in the window, before anything is concluded from them
    window: Above = 30.0  # seconds that are looked back upon
    open_for: Above = 5.0  # then probes are let through; if one fails, twice as long, and so on
    max_open_for: Above = 60.0  # but not longer
    probes: Positive = 3  # calls at once that try it; as many successes close the breaker


class BatchingConfig(Section, frozen=True):
    """Embeddings, and completions of the old kind, of several calls in one request to the upstream."""

    # adaptive: as long as waiting pays, by how the calls come; fixed: until it is full or max_queue_delay has passed
    window: Literal["adaptive", "fixed"] = "adaptive"
    max_batch_size: Annotated[int, msgspec.Meta(ge=2)] = 32  # inputs of one request
    max_batch_bytes: Bytes = 262_144  # of the requests that are put together
    max_queue_delay: Seconds = 0.005  # the longest time that a call waits for others
    # the longest input of a request is less than so many times as long as those of other calls; 1: no matter
    length_ratio: Annotated[float, msgspec.Meta(ge=1)] = 4.0


class HedgeConfig(Section, frozen=True):
    """When a streamed call is asked a second time because its first token is late; the quicker answer counts."""

    # late is what takes longer than this share of the upstream's first tokens lately, for prompts of like length;
    # and never more calls than extra are called late
    quantile: Share = 0.95
    extra: Share = 0.03  # second calls at most, as a share of the upstream's streamed calls


class CapabilitiesConfig(Section, frozen=True):
    """What an upstream and its models can do for an answer that broke off; unsaid: as the package's table has it."""

    # how it is told that the last message is its own and incomplete; none: it does not go on with one
    prefill: Literal["none", "trailing", "prefix", "partial", "continue_final_message"] | None = None
    # it takes return_token_ids, and token ids as a prompt at /v1/completions (vLLM); its events then show the ids
    token_ids: bool | None = None
    deterministic: bool | None = None  # with temperature 0 or a seed it answers the same twice
    background: bool | None = None  # a response with background: true can be read on after a break
    generations: bool | None = None  # it is a Penstock: its generations can be read on after a break
    # how it tells afterwards what an answer has cost: `generation` (OpenRouter's form), `stored` (OpenAI's)
    usage_lookup: Literal["none", "generation", "stored"] | None = None


class LocalConfig(Section, frozen=True):
    """A model that this machine computes itself, in a process beside the gateway (extra `engine`)."""

    model: str = ""  # its directory; empty: the small one of the package, which is for trying things out
    # what computes it; auto: OpenVINO what is in its form, ONNX Runtime what its builder made (genai_config.json),
    # transformers what Hugging Face has as safetensors
    backend: Literal["auto", "openvino", "onnx", "transformers"] = "auto"
    threads: NotNegative = 0  # that compute; 0: as many as there are cores
    slots: Positive = 64  # answers under way at once; a few more for calls of a higher priority
    max_waiting: NotNegative = 1_000  # calls that wait for a slot; more: 503
    # memory for keys and values; 0: what the slots can use, a quarter of what is free at most
    cache_bytes: NotNegative = 0
    # their precision; auto: what the library takes to be best, int8 as a rule
    cache_precision: Literal["auto", "int8", "fp32"] = "auto"
    prefix_cache: bool = True  # what prompts have in common is computed once
    # compute in fp32 throughout: an answer with temperature 0 is the same alone, among others, and continued
    exact: bool = False


class TritonConfig(Section, frozen=True):
    """How calls are brought into the form of Triton's models; for upstreams of the kind triton."""

    # base_url is the port of this; over http, models that answer in pieces (decoupled) cannot be asked
    protocol: Literal["grpc", "http"] = "grpc"
    # for models that take token ids: a tokenizer.json; empty: prompts go as text, or as the caller's own token ids
    tokenizer: str = ""
    # token ids are padded to the next of these lengths, because Triton batches only what is of one shape; empty:
    # powers of two from 16 on
    buckets: list[Positive] = []
    pad: NotNegative = 0  # the token that they are padded with
    template: Literal["plain", "chatml"] = "plain"  # what becomes of a chat, for models that take a text
    priorities: dict[str, Positive] = {}  # tier: Triton's priority level, of which 1 goes first
    queue_timeout: Seconds = 0.0  # how long a call may wait in Triton's queue; 0: as its own policy has it


class DepartureConfig(Section, frozen=True):
    """How an upstream itself says that it goes away, and who else is told of it."""

    # a field of its answers' headers that says so; its value: in how many seconds; anything else but false: some time
    header: str = "penstock-departing"
    # a path of its server that is asked: 503 says that it goes away, 2xx that it is there; empty: none is asked
    probe: str = ""
    every: Above = 5.0  # seconds between two such questions
    # seconds after the moment that it told, or after it last said so, that it is tried again
    holds: Above = 300.0
    # who is told, also of what you announce: the workers of this machine, or through `limits.redis` all gateways
    shared: Literal["workers", "machines"] = "workers"


class HealthConfig(Section, frozen=True):
    """How an upstream is asked whether it is well, beside the calls.  One that is not is asked last, never left out."""

    path: str = "/health"  # of its server; 2xx says that it is well, and nothing else does
    every: Above = 10.0  # seconds between two questions, a tenth more or less
    timeout: Above = 2.0  # seconds for an answer
    unhealthy_after: Positive = 3  # questions in a row that fail
    healthy_after: Positive = 2  # questions in a row that succeed
    # seconds over which one that is well again gets its share of the calls back; 0: at once
    slow_start: Seconds = 30.0


class CredentialsConfig(Section, frozen=True):
    """Credentials that do not last: where they come from.  They are fetched anew before they end."""

    # command: it prints a token; file: it holds one; google, entra: a token that Google's or Microsoft's library finds;
    # aws: requests are signed with the keys that Amazon's library finds (extras google, entra, aws)
    source: Literal["command", "file", "google", "entra", "aws"]
    command: list[str] = []  # of the source command: a program and its arguments; no shell reads it
    # of the source file: what holds the token; of google: a service account's key, or a workload's identity; empty:
    # where that library looks by itself
    file: str = ""
    every: Above = 1_800.0  # seconds after which a token is fetched anew that does not say how long it lasts
    # what the token is for; empty: of google its cloud platform, of entra its cognitive services
    scope: str = ""
    region: str = ""  # of aws; empty: as the base_url has it
    service: str = ""  # of aws: the service's name in signatures; empty: bedrock
    profile: str = ""  # of aws: a section of its shared configuration
    access_key: str = ""  # of aws; empty: as found where Amazon's own tools look
    secret_key: Secret | None = None  # with access_key


class UpstreamConfig(Section, frozen=True):
    """Somebody who answers.  ``base_url`` is what the provider's SDK takes, ``/v1`` included where it has one."""

    # whose API it speaks; sim: the simulator, a process of its own or at base_url; local: a model of our own, likewise;
    # triton: Triton's own, over gRPC or HTTP; bedrock: models at Amazon; vertex: Anthropic's at Google
    kind: Literal["openai", "anthropic", "sim", "local", "triton", "bedrock", "vertex"]
    base_url: str = ""  # empty: the provider's own
    api_key: Secret | None = None  # sent as the provider wants it
    # instead of a key, what has to be fetched; of the kinds bedrock and vertex without a key: from aws and google
    credentials: CredentialsConfig | None = None
    headers: dict[str, str] = {}  # added to every request
    # members of the JSON body that it is not told, such as seed: a call is asked without them, and not refused; not of
    # images, sound, moderations and ranks
    leave_out: list[str] = []
    # provider: lines of batches go to it in batches of its own, at the lower price of those, and may take a day
    batches: Literal["calls", "provider"] = "calls"
    trace_context: bool = True  # it is told which trace a call belongs to (traceparent, tracestate)
    local: LocalConfig = LocalConfig()  # of kind local: the model
    responses: bool = False  # it has /v1/responses itself; otherwise they are translated
    # every streamed response is asked for with background and store, so that it can be read on after a break; never
    # one with store: false
    background: bool = False
    # of the kind bedrock: by which of its APIs models are asked; none: Anthropic's by invoke, and those whose id
    # names another vendor by converse
    api: Literal["invoke", "converse"] | None = None
    running_usage: bool = False  # takes stream_options.continuous_usage_stats (vLLM, SGLang, sim)
    ca_file: str | None = None  # PEM file with the authorities to trust instead of the usual ones
    verify: bool = True  # false: any certificate will do; for tests only
    # an HTTP proxy on the way to it: http://user:password@host:port, or environment: what HTTPS_PROXY, HTTP_PROXY and
    # NO_PROXY say; none: the way is direct, whatever they say
    proxy: Secret | None = None
    http2: bool = False  # calls share a connection of HTTP/2 (extra http2)
    pool: PoolConfig = PoolConfig()  # connections to it; of HTTP/2: its streams
    timeouts: TimeoutConfig | None = None  # instead of the top level's; a model's own go before these
    concurrency: ConcurrencyConfig | None = None  # how many calls it gets at once; none: as many as come
    breaker: BreakerConfig | None = None  # when it is left in peace; none: never
    batching: BatchingConfig | None = None  # which calls share a request; none: none do
    hedge: HedgeConfig | None = None  # when a second call is made because the first is late; none: never
    cancel_grace: Seconds = 1.0  # how long what was under way is still read (and billed) after a cancel
    capabilities: CapabilitiesConfig = CapabilitiesConfig()  # what it can do for an answer that broke off
    triton: TritonConfig | None = None  # for the kind triton
    capacity: Literal["reserved", "spot"] = "reserved"  # spot: cheaper, and taken back at short notice
    region: str = ""  # where it stands: a name, compared with the gateway's own
    departure: DepartureConfig | None = None  # how it says that it goes away; none: only you can say so
    health: HealthConfig | None = None  # how it is asked whether it is well; none: calls alone find out
