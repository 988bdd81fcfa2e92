"""What the configuration file may say: every section, every key, its type, unit and default.

The structs refuse unknown keys.  Sizes are bytes, times seconds.  ``penstock.config.load`` reads a file
into them; the JSON Schema for editors is made from them.

:class:`Config` is the top level; what lies below it stands by its subject in the files beside this one.
"""

from __future__ import annotations

from penstock.config.model._cache import CacheConfig, EmbeddingConfig
from penstock.config.model._callers import DegradationConfig, KeyConfig, LimitConfig, LimitsConfig, TierConfig
from penstock.config.model._calls import ContinuationConfig, RetryConfig, TimeoutConfig
from penstock.config.model._files import BatchesConfig, FilesConfig, UploadsConfig, UploadsS3Config
from penstock.config.model._generations import ConversationsConfig, GenerationsConfig
from penstock.config.model._listener import CodingsConfig, ListenerConfig, TLSConfig
from penstock.config.model._models import (
    CanaryConfig,
    CandidateConfig,
    CascadeConfig,
    ModelCacheConfig,
    ModelConfig,
    PaceConfig,
    ParametersConfig,
    PrefetchConfig,
    PromptCacheConfig,
    PromptConfig,
    SemanticConfig,
    ShadowConfig,
    VersionsConfig,
)
from penstock.config.model._records import LedgerConfig, LogConfig, TracesConfig, TranscriptsConfig
from penstock.config.model._section import Bytes, Positive, Seconds, Section
from penstock.config.model._upstreams import (
    BatchingConfig,
    BreakerConfig,
    CapabilitiesConfig,
    ConcurrencyConfig,
    CredentialsConfig,
    DepartureConfig,
    HealthConfig,
    HedgeConfig,
    LocalConfig,
    PoolConfig,
    TritonConfig,
    UpstreamConfig,
)
from penstock.config.model._webhooks import WebhookConfig, WebhooksConfig
from penstock.config.secret import Secret

__all__ = [
    "BatchesConfig",
    "BatchingConfig",
    "BreakerConfig",
    "CacheConfig",
    "CanaryConfig",
    "CandidateConfig",
    "CapabilitiesConfig",
    "CascadeConfig",
    "CodingsConfig",
    "ConcurrencyConfig",
    "Config",
    "ContinuationConfig",
    "ConversationsConfig",
    "CredentialsConfig",
    "DegradationConfig",
    "DepartureConfig",
    "EmbeddingConfig",
    "FilesConfig",
    "GenerationsConfig",
    "HealthConfig",
    "HedgeConfig",
    "KeyConfig",
    "LedgerConfig",
    "LimitConfig",
    "LimitsConfig",
    "ListenerConfig",
    "LocalConfig",
    "LogConfig",
    "ModelCacheConfig",
    "ModelConfig",
    "PaceConfig",
    "ParametersConfig",
    "PoolConfig",
    "PrefetchConfig",
    "PromptCacheConfig",
    "PromptConfig",
    "RetryConfig",
    "SemanticConfig",
    "ShadowConfig",
    "TLSConfig",
    "TierConfig",
    "TimeoutConfig",
    "TracesConfig",
    "TranscriptsConfig",
    "TritonConfig",
    "UploadsConfig",
    "UploadsS3Config",
    "UpstreamConfig",
    "VersionsConfig",
    "WebhookConfig",
    "WebhooksConfig",
]


class Config(Section, frozen=True):
    """The whole file."""

    listen: str = "127.0.0.1:8080"  # where callers connect, host:port; port 0: any free one
    control: str = "127.0.0.1:8081"  # where the control API listens, host:port
    control_key: Secret | None = None  # what the control API asks for; none: nothing
    workers: Positive = 1  # worker processes
    # a worker whose event loop gives no sign of life for so long is killed and started again; 0: never
    worker_timeout: Seconds = 30.0
    tls: TLSConfig | None = None  # none: plain HTTP
    listener: ListenerConfig = ListenerConfig()  # limits of the listener
    # how long the ports stay open when the process is told to end, so that a load balancer hears of it first
    drain_delay: Seconds = 0.0
    # how long requests in flight may take to finish after that
    drain_timeout: Seconds = 30.0
    region: str = ""  # where this gateway stands: a name, compared with the upstreams' own
    # a file that keeps over a restart who is announced as going away; none: it is forgotten then
    departures: str = ""
    upstreams: dict[str, UpstreamConfig] = {}  # who answers
    models: dict[str, ModelConfig] = {}  # what model names mean; a name may be a pattern with one *
    # answers say who has made them: Penstock-Upstream, Penstock-Model, Penstock-Version
    show_upstream: bool = False
    keys: list[KeyConfig] = []  # who may call; empty, and no keys_file: everybody
    # more of them, for those that come and go: an entry of keys as JSON on each line; watched
    keys_file: str = ""
    tiers: dict[str, TierConfig] = {}  # by the names that keys have
    limits: LimitsConfig = LimitsConfig()  # what keys, tenants, tiers and models may use
    # the clocks of calls, where neither model nor upstream has its own
    timeouts: TimeoutConfig = TimeoutConfig()
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
