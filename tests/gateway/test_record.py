import itertools

import msgspec
import pytest
from gateway_doubles import FakeExchange, Lines, a_call, a_generation

from penstock.config.model import LogConfig, TimeoutConfig
from penstock.errors import UpstreamFailed
from penstock.gateway.stages import record
from penstock.gateway.stages.candidate import Candidate
from penstock.gateway.stages.record import (
    _KNOWN_ERRORS,
    MOST_METHOD,
    MOST_PATH,
    MOST_REQUEST_ID,
    WATCHED,
    WATCHED_FAILURES,
    WORD_INTERVAL,
    Recorder,
)
from penstock.ledger.ledger import Ledger
from penstock.ledger.prices import Price, PriceTable
from penstock.logs import RequestLog
from penstock.messages import Attempt, Endpoint, Outcome, Tenant, Usage
from penstock.metrics import Registry
from penstock.testing import FakeClock


class Upstream:
    def __init__(self, name):
        self.name = name


@pytest.fixture
def lines():
    return Lines()


@pytest.fixture
def recorder(lines, tmp_path):
    prices = tmp_path / "prices.toml"
    prices.write_text('[[price]]\nmodels = ["dear"]\ninput = 2\noutput = 10\n')
    ledger = Ledger(PriceTable.load(str(prices), kinds={"up": "openai"}))
    return Recorder(ledger, Registry(), RequestLog(LogConfig(), buffer=lines), FakeClock())


numbers = itertools.count()


def candidate(upstream="up", model="dear", route="m*"):
    return Candidate(Upstream(upstream), model, route, "", 1.0, TimeoutConfig())


USED = Usage(input_tokens=100, output_tokens=11)


def attempt(a_candidate, outcome=Outcome.COMPLETED, usage=USED, **more):
    one = Attempt(
        f"gen_{next(numbers)}/1",
        "gen_1",
        1,
        "t",
        "k",
        "standard",
        "chat",
        "whatever callers say",
        a_candidate.upstream.name,
        a_candidate.model,
        0.0,
        Usage(),
    )
    one.outcome, one.usage = outcome, usage
    for name, value in more.items():
        setattr(one, name, value)
    return one


def settle(recorder, a_candidate=None, *, stream=False, **more):
    a_candidate = a_candidate or candidate()
    one = attempt(a_candidate, **more)
    recorder.opened(one)
    recorder.settled(one, a_candidate, stream=stream)
    return one


def counted(metric):
    """Label values to number (of a histogram: how many were observed), where that is none."""
    return {
        sample.labels: number
        for sample in metric.family().samples
        if (number := sum(sample.counts) if sample.counts else sample.value)
    }


# ---- attempts -------------------------------------------------------------------------------------


def test_a_settled_attempt_is_in_the_ledger_and_in_the_metrics(recorder):
    one = settle(recorder, first_token=0.2, duration=1.2, stream=True)
    assert recorder.ledger.open_attempts() == []
    assert one.cost == (100 * 2 + 11 * 10) * 1_000_000
    assert counted(recorder.measures.attempts) == {("up", "completed", ""): 1}
    assert counted(recorder.measures.tokens) == {("up", "m*", "input"): 100, ("up", "m*", "output"): 11}
    assert counted(recorder.measures.cost) == {("up", "m*"): pytest.approx(310e-6)}
    assert counted(recorder.measures.first_token) == {("up",): 1}
    assert recorder.measures.between.labels("up").sum == pytest.approx(0.1)  # ten gaps in a second


class Care:
    """A provider could have kept 80 tokens."""

    def repeated(self, call_id, input_tokens):
        return min(80, input_tokens)


def test_what_a_prompt_cache_could_have_saved_is_in_the_row_and_in_the_metrics(recorder):
    table = PriceTable([Price(models=("dear",), input=2, cached_input=1, output=10)])
    recorder.ledger.use_prices(table)
    cared = msgspec.structs.replace(candidate(), care=Care())
    for usage, missed in (
        (Usage(100, 11, cached_input_tokens=30), 50),
        (Usage(100, 11, cached_input_tokens=90), 0),
        (Usage(100, 11, estimated=True), 0),  # nobody has told what was kept
        (Usage(), 0),
    ):
        one = settle(recorder, cared, usage=usage)
        assert one.cache_missed == missed * 10**6
        assert one.cache_saved == usage.cached_input_tokens * 10**6
    totals = recorder.ledger.totals()[Outcome.COMPLETED]
    assert (totals.prompt_cache_missed, totals.prompt_cache_saved) == (50 * 10**6, 120 * 10**6)
    assert counted(recorder.measures.prompt_missed) == {("up",): pytest.approx(50e-6)}


def test_figures_that_cannot_be_are_counted_and_told_of_once_a_minute(recorder, caplog):
    clock = recorder.clock = FakeClock(1_000.0)
    one = settle(recorder)
    for _ in range(3):
        recorder.overstated(one, Usage(2**40))
    clock.advance(WORD_INTERVAL)
    recorder.overstated(one, Usage(2**40))
    assert counted(recorder.measures.overstated) == {("up",): 4}
    assert [record.args[0] for record in caplog.records] == ["up", "up"]


def test_what_is_not_counted_in_tokens_is_counted_by_its_unit(recorder):
    for endpoint in Endpoint:
        if endpoint.opaque:
            settle(recorder, endpoint=endpoint.label, usage=Usage(units=1_500 if endpoint.unit else 0))
    settle(recorder)
    assert counted(recorder.measures.units) == {
        ("up", "m*", "images"): 4_500,  # made, edited and varied
        ("up", "m*", "seconds"): 3,
        ("up", "m*", "characters"): 1_500,
        ("up", "m*", "searches"): 1_500,
    }


@pytest.mark.parametrize(
    ("outcome", "error"),
    [
        (Outcome.FAILED, "upstream_failed"),
        (Outcome.FAILED, "upstream_authentication"),
        (Outcome.FAILED, "context_length_exceeded"),
        (Outcome.PARTIAL, "answer_too_large"),
        (Outcome.PARTIAL, "upstream_timeout"),
        (Outcome.CANCELLED, "cancelled"),
        (Outcome.FAILED, "internal_error"),
        (Outcome.FAILED, "breaker_open"),
        (Outcome.FAILED, "deadline_unreachable"),
    ],
)
def test_a_failure_is_counted_under_its_own_code(recorder, outcome, error):
    settle(recorder, outcome=outcome, error=error)
    assert counted(recorder.measures.attempts)["up", outcome.value, error] == 1


def test_an_upstreams_own_codes_make_no_labels(recorder):
    for number in range(500):
        error = UpstreamFailed("no", code=f"their_code_{number}").code
        settle(recorder, outcome=Outcome.FAILED, error=error)
    assert counted(recorder.measures.attempts) == {("up", "failed", "other"): 500}


def test_a_plain_answer_and_a_single_token_have_no_time_between_tokens(recorder):
    settle(recorder, first_token=0.2, duration=1.2, stream=False)
    settle(recorder, first_token=0.2, duration=1.2, stream=True, usage=Usage(output_tokens=1))
    settle(recorder, duration=1.2, stream=True)
    assert counted(recorder.measures.between) == {}
    assert counted(recorder.measures.first_token) == {("up",): 2}


def test_names_that_callers_invent_make_no_labels_and_are_not_kept_for_ever(recorder):
    for number in range(record.MAX_BOUND + 10):
        settle(recorder, candidate(model=f"invented {number}"))
    assert set(counted(recorder.measures.tokens)) == {("up", "m*", "input"), ("up", "m*", "output")}
    assert len(recorder._cells) <= record.MAX_BOUND


def test_a_configuration_of_many_models_finds_room(recorder):
    for number in range(600):
        settle(recorder, candidate(route=f"model-{number}"))
    assert len(counted(recorder.measures.tokens)) == 1_200
    assert ("other", "other", "other") not in counted(recorder.measures.tokens)


def test_retries_are_counted_by_upstream(recorder):
    recorder.retried(candidate())
    recorder.retried(candidate())
    assert counted(recorder.measures.retries) == {("up",): 2}


# ---- requests -------------------------------------------------------------------------------------


def answered(recorder, **more):
    call = a_call(received=999.5, tenant=Tenant(name="t", key_name="k"))
    call.model = "what the caller says"
    generation = a_generation(call)
    generation.append([b"{}"], 999.75)
    generation.usage = Usage(input_tokens=3, output_tokens=2)
    generation.cost, generation.attempts, generation.served_by = 77, 2, ("up", "dear")
    generation.finish()
    how = {"status": 200, "error": "", "peer": "192.0.2.7", **more}
    recorder.answered(call, generation, **how)
    return generation


def test_an_answer_is_one_line_with_all_that_is_asked_about_later(recorder, lines):
    generation = answered(recorder)
    (line,) = lines.seen
    del line["time"]
    assert line == {
        "level": "info",
        "generation": generation.id,
        "tenant": "t",
        "key": "k",
        "endpoint": "chat",
        "model": "what the caller says",
        "upstream": "up",
        "upstream_model": "dear",
        "status": 200,
        "outcome": "finished",
        "input_tokens": 3,
        "output_tokens": 2,
        "cost_picousd": 77,
        "ttft_ms": 250.0,
        "duration_ms": 500.0,
        "attempts": 2,
        "peer": "192.0.2.7",
    }
    assert counted(recorder.measures.requests) == {("chat", "200"): 1}
    assert counted(recorder.measures.durations) == {("chat",): 1}


def test_a_reader_that_attached_is_logged_under_the_generation_that_it_read(recorder, lines):
    call = a_call()
    generation = a_generation(a_call())
    recorder.answered(call, generation, status=499, error="client_gone", peer="")
    (line,) = lines.seen
    assert (line["generation"], line["status"], line["error"]) == (generation.id, 499, "client_gone")


def test_a_call_that_was_refused_is_a_line_too(recorder, lines):
    call = a_call(Endpoint.MESSAGES)
    recorder.answered(call, None, status=503, error="overloaded", peer="")
    (line,) = lines.seen
    assert (line["generation"], line["outcome"], line["endpoint"]) == (call.id, "refused", "messages")


@pytest.mark.parametrize("tenant", [None, Tenant(name="t", key_name="k")])
def test_so_is_a_request_that_never_became_a_call(recorder, lines, tenant):
    recorder.refused(FakeExchange(), "chat", tenant, status=401, error="invalid_api_key")
    (line,) = lines.seen
    assert (line["status"], line["error"], line["outcome"]) == (401, "invalid_api_key", "refused")
    assert line["peer"] == FakeExchange().peer
    assert (line["method"], line["path"]) == ("POST", "/v1/chat/completions")
    assert line.get("key") == (tenant.key_name if tenant else None)
    assert counted(recorder.measures.requests) == {("chat", "401"): 1}


def test_what_a_proxy_calls_the_request_is_in_each_line_where_proxies_are_trusted(recorder, lines):
    exchange = FakeExchange()
    exchange.headers = {b"x-request-id": b"r" * 8_000}
    call = a_call()
    call.headers = {b"x-request-id": b"req-7\xff"}
    for trusted in (False, True):
        recorder._request_ids = trusted
        recorder.refused(exchange, "chat", None, status=401, error="invalid_api_key")
        recorder.answered(call, None, status=503, error="overloaded", peer="")
        recorder.answered(call, a_generation(call), status=200, error="", peer="")
        recorder.answered(a_call(), a_generation(a_call()), status=200, error="", peer="")
    told = [line.get("request_id") for line in lines.seen]
    assert told == [None] * 4 + ["r" * MOST_REQUEST_ID, "req-7\xff", "req-7\xff", None]


def test_what_is_asked_for_in_vain_fills_no_log(recorder, lines):
    exchange = FakeExchange("/" + "x" * 8_000, "M" * 8_000)
    recorder.refused(exchange, "other", None, status=404, error="not_found")
    (line,) = lines.seen
    assert (len(line["method"]), len(line["path"])) == (MOST_METHOD, MOST_PATH)


def test_a_failure_that_alerts_ask_about_is_there_before_it_has_happened(recorder):
    answered(recorder)
    settle(recorder)
    requests = {one.labels: one.value for one in recorder.measures.requests.family().samples}
    assert requests == {("chat", "200"): 1} | {("chat", status): 0 for status in WATCHED}
    attempts = {one.labels: one.value for one in recorder.measures.attempts.family().samples}
    failures = {("up", *failure): 0 for failure in WATCHED_FAILURES}
    assert attempts == {("up", "completed", ""): 1} | failures
    assert {error for _, error in WATCHED_FAILURES} <= _KNOWN_ERRORS


def test_without_a_log_everything_is_counted_all_the_same(recorder):
    recorder.log = None
    answered(recorder)
    recorder.refused(FakeExchange(), "chat", None, status=400, error="invalid_json")
    assert counted(recorder.measures.requests) == {("chat", "200"): 1, ("chat", "400"): 1}


def test_every_status_finds_room(recorder):
    labels = {
        *(endpoint.label for endpoint in Endpoint),
        "files",
        "batches",
        "uploads",
        "generations",
        "other",
    }
    for label in labels:
        for status in range(200, 600):
            recorder.counted(label, status)
    assert len(counted(recorder.measures.requests)) == len(labels) * 400


def test_names_that_callers_invent_and_configurations_that_are_replaced_leave_nothing_behind(recorder):
    for number in range(50):
        settle(recorder, candidate(model=f"invented-{number}"))  # each its own, as a router makes them
    assert len(recorder._cells) == 1
