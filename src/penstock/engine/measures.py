"""What an engine counts of itself."""

from __future__ import annotations

from penstock.engine.engine import Engine
from penstock.metrics import DURATION_BUCKETS, TTFT_BUCKETS, Registry, process_metrics


class Measures:
    """The metrics of one engine's server."""

    def __init__(self, registry: Registry, engine: Engine) -> None:
        self._registry = registry
        self._requests = registry.counter(
            "penstock_engine_requests_total",
            "Requests, by endpoint and status.",
            labels=("endpoint", "status"),
        )
        self.first_token = registry.histogram(
            "penstock_engine_first_token_seconds", "From a request to its first token.", buckets=TTFT_BUCKETS
        ).labels()
        self.duration = registry.histogram(
            "penstock_engine_duration_seconds",
            "From a request to the end of its answer.",
            buckets=DURATION_BUCKETS,
        ).labels()
        process_metrics(registry)
        tokens = registry.counter(
            "penstock_engine_tokens_total", "Tokens computed: of prompts, and of answers.", labels=("kind",)
        )
        read, generated = tokens.labels("prompt"), tokens.labels("answer")
        steps = registry.counter("penstock_engine_steps_total", "Steps of the model.").labels()
        calls = registry.gauge("penstock_engine_calls", "Calls, by state.", labels=("state",))
        running, waiting = calls.labels("running"), calls.labels("waiting")
        backend = registry.gauge(
            "penstock_engine_backend", "Figures of the library that computes.", labels=("figure",)
        )

        def collect() -> None:
            figures = engine.statistics()
            read.value, generated.value = figures.read, figures.generated
            steps.value = figures.steps
            running.set(figures.running)
            waiting.set(figures.waiting)
            loaded = engine.backend
            for name, value in (loaded.statistics() if loaded is not None else {}).items():
                backend.labels(name).set(value)

        registry.before_collecting(collect)

    def answered(self, endpoint: str, status: int) -> None:
        self._requests.labels(endpoint, str(status)).add(1)

    def __repr__(self) -> str:
        return f"<Measures {self._registry!r}>"
