"""A gateway whose disk becomes full and empty again; ``test_full_disk.py`` runs this where a small disk can be had.

::

    python on_small_disk.py DISK FOLDER

DISK is a file system of some 32 MiB that nobody else uses.  What was answered is printed as JSON.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
from functools import partial
from pathlib import Path

import httpx2
from gateway_books import ledger_rows, wait_until
from hook_receiver import SECRET, receiver

from penstock.testing import GatewayProcess, SimulatorProcess

CHAT = "/v1/chat/completions"
RUFH = {"upload-draft-interop-version": "8"}
LINES = 12


def configured(url, disk, hook):
    return {
        "upstreams": {"own": {"kind": "sim", "base_url": url}},
        "models": {"*": {"candidates": [{"upstream": "own"}]}},
        "ledger": {"path": str(disk / "ledger.sqlite")},
        "files": {"directory": str(disk / "kept")},
        "generations": {"durability": "disk", "path": str(disk / "generations.sqlite"), "lease": 2},
        "batches": {"concurrency": 2},
        "webhooks": {"endpoints": [{"url": hook, "secret": SECRET}]},
    }


def fill(path):
    """Take all the room that there is, to the last byte."""
    with path.open("wb", buffering=0) as file:
        for size in (65_536, 4_096, 1):
            with contextlib.suppress(OSError):
                while file.write(b"x" * size):
                    pass


def line(number):
    body = {"model": "sim:tokens=6,tps=8", "messages": [{"role": "user", "content": str(number)}]}
    return json.dumps({"custom_id": f"c{number}", "method": "POST", "url": CHAT, "body": body})


class Caller:
    """Does one of everything, time and again."""

    def __init__(self, client):
        self._client = client
        self._post = client.post
        self.file = self.put("\n".join(map(line, range(LINES)))).json()["id"]
        self.batch = self.begin().json()["id"]
        self.upload = self.uploaded().headers["location"]
        self.conversation = self.talk().json()["id"]
        response = {"model": "sim:tokens=4", "input": "hi", "background": True}
        self.going = {
            "file": f"/v1/files/{self.put(line(0)).json()['id']}",
            "upload": self.uploaded().headers["location"],
            "conversation": f"/v1/conversations/{self.talk().json()['id']}",
            "response": f"/v1/responses/{self._post('/v1/responses', json=response).json()['id']}",
        }

    def put(self, lines):
        return self._post("/v1/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", lines)})

    def begin(self):
        wanted = {"input_file_id": self.file, "endpoint": CHAT, "completion_window": "24h"}
        return self._post("/v1/batches", json=wanted)

    def uploaded(self):
        headers = {**RUFH, "upload-complete": "?0", "content-type": "application/json"}
        return self._post(CHAT, content=b"x" * 1_000, headers=headers)

    def talk(self):
        item = {"type": "message", "role": "user", "content": "hello"}
        return self._post("/v1/conversations", json={"items": [item]})

    def delete(self):
        """What was made to be deleted."""
        return {what: self._client.delete(path, headers=RUFH) for what, path in self.going.items()}

    def left(self):
        """The same, once more: what is there of it."""
        return {what: self._client.get(path) for what, path in self.going.items() if what != "upload"}

    def calls(self):
        """What has nothing to do with files of batches and uploads."""
        asked = {"model": "sim:tokens=4", "messages": [{"role": "user", "content": "hi"}]}
        return {
            "call": self._post(CHAT, json=asked),
            "response": self._post("/v1/responses", json={"model": "sim:tokens=4", "input": "hi"}),
            "batch": self._client.get(f"/v1/batches/{self.batch}"),
            "files": self._client.get("/v1/files"),
            "content": self._client.get(f"/v1/files/{self.file}/content"),
        }

    def writes(self):
        item = {"type": "message", "role": "user", "content": "more"}
        request = {"model": "sim:tokens=4", "max_tokens": 4, "messages": [{"role": "user", "content": "hi"}]}
        requests = [{"custom_id": "a", "params": request}]
        items = f"/v1/conversations/{self.conversation}/items"
        return {
            "file": self.put(line(0)),
            "batch": self.begin(),
            "upload": self.uploaded(),
            "message batch": self._post("/v1/messages/batches", json={"requests": requests}),
            "conversation": self.talk(),
            "item": self._post(items, json={"items": [item]}),
        }


class Reader:
    """Of an answer that takes some seconds, and of what is said of its durability.

    :param counted: a metric of the gateway's, by its name
    """

    def __init__(self, client, counted):
        self._client = client
        self._counted = counted
        self.told = []
        asked = {"model": "sim:tokens=60,tps=20", "stream": True, "max_tokens": 60}
        asked["messages"] = [{"role": "user", "content": "at length"}]
        self._asking = client.stream("POST", CHAT, json=asked)

    def __enter__(self):
        answer = self._asking.__enter__()
        self.path = f"/v1/generations/{answer.headers['penstock-generation']}"
        self._came = answer.iter_raw()
        self.text = next(self._came)
        self.look()
        return self

    def __exit__(self, *what):
        self._asking.__exit__(*what)

    def look(self):
        state = self._client.get(self.path).json()
        self.told.append(
            [state["status"], state["durable"], self._counted("penstock_generations_store_well")]
        )

    def finish(self):
        self.text += b"".join(self._came)

    def is_durable(self):
        return self._client.get(self.path).json()["durable"]

    def again(self):
        return self._client.get(self.path + "/events").content


def statuses(answers):
    return {what: answer.status_code for what, answer in answers.items()}


def counted(gateway, name):
    found = re.search(rf'^{name}{{durability="disk"}} (\S+)$', gateway.metrics(), re.MULTILINE)
    return float(found[1])


def started(configuration, folder):
    """What is said of a start; nothing: it went well."""
    try:
        with GatewayProcess(configuration, folder):
            return ""
    except RuntimeError as error:
        return str(error)


def main(disk, folder):
    filler = disk / "filler"
    with (
        SimulatorProcess() as simulator,
        receiver() as (hook, came),
        GatewayProcess(configuration := configured(simulator.base_url, disk, hook), folder) as gateway,
        httpx2.Client(base_url=gateway.url, trust_env=False, timeout=60) as client,
        contextlib.ExitStack() as stack,
    ):
        caller = Caller(client)
        reader = stack.enter_context(Reader(client, partial(counted, gateway)))
        of_batch = f"/v1/batches/{caller.batch}"
        wait_until(lambda: client.get(of_batch).json()["request_counts"]["completed"] > 1)
        fill(filler)
        wait_until(lambda: not reader.is_durable())
        reader.look()
        told = {"full": [statuses(caller.calls()), statuses(caller.writes())]}
        reader.finish()
        reader.look()
        told["offsets"] = [
            client.head(caller.upload, headers=RUFH).headers.get("upload-offset") for _ in range(5)
        ]
        told["deleted"] = statuses(caller.delete())
        filler.unlink()
        told["room"] = [statuses(caller.calls()), statuses(caller.writes())]
        told["left"] = statuses(caller.left())
        wait_until(reader.is_durable)
        reader.look()
        told["stream"] = [reader.told, reader.text.count(b"\nid: "), reader.text == reader.again()]
        told["said"] = [
            "answers are not durable now" in gateway.log,
            "answers are durable again" in gateway.log,
        ]
        told["offset"] = client.head(caller.upload, headers=RUFH).headers["upload-offset"]
        done = wait_until(lambda: (now := client.get(of_batch).json())["status"] == "completed" and now)
        told["counts"] = done["request_counts"]
        results = client.get(f"/v1/files/{done['output_file_id']}/content").text.splitlines()
        told["results"] = sorted(json.loads(result)["custom_id"] for result in results)
        wait_until(lambda: caller.batch in dict(came), what="a webhook")
        wait_until(lambda: all(b["status"] == "completed" for b in client.get("/v1/batches").json()["data"]))
        told["batches"] = len(client.get("/v1/batches").json()["data"])
    told["webhooks"] = [subject for subject, _ in came].count(caller.batch)
    told["outcomes"] = sorted({row.outcome for row in ledger_rows(disk / "ledger.sqlite")})
    fill(filler)
    told["starts"] = [started(configuration, folder)]
    for reserve in disk.rglob("*-reserve"):
        reserve.unlink()
    fill(disk / "more")
    told["starts"].append(started(configuration, folder))
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
