"""What an earlier version left when it was killed in mid-work, and what the present one makes of it.

The archives in ``older_files`` were made by those versions themselves, which their commits name: the ledger's third
version with uncompressed generations, and its fifth.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import sqlite3
import tarfile
import time
from pathlib import Path

import httpx2
import pytest
from gateway_books import ledger_rows, settled_bill, tokens, wait_until

from penstock.testing import GatewayProcess, SimulatorProcess, expected_text

FOLDER = Path(__file__).parent / "older_files"
_spec = importlib.util.spec_from_file_location("make_older_files", FOLDER / "make_older_files.py")
made = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(made)

CHAT = "/v1/chat/completions"


@pytest.fixture(params=sorted(path.name for path in FOLDER.glob("*.tar.xz")))
def older(request, tmp_path):
    """The files, and what callers were told."""
    with tarfile.open(FOLDER / request.param) as archive:
        archive.extractall(tmp_path, filter="data")
    told = json.loads((tmp_path / "expected.json").read_text())
    # Times that would be over by now: all else is as the earlier version wrote it.
    now = time.time()
    with contextlib.closing(sqlite3.connect(tmp_path / "kept" / "batches.sqlite")) as database, database:
        database.execute("UPDATE batches SET record = json_set(record, '$.expires', ?)", (now + 86_400,))
    with contextlib.closing(sqlite3.connect(tmp_path / "kept" / "uploads" / "uploads.sqlite")) as database:
        with database:
            database.execute("UPDATE uploads SET created = ?, expires = ?", (now, now + 86_400))
    return tmp_path, told


def text_of(lines):
    assert not any('"error"' in line for line in lines), lines[-4:]
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


def test_what_an_earlier_version_left_is_gone_on_with(older):
    folder, told = older
    with SimulatorProcess() as simulator:
        config = made.configuration(folder, simulator.base_url)
        with (
            GatewayProcess(config, folder) as gateway,
            httpx2.Client(base_url=gateway.url, trust_env=False, timeout=60) as client,
        ):
            # What had ended is there.
            named = client.post(
                CHAT,
                json=made.asked("named", "sim:tokens=300", stream=True),
                headers={"idempotency-key": "n"},
            )
            assert (named.headers["penstock-status"], named.text) == ("replayed", told["named"])
            assert client.get(f"/v1/responses/{told['response']}").json()["status"] == "completed"
            assert client.get(f"/v1/files/{told['file']}/content").text.splitlines() == [
                made.line(number) for number in range(made.LINES)
            ]
            # What was under way goes on, and no more than that is asked for.
            for prompt, stream in told["streams"].items():
                last = max(int(line[4:]) for line in stream["lines"] if line.startswith("id: "))
                rest = client.get(
                    f"/v1/generations/{stream['generation']}/events", headers={"last-event-id": str(last)}
                )
                body = made.asked(prompt, made.STREAM_MODEL, stream=True)
                whole = text_of(stream["lines"]) + text_of(rest.text.splitlines())
                assert whole == expected_text(body, CHAT, 24)
            batch = wait_until(
                lambda: (
                    (now := client.get(f"/v1/batches/{told['batch']}").json())["status"] == "completed"
                    and now
                )
            )
            assert batch["request_counts"] == {"total": made.LINES, "completed": made.LINES, "failed": 0}
            upload = f"/v1/uploads/{told['upload']}"
            version = {"upload-draft-interop-version": "8"}
            offset = int(client.head(upload, headers=version).headers["upload-offset"])
            assert offset == 1000
            whole = json.dumps(made.asked("piece " * 500, "sim:tokens=4")).encode()
            answer = client.patch(
                upload,
                content=whole[offset:],
                headers={
                    **version,
                    "upload-offset": str(offset),
                    "upload-complete": "?1",
                    "content-type": "application/partial-upload",
                },
            )
            assert answer.json()["usage"]["completion_tokens"] == 4
            # Its receiver had taken none: what it is still to be told waits.
            with contextlib.closing(sqlite3.connect(folder / "kept" / "webhooks.sqlite")) as outbox:
                waiting = outbox.execute("SELECT body FROM deliveries WHERE due IS NOT NULL").fetchall()
            assert told["response"] in {json.loads(body)["data"]["id"] for (body,) in waiting}
            assert settled_bill(simulator)["requests"] <= len(told["streams"]) + made.LINES - 3 + 1
    rows = ledger_rows(folder / "ledger.sqlite")
    settled = [row for row in rows if row.upstream_model in {"sim:tokens=6", "sim:tokens=3"}]
    asked = [row for row in settled if row.outcome == "completed"]
    assert list(tokens(asked)) == told["usage"]
    assert [row.outcome for row in settled if row not in asked] == ["cached"] * len(made.PROMPTS)
    for stream in told["streams"].values():
        of_stream = [row for row in rows if row.generation == stream["generation"]]
        assert tokens([row for row in of_stream if row.outcome != "attached"])[1] == 24
    assert not [row for row in rows if row.outcome == "reserved"]
    assert not list(folder.glob("*.queue"))
