"""What model names mean: who can answer them, in which version, and what is done with prompts and answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from penstock.config.model._calls import ContinuationConfig, TimeoutConfig
from penstock.config.model._section import (
    Above,
    Amount,
    Bytes,
    CachedSeconds,
    Dollars,
    HalfToOne,
    Neighbour,
    OutputTokens,
    Positive,
    Seconds,
    Section,
    Share,
    Times,
    Within,
)


class CandidateConfig(Section, frozen=True):
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
    # tokens of the longest prompt that it takes; one that is surely longer is not sent there; none: it is not known
    context_window: Positive | None = None
    # members of the JSON body that it is asked with besides, in its own API, where the call has them not, such as
    # chat_template_kwargs; not of images, sound, moderations and ranks
    extra_body: dict[str, Any] = {}


class CanaryConfig(Section, frozen=True):
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


class ShadowConfig(Section, frozen=True):
    """Some calls are asked a second time of another version, for comparison; nobody gets that answer."""

    version: str  # the `version` of the candidates that are asked
    share: Share = 0.01  # of the calls that other versions have answered
    calls_per_minute: Above = 60.0  # of each worker, at most
    usd_per_day: Dollars = 1.0  # of each worker, at most; a day begins at midnight UTC
    concurrent: Positive = 2  # of each worker, at once
    # nothing is asked while the upstreams of either version are loaded more (calls ÷ `concurrency`)
    max_load: Amount = 0.5


class CascadeConfig(Section, frozen=True):
    """A smaller model is asked first, and this one only if that answer does not pass the checks."""

    model: str  # the smaller model's name, as callers would say it
    # an answer that shall be JSON, by the call's own schema or without one, is; off: that is not looked at
    form: bool = True
    # an answer that begins with one of these does not pass; nor does one that says nothing
    refusals: list[str] = []
    # the mean log-probability of the answer's tokens is no less; chat completions only; none: it is not asked for
    min_logprob: Annotated[float, msgspec.Meta(le=0)] | None = None
    judge: str = ""  # a model that is asked whether the answer is good; empty: none is
    timeout: Seconds = 30.0  # that the smaller model and the checks may take together; 0: any time


class SemanticConfig(Section, frozen=True):
    """Answers to questions that mean the same, where that has been shown to be right; calls without tools or schema."""

    # the probability with which an answer to a similar question may be wrong; above it the question is asked anew
    max_error: Annotated[float, msgspec.Meta(gt=0, le=0.5)] = 0.01
    # of the answers so given, the share that is compared with a fresh one, which is paid for
    verify: Share = 0.05
    min_similarity: HalfToOne = 0.75  # what is less similar is not compared
    answers_alike: HalfToOne = 0.9  # from this similarity on two answers say the same


class PrefetchConfig(Section, frozen=True):
    """Asking for what a caller will probably ask next, behind all other calls."""

    min_probability: Share = 0.5  # that it will be asked soon, going by what followed until now
    calls_per_minute: Above = 10.0  # of each worker, at most
    usd_per_day: Dollars = 1.0  # of each worker, at most; a day begins at midnight UTC
    min_used: Share = 0.3  # where less than this share of what was fetched is used, it rests for ten minutes
    # what lies beside a question is asked too: numbers (the next page), or your own function, package.module:function
    neighbours: list[Neighbour] = []


class PaceConfig(Section, frozen=True):
    """Kept answers go out to who wants a stream as if they were being made, and not at once."""

    # how quickly; none: in the time that the answer took when it was made
    tokens_per_second: Above | None = None
    longest: Seconds = 10.0  # what would take longer goes out faster


class ModelCacheConfig(Section, frozen=True):
    """Which answers of a model are kept, and for how long.  Without this section none is."""

    calls: Literal["deterministic", "all"] = "deterministic"  # deterministic: with temperature 0 or a seed
    ttl: CachedSeconds = 300.0  # an answer is fresh for so long
    # for so long after that it still answers, while a new one is fetched behind it
    stale_while_revalidate: CachedSeconds = 0.0
    stale_if_error: CachedSeconds = 0.0  # and for so long it answers where no upstream does
    # who may be given an answer that another asked for: callers of the same tenant, or everybody
    scope: Literal["tenant", "shared"] = "tenant"
    # a larger answer of this model is not kept; none: `cache.max_entry_bytes`, which none exceeds
    max_entry_bytes: Bytes | None = None
    # what a kept answer tells that it used: that all of the prompt came from a cache, or what it took when it was made
    usage: Literal["cached", "original"] = "cached"
    pace: PaceConfig | None = None  # how quickly kept answers are streamed; none: they come at once
    semantic: SemanticConfig | None = None  # none: only the same question gets a kept answer
    prefetch: PrefetchConfig | None = None  # none: nothing is asked before a caller asks it


class PromptCacheConfig(Section, frozen=True):
    """Marks and keys for the providers' own prompt caches, added to calls that have none of their own."""

    # of a beginning; providers keep none that is shorter; none: what the price table says of the model, or 1,024
    min_tokens: Positive | None = None


class PromptConfig(Section, frozen=True):
    """What is left out of prompts before anything else is done with them.  Each is off unless it is asked for."""

    # spaces at the ends of lines, runs of them within lines, and blank lines beyond one
    whitespace: bool = False
    # a paragraph of 200 characters or more that stands in the prompt already, word for word
    duplicates: bool = False
    # the oldest exchanges, until about so many tokens are left; the system prompt and the last exchange stay
    history_tokens: Positive | None = None


class ParametersConfig(Section, frozen=True):
    """Parameters of calls, named as in a chat completion.  In another API each gets the name that it has there, if any."""

    # how freely tokens are drawn; 0: not at all
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Share | None = None  # tokens are drawn of those that together have this probability
    top_k: Positive | None = None  # tokens are drawn of so many; not of responses
    # of the answer, what the model thinks included; max_completion_tokens and max_output_tokens are the same
    max_tokens: OutputTokens | None = None
    stop: list[str] = []  # texts at which the answer ends; not of responses
    # for the same answer again, where an upstream can give it; of chats and completions
    seed: int | None = None
    # tokens become less likely the more often they have come; of chats and completions
    frequency_penalty: Annotated[float, msgspec.Meta(ge=-2, le=2)] | None = None
    # tokens become less likely once they have come; of chats and completions
    presence_penalty: Annotated[float, msgspec.Meta(ge=-2, le=2)] | None = None
    # how much the model thinks; in the Messages API it is output_config.effort, in responses reasoning.effort
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None  # how much is said; of chats and responses
    service_tier: str = ""  # of OpenAI's tiers the one that the call is made in; of chats and responses
    dimensions: Positive | None = None  # how many numbers an embedding has


class ModelConfig(Section, frozen=True):
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
    # other model names, tried in order when a candidate says, or is known, to take no prompt as long as the call's
    context_length_fallbacks: list[str] = []
    # other model names, tried in order when a candidate's content filter refuses the prompt
    content_filter_fallbacks: list[str] = []
    smaller: str = ""  # another model name, asked instead where a tier's `degradation` says so
    parameters: ParametersConfig | None = None  # what calls have unless they say otherwise; none: nothing
    overrides: ParametersConfig | None = None  # what calls have whatever they say; none: nothing
    # tokens of the longest answer: a call for more, or without a limit, is asked with this one; none: there is none
    max_output_tokens: OutputTokens | None = None
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


class VersionsConfig(Section, frozen=True):
    """How far the trials of new versions have come."""

    # a SQLite file, which the workers of this machine share; it is made when there is a canary; empty: in memory only
    path: str = "penstock-versions.sqlite"
    # who judges together: the workers of this machine, or through `limits.redis` the gateways on all machines
    shared: Literal["workers", "machines"] = "workers"
