"""The converted configuration as text, with comments."""

from __future__ import annotations

from collections.abc import Iterable

from penstock.config.litellm._draft import SEAL_KEY, Draft, Traces, Upstream
from penstock.config.litellm._groups import model_clocks, weights
from penstock.config.litellm._limits import limit_lines
from penstock.config.providers import DEFAULT_BASE_URLS
from penstock.config.references import variables
from penstock.config.writing import escaped, flow, flow_list, scalar


def lines(draft: Draft, name: str) -> Iterable[str]:
    yield f"# Converted from {_one_line(name)} by `penstock import-litellm`."
    if draft.left():
        yield "#"
        yield "# Not converted:"
        yield from (f"#   {_one_line(str(left))}" for left in draft.left())
    yield ""
    limits = list(limit_lines(draft))
    parts = (
        draft.upstreams,
        draft.log,
        draft.traces,
        draft.timeouts,
        draft.ledger,
        draft.keys,
        limits,
        draft.redis,
    )
    if not any(parts) and draft.retries is None:
        yield "log: {}"  # a configuration is never empty
    if draft.log:
        yield f"log: {{{', '.join(f'{key}: {value}' for key, value in draft.log.items())}}}"
    if draft.traces is not None:
        yield from _traces_lines(draft.traces)
    if draft.retries is not None:
        yield f"retry:\n  attempts: {draft.retries + 1}  # the first and {draft.retries} more, at one candidate"
    if draft.timeouts:
        yield "timeouts:"
        yield from (f"  {clock}: {seconds:.15g}" for clock, seconds in draft.timeouts.items())
    if draft.upstreams:
        yield "upstreams:"
    for upstream, label in draft.upstreams.items():
        yield from _upstream_lines(upstream, label)
        if draft.breaker:
            yield f"    breaker: {flow(draft.breaker)}"
        if label in draft.concurrency:
            yield f"    concurrency: {{ limit: {draft.concurrency[label]}, adaptive: false }}"
    if draft.models:
        yield "models:"
    for model, deployments in draft.models.items():
        yield f"  {scalar(model)}:"
        if draft.strategy and len(deployments) > 1:
            yield f"    strategy: {draft.strategy}"
        yield "    candidates:"
        for deployment, weight in zip(deployments, weights(draft, deployments), strict=True):
            yield f"      - upstream: {scalar(deployment.upstream)}"
            if deployment.model:
                yield f"        model: {scalar(escaped(deployment.model))}"
            if weight is not None:
                yield f"        weight: {weight:.15g}"
            if deployment.window is not None:
                yield f"        context_window: {deployment.window}"
            if deployment.extras:
                yield f"        extra_body: {flow(deployment.extras)}"
        if deployments[0].parameters:
            yield f"    parameters: {flow(deployments[0].parameters)}"
        if kept := draft.kept_for(model):
            yield f"    cache: {flow(kept)}"
        if clocks := model_clocks(draft, deployments):
            yield "    timeouts:"
            yield from (f"      {clock}: {seconds:.15g}" for clock, seconds in clocks.items())
        for key in ("fallbacks", "context_length_fallbacks", "content_filter_fallbacks"):
            if fallbacks := getattr(draft, key).get(model):
                yield f"    {key}: {flow_list(map(escaped, fallbacks))}"
    if draft.ledger:
        yield f"ledger: {flow(draft.ledger)}  # what calls cost"
    if draft.keys:
        yield "keys:"
    for label, hashed in draft.keys:
        yield f"  - name: {scalar(label)}"
        yield f"    hash: {hashed}"
    if "cache" in draft.redis:
        yield "cache:  # needs the extra redis"
        yield f"  redis: {scalar(draft.redis['cache'])}"
        yield f"  seal_key: ${{{SEAL_KEY}}}"
    if limits or "limits" in draft.redis:
        yield "limits:"
    if "limits" in draft.redis:
        yield f"  redis: {scalar(draft.redis['limits'])}  # needs the extra redis"
    for table, entries in limits:
        yield f"  {table}:"
        yield from (f"    {scalar(name)}: {{ {limited} }}" for name, limited in entries)


def _traces_lines(traces: Traces) -> Iterable[str]:
    yield "traces:  # needs the extra otel"
    yield f"  endpoint: {scalar(traces.endpoint)}"
    if traces.headers:
        yield "  headers:  # better in the environment: ${NAME}"
        yield from (f"    {scalar(header)}: {scalar(value)}" for header, value in traces.headers.items())
    if traces.service_name is not None:
        yield f"  service_name: {scalar(traces.service_name)}"
    if traces.sample is not None:
        yield f"  sample: {traces.sample:g}"


def _upstream_lines(upstream: Upstream, label: str) -> Iterable[str]:
    yield f"  {scalar(label)}:"
    yield f"    kind: {upstream.kind}"
    if upstream.base_url != DEFAULT_BASE_URLS[upstream.kind]:
        yield f"    base_url: {scalar(upstream.base_url)}"
    if upstream.api_key is not None:
        plain = "" if variables(upstream.api_key) else "  # better in the environment: ${NAME}"
        yield f"    api_key: {scalar(upstream.api_key)}{plain}"
    if upstream.credentials:
        yield "    credentials:"
        yield from (f"      {key}: {scalar(value)}" for key, value in upstream.credentials)
    if upstream.headers:
        yield "    headers:"
        yield from (f"      {scalar(header)}: {scalar(value)}" for header, value in upstream.headers)
    if upstream.leave_out:
        yield f"    leave_out: {flow_list(upstream.leave_out)}"
    if upstream.api is not None:
        yield f"    api: {upstream.api}"
    for switch in ("responses", "running_usage"):
        if getattr(upstream, switch):
            yield f"    {switch}: true"
    if not upstream.verify:
        yield "    verify: false"


def _one_line(text: str) -> str:
    return " ".join(text.split()) if text.isprintable() else repr(text)
