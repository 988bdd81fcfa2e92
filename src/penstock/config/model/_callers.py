"""Who may call, how much, and who goes first."""

from __future__ import annotations

from penstock.config.model._section import Above, Dollars, NotNegative, Positive, Seconds, Section, Share
from penstock.config.secret import Secret


class LimitConfig(Section, frozen=True):
    """What somebody may use.  What is not said here is not limited."""

    requests_per_minute: NotNegative | None = None  # as many may also come at once, after a minute's rest
    tokens_per_minute: NotNegative | None = None  # of prompts and answers together
    concurrent: NotNegative | None = None  # calls in progress
    usd_per_day: Dollars | None = None  # US dollars; a day begins at midnight UTC
    usd_per_month: Dollars | None = None  # US dollars; a month begins on its first day, midnight UTC


class KeyConfig(Section, frozen=True):
    """A caller's key, as ``penstock key`` prints it: never the key itself."""

    name: str  # what the key is called in logs and the ledger
    hash: str  # "sha256:" and 64 hexadecimal digits
    tenant: str = "default"  # whose calls these are
    tier: str = "standard"  # the service tier
    models: list[str] = []  # names and patterns that it may use; empty: every model
    # from when on it is refused: a date (its midnight, UTC), or a time with its zone, such as 2027-01-01T12:00:00Z;
    # empty: never
    expires: str = ""
    limits: LimitConfig | None = None  # what it may use, instead of an entry in limits.keys


class DegradationConfig(Section, frozen=True):
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


class TierConfig(Section, frozen=True):
    """A service tier: who goes first where calls wait for an upstream."""

    priority: int = 0  # higher ones go first
    weight: Above = 1.0  # share among tiers of the same priority
    floor: Share = 0.05  # share of all turns that it gets even while higher ones wait
    deadline: Seconds = 0.0  # how long a call may take until its first token, if it does not say; 0: any time
    queue_share: Share = 1.0  # of the places in a queue that it may take
    degradation: DegradationConfig | None = None  # none: its calls get what they ask for, or wait


class LimitsConfig(Section, frozen=True):
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
