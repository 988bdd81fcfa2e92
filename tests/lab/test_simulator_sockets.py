"""The simulator as a process: what its failures look like on the wire, and that who leaves stops it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from lab_doubles import settled

from penstock.testing import SimulatorProcess, expected_text

PATH = "/v1/chat/completions"
SAID = [{"role": "user", "content": "over a socket"}]


def body_of(model, **more):
    return json.dumps({"model": model, "messages": SAID, **more}).encode()


def connect(simulator):
    return socket.create_connection(("127.0.0.1", int(simulator.url.rpartition(":")[2])), timeout=60)


def send(sock, body, path=PATH):
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
    sock.sendall(head.encode() + body)


def receive(sock, until=b"\r\n0\r\n\r\n"):  # the number of a request, in the head, may end in 0, too
    """Everything up to ``until``, or to the end; and whether that was a reset."""
    data = bytearray()
    try:
        while data.find(until, max(0, len(data) - 70_000)) < 0:
            piece = sock.recv(65_536)
            if not piece:
                return bytes(data), False
            data += piece
    except ConnectionResetError:
        return bytes(data), True
    return bytes(data), False


def ask(simulator, model, **more):
    with connect(simulator) as sock:
        send(sock, body_of(model, **more))
        return receive(sock)


def test_a_cut_is_a_reset_behind_its_tokens(fresh_bill):
    data, reset = ask(fresh_bill, "sim:tokens=10,cut-after=4", stream=True)
    assert reset
    assert data.count(b'"content":"') - 1 == 4  # the opening has an empty one
    assert b"\r\n0\r\n\r\n" not in data  # a number in the head may end in 0
    assert settled(fresh_bill)["output_tokens"] == 4


def test_an_orderly_end_without_the_last_chunk(fresh_bill):
    data, reset = ask(fresh_bill, "sim:tokens=10,close-after=4", stream=True)
    assert not reset
    assert not data.endswith(b"0\r\n\r\n")
    assert settled(fresh_bill)["output_tokens"] == 4


def test_a_reset_before_headers_is_all_that_comes(fresh_bill):
    assert ask(fresh_bill, "sim:reset-before-headers") == (b"", True)


def test_garbage_is_no_http(fresh_bill):
    data, _ = ask(fresh_bill, "sim:garbage")
    assert data
    assert not data.startswith(b"HTTP/")


def test_no_answer_is_silence(fresh_bill):
    with connect(fresh_bill) as sock:
        send(sock, body_of("sim:no-answer"))
        sock.settimeout(0.1)
        with pytest.raises(TimeoutError):
            sock.recv(1)
    assert settled(fresh_bill)["failed"] == 1


@pytest.mark.parametrize("leave", ["half-close", "close", "reset"])
def test_who_leaves_stops_the_generation(fresh_bill, leave):
    with connect(fresh_bill) as sock:
        send(sock, body_of("sim:tps=50,tokens=100000", stream=True))
        data, _ = receive(sock, b'"content":" ')
        if leave == "half-close":
            sock.shutdown(socket.SHUT_WR)
            rest, _ = receive(sock)
            data += rest
        elif leave == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    bill = settled(fresh_bill)
    assert bill["cancelled"] == 1
    assert bill["output_tokens"] < 1_000
    if leave == "half-close":  # whoever reads to the end has all that was billed
        assert bill["output_tokens"] == data.count(b'"content":"') - 1


def test_what_was_billed_before_a_half_close_still_arrives(fresh_bill):
    for _ in range(20):
        with connect(fresh_bill) as sock:
            send(sock, body_of("sim:tokens=10,stall-after=4", stream=True))
            sock.shutdown(socket.SHUT_WR)  # it is noticed in the same turn as the request, or soon after
            data, _ = receive(sock)
            assert data.count(b'"content":"') - 1 == 4
    assert settled(fresh_bill)["output_tokens"] == 80


def test_a_slow_first_token_and_a_pace_are_kept(fresh_bill):
    began = time.monotonic()
    with connect(fresh_bill) as sock:
        send(sock, body_of("sim:slow-first-token=150,tps=100,tokens=11", stream=True))
        sock.recv(1)
        first = time.monotonic() - began
        receive(sock)
        last = time.monotonic() - began
    assert first >= 0.15
    assert last >= 0.249


def test_a_long_text_comes_whole(fresh_bill):
    body = body_of("sim:tokens=200000")
    with connect(fresh_bill) as sock:
        send(sock, body)
        data, _ = receive(sock, b'"fp_sim"}')
    answer = json.loads(data.partition(b"\r\n\r\n")[2])
    text = answer["choices"][0]["message"]["content"]
    assert len(text) > 1_000_000
    assert text == expected_text({"model": "sim", "messages": SAID}, PATH, 200_000)
    data, _ = ask(fresh_bill, "sim:tokens=20000", stream=True)
    assert data.count(b'"content":"') - 1 == 20_000
    assert fresh_bill.bill()["output_tokens"] == 220_000


def test_connections_are_kept_between_requests(fresh_bill):
    with connect(fresh_bill) as sock:
        for model in ("sim:tokens=3", "sim:429", "sim:tokens=3", "sim:no-done"):
            send(sock, body_of(model, stream=True))
            data, _ = receive(sock, *[b"}}"] * ("429" in model))
            assert data.startswith(b"HTTP/1.1 ")


def test_a_process_says_when_it_is_ready_and_ends_by_signal():
    process = SimulatorProcess("--output-tokens", "3", "--scenario", "thinking")
    with process:
        pid = process.pid
        assert process.bill()["requests"] == 0
        data, _ = ask(process, "any", stream=True)
        assert data.count(b'"content":"') - 1 == 3
        assert b"reasoning_content" in data
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_process_ends_with_the_one_that_started_it():
    script = (
        "import os, sys\n"
        "from penstock.testing import SimulatorProcess\n"
        "process = SimulatorProcess().start()\n"
        "print(process.pid, process.url, flush=True)\n"
        "sys.stdin.read()\n"
        "os.kill(os.getpid(), 9)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        pid, url = parent.stdout.readline().split()
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        with socket.create_connection(address, timeout=60) as sock:
            parent.stdin.close()
            assert sock.recv(1) == b""  # the simulator, now an orphan, has closed it
        assert parent.wait(60) == -signal.SIGKILL
    assert int(pid) > 0


@pytest.mark.parametrize(
    ("options", "said", "status"),
    [
        (["--scenario", "fly"], "fly", 2),
        (["--output-tokens", "some"], "some", 2),
        (["--host", "192.0.2.1"], "cannot listen on 192.0.2.1", 1),
    ],
)
def test_a_wrong_option_is_one_clear_line(options, said, status):
    command = [sys.executable, "-m", "penstock.cli.sim", *options]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == status
    assert said in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_the_scenarios_can_be_listed():
    command = [sys.executable, "-m", "penstock.cli.sim", "--scenarios"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "cut-after=N" in ended.stdout
