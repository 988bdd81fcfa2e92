"""A gateway that is killed while the results of its batches wait for room; ``test_results_waiting.py`` runs this where
a small disk can be had.

::

    python kill_with_results_waiting.py DISK FOLDER DURABILITY

DISK is a file system of a few MiB that nobody else uses.  What became of the batches is printed as JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import sys
from collections import Counter
from pathlib import Path

import httpx2
from gateway_books import asked as asked_of
from gateway_books import billed, ledger_rows, settled_bill, tokens, wait_until
from on_small_disk import fill

from penstock.testing import GatewayProcess, SimulatorProcess

CHAT = "/v1/chat/completions"
LINES = 24  # of each batch: the simulator shows its last 64 requests
AT_ONCE = 4  # of each batch


def configured(url, disk, folder, durability):
    return {
        "upstreams": {"own": {"kind": "sim", "base_url": url}},
        "models": {"*": {"candidates": [{"upstream": "own"}]}},
        "ledger": {"path": str(folder / "ledger.sqlite")},
        "files": {"directory": str(disk / "kept")},
        "generations": {"durability": durability, "path": str(folder / "generations.sqlite"), "lease": 2},
        "batches": {"concurrency": AT_ONCE},
    }


def asked(name):
    messages = [{"role": "user", "content": name}]
    return {"model": "sim:tokens=6,tps=20", "max_tokens": 64, "messages": messages}


def begun(client):
    """One batch of either API: the paths at which they are asked for."""
    lines = [
        json.dumps({"custom_id": f"o{n}", "method": "POST", "url": CHAT, "body": asked(f"o{n}")})
        for n in range(LINES)
    ]
    form = {"data": {"purpose": "batch"}, "files": {"file": ("in.jsonl", "\n".join(lines))}}
    file = client.post("/v1/files", **form).json()["id"]
    wanted = {"input_file_id": file, "endpoint": CHAT, "completion_window": "24h"}
    requests = [{"custom_id": f"a{n}", "params": asked(f"a{n}")} for n in range(LINES)]
    return [
        "/v1/batches/" + client.post("/v1/batches", json=wanted).json()["id"],
        "/v1/messages/batches/"
        + client.post("/v1/messages/batches", json={"requests": requests}).json()["id"],
    ]


def done(disk):
    """Lines with a result, of each batch that has any."""
    return [path.read_bytes().count(b"\n") for path in (disk / "kept" / "batches").glob("*.output")]


def stored(folder):
    """Answers in the store that have ended."""
    with contextlib.closing(sqlite3.connect(folder / "generations.sqlite", timeout=10)) as database:
        (count,) = database.execute("SELECT count(*) FROM generations WHERE state = 'finished'").fetchone()
    return count


def kill(gateway):
    for pid in (gateway.pid, *gateway.worker_pids()):
        os.kill(pid, signal.SIGKILL)
    gateway.stop()


def main(disk, folder, durability):
    filler = disk / "filler"
    config = configured("", disk, folder, durability)
    with SimulatorProcess() as simulator, contextlib.ExitStack() as stack:
        config["upstreams"]["own"]["base_url"] = simulator.base_url
        gateway = GatewayProcess(config, folder).start()
        stack.callback(gateway.stop)
        client = stack.enter_context(httpx2.Client(base_url=gateway.url, trust_env=False, timeout=60))
        batches = begun(client)
        wait_until(lambda: len(counts := done(disk)) == 2 and min(counts) >= 2, what="two results of each")
        fill(filler)

        def all_wait():
            """Each of the calls at once has its answer, and no room for it."""
            bill = simulator.bill()
            waiting = bill["requests"] - sum(done(disk))
            ledger = len(ledger_rows(folder / "ledger.sqlite"))
            return not bill["in_flight"] and waiting == 2 * AT_ONCE and ledger == bill["requests"]

        wait_until(all_wait, what="results that wait for room")
        if durability == "disk":
            answered = simulator.bill()["requests"]
            wait_until(lambda: stored(folder) == answered, what="answers in the store")
        told = {"waiting": 2 * AT_ONCE}
        kill(gateway)
        filler.unlink()
        with GatewayProcess(config, folder) as again:
            client = stack.enter_context(httpx2.Client(base_url=again.url, trust_env=False, timeout=60))
            wait_until(lambda: client.get(batches[0]).json()["status"] == "completed", what="a batch's end")
            wait_until(
                lambda: client.get(batches[1]).json()["processing_status"] == "ended", what="the other's"
            )
            output = client.get(batches[0]).json()["output_file_id"]
            contents = [f"/v1/files/{output}/content", batches[1] + "/results"]
            lines = [line for path in contents for line in client.get(path).text.splitlines()]
            told["results"] = sorted(json.loads(line)["custom_id"] for line in lines)
            bill = settled_bill(simulator)
            questions = (json.loads(one["body"])["messages"][0]["content"] for one in simulator.requests())
            told["twice"] = sorted(name for name, times in Counter(questions).items() if times > 1)
        told["bill"] = billed(bill)
    told["ledger"] = tokens(asked_of(ledger_rows(folder / "ledger.sqlite")))
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
