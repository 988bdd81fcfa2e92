"""Batches whose lines go to their provider's own batches, at half the price: official SDKs before, the simulator behind."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

import anthropic
import httpx2
import openai
import pytest
from batching import CHATS, ENDED, body, counts, created, ended, line, results
from gateway_books import settled_bill, wait_until

from penstock.testing import GatewayProcess, SimulatorProcess, expected_text


def configured(simulator, folder, *, options="latency=50", upstream=None, **sections):
    own = {
        "kind": "openai",
        "base_url": simulator.base_url,
        "api_key": "key",
        "batches": "provider",
        "headers": {"x-sim-batch": options},
    }
    prices = folder / "prices.toml"
    prices.write_text('[[price]]\nmodels = ["*"]\ninput = 1\noutput = 2\nbatch = 0.5\n')
    return {
        "upstreams": {"own": {**own, **(upstream or {})}},
        "models": {"*": {"candidates": [{"upstream": "own"}]}},
        "ledger": {"path": str(folder / "ledger.sqlite")},
        "files": {"directory": str(folder / "kept")},
        "prices": str(prices),
        **sections,
    }


@pytest.fixture
def messages_of():
    """The same of Anthropic's."""
    with contextlib.ExitStack() as stack:

        def make(gateway):
            http = stack.enter_context(httpx2.Client(trust_env=False, timeout=60))
            return anthropic.Anthropic(
                base_url=gateway.url, api_key="any", max_retries=0, http_client=http
            ).messages

        yield make


def booked(folder):
    """Rows of the ledger: how many, and what they come to."""
    with contextlib.closing(sqlite3.connect(folder / "ledger.sqlite")) as ledger:
        return ledger.execute(
            "SELECT count(*), sum(input_tokens), sum(output_tokens), sum(cost) FROM attempts"
        ).fetchone()


def charged(bill):
    return bill["requests"], bill["input_tokens"], bill["output_tokens"], bill["cost"]


def test_lines_go_to_the_provider_in_a_batch_and_come_back_at_half_the_price(tmp_path, client_of):
    lines = [line(f"c {i}", body(f"question {i}")) for i in range(150)]
    lines += [line(f"bad{i}", body("never", model="sim:400")) for i in range(3)]
    with SimulatorProcess() as simulator:
        with GatewayProcess(configured(simulator, tmp_path), tmp_path) as gateway:
            client = client_of(gateway)
            done = ended(client, created(client, lines))
            assert (done.status, counts(done)) == ("completed", (153, 150, 3))
            output = {result["custom_id"]: result for result in results(client, done.output_file_id)}
            assert output.keys() == {f"c {i}" for i in range(150)}
            for i in range(150):
                response = output[f"c {i}"]["response"]
                said = response["body"]["choices"][0]["message"]["content"]
                assert said == expected_text(body(f"question {i}"), CHATS, 8)
                assert response["request_id"].startswith("gen_")
            errors = results(client, done.error_file_id)
            assert {error["response"]["status_code"] for error in errors} == {400}
        bill = settled_bill(simulator)
        assert bill["batched"] == bill["requests"] == 153
        assert charged(bill) == booked(tmp_path)
        assert bill["cost"] == (bill["input_tokens"] + 2 * bill["output_tokens"]) * 1_000_000 // 2
    with contextlib.closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as ledger:
        assert ledger.execute("SELECT DISTINCT tier FROM attempts").fetchall() == [("batch",)]


def requests(count, model="sim:tokens=8"):
    return [
        {"custom_id": f"c-{i}", "params": {**body(f"question {i}", model), "max_tokens": 64}}
        for i in range(count)
    ]


def ended_messages(messages, batch, seconds=60.0):
    def look():
        now = messages.batches.retrieve(batch.id)
        return now if now.processing_status == "ended" else None

    return wait_until(look, seconds=seconds, what="the batch's end")


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
def test_message_batches_go_to_the_provider_whichever_api_it_has(tmp_path, messages_of, kind):
    with SimulatorProcess() as simulator:
        url = simulator.url if kind == "anthropic" else simulator.base_url
        config = configured(simulator, tmp_path, upstream={"kind": kind, "base_url": url})
        with GatewayProcess(config, tmp_path) as gateway:
            messages = messages_of(gateway)
            asked = [*requests(40), *requests(2, model="sim:400")]
            asked[-2]["custom_id"], asked[-1]["custom_id"] = "bad-0", "bad-1"
            batch = messages.batches.create(requests=asked)
            done = ended_messages(messages, batch)
            told = done.request_counts
            assert (told.succeeded, told.errored, told.processing) == (40, 2, 0)
            came = {result.custom_id: result.result for result in messages.batches.results(batch.id)}
            assert len(came) == 42
            for i in range(40):
                text = expected_text(asked[i]["params"], "/v1/messages", 8)
                assert came[f"c-{i}"].message.content[0].text == text
            assert came["bad-0"].error.error.type == "invalid_request_error"
        bill = settled_bill(simulator)
        assert bill["batched"] == bill["requests"] == 42
        assert charged(bill) == booked(tmp_path)


def test_chats_go_to_a_provider_of_anthropics_api(tmp_path, client_of):
    lines = [line(f"c{i}", {**body(f"question {i}"), "max_tokens": 64}) for i in range(20)]
    with SimulatorProcess() as simulator:
        upstream = {"kind": "anthropic", "base_url": simulator.url}
        with GatewayProcess(configured(simulator, tmp_path, upstream=upstream), tmp_path) as gateway:
            client = client_of(gateway)
            done = ended(client, created(client, lines))
            assert (done.status, counts(done)) == ("completed", (20, 20, 0))
            for result in results(client, done.output_file_id):
                asked = body(f"question {result['custom_id'][1:]}")
                said = result["response"]["body"]["choices"][0]["message"]["content"]
                assert said == expected_text(asked, CHATS, 8)
        bill = settled_bill(simulator)
        assert bill["batched"] == bill["requests"] == 20
        assert charged(bill) == booked(tmp_path)


MOMENTS = ["before asked", "after asked", "before running", "before ended", "keeping", "before done"]


@pytest.mark.slow  # a batch that was asked for is looked for, for some seconds
@pytest.mark.parametrize(
    ("kind", "moment"),
    [
        ("openai", "before uploaded"),
        *((kind, moment) for kind in ("openai", "anthropic") for moment in MOMENTS),
    ],
)
def test_no_line_is_bought_twice_whenever_the_process_is_killed(tmp_path, client_of, kind, moment):
    lines = [line(f"c{i}", {**body(f"question {i}"), "max_tokens": 64}) for i in range(30)]
    killing = Path(__file__).with_name("killed_at")
    mark = tmp_path / "killed"
    environ = {
        "PYTHONPATH": os.pathsep.join([str(killing), os.environ.get("PYTHONPATH", "")]),
        "KILLED_AT": moment,
        "KILLED_MARK": str(mark),
    }
    with SimulatorProcess() as simulator:
        url = simulator.url if kind == "anthropic" else simulator.base_url
        config = configured(simulator, tmp_path, upstream={"kind": kind, "base_url": url})
        with GatewayProcess(config, tmp_path, environ=environ) as gateway:
            client = client_of(gateway)
            batch = created(client, lines)
            wait_until(mark.exists, seconds=30, what="the kill")
            client = client_of(gateway)

            def look():
                with contextlib.suppress(openai.APIError):  # while nobody is there
                    now = client.batches.retrieve(batch.id)
                    return now if now.status in ENDED else None

            done = wait_until(look, seconds=90, what="the batch's end")
            assert (done.status, counts(done)) == ("completed", (30, 30, 0))
            names = [result["custom_id"] for result in results(client, done.output_file_id)]
            assert sorted(names) == sorted(f"c{i}" for i in range(30))
        bill = settled_bill(simulator)
        assert bill["batched"] == bill["requests"] == 30
        assert charged(bill) == booked(tmp_path)


def codes(errors):
    return {error["custom_id"]: error["error"]["code"] for error in errors if error["error"]}


def test_what_came_before_a_cancel_is_kept_and_paid_for(tmp_path, client_of):
    lines = [line(f"c{i}", body(f"question {i}")) for i in range(400)]
    with SimulatorProcess() as simulator:
        config = configured(simulator, tmp_path, options="latency=0,pace=40")
        with GatewayProcess(config, tmp_path) as gateway:
            client = client_of(gateway)
            batch = created(client, lines)
            wait_until(lambda: simulator.bill()["requests"] >= 20, what="some requests of the batch")
            client.batches.cancel(batch.id)
            done = ended(client, batch)
            assert done.status == "cancelled"
            came = {result["custom_id"] for result in results(client, done.output_file_id)}
            unrun = codes(results(client, done.error_file_id))
            assert set(unrun.values()) == {"batch_cancelled"}
            assert came | unrun.keys() == {f"c{i}" for i in range(400)}
            assert not came & unrun.keys()
        bill = settled_bill(simulator)
        assert 20 <= bill["requests"] == len(came) < 400
        assert charged(bill) == booked(tmp_path)


@pytest.mark.parametrize("call_rest", [False, True])
def test_what_the_provider_had_no_time_for_is_called_line_by_line_only_if_that_is_wanted(
    tmp_path, client_of, call_rest
):
    lines = [line(f"c{i}", body(f"question {i}")) for i in range(30)]
    with SimulatorProcess() as simulator:
        config = configured(
            simulator, tmp_path, options="latency=0,expire-after=10", batches={"call_rest": call_rest}
        )
        with GatewayProcess(config, tmp_path) as gateway:
            client = client_of(gateway)
            done = ended(client, created(client, lines))
            assert done.status == "completed"
            came = [result["custom_id"] for result in results(client, done.output_file_id)]
            assert len(came) == (30 if call_rest else 10)
            if not call_rest:
                unrun = codes(results(client, done.error_file_id))
                assert sorted([*came, *unrun]) == sorted(f"c{i}" for i in range(30))
                assert set(unrun.values()) == {"batch_expired"}
        bill = settled_bill(simulator)
        assert (bill["requests"], bill["batched"]) == (len(came), 10)
        assert charged(bill) == booked(tmp_path)


@pytest.mark.parametrize("call_rest", [False, True])
def test_a_batch_that_the_provider_finds_wrong_costs_nothing_there(tmp_path, client_of, call_rest):
    lines = [line(f"c{i}", body(f"question {i}")) for i in range(5)]
    with SimulatorProcess() as simulator:
        config = configured(simulator, tmp_path, options="fail", batches={"call_rest": call_rest})
        with GatewayProcess(config, tmp_path) as gateway:
            client = client_of(gateway)
            done = ended(client, created(client, lines))
            assert (done.status, counts(done)) == ("completed", (5, 5, 0) if call_rest else (5, 0, 5))
            if not call_rest:
                for error in results(client, done.error_file_id):
                    assert error["response"]["status_code"] == 502
                    assert "not parseable as valid JSON" in error["response"]["body"]["error"]["message"]
        bill = settled_bill(simulator)
        assert (bill["requests"], bill["batched"]) == (5 if call_rest else 0, 0)


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
def test_a_batch_whose_creation_was_never_answered_is_found_and_not_made_again(tmp_path, client_of, kind):
    lines = [line(f"c{i}", {**body(f"question {i}"), "max_tokens": 64}) for i in range(10)]
    with SimulatorProcess() as simulator:
        url = simulator.url if kind == "anthropic" else simulator.base_url
        upstream = {"kind": kind, "base_url": url}
        config = configured(simulator, tmp_path, options="latency=300,lost", upstream=upstream)
        with GatewayProcess(config, tmp_path) as gateway:
            client = client_of(gateway)
            batches = [created(client, lines) for _ in range(2)]  # so there is another that looks the same
            for batch in batches:
                done = ended(client, batch)
                assert (done.status, counts(done)) == ("completed", (10, 10, 0))
        bill = settled_bill(simulator)
        assert bill["requests"] == bill["batched"] == 20
        assert charged(bill) == booked(tmp_path)


def test_lines_that_a_provider_has_are_waited_for_when_the_configuration_wants_no_more_of_it(
    tmp_path, client_of
):
    lines = [line(f"c{i}", body(f"question {i}")) for i in range(10)]
    with SimulatorProcess() as simulator:
        config = configured(simulator, tmp_path, options="latency=4000")
        with GatewayProcess(config, tmp_path) as gateway:
            client = client_of(gateway)
            batch = created(client, lines)
            wait_until(lambda: "has 10 lines" in gateway.log, what="the provider's batch")
        config["upstreams"]["own"]["batches"] = "calls"
        with GatewayProcess(config, tmp_path) as gateway:
            client = client_of(gateway)
            done = ended(client, batch)
            assert (done.status, counts(done)) == ("completed", (10, 10, 0))
        bill = settled_bill(simulator)
        assert bill["requests"] == bill["batched"] == 10
        assert charged(bill) == booked(tmp_path)


def test_nothing_is_left_with_the_provider(tmp_path, client_of, messages_of):
    with SimulatorProcess() as simulator, httpx2.Client(trust_env=False, base_url=simulator.url) as provider:
        upstreams = {
            "chats": {"kind": "openai", "base_url": simulator.base_url},
            "messages": {"kind": "anthropic", "base_url": simulator.url},
        }
        config = configured(simulator, tmp_path)
        own = config["upstreams"].pop("own")
        config["upstreams"] = {name: {**own, **more} for name, more in upstreams.items()}
        config["models"] = {
            f"sim-{name}": {"candidates": [{"upstream": name, "model": "sim"}]} for name in upstreams
        }
        with GatewayProcess(config, tmp_path) as gateway:
            client, messages = client_of(gateway), messages_of(gateway)
            ended(client, created(client, [line("one", body("hello", model="sim-chats"))]))
            ended_messages(messages, messages.batches.create(requests=requests(1, model="sim-messages")))
            wait_until(lambda: not provider.get("/v1/files").json()["data"], what="no files")
            wait_until(lambda: not provider.get("/v1/messages/batches").json()["data"], what="no batches")
        assert settled_bill(simulator)["batched"] == 2


def test_what_cannot_be_said_in_the_providers_api_is_called_and_what_is_wrong_is_told(tmp_path, client_of):
    with SimulatorProcess() as simulator:
        upstream = {"kind": "anthropic", "base_url": simulator.url}
        with GatewayProcess(configured(simulator, tmp_path, upstream=upstream), tmp_path) as gateway:
            client = client_of(gateway)
            asked = [
                line("right", {**body("hello"), "max_tokens": 64}),
                line("seed", {**body("hello"), "seed": 7}),
                line("nothing", {"model": "sim"}),
            ]
            done = ended(client, created(client, asked))
            assert counts(done) == (3, 1, 2)
            errors = {error["custom_id"]: error for error in results(client, done.error_file_id)}
            assert errors["seed"]["response"]["body"]["error"]["code"] == "untranslatable"
            assert errors["nothing"]["response"]["status_code"] == 400
        assert settled_bill(simulator)["batched"] == 1
