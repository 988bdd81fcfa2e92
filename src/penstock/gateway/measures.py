"""What requests and attempts count among the metrics.

Every label set is bounded: models are labelled by their entry in the configuration, never by what a caller wrote.
"""

from __future__ import annotations

from penstock.metrics import (
    DURATION_BUCKETS,
    INTER_TOKEN_BUCKETS,
    TTFT_BUCKETS,
    Counter,
    Histogram,
    Metric,
    Registry,
)

MAX_CHILDREN = 5_000  # label sets of one metric: configurations with hundreds of models find room
_EVERY_STATUS = 10_000  # of each of two dozen kinds of requests


class Measures:
    """The metrics of one worker's :class:`~penstock.gateway.stages.record.Recorder`."""

    def __init__(self, metrics: Registry) -> None:
        def counter(name: str, help_text: str, *labels: str) -> Metric[Counter]:
            return metrics.counter(name, help_text, labels, max_children=MAX_CHILDREN)

        def histogram(name: str, help_text: str, label: str, buckets: tuple[float, ...]) -> Metric[Histogram]:
            return metrics.histogram(name, help_text, labels=(label,), buckets=buckets)

        self.requests = metrics.counter(
            "penstock_requests_total",
            "Requests answered.",
            labels=("endpoint", "status"),
            max_children=_EVERY_STATUS,
        )
        self.durations = histogram(
            "penstock_request_duration_seconds",
            "From a request's whole body to its answer's end, or its caller's leaving.",
            "endpoint",
            DURATION_BUCKETS,
        )
        self.attempts = counter(
            "penstock_attempts_total", "Upstream calls that have ended.", "upstream", "outcome", "error"
        )
        self.retries = counter("penstock_retries_total", "Attempts repeated.", "upstream")
        self.retries_refused = counter(
            "penstock_retries_refused_total", "Retries that the budget had nothing left for."
        )
        self.overstated = counter(
            "penstock_overstated_usage_total", "Attempts whose upstream told of more than can be.", "upstream"
        )
        self.continuations = counter(
            "penstock_continuations_total", "Broken streams gone on with.", "how", "outcome"
        )
        self.hedges = counter(
            "penstock_hedges_total",
            "Second calls for answers that were late, by what became of them.",
            "upstream",
            "outcome",
        )
        self.shared_calls = counter(
            "penstock_batched_calls_total", "Calls that could share a request with others.", "upstream"
        )
        self.shared_requests = counter(
            "penstock_batched_requests_total",
            "Requests in which calls that could share one were asked.",
            "upstream",
        )
        self.tokens = counter(
            "penstock_tokens_total", "Tokens settled in the ledger.", "upstream", "model", "direction"
        )
        self.units = counter(
            "penstock_units_total",
            "What was settled in the ledger and is not counted in tokens.",
            *("upstream", "model", "unit"),
        )
        self.cost = counter("penstock_cost_usd_total", "Money settled in the ledger.", "upstream", "model")
        self.first_token = histogram(
            "penstock_first_token_seconds",
            "From sending a call to its answer's first event.",
            "upstream",
            TTFT_BUCKETS,
        )
        self.between = histogram(
            "penstock_between_tokens_seconds",
            "Mean time between the output tokens of a streamed answer.",
            "upstream",
            INTER_TOKEN_BUCKETS,
        )
        self.saved_tokens = counter(
            "penstock_cache_saved_tokens_total", "Tokens that kept answers saved.", "direction"
        )
        self.saved_cost = counter(
            "penstock_cache_saved_usd_total", "What the answers that were given again had cost."
        )
        self.left_out = counter(
            "penstock_prompt_left_out_tokens_total", "Tokens that were left out of prompts, about.", "what"
        )
        self.prompt_tokens = counter(
            "penstock_prompt_cache_tokens_total",
            "Tokens of prompts whose provider's cache is cared for.",
            "upstream",
            "kind",
        )
        self.prompt_missed = counter(
            "penstock_prompt_cache_missed_usd_total",
            "What the provider's cache would have saved, had it kept what was sent again.",
            "upstream",
        )
