"""Spans as a real receiver of OTLP gets them, and receivers that are none."""

import socket

import pytest

from collector import Collector
from penstock.config.model import TracesConfig
from penstock.config.secret import Secret
from penstock.messages import Trace
from penstock.traces.otlp import OTLP
from penstock.traces.spans import Link, Span

TRACE = Trace("1" * 32, "2" * 16, "3" * 16, b"vendor=x", put=None, new_id=None)
SPAN = Span(
    TRACE, "2" * 16, "3" * 16, "POST /v1/x", "server", 1.5, 2.5, {"a": 1, "b": "c"}, "upstream_failed",
    (Link("4" * 32, "5" * 16, "shares"),),
)  # fmt: skip


def test_a_span_arrives_whole():
    with Collector() as collector:
        config = TracesConfig(
            endpoint=collector.endpoint, headers={"x-key": Secret("k")}, service_name="gateway-a"
        )
        otlp = OTLP(config, 10.0)
        assert otlp.export([SPAN])
        assert otlp.export([SPAN])
        otlp.stop()
    span = collector.spans[0]
    assert (span.trace_id, span.span_id, span.parent_id) == ("1" * 32, "2" * 16, "3" * 16)
    assert (span.name, span.kind, span.state) == ("POST /v1/x", 2, "vendor=x")
    assert (span.start, span.end) == (1_500_000_000, 2_500_000_000)
    assert span.said == {"a": 1, "b": "c"}
    assert span.failed
    assert span.links == [("4" * 32, "5" * 16, {"penstock.link": "shares"})]
    assert span.resource["service.name"] == "gateway-a"
    path, headers = collector.requests[0]
    assert path == "/v1/traces"
    assert headers["x-key"] == "k"


def test_header_fields_of_the_environment_are_sent_beside_those_of_the_configuration(monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-key=from%20there")
    with Collector() as collector:
        for own in ({}, {"x-other": Secret("own")}):
            assert OTLP(TracesConfig(endpoint=collector.endpoint, headers=own), 10.0).export([SPAN])
    assert [headers.get("x-key") for _, headers in collector.requests] == ["from there", "from there"]
    assert collector.requests[1][1]["x-other"] == "own"


@pytest.mark.parametrize("path", ["/api/otel", "/api/otel/", "/api/otel/v1/traces"])
def test_the_address_may_have_a_path(path):
    with Collector() as collector:
        assert OTLP(TracesConfig(endpoint=collector.endpoint + path), 10.0).export([SPAN])
    assert collector.requests[0][0] == "/api/otel/v1/traces"


@pytest.mark.parametrize("how", ["stalls", "refuses", "nonsense"])
def test_what_does_not_take_spans_in_time_is_told_apart(how):
    with Collector(how) as collector:
        assert not OTLP(TracesConfig(endpoint=collector.endpoint), 0.3).export([SPAN])
        assert collector.requests


def test_nobody_is_there():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert not OTLP(TracesConfig(endpoint=f"http://127.0.0.1:{port}"), 0.3).export([SPAN])


def test_an_answer_without_an_end_is_not_read_to_it():
    with Collector("endless") as collector:
        assert OTLP(TracesConfig(endpoint=collector.endpoint), 30.0).export([SPAN])
