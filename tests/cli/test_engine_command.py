"""``penstock engine serve`` as people start it."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import subprocess
import sys

import pytest

PATIENCE = 60.0
COMMAND = (sys.executable, "-m", "penstock", "engine", "serve")
SMALL = ("--threads", "1", "--slots", "2", "--cache-bytes", "8000000")
ASKED = {"model": "demo", "max_tokens": 3, "messages": [{"role": "user", "content": "What is json.dumps?"}]}


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=PATIENCE)
        self._path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(self._path)


def ask(connection):
    connection.request("POST", "/v1/chat/completions", json.dumps(ASKED))
    answer = connection.getresponse()
    told = json.loads(answer.read())
    connection.close()
    assert answer.status == 200, told
    return told["choices"][0]["message"]["content"]


def serving(*options):
    return subprocess.Popen([*COMMAND, *SMALL, *options], stdout=subprocess.PIPE, text=True)


def end(process):
    process.send_signal(signal.SIGTERM)
    status = process.wait(PATIENCE)
    process.stdout.close()
    return status


def test_the_packages_own_model_answers_on_a_port_and_on_a_socket(tmp_path):
    pytest.importorskip("openvino_genai", reason="OpenVINO GenAI is not installed")
    path = tmp_path / "engine.sock"
    on_port, on_socket = serving("--port", "0"), serving("--socket", str(path))
    try:
        greeting = on_port.stdout.readline()
        port = int(
            re.match(r"demo at http://127\.0\.0\.1:(\d+)/v1 \(OpenVINO GenAI .*1024 tokens\)$", greeting)[1]
        )
        said = ask(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE))
        assert on_socket.stdout.readline().startswith(f"demo at unix:{path} ")
        assert path.stat().st_mode & 0o077 == 0
        assert ask(UnixConnection(path)) == said
    finally:
        statuses = [end(on_port), end(on_socket)]
    assert statuses == [0, 0]
    assert not path.exists()


def refused(*options):
    done = subprocess.run([*COMMAND, *options], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_directory_that_cannot_be_used_is_told_in_one_line(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    assert "pytorch_model.bin is pickled" in refused(str(tmp_path), "--port", "0")
    assert "there is no directory" in refused(str(tmp_path / "nothing"), "--port", "0")


def test_a_port_that_is_taken_is_told_in_one_line():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "cannot listen" in refused("--port", str(taken.getsockname()[1]))


def test_a_socket_that_somebody_listens_on_is_left_alone_and_one_left_behind_is_taken(tmp_path):
    path = tmp_path / "taken.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as taken:
        taken.bind(str(path))
        taken.listen()
        assert "cannot listen" in refused("--socket", str(path))
        assert path.exists()
    assert "there is no directory" in refused(str(tmp_path / "nothing"), "--socket", str(path))
