"""OTLP over HTTP, by OpenTelemetry's own exporter: the extra ``otel``."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from typing import Any

import requests
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from penstock import __version__
from penstock.config.model import TracesConfig
from penstock.traces.spans import Span

PATH = "/v1/traces"
SCHEMA = "https://opentelemetry.io/schemas/1.44.0"
ANSWER_BYTES = 4_096  # of a collector's answer that are read: it has nothing to say that is longer
WORD_INTERVAL = 60.0  # seconds between two lines in the log about a collector

_KINDS = {"server": SpanKind.SERVER, "client": SpanKind.CLIENT}
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_NO_STATE = TraceState()
_FINE = Status(StatusCode.UNSET)
_EXPORTER_LOG = logging.getLogger("opentelemetry.exporter.otlp.proto.http.trace_exporter")


class OTLP:
    """A :class:`penstock.traces.sender.Exporter`.

    :param timeout: seconds that one request may take, with what is tried again of it
    """

    def __init__(self, config: TracesConfig, timeout: float) -> None:
        base = config.endpoint.rstrip("/")
        self._endpoint = base if base.endswith(PATH) else base + PATH
        _EXPORTER_LOG.filters[:] = [_seldom()]
        self._exporter = OTLPSpanExporter(
            endpoint=self._endpoint,
            headers={name: value.reveal() for name, value in config.headers.items()},
            timeout=timeout,
            session=_Session(timeout),
        )
        # What is not said here comes from OTEL_RESOURCE_ATTRIBUTES, as everywhere.
        self._resource = Resource.create(
            {
                "service.name": config.service_name,
                "service.version": __version__,
                "service.instance.id": f"{os.uname().nodename}:{os.getpid()}",
            }
        )
        self._scope = InstrumentationScope("penstock", __version__, SCHEMA)

    def __repr__(self) -> str:
        return f"<OTLP to {self._endpoint}>"

    def export(self, spans: Sequence[Span]) -> bool:
        """Whether the collector took them."""
        said = [self._said(span) for span in spans]
        return self._exporter.export(said) is SpanExportResult.SUCCESS

    def stop(self) -> None:
        """Try nothing again."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def _said(self, span: Span) -> ReadableSpan:
        trace = span.trace
        trace_id = int(trace.trace_id, 16)
        state = TraceState.from_header([trace.state.decode("latin-1")]) if trace.state else _NO_STATE
        parent = None
        if span.parent_id:
            parent = SpanContext(
                trace_id, int(span.parent_id, 16), span.kind == "server", _SAMPLED, trace_state=state
            )
        return ReadableSpan(
            span.name,
            SpanContext(trace_id, int(span.span_id, 16), False, _SAMPLED, state),
            parent,
            self._resource,
            span.attributes,
            links=[
                Link(
                    SpanContext(int(link.trace_id, 16), int(link.span_id, 16), False, _SAMPLED),
                    {"penstock.link": link.why},
                )
                for link in span.links
            ],
            kind=_KINDS[span.kind],
            status=Status(StatusCode.ERROR, span.error) if span.error else _FINE,
            start_time=int(span.start * 1e9),
            end_time=int(span.end * 1e9),
            instrumentation_scope=self._scope,
        )


class _Session(requests.Session):
    """Reads no more of an answer than :data:`ANSWER_BYTES`, and no longer than it may take.

    The exporter's own would read whatever comes, for as long as something comes.
    """

    def __init__(self, timeout: float) -> None:
        super().__init__()
        self._timeout = timeout

    def request(self, *args: Any, **fields: Any) -> requests.Response:
        until = time.monotonic() + self._timeout
        answer = super().request(*args, **{**fields, "stream": True})
        for read, _ in enumerate(answer.iter_content(1)):  # as they come: for more of them it would wait
            if read > ANSWER_BYTES or time.monotonic() > until:
                break
        answer.close()
        answer._content = b""  # noqa: SLF001 - of nobody's interest
        return answer


def _seldom() -> Any:
    """A filter that lets a line through once a minute: a collector that is down says the same with each batch."""
    next_at = 0.0

    def passes(_record: logging.LogRecord) -> bool:
        nonlocal next_at
        now = time.monotonic()
        if now < next_at:
            return False
        next_at = now + WORD_INTERVAL
        return True

    return passes
