"""``penstock put``: a file arrives, whatever breaks meanwhile, and is what was sent."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import urllib.request

import httpx2
import pytest

from penstock.client import putting
from penstock.lab.faults import Break, Conditions, FaultProxy, Kind
from penstock.testing import GatewayProcess
from penstock.testing._ports import free_port

PATIENCE = 60.0
MB = 1_000_000


def config(folder, **more):
    return {
        "upstreams": {"none": {"kind": "openai", "base_url": "http://127.0.0.1:1/v1"}},
        "models": {"*": {"candidates": [{"upstream": "none"}]}},
        "files": {"directory": str(folder / "files")},
        **more,
    }


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gateway")
    with GatewayProcess(config(folder), folder) as running:
        yield running


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "numbers — 1.bin"
    path.write_bytes(random.Random(str(tmp_path)).randbytes(5 * MB))  # no test has sent another's
    return path


def start(*words):
    environ = {**os.environ, "NO_COLOR": "1", "no_proxy": "*"}
    command = [sys.executable, "-m", "penstock", "put", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ)


def run(*words):
    process = start(*words)
    try:
        out, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
        process.wait()
    return process.returncode, out.strip(), err


def kept(gateway, file_id):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{gateway.url}/v1/files/{file_id}/content", timeout=PATIENCE) as answer:
        return answer.read()


def through(gateway, *breaks, **conditions):
    port = int(gateway.url.rpartition(":")[2])
    return FaultProxy("127.0.0.1", port, Conditions(**conditions), breaks=breaks)


def test_a_file_arrives_and_its_id_is_printed(gateway, file):
    status, file_id, err = run(file, "--url", gateway.url)
    assert (status, err) == (0, "")
    assert kept(gateway, file_id) == file.read_bytes()


def test_of_a_file_that_is_sent_again_changed_only_what_is_new_goes_up(gateway, tmp_path):
    """By another process, which knows nothing of the first."""
    content = random.Random(5).randbytes(6 * MB)
    changed = content[: 3 * MB] + b"a line that was not there\n" + content[3 * MB :]
    path = tmp_path / "file"
    sent = []
    with through(gateway) as link:
        for each in (content, content, changed):
            path.write_bytes(each)
            before = link.figures.bytes_up
            status, file_id, err = run(path, "--url", link.url)
            assert (status, err) == (0, "")
            assert kept(gateway, file_id) == each
            sent.append(link.figures.bytes_up - before)
    assert sent[0] > 6 * MB
    assert sent[1] < 10_000
    assert sent[2] < 3 * MB  # one block, or two


def test_of_a_file_in_many_appends_all_blocks_are_known(gateway, tmp_path, monkeypatch):
    """Appends end where blocks do, and the list is longer than what is sent by itself."""
    monkeypatch.setattr(putting, "APPEND_BYTES", 3 * MB)
    content = random.Random(6).randbytes(14 * MB)
    path = tmp_path / "file"
    path.write_bytes(content)
    with through(gateway) as link, httpx2.Client(trust_env=False, timeout=PATIENCE) as client:
        files, told = [], []
        for _ in range(2):
            before = link.figures.bytes_up
            files.append(putting.put(client, link.url, path, on_progress=lambda *each: told.append(each)))
            assert told[-1] == (14 * MB, 14 * MB)
            assert told == sorted(told)
            told.clear()
        assert link.figures.bytes_up - before < 20_000
    assert {kept(gateway, each["id"]) == content for each in files} == {True}
    assert files[0]["id"] != files[1]["id"]


def test_an_empty_one_too(gateway, tmp_path):
    (tmp_path / "empty").touch()
    status, file_id, _ = run(tmp_path / "empty", "--url", gateway.base_url)
    assert (status, kept(gateway, file_id)) == (0, b"")


def test_breaks_are_said_and_cost_little(gateway, file):
    breaks = [Break(Kind.RESET, 2 * MB, "up"), Break(Kind.CLOSE, 2 * MB, "up")]
    with through(gateway, *breaks, rate=10 * MB) as link:
        status, file_id, err = run(file, "--url", link.url)
        assert link.figures.broken == 2
        assert link.figures.bytes_up < 8 * MB
    assert status == 0
    assert err.count("going on where it was") == 2
    assert kept(gateway, file_id) == file.read_bytes()


def test_a_damaged_byte_does_not_get_in(gateway, file):
    with through(gateway, Break(Kind.CORRUPT, 2 * MB, "up")) as link:
        status, file_id, _ = run(file, "--url", link.url)
        assert link.figures.broken == 1
    assert status == 0
    assert kept(gateway, file_id) == file.read_bytes()


def test_the_gateway_is_killed_and_comes_back(tmp_path, file):
    settings = config(tmp_path, listen=f"127.0.0.1:{free_port()}")
    first = GatewayProcess(settings, tmp_path).start()
    second = None
    try:
        with through(first, rate=2 * MB) as link:
            process = start(file, "--url", link.url)
            deadline = time.monotonic() + PATIENCE
            while link.figures.bytes_up < 2 * MB:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            for pid in (first.pid, *first.worker_pids()):
                os.kill(pid, signal.SIGKILL)
            first.stop()
            second = GatewayProcess(settings, tmp_path).start()
            out, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, err
        assert "going on where it was" in err
        assert kept(second, out.strip()) == file.read_bytes()
    finally:
        first.stop()
        if second is not None:
            second.stop()


def test_a_purpose_that_is_none_is_told(gateway, file):
    status, out, err = run(file, "--url", gateway.url, "--purpose", "fun")
    assert (status, out) == (1, "")
    assert "purpose must be one of" in err


def test_nobody_there_is_told(file):
    status, out, err = run(file, "--url", f"http://127.0.0.1:{free_port()}", "--patience", "0")
    assert (status, out) == (1, "")
    assert "penstock put: " in err
