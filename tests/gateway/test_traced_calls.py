"""What a collector gets of calls and their attempts, and what upstreams are told of their trace."""

import asyncio
import re

import pytest
from continuing import CHAT, body_for, simulated
from serving import (
    COMPLETION,
    DONE,
    PROMPT,
    STREAM_END,
    STREAM_HEAD,
    call,
    config,
    delta,
    error,
    plain,
    serving,
    until,
)

from collector import Collector
from penstock.config.keys import hash_key
from penstock.config.model import (
    BatchingConfig,
    CandidateConfig,
    HedgeConfig,
    KeyConfig,
    LimitConfig,
    LimitsConfig,
    ListenerConfig,
    LogConfig,
    ModelCacheConfig,
    ModelConfig,
    RetryConfig,
    TracesConfig,
    UpstreamConfig,
)
from penstock.flow.hedge import LEAST
from penstock.logs import RequestLog
from penstock.testing import ScriptedUpstream, Step

SERVER, CLIENT = 2, 3
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = [f"traceparent: 00-{TRACE}-{SPAN}-01", "tracestate: vendor=x"]
UNRECORDED = [f"traceparent: 00-{TRACE}-{SPAN}-00", "tracestate: vendor=x"]
ANSWER = plain({**COMPLETION, "model": "m-2026"})
QUICK = RetryConfig(first_delay=0.0, max_delay=0.0, budget_floor=1_000)
STREAM = {**PROMPT, "stream": True}
KEY = "authorization: Bearer sk-right"
HASHED = KeyConfig(name="k", hash=hash_key("sk-right"))


def traced(scripts, calls, how="takes", **more):
    """Play the calls to a gateway that is traced; the spans, what each connection of the upstream has received,
    the answers, and what was counted of the spans.
    """

    async def main():
        async with ScriptedUpstream(scripts) as upstream:
            settings = config(
                upstream.url, traces=TracesConfig(endpoint=collector.endpoint), **{"retry": QUICK, **more}
            )
            async with serving(settings, troubled=True) as (gateway, port):
                answers = [await call(port, *args, **kwargs) for args, kwargs in calls]
            return upstream.received, answers, figures(gateway)

    with Collector(how) as collector:
        received, answers, counted = asyncio.run(main())
    return collector.spans, received, answers, counted


def figures(gateway):
    (family,) = [one for one in gateway.metrics.collect() if one.name == "penstock_spans_total"]
    return {sample.labels[0]: sample.value for sample in family.samples}


def once(headers=(), body=PROMPT):
    return [((body,), {"headers": headers})]


def split(spans):
    servers = [span for span in spans if span.kind == SERVER]
    return servers, [span for span in spans if span.kind == CLIENT]


def told(received):
    """The traceparent and tracestate of each request."""
    return re.findall(rb"traceparent: (\S+)\r\n(?:tracestate: (\S+)\r\n)?", b"".join(received))


def test_a_call_has_a_span_and_its_attempt_another_whose_id_the_upstream_is_told():
    spans, received, _, counted = traced([[Step.REQUEST, ANSWER]], once())
    (server,), (client,) = split(spans)
    assert server.name == "POST /v1/chat/completions"
    assert server.parent_id == ""
    assert client.parent_id == server.span_id
    assert client.trace_id == server.trace_id
    assert told(received) == [(f"00-{client.trace_id}-{client.span_id}-01".encode(), b"")]
    assert server.start <= client.start
    assert client.end <= server.end + 1_000_000  # of two clocks
    assert not server.failed
    assert not client.failed
    assert counted == {"sent": 2, "failed": 0, "dropped": 0, "limited": 0}


def test_an_attempt_says_in_the_words_of_the_conventions_what_was_asked_and_used():
    spans, _, answers, _ = traced([[Step.REQUEST, ANSWER]], once())
    (server,), (client,) = split(spans)
    generation = answers[0].headers["penstock-generation"]
    assert client.name == "chat m"
    assert (
        client.said.items()
        >= {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "openai",
            "gen_ai.request.model": "m",
            "gen_ai.response.model": "m-2026",
            "gen_ai.response.id": "c",
            "gen_ai.usage.input_tokens": 3,
            "gen_ai.usage.output_tokens": 2,
            "server.address": "127.0.0.1",
            "http.response.status_code": 200,
            "penstock.generation": generation,
            "penstock.attempt": 1,
            "penstock.attempt.why": "first",
            "penstock.attempt.outcome": "completed",
            "penstock.upstream": "up0",
        }.items()
    )
    assert (
        server.said.items()
        >= {
            "http.request.method": "POST",
            "http.route": "/v1/chat/completions",
            "http.response.status_code": 200,
            "gen_ai.request.model": "m",
            "penstock.generation": generation,
            "penstock.status": "created",
            "penstock.tenant": "default",
            "penstock.attempts": 1,
            "penstock.seams": 0,
        }.items()
    )
    assert not any(name.startswith("gen_ai.usage") for name in server.said)  # or it would be counted twice


def test_nothing_of_prompt_and_answer_is_in_a_span():
    body = {**STREAM, "messages": [{"role": "user", "content": "a secret word"}]}
    answer = STREAM_HEAD + delta("another secret") + delta("", "stop", usage=(3, 2)) + DONE + STREAM_END
    spans, _, _, _ = traced([[Step.REQUEST, answer]], once(body=body))
    assert len(spans) == 2
    assert "secret" not in repr([span.said for span in spans])


def test_a_streams_first_token_is_told():
    answer = STREAM_HEAD + delta("a") + delta("", "stop", usage=(3, 2)) + DONE + STREAM_END
    spans, _, _, _ = traced([[Step.REQUEST, answer]], once(body=STREAM))
    (server,), (client,) = split(spans)
    assert 0 < client.said["gen_ai.response.time_to_first_chunk"] < 60
    assert 0 < server.said["penstock.first_token_s"] < 60
    assert client.said["gen_ai.request.stream"] is True


def test_the_callers_trace_is_gone_on_with():
    spans, received, _, _ = traced([[Step.REQUEST, ANSWER]], once(PARENT))
    (server,), (client,) = split(spans)
    assert (server.trace_id, server.parent_id) == (TRACE, SPAN)
    assert server.state == client.state == "vendor=x"
    assert told(received) == [(f"00-{TRACE}-{client.span_id}-01".encode(), b"vendor=x")]


def test_what_the_caller_does_not_record_is_not_recorded_and_passed_on_as_it_came():
    spans, received, _, _ = traced([[Step.REQUEST, ANSWER]], once(UNRECORDED))
    assert spans == []
    assert told(received) == [(f"00-{TRACE}-{SPAN}-00".encode(), b"vendor=x")]


def test_of_a_call_that_is_not_in_the_sample_the_upstream_is_told_nothing():
    async def main():
        async with ScriptedUpstream([[Step.REQUEST, ANSWER]]) as upstream:
            traces = TracesConfig(endpoint=collector.endpoint, sample=0.0)
            async with serving(config(upstream.url, traces=traces)) as (_, port):
                await call(port, PROMPT)
            return upstream.received

    with Collector() as collector:
        assert told(asyncio.run(main())) == []
    assert collector.requests == []


@pytest.mark.parametrize("headers", [PARENT, UNRECORDED])
def test_without_a_collector_the_callers_parent_is_passed_on_as_it_came(headers):
    async def main():
        async with ScriptedUpstream([[Step.REQUEST, ANSWER]]) as upstream:
            async with serving(config(upstream.url)) as (_, port):
                await call(port, PROMPT, headers=headers)
            return upstream.received[0]

    received = asyncio.run(main())
    for line in headers:
        assert line.encode() + b"\r\n" in received


def test_what_is_no_parent_is_passed_on_to_nobody():
    async def main():
        async with ScriptedUpstream([[Step.REQUEST, ANSWER]]) as upstream:
            async with serving(config(upstream.url)) as (_, port):
                await call(port, PROMPT, headers=["traceparent: 00-0-0-0", "tracestate: a=1"])
            return upstream.received[0]

    received = asyncio.run(main())
    assert b"traceparent" not in received
    assert b"tracestate" not in received


@pytest.mark.parametrize("recorded", [True, False])
def test_an_upstream_that_is_not_to_know_of_the_trace_is_told_nothing_of_it(recorded):
    async def main():
        async with ScriptedUpstream([[Step.REQUEST, ANSWER]]) as upstream:
            traces = TracesConfig(endpoint=collector.endpoint if recorded else "")
            settings = config(upstream.url, traces=traces)
            settings.upstreams["up0"] = UpstreamConfig(
                kind="openai", base_url=upstream.url + "/v1", trace_context=False
            )
            async with serving(settings) as (_, port):
                assert (await call(port, PROMPT, headers=PARENT)).status == 200
            return upstream.received

    with Collector() as collector:
        received = asyncio.run(main())
    assert told(received) == []
    assert b"vendor=x" not in received[0]
    assert [span.trace_id for span in collector.spans] == [TRACE] * 2 * recorded


def test_a_retry_is_a_span_of_its_own_and_the_failure_another():
    spans, received, _, _ = traced([[Step.REQUEST, error(500), Step.REQUEST, ANSWER]], once())
    (server,), (first, second) = split(spans)
    assert first.failed
    assert first.said["http.response.status_code"] == 500
    assert first.said["error.type"]
    assert not second.failed
    assert [first.said["penstock.attempt.why"], second.said["penstock.attempt.why"]] == ["first", "retry"]
    assert [parent.split(b"-")[2].decode() for parent, _ in told(received)] == [first.span_id, second.span_id]
    assert server.said["penstock.attempts"] == 2
    assert not server.failed


def test_a_fallback_says_so():
    async def main():
        async with (
            ScriptedUpstream([[Step.REQUEST, error(500)]]) as one,
            ScriptedUpstream([[Step.REQUEST, ANSWER]]) as other,
        ):
            settings = config(
                one.url,
                other.url,
                retry=RetryConfig(attempts=1),
                traces=TracesConfig(endpoint=collector.endpoint),
            )
            async with serving(settings) as (_, port):
                await call(port, PROMPT)

    with Collector() as collector:
        asyncio.run(main())
    _, clients = split(collector.spans)
    assert [(one.said["penstock.upstream"], one.said["penstock.attempt.why"]) for one in clients] == [
        ("up0", "first"),
        ("up1", "fallback"),
    ]


def test_a_call_that_fails_is_an_error():
    spans, _, answers, _ = traced([[Step.REQUEST, error(500)]], once(), retry=RetryConfig(attempts=1))
    (server,), _ = split(spans)
    assert server.failed
    assert server.said["http.response.status_code"] == answers[0].status == 502
    assert server.said["error.type"]


def test_a_call_that_is_refused_has_a_span_and_no_attempt_and_is_no_error_of_the_servers():
    limits = LimitsConfig(models={"m": LimitConfig(concurrent=0)})
    spans, received, answers, _ = traced([[Step.REQUEST, ANSWER]], once(PARENT), limits=limits)
    (server,) = spans
    assert answers[0].status == server.said["http.response.status_code"] == 429
    assert server.said["penstock.status"] == "refused"
    assert server.said["error.type"]
    assert not server.failed
    assert received == []


NO_KEY = (401, "missing_api_key", "POST /v1/chat/completions")
NO_PATH = (404, "not_found", "GET")
NO_METHOD = (405, "method_not_allowed", "GET /v1/chat/completions")
NO_JSON = (400, "invalid_json", "POST /v1/chat/completions")
TOO_LONG = (413, "body_too_large", "POST /v1/messages")


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (((PROMPT,), {}), NO_KEY),
        (((b"",), {"path": "/v2/nothing", "method": "GET", "headers": [KEY]}), NO_PATH),
        (((b"",), {"method": "GET", "headers": [KEY]}), NO_METHOD),
        (((b"{",), {"headers": [KEY]}), NO_JSON),
        (((b" " * 2_000,), {"path": "/v1/messages", "headers": [KEY]}), TOO_LONG),
    ],
    ids=["401", "404", "405", "400", "413"],
)
@pytest.mark.parametrize("parent", [[], PARENT], ids=["alone", "parent"])
def test_a_request_that_never_becomes_a_call_has_a_span(request_, expected, parent):
    (args, more) = request_
    more = {**more, "headers": [*more.get("headers", []), *parent]}
    settings = {"keys": [HASHED], "listener": ListenerConfig(max_body_bytes=1_000)}
    spans, _, answers, counted = traced([[]], [(args, more)], **settings)
    (span,) = spans
    status, code, name = expected
    assert answers[0].status == span.said["http.response.status_code"] == status
    assert (span.name, span.said["error.type"], span.kind) == (name, code, SERVER)
    assert span.said["penstock.status"] == "refused"
    assert span.said.get("penstock.key") == (None if status == 401 else "k")
    assert span.said["url.path"] == more.get("path", "/v1/chat/completions")
    assert (span.parent_id, span.trace_id == TRACE) == ((SPAN, True) if parent else ("", False))
    assert not span.failed
    assert counted["sent"] == 1


def test_of_a_request_that_is_refused_the_caller_decides_too_whether_it_is_recorded():
    spans, _, _, _ = traced([[]], [((b"{",), {"headers": UNRECORDED})])
    assert spans == []


def test_what_a_stranger_asks_for_makes_neither_names_nor_long_attributes():
    strange = {"path": "/" + "x" * 5_000, "method": "BREW"}
    ((span,), _, _, _) = traced([[]], [((b"",), strange)])
    assert span.name == "HTTP"
    assert span.said["http.request.method"] == "_OTHER"
    assert len(span.said["url.path"]) == 200


@pytest.mark.parametrize("refused", [((b"{",), {}), ((PROMPT,), {})], ids=["400", "429"])
def test_a_flood_of_refused_requests_leaves_the_calls_their_room(refused, monkeypatch):
    monkeypatch.setattr("penstock.traces.sender.REFUSED", 0)
    limits = LimitsConfig(models={"m": LimitConfig(concurrent=0)})
    kept = {"other": ModelConfig(candidates=[CandidateConfig(upstream="up0")])}
    calls = [*once(body={**PROMPT, "model": "other"}), refused]
    spans, _, answers, counted = traced([[Step.REQUEST, ANSWER]], calls, limits=limits, models=kept)
    assert [answer.status < 400 for answer in answers] == [True, False]
    assert [span.said["penstock.status"] for span in spans if span.kind == SERVER] == ["created"]
    assert counted == {"sent": 2, "failed": 0, "dropped": 0, "limited": 1}


def test_a_stream_that_breaks_is_gone_on_with_in_a_span_that_is_linked_to_the_one_that_broke():
    async def main():
        traces = TracesConfig(endpoint=collector.endpoint)
        async with simulated("cut-after=5,once", traces=traces) as (_, port, _simulators):
            await call(port, body_for(CHAT), CHAT)

    with Collector() as collector:
        asyncio.run(main())
    (server,), (broken, rest) = split(collector.spans)
    assert broken.failed
    assert broken.said["penstock.attempt.outcome"] == "partial"
    assert rest.said["penstock.attempt.why"] == "continuation"
    assert rest.said["penstock.attempt.outcome"] == "continued"
    assert rest.links == [(broken.trace_id, broken.span_id, {"penstock.link": "continues"})]
    assert server.said["penstock.seams"] == 1
    assert not server.failed


def test_of_two_attempts_for_one_answer_both_have_spans():
    late = asyncio.Event()
    answer = STREAM_HEAD + delta("a") + delta("", "stop", usage=(3, 2)) + DONE + STREAM_END

    async def main():
        async with ScriptedUpstream([[Step.REQUEST, late], [Step.REQUEST, answer]]) as upstream:
            settings = config(upstream.url, traces=TracesConfig(endpoint=collector.endpoint))
            settings.upstreams["up0"] = UpstreamConfig(
                kind="openai", base_url=upstream.url + "/v1", hedge=HedgeConfig()
            )
            async with serving(settings) as (gateway, port):
                hedging = gateway.pipeline.snapshot.upstreams["up0"].hedging
                for _ in range(LEAST):
                    hedging.observe("m", 0.01, 1)
                    hedging.earn()
                await call(port, STREAM)
            late.set()

    with Collector() as collector:
        asyncio.run(main())
    _, clients = split(collector.spans)
    assert {one.said["penstock.attempt.why"]: one.said["penstock.attempt.outcome"] for one in clients} == {
        "first": "hedged_away",
        "hedge": "completed",
    }
    assert not any(one.failed for one in clients)


def test_an_answer_from_the_cache_has_a_span_and_no_attempt_also_where_the_request_is_not_read():
    kept = {"m": ModelConfig(candidates=[CandidateConfig(upstream="up0")], cache=ModelCacheConfig())}
    body = {**PROMPT, "temperature": 0}

    async def main():
        async with ScriptedUpstream([[Step.REQUEST, ANSWER]]) as upstream:
            settings = config(upstream.url, traces=TracesConfig(endpoint=collector.endpoint), models=kept)
            async with serving(settings) as (gateway, port):
                for _ in range(4):
                    await call(port, body)
                await call(port, body, headers=PARENT)
                return gateway.pipeline.repeats.answered

    with Collector() as collector:
        unread = asyncio.run(main())
    servers, clients = split(collector.spans)
    assert unread >= 1
    assert len(clients) == 1
    assert [one.said["penstock.status"] for one in servers] == ["created"] + ["cached"] * 4
    assert servers[-1].trace_id == TRACE
    assert len({one.said["penstock.generation"] for one in servers}) == 5


def test_a_joined_call_is_linked_to_the_one_that_asked():
    answer = asyncio.Event()

    async def main():
        async with ScriptedUpstream([[Step.REQUEST, answer, ANSWER]]) as upstream:
            settings = config(upstream.url, traces=TracesConfig(endpoint=collector.endpoint))
            async with serving(settings) as (gateway, port):
                body = {**PROMPT, "temperature": 0}
                calls = [asyncio.ensure_future(call(port, body)) for _ in range(2)]
                await until(lambda: len(gateway.pipeline.readings) == 2)
                answer.set()
                await asyncio.gather(*calls)

    with Collector() as collector:
        asyncio.run(main())
    servers, clients = split(collector.spans)
    made, joined = sorted(servers, key=lambda one: one.said["penstock.status"])
    assert [made.said["penstock.status"], joined.said["penstock.status"]] == ["created", "joined"]
    assert joined.trace_id != made.trace_id
    assert joined.links == [(made.trace_id, made.span_id, {"penstock.link": "shares"})]
    assert len(clients) == 1


def test_a_request_that_is_that_of_several_calls_belongs_to_no_ones_trace():
    def vectors(count):
        data = [{"object": "embedding", "index": n, "embedding": [0.5]} for n in range(count)]
        return plain(
            {
                "object": "list",
                "model": "m",
                "data": data,
                "usage": {"prompt_tokens": 4, "total_tokens": 4},
            }
        )

    async def main():
        async with ScriptedUpstream([[Step.REQUEST, vectors(2)]]) as upstream:
            settings = config(upstream.url, traces=TracesConfig(endpoint=collector.endpoint))
            settings.upstreams["up0"] = UpstreamConfig(
                kind="openai",
                base_url=upstream.url + "/v1",
                batching=BatchingConfig(window="fixed", max_queue_delay=60, max_batch_size=2),
            )
            async with serving(settings) as (_, port):
                calls = [
                    call(port, {"model": "m", "input": text}, "/v1/embeddings", headers=PARENT)
                    for text in ("one", "two")
                ]
                await asyncio.gather(*calls)
            return upstream.received

    with Collector() as collector:
        received = asyncio.run(main())
    assert len(received) == 1
    assert told(received) == []
    _, clients = split(collector.spans)
    assert [one.said["penstock.usage.shared"] for one in clients] == [True, True]


@pytest.mark.parametrize("how", ["stalls", "refuses", "nonsense"])
def test_a_collector_that_takes_nothing_costs_no_call_anything(how, monkeypatch):
    monkeypatch.setattr("penstock.traces.sender.LAST_WORDS", 0.0)
    monkeypatch.setattr("penstock.traces.sender.TIMEOUT", 0.3)
    _, _, answers, counted = traced([[Step.REQUEST, ANSWER] * 5], once() * 5, how)
    assert [answer.status for answer in answers] == [200] * 5
    assert counted["sent"] == 0


def test_the_log_line_has_the_traces_id_with_and_without_a_collector(monkeypatch):
    lines = []
    monkeypatch.setattr(RequestLog, "write", lambda self, line: lines.append(line))

    async def main(**more):
        async with ScriptedUpstream([[Step.REQUEST, ANSWER] * 2]) as upstream:
            async with serving(config(upstream.url, log=LogConfig(), **more)) as (_, port):
                await call(port, PROMPT)
                await call(port, PROMPT, headers=PARENT)
                await call(port, b"{", headers=PARENT)
                await call(port, b"{", headers=UNRECORDED)

    asyncio.run(main())
    assert [line.trace for line in lines] == ["", TRACE, TRACE, TRACE]
    lines.clear()
    with Collector() as collector:
        asyncio.run(main(traces=TracesConfig(endpoint=collector.endpoint)))
    servers, _ = split(collector.spans)
    assert [line.trace for line in lines] == [*(span.trace_id for span in servers), TRACE]
    assert lines[1].trace == TRACE
    assert len(servers) == 3
