"""Makes the archives beside this file: what an earlier version had left behind when it was killed in mid-work.

::

    git worktree add --detach /tmp/earlier COMMIT
    python make_older_files.py /tmp/earlier/src COMMIT.tar.xz

The gateway of that version answers calls, keeps files, runs a batch, streams to callers who stay, and is killed
(``kill -9``) in the middle of it.  All that it has written goes into the archive, with ``expected.json``: what its callers
were told, for ``test_older_files.py`` to ask the present version for.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import httpx2

from penstock.testing import SimulatorProcess

PROMPTS = [f"question {number}" for number in range(8)]
STREAMS = [f"stream {number}" for number in range(3)]
LINES = 12
STREAM_MODEL = "sim:tokens=24,tps=8"
LONG = 1_000_000_000  # seconds that answers are kept: the archive is read years later
NOBODY = "http://receiver.invalid/"  # takes no webhook, so they wait
SECRET = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="


def configuration(folder: Path, upstream: str) -> dict[str, object]:
    """What the earlier version and the present one both understand."""
    return {
        "listen": "127.0.0.1:0",
        "control": "127.0.0.1:0",
        "drain_timeout": 1,
        "upstreams": {"own": {"kind": "sim", "base_url": upstream}},
        "models": {"*": {"candidates": [{"upstream": "own"}], "grace": 60, "cache": {"calls": "all"}}},
        "ledger": {"path": str(folder / "ledger.sqlite")},
        "files": {"directory": str(folder / "kept"), "kept_for": 0},
        "generations": {
            "durability": "disk",
            "path": str(folder / "generations.sqlite"),
            "kept_for": LONG,
            "lease": 2.0,
        },
        "cache": {"disk": str(folder / "cache.sqlite")},
        "webhooks": {"endpoints": [{"url": NOBODY, "secret": SECRET}]},
        "batches": {"concurrency": 1},
    }


def asked(prompt: str, model: str, **more: object) -> dict[str, object]:
    return {"model": model, "messages": [{"role": "user", "content": prompt}], **more}


def line(number: int) -> str:
    body = asked(f"line {number}", "sim:tokens=4,tps=40")
    return json.dumps(
        {"custom_id": f"c{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
    )


def _until(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError("the earlier version does not come so far")
        time.sleep(0.02)
    return value


@contextlib.contextmanager
def _killed_at_the_end(source: Path, folder: Path):
    """The earlier version's gateway: its URL."""
    log = folder / "gateway.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "penstock", "serve", str(folder / "penstock.json")],
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env={**os.environ, "PYTHONPATH": str(source)},
        )
    try:
        ready = _until(lambda: re.search(r"ready on ([\d.:]+), control on ([\d.:]+)", log.read_text()))
        workers = httpx2.get(f"http://{ready[2]}/readyz", trust_env=False).json()["workers"]
        yield f"http://{ready[1]}"
    finally:
        process.send_signal(signal.SIGSTOP)  # so that it neither replaces a worker nor tells it to end
        for worker in workers:
            os.kill(worker["pid"], signal.SIGKILL)
        process.kill()
        process.wait()
    _until(lambda: not any(Path(f"/proc/{worker['pid']}/cmdline").exists() for worker in workers))


def _answer(client: httpx2.Client, path: str, **request: object) -> httpx2.Response:
    answer = client.request(str(request.pop("method", "POST")), path, **request)
    answer.raise_for_status()
    return answer


def _work(client: httpx2.Client, folder: Path, streams: contextlib.ExitStack) -> dict[str, object]:
    """What callers do, up to the moment of the kill: what they were told."""
    told: dict[str, object] = {}
    chat = "/v1/chat/completions"
    answers = {prompt: _answer(client, chat, json=asked(prompt, "sim:tokens=6")).json() for prompt in PROMPTS}
    again = [_answer(client, chat, json=asked(prompt, "sim:tokens=6")) for prompt in PROMPTS]
    assert {answer.headers["penstock-status"] for answer in again} == {"cached"}
    told["answers"] = answers
    named = asked("named", "sim:tokens=300", stream=True)
    told["named"] = _answer(client, chat, json=named, headers={"idempotency-key": "n"}).text
    form = {"file": ("input.jsonl", "\n".join(map(line, range(LINES))))}
    file = _answer(client, "/v1/files", data={"purpose": "batch"}, files=form).json()
    told["file"] = file["id"]
    told["response"] = _answer(
        client, "/v1/responses", json={"model": "sim:tokens=4", "input": "told", "background": True}
    ).json()["id"]
    batch = {"input_file_id": file["id"], "endpoint": chat, "completion_window": "24h"}
    told["batch"] = _answer(client, "/v1/batches", json=batch).json()["id"]
    whole = json.dumps(asked("piece " * 500, "sim:tokens=4")).encode()
    upload = _answer(
        client,
        chat,
        content=whole[:1000],
        headers={
            "upload-draft-interop-version": "8",
            "upload-complete": "?0",
            "upload-length": str(len(whole)),
            "content-type": "application/json",
        },
    )
    told["upload"] = upload.headers["location"].rsplit("/", 1)[1]
    told["streams"] = {}
    for prompt in STREAMS:
        body = asked(prompt, STREAM_MODEL, stream=True)
        answer = streams.enter_context(
            client.stream("POST", chat, json=body, headers={"idempotency-key": prompt})
        )
        lines = answer.iter_lines()
        got = []
        while sum(each.startswith("data:") for each in got) < 5:
            got.append(next(lines))
        told["streams"][prompt] = {"generation": answer.headers["penstock-generation"], "lines": got}
    path = folder / "kept" / "batches" / f"{told['batch']}.output"
    _until(lambda: path.exists() and path.read_bytes().count(b"\n") >= 3)
    _until(lambda: client.get(f"/v1/responses/{told['response']}").json()["status"] == "completed")
    last = [_answer(client, chat, json=asked(f"last {number}", "sim:tokens=3")).json() for number in range(4)]
    told["usage"] = [
        sum(answer["usage"][name] for answer in [*answers.values(), *last])
        for name in ("prompt_tokens", "completion_tokens")
    ]
    return told


def make(source: Path, archive: Path) -> None:
    with tempfile.TemporaryDirectory() as name, SimulatorProcess() as simulator:
        folder = Path(name)
        config = configuration(folder, simulator.base_url)
        (folder / "penstock.json").write_text(json.dumps(config))
        with contextlib.ExitStack() as streams, _killed_at_the_end(source, folder) as url:
            client = streams.enter_context(httpx2.Client(base_url=url, trust_env=False, timeout=60))
            told = _work(client, folder, streams)
        for left in ("penstock.json", "gateway.log"):
            (folder / left).unlink()
        with tarfile.open(archive, "w:xz") as tar:
            tar.add(folder, ".", filter=_owned_by_nobody)
            text = json.dumps(told).encode()
            info = tarfile.TarInfo("expected.json")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text))


def _owned_by_nobody(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Without what SQLite makes anew (the index of its log), and without names of this machine's."""
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    return None if info.name.endswith("-shm") else info


if __name__ == "__main__":
    make(Path(sys.argv[1]).absolute(), Path(sys.argv[2]).absolute())
