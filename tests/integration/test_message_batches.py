"""Anthropic's message batches, as its SDK uses them, against a gateway in processes of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections import Counter

import anthropic
import httpx2
import openai
import pytest
from gateway_books import ledger_rows, settled_bill, wait_until

from penstock.config.keys import hash_key, new_key
from penstock.testing import GatewayProcess, SimulatorProcess, expected_text


def configured(simulator, folder, **sections):
    """Models that begin with ``openai/`` are asked in OpenAI's dialect, others in Anthropic's."""
    own = {"base_url": simulator.base_url, "api_key": "k", "cancel_grace": 10}
    return {
        "upstreams": {
            "anthropic": {"kind": "anthropic", **own, "base_url": simulator.url},
            "openai": {"kind": "openai", **own},
        },
        "models": {
            "openai/*": {"candidates": [{"upstream": "openai", "model": "*"}]},
            "*": {"candidates": [{"upstream": "anthropic"}]},
        },
        "ledger": {"path": str(folder / "ledger.sqlite")},
        "files": {"directory": str(folder / "kept")},
        **sections,
    }


@pytest.fixture
def client_of():
    """Makes the SDK's clients, and closes them."""
    with contextlib.ExitStack() as stack:

        def make(gateway, key="any"):
            http = stack.enter_context(httpx2.Client(trust_env=False, timeout=60))
            return anthropic.Anthropic(base_url=gateway.url, api_key=key, max_retries=0, http_client=http)

        yield make


def asked(text, model="sim:tokens=8", **more):
    return {"model": model, "max_tokens": 64, "messages": [{"role": "user", "content": text}], **more}


def requests_of(count, model="sim:tokens=8"):
    return [{"custom_id": f"c{i}", "params": asked(f"question {i}", model)} for i in range(count)]


def ended(client, batch):
    def look():
        now = client.messages.batches.retrieve(batch.id)
        return now if now.processing_status == "ended" else None

    return wait_until(look, seconds=60.0, what="the batch's end")


def counts(batch):
    told = batch.request_counts
    return told.processing, told.succeeded, told.errored, told.canceled, told.expired


@pytest.mark.parametrize("prefix", ["", "openai/"])
def test_a_batch_is_run_for_upstreams_of_either_api(prefix, tmp_path, client_of):
    requests = [
        *requests_of(40, f"{prefix}sim:tokens=8"),
        {"custom_id": "bad", "params": asked("no", f"{prefix}sim:400")},
    ]
    with (
        SimulatorProcess() as simulator,
        GatewayProcess(configured(simulator, tmp_path, workers=2), tmp_path) as gateway,
    ):
        client = client_of(gateway)
        batch = client.messages.batches.create(requests=requests)
        assert (batch.type, batch.processing_status, batch.ended_at, batch.results_url) == (
            "message_batch", "in_progress", None, None,
        )  # fmt: skip
        assert batch.id.startswith("msgbatch_")
        assert sum(counts(batch)) == 41
        assert (batch.expires_at - batch.created_at).total_seconds() == 86_400
        done = ended(client, batch)
        assert counts(done) == (0, 40, 1, 0, 0)
        assert done.ended_at >= done.created_at
        assert done.results_url == f"{gateway.url}/v1/messages/batches/{batch.id}/results"
        found = {each.custom_id: each.result for each in client.messages.batches.results(batch.id)}
        assert found.keys() == {each["custom_id"] for each in requests}
        for name, result in found.items():
            if name == "bad":
                assert (result.type, result.error.error.type) == ("errored", "invalid_request_error")
                assert result.error.request_id.startswith("gen_")
                continue
            expected = expected_text(asked(f"question {name[1:]}"), "/v1/messages", 8)
            assert (result.type, result.message.content[0].text) == ("succeeded", expected)
            assert result.message.usage.output_tokens == 8
        assert settled_bill(simulator)["requests"] == 41
    rows = ledger_rows(tmp_path / "ledger.sqlite")
    assert Counter(row.outcome for row in rows) == {"completed": 40, "failed": 1}


def test_a_batch_that_is_cancelled_keeps_what_was_done_and_can_then_be_deleted(tmp_path, client_of):
    with SimulatorProcess() as simulator:
        config = configured(simulator, tmp_path, workers=2, batches={"concurrency": 4})
        with GatewayProcess(config, tmp_path) as gateway:
            client = client_of(gateway)
            batches = client.messages.batches
            batch = batches.create(requests=requests_of(200, "sim:tokens=4,tps=20"))
            wait_until(lambda: batches.retrieve(batch.id).request_counts.succeeded, what="a result")
            with pytest.raises(anthropic.BadRequestError, match="cancel it first"):
                batches.delete(batch.id)
            with pytest.raises(anthropic.AnthropicError, match="results"):
                batches.results(batch.id)
            assert batches.cancel(batch.id).processing_status == "canceling"
            assert batches.cancel(batch.id).cancel_initiated_at is not None
            done = ended(client, batch)
            _, succeeded, errored, canceled, expired = counts(done)
            assert (succeeded + canceled, errored, expired) == (200, 0, 0)
            kinds = Counter(each.result.type for each in batches.results(batch.id))
            assert kinds == {"succeeded": succeeded, "canceled": canceled}
            # What was under way was finished, so that nothing was paid for in vain.
            assert settled_bill(simulator)["requests"] == succeeded
            assert batches.cancel(batch.id).processing_status == "ended"
            deleted = batches.delete(batch.id)
            assert (deleted.id, deleted.type) == (batch.id, "message_batch_deleted")
            for attempt in (batches.retrieve, batches.delete, batches.cancel, batches.results):
                with pytest.raises(anthropic.NotFoundError):
                    attempt(batch.id)
            http = client._client
            assert http.get(f"{gateway.url}/v1/files").json()["data"] == []


@pytest.mark.slow  # two starts of a gateway, and paced answers to be killed among
def test_a_batch_goes_on_after_kill_9_and_no_request_that_was_done_is_bought_again(tmp_path, client_of):
    requests = requests_of(60, "sim:tokens=8,tps=40")
    with SimulatorProcess() as simulator:
        config = configured(simulator, tmp_path, workers=2, batches={"concurrency": 4})
        gateway = GatewayProcess(config, tmp_path).start()
        batch = client_of(gateway).messages.batches.create(requests=requests)
        output = tmp_path / "kept" / "batches" / f"{batch.id}.output"
        wait_until(lambda: output.exists() and output.read_bytes().count(b"\n") >= 10, what="ten results")
        workers = gateway.worker_pids()
        for pid in (gateway.pid, *workers):
            os.kill(pid, signal.SIGKILL)
        gateway.stop()
        *whole, _ = output.read_bytes().split(b"\n")  # the last one may be torn
        done_before = {json.loads(text)["custom_id"] for text in whole}
        with GatewayProcess(config, tmp_path) as again:
            client = client_of(again)
            assert counts(ended(client, batch)) == (0, 60, 0, 0, 0)
            found = list(client.messages.batches.results(batch.id))
            bill = settled_bill(simulator)
            sent = Counter(
                "c" + json.loads(each["body"])["messages"][0]["content"].removeprefix("question ")
                for each in simulator.requests()
            )
        assert Counter(each.custom_id for each in found) == Counter(f"c{i}" for i in range(60))
        twice = {name for name, times in sent.items() if times > 1}
        assert not twice & done_before
        assert bill["requests"] == 60 + len(twice) <= 64


def test_lists_go_forth_and_back_and_hold_no_batches_of_the_other_api(tmp_path, client_of):
    with (
        SimulatorProcess() as simulator,
        GatewayProcess(configured(simulator, tmp_path), tmp_path) as gateway,
    ):
        client = client_of(gateway)
        made = [client.messages.batches.create(requests=requests_of(1)).id for _ in range(5)]
        newest_first = made[::-1]
        batches = client.messages.batches
        assert [each.id for each in batches.list(limit=2)] == newest_first  # the SDK goes on by itself
        page = batches.list(limit=2, after_id=newest_first[1])
        assert ([each.id for each in page.data], page.has_more) == (newest_first[2:4], True)
        assert (page.first_id, page.last_id) == (newest_first[2], newest_first[3])
        page = batches.list(limit=2, before_id=newest_first[3])
        assert ([each.id for each in page.data], page.has_more) == (newest_first[1:3], True)
        page = batches.list(limit=2, before_id=newest_first[1])
        assert ([each.id for each in page.data], page.has_more) == (newest_first[:1], False)
        with pytest.raises(anthropic.BadRequestError):
            batches.list(limit=1_001)
        with pytest.raises(anthropic.BadRequestError):
            batches.list(after_id=made[0], before_id=made[1])

        with openai.OpenAI(base_url=gateway.base_url, api_key="any", max_retries=0) as other:
            assert list(other.batches.list()) == []
            with pytest.raises(openai.NotFoundError):
                other.batches.retrieve(made[0])


def test_a_batch_that_is_created_again_because_the_answer_was_lost_is_one_batch(tmp_path, client_of):
    with (
        SimulatorProcess() as simulator,
        GatewayProcess(configured(simulator, tmp_path, batches={"max_open": 3}), tmp_path) as gateway,
    ):
        client = client_of(gateway)
        slow = "sim:tokens=1,ttft=60000"

        def create(count=1, **headers):
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return client.messages.batches.create(requests=requests_of(count, slow), extra_headers=named).id

        first = create(idempotency_key="k1")
        assert create(idempotency_key="k1") == first
        with pytest.raises(anthropic.UnprocessableEntityError):
            create(2, idempotency_key="k1")
        second, third = create(), create(3)
        assert create(x_stainless_retry_count="2") == second
        with pytest.raises(anthropic.RateLimitError):
            create(idempotency_key="k2")
        assert create(idempotency_key="k1") == first  # also where there may be no more
        assert {each.id for each in client.messages.batches.list()} == {first, second, third}
        files = httpx2.get(f"{gateway.base_url}/files", trust_env=False).json()["data"]
        assert len(files) == 3


def test_nobody_sees_another_tenants_batches(tmp_path, client_of):
    keys = {name: new_key() for name in ("alice", "bob")}
    listed = [{"name": name, "hash": hash_key(key), "tenant": name} for name, key in keys.items()]
    with SimulatorProcess() as simulator:
        with GatewayProcess(configured(simulator, tmp_path, keys=listed), tmp_path) as gateway:
            alice, bob = (client_of(gateway, key).messages.batches for key in keys.values())
            batch = alice.create(requests=requests_of(1))
            ended(client_of(gateway, keys["alice"]), batch)
            for attempt in (bob.retrieve, bob.cancel, bob.delete, bob.results):
                with pytest.raises(anthropic.NotFoundError):
                    attempt(batch.id)
            assert list(bob.list()) == list(bob.list(after_id=batch.id)) == []
            assert len(list(alice.results(batch.id))) == 1


@pytest.mark.slow  # a hundred thousand requests, twice
def test_what_is_no_batch_costs_nothing_and_is_told_at_once(tmp_path, client_of):
    limits = {"batches": {"max_lines": 100_000, "max_input_bytes": 30_000_000, "max_open": 1}}
    with SimulatorProcess() as simulator:
        with GatewayProcess(configured(simulator, tmp_path, **limits), tmp_path) as gateway:
            client = client_of(gateway)
            create = client.messages.batches.create
            with pytest.raises(anthropic.BadRequestError, match=r"requests\.1\.custom_id"):
                create(requests=[*requests_of(1), *requests_of(1)])
            with pytest.raises(anthropic.BadRequestError, match=r"requests\.0\.params\.stream"):
                create(requests=[{"custom_id": "a", "params": asked("hi", stream=True)}])
            with pytest.raises(anthropic.BadRequestError, match="at most 100000 requests"):
                create(requests=requests_of(100_001))
            with pytest.raises(anthropic.RequestTooLargeError):
                create(requests=[{"custom_id": "a", "params": asked("x" * 31_000_000)}])
            for odd in ("msgbatch_a%2Fb", "..%2f..%2fetc", "msgbatch_" + "0" * 32, "x" * 2_000):
                with pytest.raises(anthropic.NotFoundError):
                    client.messages.batches.retrieve(odd)
            assert list(client.messages.batches.list()) == []
            assert list((tmp_path / "kept" / "incoming").iterdir()) == []
            assert settled_bill(simulator)["requests"] == 0

            running = create(requests=requests_of(100_000, "sim:tokens=1,ttft=2000"))
            assert counts(running) == (100_000, 0, 0, 0, 0)
            with pytest.raises(anthropic.RateLimitError):
                create(requests=requests_of(1))
            client.messages.batches.cancel(running.id)
            _, succeeded, _, canceled, _ = counts(ended(client, running))
            assert succeeded + canceled == 100_000
            assert canceled > 90_000
