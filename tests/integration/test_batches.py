"""Files, batches and webhooks, as OpenAI's SDK uses them, against a gateway in processes of its own."""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import http.server
import json
import os
import re
import signal
import socket
import sqlite3
import threading
from collections import Counter

import httpx2
import openai
import pytest
from batching import body, counts, created, ended, line, results, uploaded
from gateway_books import asked as asked_of
from gateway_books import billed, ledger_rows, settled_bill, tokens, wait_until

from penstock.config.keys import hash_key, new_key
from penstock.testing import GatewayProcess, SimulatorProcess, expected_text

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()


def configured(simulator, folder, **sections):
    kept = folder / "kept"
    return {
        "upstreams": {"own": {"kind": "sim", "base_url": simulator.base_url, "cancel_grace": 10}},
        "models": {"*": {"candidates": [{"upstream": "own"}]}},
        "ledger": {"path": str(folder / "ledger.sqlite")},
        "files": {"directory": str(kept)},
        **sections,
    }


def asked_for(requests):
    """How often the simulator was asked each question, by the ``custom_id`` of its line."""
    return Counter(
        "c" + json.loads(request["body"])["messages"][0]["content"].removeprefix("question ")
        for request in requests
    )


@contextlib.contextmanager
def listening():
    """A receiver of webhooks: what came, as (headers, body), and the statuses that it answers with."""
    came, statuses = [], []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            came.append((dict(self.headers), self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(statuses.pop(0) if statuses else 204)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/hooks", came, statuses
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_batch_goes_from_its_input_to_its_results_and_its_owner_is_told(tmp_path, client_of):
    lines = [line(f"c{i}", body(f"question {i}")) for i in range(60)]
    lines += [line(f"bad{i}", body("never", model="sim:400")) for i in range(3)]
    with SimulatorProcess() as simulator, listening() as (hook, came, _):
        told = {"endpoints": [{"url": hook, "secret": SECRET, "events": ["batch.*"]}]}
        with GatewayProcess(configured(simulator, tmp_path, webhooks=told), tmp_path) as gateway:
            client = client_of(gateway)
            batch = created(client, lines, metadata={"job": "nightly"})
            assert (batch.object, batch.status) == ("batch", "validating")
            done = ended(client, batch)
            assert (done.status, counts(done)) == ("completed", (63, 60, 3))
            assert done.metadata == {"job": "nightly"}
            assert done.completed_at >= done.finalizing_at >= done.in_progress_at >= done.created_at

            output = results(client, done.output_file_id)
            assert {result["custom_id"] for result in output} == {f"c{i}" for i in range(60)}
            for result in output:
                asked = body(f"question {result['custom_id'][1:]}")
                answer = result["response"]["body"]
                expected = expected_text(asked, "/v1/chat/completions", 8)
                assert answer["choices"][0]["message"]["content"] == expected
                assert result["error"] is None
                assert result["response"]["request_id"].startswith("gen_")
            errors = results(client, done.error_file_id)
            assert {error["custom_id"] for error in errors} == {"bad0", "bad1", "bad2"}
            assert {error["response"]["status_code"] for error in errors} == {400}

            files = {file.id: file for file in client.files.list()}
            assert files[done.output_file_id].filename == f"{batch.id}_output.jsonl"
            assert files[done.error_file_id].filename == f"{batch.id}_error.jsonl"
            assert files[done.output_file_id].purpose == "batch_output"
            assert [listed.id for listed in client.batches.list()] == [batch.id]

            wait_until(lambda: came, what="a webhook")
            headers, text = came[0]
            event = client.webhooks.unwrap(text, headers, secret=SECRET)
            assert (event.type, event.data.id) == ("batch.completed", batch.id)
            assert settled_bill(simulator)["requests"] == 63
        assert {row.outcome for row in ledger_rows(tmp_path / "ledger.sqlite")} == {"completed", "failed"}
        assert len(came) == 1
        with contextlib.closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as ledger:
            assert ledger.execute("SELECT DISTINCT tier FROM attempts").fetchall() == [("batch",)]


def test_the_end_of_a_background_response_is_told(tmp_path, client_of):
    """By the id that its caller knows, and with what became of it."""
    wanted = {"sim:tokens=4": "completed", "sim:400": "failed", "sim:ttft=60000": "cancelled"}
    with SimulatorProcess() as simulator, listening() as (hook, came, _):
        told = {"path": str(tmp_path / "hooks.sqlite"), "endpoints": [{"url": hook, "secret": SECRET}]}
        config = configured(simulator, tmp_path, webhooks=told, files={})
        with GatewayProcess(config, tmp_path) as gateway:
            client = client_of(gateway)
            asked = {
                client.responses.create(model=model, input="hello", background=True).id: status
                for model, status in wanted.items()
            }
            (cancelled,) = (each for each, status in asked.items() if status == "cancelled")
            assert client.responses.cancel(cancelled).status == "cancelled"
            wait_until(lambda: len(came) == len(wanted), what="a webhook for each")
            events = [client.webhooks.unwrap(text, headers, secret=SECRET) for headers, text in came]
            assert {event.data.id: event.type for event in events} == {
                each: f"response.{status}" for each, status in asked.items()
            }
            for each, status in asked.items():
                assert client.responses.retrieve(each).status == status
            with client.responses.create(model="sim", input="hello", background=True, stream=True) as stream:
                streamed = next(iter(stream)).response.id
                for _ in stream:
                    pass
            wait_until(lambda: len(came) == len(wanted) + 1, what="a webhook")
            headers, text = came[-1]
            assert client.webhooks.unwrap(text, headers, secret=SECRET).data.id == streamed
            client.responses.create(model="sim", input="not in the background")
            assert len(came) == len(wanted) + 1


def test_every_endpoint_of_a_batch_is_answered(tmp_path, client_of):
    calls = {
        "/v1/completions": {"model": "sim", "prompt": "hello"},
        "/v1/embeddings": {"model": "sim", "input": "hello"},
        "/v1/responses": {"model": "sim", "input": "hello"},
    }
    with (
        SimulatorProcess() as simulator,
        GatewayProcess(configured(simulator, tmp_path), tmp_path) as gateway,
    ):
        client = client_of(gateway)
        batches = [created(client, [line("only", asked, path)], path) for path, asked in calls.items()]
        kinds = []
        for batch in batches:
            done = ended(client, batch)
            assert (done.status, counts(done), done.error_file_id) == ("completed", (1, 1, 0), None)
            (result,) = results(client, done.output_file_id)
            kinds.append(result["response"]["body"]["object"])
        assert kinds == ["text_completion", "list", "response"]


@pytest.mark.slow  # two starts of a gateway, and paced answers to be killed among
def test_a_batch_goes_on_after_kill_9_and_no_line_that_was_done_is_bought_again(tmp_path, client_of):
    """What was under way when the process died is bought twice, and nothing else; the ledger knows which."""
    lines = [line(f"c{i}", body(f"question {i}", model="sim:tokens=8,tps=40")) for i in range(60)]
    with SimulatorProcess() as simulator:
        config = configured(simulator, tmp_path, workers=2, batches={"concurrency": 4})
        gateway = GatewayProcess(config, tmp_path).start()
        client = client_of(gateway)
        batch = created(client, lines)
        output = tmp_path / "kept" / "batches" / f"{batch.id}.output"
        wait_until(lambda: output.exists() and output.read_bytes().count(b"\n") >= 10, what="ten results")
        workers = gateway.worker_pids()
        os.kill(gateway.pid, signal.SIGKILL)
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        gateway.stop()
        *whole, _ = output.read_bytes().split(b"\n")  # the last one may be torn
        done_before = {json.loads(text)["custom_id"] for text in whole}
        assert 10 <= len(done_before) < 60
        with GatewayProcess(config, tmp_path) as again:
            client = client_of(again)
            done = ended(client, batch)
            assert (done.status, counts(done)) == ("completed", (60, 60, 0))
            found = results(client, done.output_file_id)
            assert Counter(result["custom_id"] for result in found) == Counter(f"c{i}" for i in range(60))
            for result in found:
                asked = body(f"question {result['custom_id'][1:]}", model="sim:tokens=8,tps=40")
                assert result["response"]["body"]["choices"][0]["message"]["content"] == expected_text(
                    asked, "/v1/chat/completions", 8
                )
            bill = settled_bill(simulator)
            requests = simulator.requests()
        # What had a result was asked for once; what was under way, four at most, twice.
        twice = {name for name, times in asked_for(requests).items() if times > 1}
        assert max(asked_for(requests).values()) <= 2
        assert not twice & done_before
        assert len(twice) <= 4
        assert bill["requests"] == 60 + len(twice) == len(requests)
        rows = ledger_rows(tmp_path / "ledger.sqlite")
        assert len([row for row in rows if row.outcome == "completed"]) >= 60 - len(done_before)
        assert not list((tmp_path / "kept" / "batches").iterdir())


def stopped_lines(client):
    """A batch of either API, of which all lines stop after half of their answer, the first time that they are asked."""
    stops = "sim:tokens=16,stall-after=8,once"
    chats = [line(f"c{i}", body(f"question {i}", model=stops)) for i in range(4)]
    params = {**body("", model=stops), "max_tokens": 64}
    messages = [
        {
            "custom_id": f"m{i}",
            "params": {**params, "messages": [{"role": "user", "content": f"other {i}"}]},
        }
        for i in range(4)
    ]
    made = client.post("/messages/batches", body={"requests": messages}, cast_to=httpx2.Response)
    return created(client, chats), json.loads(made.content)["id"]


def metric(gateway, name):
    return sum(
        float(found) for found in re.findall(rf"^{name}{{.*}} (\S+)$", gateway.metrics(), re.MULTILINE)
    )


@pytest.mark.slow  # two starts of a gateway, and a lease that has to run out
def test_where_answers_outlive_the_process_a_line_that_was_under_way_is_gone_on_with_and_not_bought_again(
    tmp_path, client_of
):
    with SimulatorProcess() as simulator:
        stored = {"durability": "disk", "path": str(tmp_path / "generations.sqlite"), "lease": 2}
        config = configured(simulator, tmp_path, generations=stored)
        gateway = GatewayProcess(config, tmp_path).start()
        client = client_of(gateway)
        chats, messages = stopped_lines(client)
        wait_until(lambda: simulator.bill()["output_tokens"] == 8 * 8, what="eight halves")
        wait_until(lambda: metric(gateway, "penstock_generations_stored_events_total") >= 8 * 8)
        wait_until(lambda: metric(gateway, "penstock_generations_behind") == 0)
        workers = gateway.worker_pids()
        for pid in (gateway.pid, *workers):
            os.kill(pid, signal.SIGKILL)
        gateway.stop()
        with GatewayProcess(config, tmp_path) as again:
            client = client_of(again)
            done = ended(client, chats)
            assert counts(done) == (4, 4, 0)
            for result in results(client, done.output_file_id):
                asked = body(f"question {result['custom_id'][1:]}", model="sim:tokens=16")
                whole = result["response"]["body"]["choices"][0]["message"]["content"]
                assert whole == expected_text(asked, "/v1/chat/completions", 16)
            path = f"/messages/batches/{messages}"
            wait_until(
                lambda: (
                    json.loads(client.get(path, cast_to=httpx2.Response).content)["processing_status"]
                    == "ended"
                )
            )
            lines = client.get(path + "/results", cast_to=httpx2.Response).text.splitlines()
            for result in map(json.loads, lines):
                asked = {**body(f"other {result['custom_id'][1:]}"), "max_tokens": 64}
                (content,) = result["result"]["message"]["content"]
                assert content["text"] == expected_text(asked, "/v1/messages", 16)
            bill = settled_bill(simulator)
        assert len(lines) == 4
        assert bill["requests"] == 2 * 8
        assert bill["output_tokens"] == 8 * 16, "each token once"
        rows = ledger_rows(tmp_path / "ledger.sqlite")
        assert tokens(asked_of(rows)) == billed(bill)


def test_a_cancelled_batch_keeps_what_was_done_and_tells_what_was_not(tmp_path, client_of):
    lines = [line(f"c{i}", body(f"question {i}", model="sim:tokens=4,tps=20")) for i in range(200)]
    with SimulatorProcess() as simulator:
        config = configured(simulator, tmp_path, workers=2, batches={"concurrency": 4})
        with GatewayProcess(config, tmp_path) as gateway:
            client = client_of(gateway)
            batch = created(client, lines)
            wait_until(lambda: client.batches.retrieve(batch.id).request_counts.completed, what="a result")
            assert client.batches.cancel(batch.id).status == "cancelling"
            done = ended(client, batch)
            assert done.status == "cancelled"
            output, errors = results(client, done.output_file_id), results(client, done.error_file_id)
            assert len(output) + len(errors) == 200
            assert {error["error"]["code"] for error in errors} == {"batch_cancelled"}
            assert counts(done) == (200, len(output), len(errors))
            # What was under way was finished, so that nothing was paid for in vain.
            assert settled_bill(simulator)["requests"] == len(output)
            assert client.batches.cancel(batch.id).status == "cancelled"
        assert {row.outcome for row in ledger_rows(tmp_path / "ledger.sqlite")} == {"completed"}


def test_what_is_no_batch_is_told_line_by_line(tmp_path, client_of):
    lines = [
        line("a", body("fine")),
        "not json",
        line("a", body("the same id")),
        line("b", body("other"), url="/v1/embeddings"),
        json.dumps({"custom_id": "c", "method": "GET", "url": "/v1/chat/completions", "body": {}}),
        json.dumps({"method": "POST", "url": "/v1/chat/completions", "body": {}}),
        line("d", {**body("streams"), "stream": True}),
    ]
    with (
        SimulatorProcess() as simulator,
        GatewayProcess(configured(simulator, tmp_path), tmp_path) as gateway,
    ):
        client = client_of(gateway)
        done = ended(client, created(client, lines))
        assert done.status == "failed"
        assert [(error.line, error.code, error.param) for error in done.errors.data] == [
            (2, "invalid_json_line", None),
            (3, "duplicate_custom_id", "custom_id"),
            (4, "url_mismatch", "url"),
            (5, "invalid_method", "method"),
            (6, "missing_required_parameter", "custom_id"),
            (7, "invalid_request", "body.stream"),
        ]
        assert done.failed_at
        assert done.output_file_id is done.error_file_id is None
        assert simulator.bill()["requests"] == 0


def test_a_batch_that_is_created_again_because_the_answer_was_lost_is_one_batch(tmp_path, client_of):
    with (
        SimulatorProcess() as simulator,
        GatewayProcess(configured(simulator, tmp_path, workers=2), tmp_path) as gateway,
    ):
        client = client_of(gateway)
        file = uploaded(client, [line("a", body("hi"))])

        def create(window="24h", **headers):
            return client.batches.create(
                input_file_id=file.id,
                endpoint="/v1/chat/completions",
                completion_window=window,
                extra_headers={name.replace("_", "-"): value for name, value in headers.items()},
            ).id

        first = create(idempotency_key="k1")
        with concurrent.futures.ThreadPoolExecutor(4) as threads:
            again = [threads.submit(create, idempotency_key="k1") for _ in range(8)]
            assert {each.result() for each in again} == {first}
            at_once = [threads.submit(create, idempotency_key="k2") for _ in range(8)]
            assert len({each.result() for each in at_once}) == 1
        with pytest.raises(openai.UnprocessableEntityError):
            create("12h", idempotency_key="k1")
        assert create(idempotency_key="k3") != first
        lost = create()
        assert create(x_stainless_retry_count="1") == lost
        assert create() != lost
        assert len(list(client.batches.list())) == 5
        for batch in client.batches.list():
            ended(client, batch)
        assert simulator.bill()["requests"] == 5
        assert list((tmp_path / "kept" / "batches").glob("*.input")) == []


def test_nobody_sees_another_tenants_files_and_batches(tmp_path, client_of):
    keys = {name: new_key() for name in ("alice", "bob")}
    listed = [{"name": name, "hash": hash_key(key), "tenant": name} for name, key in keys.items()]
    with SimulatorProcess() as simulator:
        with GatewayProcess(configured(simulator, tmp_path, keys=listed), tmp_path) as gateway:
            alice, bob = client_of(gateway, keys["alice"]), client_of(gateway, keys["bob"])
            file = uploaded(alice, [line("a", body("hi"))])
            batch = alice.batches.create(
                input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
            )
            ended(alice, batch)
            for attempt in (
                lambda: bob.files.retrieve(file.id),
                lambda: bob.files.content(file.id),
                lambda: bob.files.delete(file.id),
                lambda: bob.batches.retrieve(batch.id),
                lambda: bob.batches.cancel(batch.id),
                lambda: bob.batches.create(
                    input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
                ),
            ):
                with pytest.raises(openai.NotFoundError):
                    attempt()
            assert list(bob.files.list()) == list(bob.batches.list()) == []
            assert alice.files.delete(file.id).deleted


def test_a_large_file_goes_through_in_pieces_and_memory_stays_where_it_was(tmp_path, client_of):
    block = os.urandom(1 << 20)
    size = 96
    with SimulatorProcess() as simulator:
        with GatewayProcess(configured(simulator, tmp_path), tmp_path) as gateway:
            (pid,) = gateway.worker_pids()
            client = client_of(gateway)
            client.files.create(file=("small.bin", b"x"), purpose="user_data")
            before = resident(pid)
            path = tmp_path / "large.bin"
            with path.open("wb") as large:
                for _ in range(size):
                    large.write(block)
            file = client.files.create(file=path, purpose="user_data")
            assert (file.bytes, file.filename) == (size << 20, "large.bin")
            received = 0
            with client.files.with_streaming_response.content(file.id) as answer:
                for piece in answer.iter_bytes(1 << 20):
                    assert piece == block
                    received += len(piece)
            assert received == size << 20
            assert resident(pid) - before < 16 << 20


def resident(pid):
    with open(f"/proc/{pid}/statm") as figures:
        return int(figures.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_client_that_vanishes_in_mid_upload_leaves_nothing_behind(tmp_path, client_of):
    with SimulatorProcess() as simulator:
        with GatewayProcess(configured(simulator, tmp_path), tmp_path) as gateway:
            host, port = gateway.url.removeprefix("http://").split(":")
            with socket.create_connection((host, int(port))) as caller:
                caller.sendall(
                    b"POST /v1/files HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n"
                    b"content-type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
                    b'content-disposition: form-data; name="file"; filename="f"\r\n\r\n' + bytes(600_000)
                )
                incoming = tmp_path / "kept" / "incoming"
                wait_until(lambda: list(incoming.iterdir()), what="the upload's beginning")
            wait_until(lambda: not list(incoming.iterdir()), what="its end")
            assert list(client_of(gateway).files.list()) == []
