"""A backup that is made as the manual says while calls are answered, and a gateway that begins with it."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import threading

import httpx2
from gateway_books import ledger_rows, tokens, wait_until

from penstock.testing import GatewayProcess, SimulatorProcess

CHAT = "/v1/chat/completions"
LINES = 30


def configured(url, folder):
    return {
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
    with SimulatorProcess() as simulator:
        with (
            GatewayProcess(configured(simulator.base_url, live), live) as gateway,
            httpx2.Client(base_url=gateway.url, trust_env=False, timeout=60) as client,
        ):
            answer = client.post(CHAT, json=named, headers=name).text
            lines = "\n".join(
                f'{{"custom_id": "c{n}", "method": "POST", "url": "{CHAT}", "body": {{"model": '
                f'"sim:tokens=6,tps=20", "messages": [{{"role": "user", "content": "{n}"}}]}}}}'
                for n in range(LINES)
            )
            file = client.post(
                "/v1/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", lines)}
            ).json()
            wanted = {"input_file_id": file["id"], "endpoint": CHAT, "completion_window": "24h"}
            batch = client.post("/v1/batches", json=wanted).json()["id"]
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
            GatewayProcess(configured(simulator.base_url, copy), copy) as gateway,
            httpx2.Client(base_url=gateway.url, trust_env=False, timeout=60) as client,
        ):
            again = client.post(CHAT, json=named, headers=name)
            assert (again.headers["penstock-status"], again.text) == ("replayed", answer)
            assert client.get(f"/v1/files/{file['id']}/content").text == lines
            done = wait_until(
                lambda: (now := client.get(f"/v1/batches/{batch}").json())["status"] == "completed" and now
            )
            assert done["request_counts"] == {"total": LINES, "completed": LINES, "failed": 0}
            results = client.get(f"/v1/files/{done['output_file_id']}/content").text.splitlines()
            assert len(results) == LINES
    after = ledger_rows(copy / "ledger.sqlite")
    assert not [row for row in after if row.outcome == "reserved"]
    known = {row.generation for row in whole}
    kept = [row for row in after if row.generation in known and row.outcome == "completed"]
    assert tokens(kept) == tokens(whole)
