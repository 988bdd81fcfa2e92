"""``penstock serve`` as people start it: the real command, the real gateway, the real simulator."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

from penstock.cli.serve import _example
from penstock.config.discover import discover
from penstock.config.keys import hash_key, new_key
from penstock.testing._ports import free_port

PATIENCE = 60.0
COMMAND = (sys.executable, "-m", "penstock", "serve")
ANYWHERE = ("--listen", "127.0.0.1:0", "--control", "127.0.0.1:0")


class Serving:
    """The command, running in ``folder`` with an environment that offers nothing."""

    def __init__(self, folder, *options, env=None):
        self.errors = []
        self.greeting = []
        self.process = subprocess.Popen(
            [*COMMAND, *options],
            cwd=folder,
            env={"PATH": os.environ["PATH"], "HOME": str(folder), **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        self.errors.extend(self.process.stderr)

    def __enter__(self):
        for line in self.process.stdout:
            self.greeting.append(line.rstrip())
            if "curl" in line:
                break
        text = "\n".join(self.greeting)
        assert "curl" in text, self.errors
        self.port = int(re.search(r"serves https?://127\.0\.0\.1:(\d+)", text)[1])
        self.control = int(re.search(r"control +http://127\.0\.0\.1:(\d+)", text)[1])
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.terminate()
        assert self.process.wait(PATIENCE) == 0, self.errors
        self._reader.join(PATIENCE)
        self.process.stdout.close()
        self.process.stderr.close()

    @property
    def children(self):
        pid = self.process.pid
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def get(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def ask(port, model="sim"):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        body = {"model": model, "messages": [{"role": "user", "content": "Hello"}]}
        connection.request("POST", "/v1/chat/completions", json.dumps(body))
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def run(folder, *options):
    return subprocess.run(
        [*COMMAND, *options],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def write(folder, name="penstock.yaml", **sections):
    document = {
        "listen": "127.0.0.1:0",
        "control": "127.0.0.1:0",
        "upstreams": {"own": {"kind": "sim"}},
        "models": {"mine": {"candidates": [{"upstream": "own", "model": "sim"}]}},
        **sections,
    }
    path = folder / name
    path.write_text(yaml.safe_dump(document))
    return path


def put_secret(folder, version, **files):
    """As Kubernetes does it: a new directory, and one symlink that is swapped."""
    fresh = folder / f"..{version}"
    fresh.mkdir(parents=True)
    for name, text in files.items():
        (fresh / name).write_text(text + "\n")
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")
    (folder / "..data_tmp").symlink_to(fresh.name)
    (folder / "..data_tmp").rename(folder / "..data")


def permitted(port, key):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", "/v1/models", headers={"authorization": f"Bearer {key}"})
        return connection.getresponse().status == 200
    finally:
        connection.close()


def test_a_secret_that_is_mounted_can_be_renewed_without_a_word(tmp_path):
    old, new = new_key(), new_key()
    secret = tmp_path / "secret"
    put_secret(secret, "1", hash=hash_key(old))
    write(tmp_path, keys=[{"name": "app", "hash": f"${{file:{secret / 'hash'}}}"}])
    with Serving(tmp_path) as serving:
        assert permitted(serving.port, old)
        put_secret(secret, "2", hash=hash_key(new))
        until = time.monotonic() + PATIENCE
        while not permitted(serving.port, new):
            assert time.monotonic() < until
        assert not permitted(serving.port, old)


@pytest.fixture
def key(monkeypatch):
    return {"OPENAI_API_KEY": "sk-nobody-may-see-this"}


def test_the_line_that_it_prints_works_as_pasted(tmp_path, key):
    with Serving(tmp_path, str(write(tmp_path)), env=key) as serving:
        line = next(line for line in serving.greeting if "curl" in line)
        result = subprocess.run(
            [*shlex.split(line), "-s"], capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        assert result.returncode == 0, result.stderr
        assert json.loads(result.stdout)["choices"][0]["message"]["content"]


def test_it_says_which_file_it_read_and_reads_the_one_in_the_working_directory(tmp_path):
    write(tmp_path)
    with Serving(tmp_path) as serving:
        assert any("penstock.yaml" in line for line in serving.greeting)
        assert ask(serving.port, "mine")[0] == 200


def test_without_a_file_it_says_what_it_found(tmp_path, key):
    with Serving(tmp_path, *ANYWHERE, env=key) as serving:
        text = "\n".join(serving.greeting)
        assert "openai" in text
        assert "OPENAI_API_KEY" in text
        assert key["OPENAI_API_KEY"] not in text + "".join(serving.errors)
        status, config = get(serving.control, "/v1/config")
        assert status == 200
        assert key["OPENAI_API_KEY"].encode() not in config


def test_options_go_before_the_file(tmp_path):
    port = free_port()
    path = write(tmp_path, log={"format": "json"})
    options = ("--listen", f"127.0.0.1:{port}", "--workers", "2", "--log-format", "text")
    with Serving(tmp_path, str(path), *options) as serving:
        assert serving.port == port
        assert len(json.loads(get(serving.control, "/readyz")[1])["workers"]) == 2
        write(tmp_path, drain_timeout=7.0)  # a reload keeps them, too
        connection = http.client.HTTPConnection("127.0.0.1", serving.control, timeout=PATIENCE)
        connection.request("POST", "/v1/reload")
        assert json.loads(connection.getresponse().read())["needs_restart"] == []
        connection.close()
    assert not any(line.startswith("{") for line in serving.errors), serving.errors


def test_the_simulator_is_kept_alive_behind_the_same_address(tmp_path):
    with Serving(tmp_path, str(write(tmp_path))) as serving:
        assert ask(serving.port, "mine")[0] == 200
        simulator = next(
            pid
            for pid in serving.children
            if b"penstock.lab.embedded" in Path(f"/proc/{pid}/cmdline").read_bytes()
        )
        os.kill(simulator, signal.SIGKILL)
        assert ask(serving.port, "mine")[0] == 200  # waits for the next one, and does not fail


def test_the_simulator_ends_with_a_supervisor_that_is_killed(tmp_path):
    serving = Serving(tmp_path, str(write(tmp_path)))
    serving.__enter__()
    children = [os.pidfd_open(pid) for pid in serving.children]
    assert len(children) == 2
    serving.process.kill()
    serving.process.wait()
    import select

    for descriptor in children:
        assert select.select([descriptor], [], [], PATIENCE)[0]
        os.close(descriptor)
    serving._reader.join(PATIENCE)
    serving.process.stdout.close()
    serving.process.stderr.close()


def test_a_stream_of_a_real_upstream_is_not_cut_by_the_end(tmp_path):
    with Serving(tmp_path, *ANYWHERE) as serving:
        connection = http.client.HTTPConnection("127.0.0.1", serving.port, timeout=PATIENCE)
        question = {"role": "user", "content": "Hello"}
        body = {"model": "sim:tps=60,tokens=30", "messages": [question], "stream": True}
        connection.request("POST", "/v1/chat/completions", json.dumps(body))
        answer = connection.getresponse()
        first = answer.readline()
        serving.process.terminate()
        rest = answer.read()
        connection.close()
        assert (first + rest).count(b'"content"') >= 30
        assert rest.endswith(b"data: [DONE]\n\n")
        assert serving.process.wait(PATIENCE) == 0
        assert "cut at the deadline" not in "".join(serving.errors)


def test_the_ledger_is_summed_up_over_the_workers(tmp_path):
    with Serving(tmp_path, *ANYWHERE, "--workers", "2") as serving:
        answers = [ask(serving.port)[1] for _ in range(8)]
        while (told := json.loads(get(serving.control, "/v1/ledger/summary")[1]))["silent"]:
            pass  # a worker that was late is left out; pytest's timeout ends this
        completed = told["outcomes"]["completed"]
        assert completed["attempts"] == 8
        tokens = sum(answer["usage"]["completion_tokens"] for answer in answers)
        assert completed["usage"]["output_tokens"] == tokens


def test_a_greeting_that_nobody_reads_does_not_end_it(tmp_path):
    port = free_port()
    process = subprocess.Popen(
        [*COMMAND, str(write(tmp_path)), "--listen", f"127.0.0.1:{port}", "--log-format", "text"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.close()
    assert "ready" in process.stderr.readline()
    assert ask(port, "mine")[0] == 200
    process.terminate()
    assert process.wait(PATIENCE) == 0
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()


class TestMistakes:
    def test_a_port_in_use_is_one_line(self, tmp_path):
        with socket.create_server(("127.0.0.1", 0)) as holder:
            address = f"127.0.0.1:{holder.getsockname()[1]}"
            result = run(tmp_path, str(write(tmp_path)), "--listen", address)
        assert result.returncode == 1
        assert result.stderr.splitlines() == [
            f"penstock: listen: {address} is in use by another process; stop it, or choose another address"
        ]

    def test_every_mistake_of_a_file_is_named(self, tmp_path):
        path = tmp_path / "bad.yaml"
        path.write_text("listne: 1\nworkers: many\n")
        result = run(tmp_path, str(path))
        assert result.returncode == 1
        assert "bad.yaml:1" in result.stderr
        assert "bad.yaml:2" in result.stderr
        assert "Traceback" not in result.stderr

    def test_a_file_that_is_not_there_is_named(self, tmp_path):
        result = run(tmp_path, "missing.yaml")
        assert result.returncode == 1
        assert "missing.yaml" in result.stderr
        assert "Traceback" not in result.stderr

    @pytest.mark.parametrize("option", ["--listen", "--control"])
    def test_an_address_that_is_none_is_named(self, tmp_path, option):
        result = run(tmp_path, str(write(tmp_path)), option, "nowhere")
        assert result.returncode == 1
        assert f"{option[2:]}: 'nowhere'" in result.stderr
        assert "Traceback" not in result.stderr


def test_a_signal_that_is_repeated_until_the_end_does_not_change_how_it_ends(tmp_path):
    with Serving(tmp_path, str(write(tmp_path))) as serving:
        while serving.process.poll() is None:
            serving.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                serving.process.wait(0.01)
    assert "Traceback" not in "".join(serving.errors)


@pytest.mark.parametrize(
    ("environ", "model"), [({}, "sim"), ({"OPENAI_API_KEY": "k"}, "MODEL"), ({"GROQ_API_KEY": "k"}, "MODEL")]
)
def test_the_first_request_asks_for_sim_only_where_the_simulator_answers(environ, model):
    found = discover(environ, servers=(), engine=False).config
    assert json.loads(_example("http://127.0.0.1:8080", found).split("-d ")[1].strip("'"))["model"] == model
