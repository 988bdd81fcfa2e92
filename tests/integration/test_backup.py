"""A backup that is made as the manual says while calls are answered, and a gateway that begins with it."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import threading

import httpx2
from gateway_books import ledger_rows, tokens, wait_until
from hook_receiver import SECRET, receiver

from penstock.testing import GatewayProcess, SimulatorProcess

CHAT = "/v1/chat/completions"
LINES = 30


RUFH = {"upload-draft-interop-version": "8"}


def configured(url, folder, hook):
    return {
        "webhooks": {"endpoints": [{"url": hook, "secret": SECRET}]},
        "workers": 2,
        "upstreams": {"own": {"kind": "sim", "base_url": url}},
        "models": {"*": {"candidates": [{"upstream": "own"}]}},
        "ledger": {"path": str(folder / "ledger.sqlite")},
        "files": {"directory": str(folder / "kept")},
        "generations": {"durability": "disk", "path": str(folder / "generations.sqlite"), "lease": 2},
        "batches": {"concurrency": 2},
    }


def asked(prompt, model="sim:tokens=4", **more):
    return {"model": model, "messages": [{"role": "user", "content": prompt}], **more}


def batch_of(client, prompts, model):
    """The file that is a batch's input, as it was sent, and the batch's id."""
    lines = "\n".join(
        json.dumps({"custom_id": f"c{prompt}", "method": "POST", "url": CHAT, "body": asked(prompt, model)})
        for prompt in prompts
    )
    file = client.post("/v1/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", lines)}).json()
    wanted = {"input_file_id": file["id"], "endpoint": CHAT, "completion_window": "24h"}
    return file["id"], lines, client.post("/v1/batches", json=wanted).json()["id"]


def completed(client, batch):
    return wait_until(
        lambda: (now := client.get(f"/v1/batches/{batch}").json())["status"] == "completed" and now
    )


def copied(source, target):
    """SQLite's files by SQLite (``.backup`` of its shell is the same), then what lies beside them."""
    for path in source.rglob("*.sqlite"):
        to = target / path.relative_to(source)
        to.parent.mkdir(parents=True, exist_ok=True)
        with (
            contextlib.closing(sqlite3.connect(path)) as live,
            contextlib.closing(sqlite3.connect(to)) as copy,
        ):
            live.backup(copy)
    shutil.copytree(
        source / "kept", target / "kept", ignore=shutil.ignore_patterns("*.sqlite*"), dirs_exist_ok=True
    )


def test_a_gateway_goes_on_from_a_copy_that_was_made_while_another_ran(tmp_path):
    live, copy = tmp_path / "live", tmp_path / "copy"
    live.mkdir()
    name = {"idempotency-key": "n"}
    named = asked("named", "sim:tokens=100", stream=True)
    large = json.dumps(asked("piece " * 500)).encode()
    with SimulatorProcess() as simulator, receiver() as (hook, came):
        with (
            GatewayProcess(configured(simulator.base_url, live, hook), live) as gateway,
            httpx2.Client(base_url=gateway.url, trust_env=False, timeout=60) as client,
        ):
            answer = client.post(CHAT, json=named, headers=name).text
            _, _, told = batch_of(client, ["told"], "sim:tokens=6")
            completed(client, told)
            wait_until(lambda: came, what="a webhook")
            begun = client.post(
                CHAT,
                content=large[:1_000],
                headers={**RUFH, "upload-complete": "?0", "content-type": "application/json"},
            )
            upload = begun.headers["location"].partition("/v1/")[2]
            file, lines, batch = batch_of(client, map(str, range(LINES)), "sim:tokens=6,tps=20")
            wait_until(lambda: client.get(f"/v1/batches/{batch}").json()["request_counts"]["completed"] > 3)
            enough = threading.Event()

            def go_on_asking():
                with httpx2.Client(base_url=gateway.url, trust_env=False, timeout=60) as caller:
                    while not enough.is_set():
                        caller.post(CHAT, json=asked("load")).raise_for_status()

            callers = [threading.Thread(target=go_on_asking) for _ in range(2)]
            for caller in callers:
                caller.start()
            try:
                copied(live, copy)
            finally:
                enough.set()
                for caller in callers:
                    caller.join()
        before = ledger_rows(copy / "ledger.sqlite")
        whole = [row for row in before if row.outcome == "completed"]
        with (
            GatewayProcess(configured(simulator.base_url, copy, hook), copy) as gateway,
            httpx2.Client(base_url=gateway.url, trust_env=False, timeout=60) as client,
        ):
            again = client.post(CHAT, json=named, headers=name)
            assert (again.headers["penstock-status"], again.text) == ("replayed", answer)
            assert client.get(f"/v1/files/{file}/content").text == lines
            done = completed(client, batch)
            assert done["request_counts"] == {"total": LINES, "completed": LINES, "failed": 0}
            results = client.get(f"/v1/files/{done['output_file_id']}/content").text.splitlines()
            assert len(results) == LINES
            assert client.head(f"/v1/{upload}", headers=RUFH).headers["upload-offset"] == "1000"
            rest = {
                "upload-offset": "1000",
                "upload-complete": "?1",
                "content-type": "application/partial-upload",
            }
            ended = client.patch(f"/v1/{upload}", content=large[1_000:], headers={**RUFH, **rest})
            assert ended.json()["usage"]["completion_tokens"] == 4
            # What was told before the copy was made is told no more; what has ended since, by the name that it has
            # in whichever gateway it ends.
            wait_until(lambda: batch in dict(came), what="a webhook")
    assert [subject for subject, _ in came].count(told) == 1
    assert len({name for subject, name in came if subject == batch}) == 1
    after = ledger_rows(copy / "ledger.sqlite")
    assert not [row for row in after if row.outcome == "reserved"]
    known = {row.generation for row in whole}
    kept = [row for row in after if row.generation in known and row.outcome == "completed"]
    assert tokens(kept) == tokens(whole)
