"""Which lines of batches go to a provider's own, as what, and what becomes of its results."""

import asyncio
import json

import pytest
from serving import COMPLETION

from penstock.batches.batch import ANTHROPIC, OPENAI, Batch, new_batch_id
from penstock.batches.provider_batch import ProviderBatch
from penstock.cache.entry import Entry
from penstock.config.load import parse
from penstock.gateway.compose import build
from penstock.gateway.provider_lines import ProviderLines
from penstock.messages import Endpoint, Outcome, Usage
from penstock.testing import FakeClock
from penstock.wire.batch import Line
from penstock.wire.provider_batch import Fate, Result

CONFIG = """
upstreams:
  chats: {kind: openai, base_url: "http://127.0.0.1:9/v1", api_key: k, batches: provider, leave_out: [seed]}
  plain: {kind: openai, base_url: "http://127.0.0.1:9/v1", api_key: k}
  claude: {kind: anthropic, base_url: "http://127.0.0.1:9", api_key: k, batches: provider}
models:
  fast: {candidates: [{upstream: chats, model: gpt-4o-mini}]}
  both: {candidates: [{upstream: plain, weight: 9}, {upstream: chats, model: gpt-4o-mini, weight: 1}]}
  plain: {candidates: [{upstream: plain}], fallbacks: [fast]}
  claude: {candidates: [{upstream: claude, model: claude-sonnet-4-5}]}
  careful: {candidates: [{upstream: chats, model: gpt-4o}], cascade: {model: fast}}
keys: [{name: k, hash: "sha256:%s", tenant: t}]
limits: {tenants: {t: {usd_per_day: 1.0}}}
""" % ("0" * 64)
CHAT = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 100}


def a_batch(endpoint=Endpoint.CHAT, models=()):
    kind = ANTHROPIC if endpoint is Endpoint.MESSAGES else OPENAI
    return Batch(
        id=new_batch_id(kind),
        tenant="t",
        key_name="k",
        models=models,
        endpoint=endpoint.path,
        input_file="file-1",
        window="24h",
        created=1_700_000_000.0,
        expires=1_700_086_400.0,
        output_file="file-2",
        error_file="file-3",
    )


def a_line(**body):
    return Line("one", json.dumps(body).encode())


def with_lines(test, config=CONFIG):
    async def main():
        gateway = build(parse(config), clock=FakeClock())
        return test(gateway, ProviderLines(gateway.pipeline, None))

    return asyncio.run(main())


def prepared(body, endpoint=Endpoint.CHAT, **more):
    return with_lines(lambda _, lines: lines.prepare(a_batch(endpoint, **more), endpoint, a_line(**body)))


def test_a_line_goes_out_as_its_upstream_wants_it():
    found = prepared({"model": "fast", **CHAT, "seed": 7})
    assert (found.upstream, found.endpoint, found.model, found.named) == (
        "chats",
        Endpoint.CHAT,
        "gpt-4o-mini",
        "fast",
    )
    assert json.loads(found.body) == {"model": "gpt-4o-mini", **CHAT}
    assert found.cost > 0


def test_a_line_is_translated_into_its_upstreams_api():
    found = prepared({"model": "claude", **CHAT})
    assert (found.endpoint, json.loads(found.body)["model"]) == (Endpoint.MESSAGES, "claude-sonnet-4-5")
    found = prepared({"model": "fast", **CHAT}, Endpoint.MESSAGES)
    assert (found.endpoint, json.loads(found.body)["model"]) == (Endpoint.CHAT, "gpt-4o-mini")
    found = prepared({"model": "fast", "input": "hello"}, Endpoint.RESPONSES)
    assert found.endpoint is Endpoint.CHAT


def test_of_several_candidates_the_one_with_batches_is_asked_whatever_the_draw():
    assert {prepared({"model": "both", **CHAT}).upstream for _ in range(20)} == {"chats"}


@pytest.mark.parametrize(
    ("body", "endpoint", "models"),
    [
        pytest.param({"model": "plain", **CHAT}, Endpoint.CHAT, (), id="its upstream has none"),
        pytest.param({"model": "careful", **CHAT}, Endpoint.CHAT, (), id="a cascade"),
        pytest.param({"model": "none", **CHAT}, Endpoint.CHAT, (), id="no such model"),
        pytest.param({"model": "fast", **CHAT}, Endpoint.CHAT, ("other",), id="not permitted"),
        pytest.param({"model": "claude", **CHAT, "seed": 7}, Endpoint.CHAT, (), id="cannot be said"),
        pytest.param({"model": "claude", **CHAT, "max_tokens": 0}, Endpoint.MESSAGES, (), id="no tokens"),
        pytest.param({"model": "claude", "prompt": "x"}, Endpoint.COMPLETIONS, (), id="not its kind"),
        pytest.param({"messages": []}, Endpoint.CHAT, (), id="no call"),
        pytest.param(
            {"model": "fast", "input": "hello", "previous_response_id": "resp_1"},
            Endpoint.RESPONSES,
            (),
            id="it goes on from what is kept here",
        ),
    ],
)
def test_these_are_called_by_themselves(body, endpoint, models):
    assert prepared(body, endpoint, models=models) is None


def kept_for_good():
    members = {"endpoint": "chat", "model": "fast", "upstream": "chats", "upstream_model": "gpt-4o-mini"}
    members |= {"stream": False, "include_usage": False, "running_usage": False}
    members |= {"headers": (), "events": (json.dumps(COMPLETION).encode(),), "tags": ()}
    times = {"asked": 0.0, "stored": 0.0, "fresh_until": 1e12, "kept_until": 1e12}
    return Entry(**members, **times, usage=Usage(), cost=0)


def test_a_line_whose_answer_is_kept_is_called_by_itself():
    config = CONFIG.replace("model: gpt-4o-mini}]}", "model: gpt-4o-mini}], cache: {}}", 1)
    line, other = a_line(model="fast", temperature=0, **CHAT), a_line(model="fast", temperature=0.5, **CHAT)

    def test(gateway, lines):
        batch, pipeline = a_batch(), gateway.pipeline
        before = lines.prepare(batch, Endpoint.CHAT, line)
        call = lines._call(batch, Endpoint.CHAT, line)
        question = pipeline.lookup.question(call, pipeline.snapshot.router, open_to_all=False)
        gateway.cache.memory.put(question.key, kept_for_good())
        prepared = [lines.prepare(batch, Endpoint.CHAT, each) for each in (line, other)]
        return before, *prepared

    before, kept, uncached = with_lines(test, config)
    assert before is not None
    assert uncached is not None
    assert kept is None


def a_record(**changes):
    fields = {
        "batch": "b",
        "number": 0,
        "upstream": "chats",
        "endpoint": "/v1/chat/completions",
        "model": "gpt-4o-mini",
        "named": "fast",
        "lines": 1,
        "name": "n",
        "cost": 10**12,
        "asked": 1_700_000_100.0,
    }
    return ProviderBatch(**{**fields, **changes})


def delivered(result, *, body=None, record=None, endpoint=Endpoint.CHAT, is_entered=False):
    """Status and body of the answer, the rows of the ledger, and what is left of the budget."""

    def test(gateway, lines):
        status, answer = lines.deliver(
            a_batch(endpoint),
            record or a_record(),
            a_line(**(body or {"model": "fast", **CHAT})),
            result,
            "gen_" + 32 * "0",
            is_entered=is_entered,
        )
        limiter = gateway.pipeline.admission.limiter
        (account,) = [each for each in limiter.accounts_of(a_batch().caller) if each.day is not None]
        return status, json.loads(answer), gateway.recorder.ledger.recent(), account.day.spent

    return with_lines(test)


def answer(**usage):
    used = {"prompt_tokens": 1_000, "completion_tokens": 1_000, "total_tokens": 2_000, **usage}
    return json.dumps({**COMPLETION, "usage": used}).encode()


def test_a_result_is_an_answer_and_a_row_at_half_the_price():
    status, body, (row,), spent = delivered(Result("x", 200, answer(), "req_1"))
    assert (status, body["choices"]) == (200, COMPLETION["choices"])
    assert (row.outcome, row.tier, row.upstream, row.upstream_model, row.model) == (
        Outcome.COMPLETED,
        "batch",
        "chats",
        "gpt-4o-mini",
        "fast",
    )
    assert (row.usage.input_tokens, row.usage.output_tokens, row.usage.estimated) == (1_000, 1_000, False)
    assert row.cost == spent == (150_000 * 1_000 + 600_000 * 1_000) // 2
    assert row.started == 1_700_000_100.0


def test_what_is_in_the_ledger_already_is_not_entered_again():
    status, _, rows, spent = delivered(Result("x", 200, answer()), is_entered=True)
    assert (status, rows, spent) == (200, [], 0)


def test_a_refusal_is_told_in_the_lines_own_api_and_costs_nothing():
    said = {"error": {"message": "wrong", "type": "invalid_request_error", "param": None, "code": None}}
    result = Result("x", 400, json.dumps(said).encode())
    status, body, (row,), spent = delivered(result, endpoint=Endpoint.MESSAGES)
    assert (status, body["type"], body["error"]["type"]) == (400, "error", "invalid_request_error")
    assert (row.outcome, row.status, row.cost, spent) == (Outcome.FAILED, 400, 0, 0)


def test_what_was_not_run_has_no_row():
    status, body, rows, _ = delivered(Result("x", fate=Fate.FAILED, why="too many"))
    assert (status, rows) == (502, [])
    assert "too many" in body["error"]["message"]


def test_an_answer_that_cannot_be_translated_any_more_is_booked_all_the_same():
    """The configuration has changed since it was asked for."""
    message = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-4-5",
        "content": [{"type": "text", "text": "hi"}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 10, "output_tokens": 20},
    }
    record = a_record(upstream="chats", endpoint="/v1/messages", model="claude-sonnet-4-5")
    status, body, (row,), spent = delivered(Result("x", 200, json.dumps(message).encode()), record=record)
    assert (status, body["error"]["message"]) == (502, "chats speaks another API now")
    assert (row.outcome, row.usage.input_tokens, row.usage.output_tokens) == (Outcome.COMPLETED, 10, 20)
    assert row.cost == spent == (10 * 3_000_000 + 20 * 15_000_000) // 2


@pytest.mark.parametrize("came", [b"", b'{"custom_id": "x", "response": {"body": {"content": "so much of it'])
def test_a_result_that_cannot_be_read_is_booked_as_an_estimate(came):
    status, body, (row,), spent = delivered(Result("x", 200, came, is_unreadable=True))
    assert (status, row.error) == (502, "upstream_broken")
    assert "may have been billed" in body["error"]["message"]
    assert (row.outcome, row.usage.estimated) == (Outcome.PARTIAL, True)
    assert row.usage.input_tokens > 0
    assert bool(came) == bool(row.usage.output_tokens)
    assert row.cost == spent > 0


def test_what_budgets_have_no_room_for_is_not_set_aside_unless_it_is_bought():
    async def main():
        lines = ProviderLines(build(parse(CONFIG), clock=FakeClock()).pipeline, None)
        most, more = a_record(cost=10**12), a_record(cost=1)
        aside = await lines.set_aside(a_batch(), most, bought=False)
        refused = await lines.set_aside(a_batch(), more, bought=False)
        bought = await lines.set_aside(a_batch(), more, bought=True)
        bought.release()
        aside.release()
        return refused, await lines.set_aside(a_batch(), more, bought=False)

    refused, later = asyncio.run(main())
    assert refused is None
    assert later is not None
