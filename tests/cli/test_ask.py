"""``penstock ask``: the answer in the terminal, also when the gateway is killed under it."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import subprocess
import sys

import pytest

from penstock.lab.faults import Break, FaultProxy, Kind
from penstock.testing import GatewayProcess, SimulatorProcess, expected_text
from penstock.testing._ports import free_port

PATIENCE = 60.0
QUESTION = "What is a penstock?"


def said(tokens, question=QUESTION, *more):
    messages = [*more, {"role": "user", "content": question}]
    return expected_text({"model": "sim", "messages": messages}, "/v1/chat/completions", tokens)


def command(*words):
    return [sys.executable, "-m", "penstock", "ask", *words]


def run(*words, **more):
    environ = {**os.environ, "NO_COLOR": "1", "no_proxy": "*"}
    done = subprocess.run(
        command(*words), capture_output=True, text=True, timeout=PATIENCE, env=environ, check=False, **more
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def simulator():
    with SimulatorProcess() as running:
        yield running


def test_the_answer_is_shown(simulator):
    assert run(QUESTION, "--url", simulator.url, "--max-tokens", "9") == (0, said(9) + "\n", "")


def test_a_question_of_standard_input_and_a_system_message(simulator):
    system = {"role": "system", "content": "Brief."}
    words = ["-", "--url", simulator.base_url, "--max-tokens", "9", "--system", "Brief."]
    assert run(*words, input="Long\nquestion") == (0, said(9, "Long\nquestion", system) + "\n", "")
    body = simulator.requests()[-1]["body"]
    assert "temperature" not in body


def test_a_refusal_is_told(simulator):
    status, out, err = run(QUESTION, "--url", simulator.url, "--model", "sim:401")
    assert (status, out.strip()) == (1, "")
    assert "(status 401)" in err


def test_an_answer_that_breaks_is_no_success(simulator):
    status, out, err = run(QUESTION, "--url", simulator.url, "--model", "sim:error-event=4,tps=100")
    assert status == 1
    assert out.strip() == said(4)
    assert "penstock ask: " in err


def test_a_url_that_is_none_is_told():
    status, _, err = run(QUESTION, "--url", "http://127.0.0.1:1", "--url", "nowhere")
    assert status == 2
    assert "'nowhere' is no gateway's URL" in err


def test_a_break_is_mended_and_said(simulator, tmp_path):
    config = {
        "upstreams": {"sim": {"kind": "sim", "base_url": simulator.base_url}},
        "models": {"*": {"candidates": [{"upstream": "sim"}]}},
    }
    with GatewayProcess(config, tmp_path) as gateway:
        port = int(gateway.url.rpartition(":")[2])
        with FaultProxy("127.0.0.1", port, breaks=[Break(Kind.RESET, 1_500, "down")]) as link:
            status, out, err = run(QUESTION, "--url", link.url, "--max-tokens", "20")
    assert (status, out) == (0, said(20) + "\n")
    assert "going on with the answer" in err


def test_the_gateway_is_killed_and_comes_back_and_the_answer_goes_on(simulator, tmp_path):
    """With answers kept on the disk: no temperature is needed to go on."""
    config = {
        "listen": f"127.0.0.1:{free_port()}",
        "upstreams": {"sim": {"kind": "sim", "base_url": simulator.base_url}},
        "models": {"*": {"candidates": [{"upstream": "sim"}]}},
        "generations": {"durability": "disk", "path": str(tmp_path / "kept.sqlite"), "lease": 0.5},
    }
    first = GatewayProcess(config, tmp_path).start()
    second = None
    words = [QUESTION, "--url", first.url, "--model", "sim:tps=20", "--max-tokens", "60"]
    process = subprocess.Popen(
        command(*words),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "NO_COLOR": "1", "no_proxy": "*"},
    )
    try:
        begun = process.stdout.read(30)
        for pid in (first.pid, *first.worker_pids()):
            os.kill(pid, signal.SIGKILL)
        first.stop()
        second = GatewayProcess(config, tmp_path).start()
        rest = process.stdout.read()  # communicate() would leave out what was read ahead
        err = process.stderr.read()
        status = process.wait(PATIENCE)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()
        first.stop()
        if second is not None:
            second.stop()
    assert begun + rest == said(60) + "\n"
    assert status == 0
    assert "going on with the answer" in err


def test_at_a_terminal_an_answer_is_shown_and_not_obeyed():
    chunk = {"choices": [{"delta": {"content": "\x1b]52;c;eA==\x07done"}}]}
    body = f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n".encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n" % len(body)
    master, slave = pty.openpty()
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        asking = subprocess.Popen(
            command(QUESTION, "--url", url),
            stdout=slave,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "no_proxy": "*"},
        )
        os.close(slave)
        connection, _ = server.accept()
        with connection:
            while b"messages" not in connection.recv(65_536):
                pass
            connection.sendall(head + body)
            asking.wait(PATIENCE)
    shown = os.read(master, 1_000)
    os.close(master)
    assert b"done" in shown
    assert b"\x1b" not in shown
