"""A supervisor in a process of its own, as the tests see it from outside."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import select
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

import yaml
from cryptography import x509

HERE = Path(__file__).parent
PATIENCE = 60.0  # seconds after which a test has failed; nothing waits for so long


def write_config(path, **sections):
    """A configuration that loads; its one model is the greeting of the stand-in."""
    model = sections.pop("model", "first")
    document = {
        "listen": "127.0.0.1:0",
        "control": "127.0.0.1:0",
        "upstreams": {"nobody": {"kind": "openai", "base_url": "http://127.0.0.1:9/v1"}},
        "models": {model: {"candidates": [{"upstream": "nobody"}]}},
        "log": {"format": "text", "level": "debug"},
        **sections,
    }
    fresh = path.with_suffix(".fresh")
    fresh.write_text(yaml.safe_dump(document))
    fresh.replace(path)
    return path


class Running:
    """Started by ``with``; at its end everything has ended, or the test fails."""

    def __init__(self, *command, cwd=None, env=None):
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd, env=env
        )
        self.lines = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.seen = set()

    def _read(self):
        for line in self.process.stderr:
            with self._news:
                self.lines.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self.lines.append("<end of log>")
            self._news.notify_all()

    @classmethod
    def standin(cls, config, *more):
        return cls(sys.executable, "-P", str(HERE / "standin_supervisor.py"), str(config), *more)

    def __enter__(self):
        line = self.process.stdout.readline()
        assert line, self.log
        told = json.loads(line)
        self.port, self.control = told["listen"], told["control"]
        self.seen |= set(children(self.process.pid))
        return self

    def __exit__(self, *_):
        self.seen |= set(children(self.process.pid))
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
            if self.process.poll() is None:
                self.process.send_signal(signal.SIGINT)
                self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        self.process.stdout.close()
        self.process.stderr.close()
        left = [pid for pid in self.seen if alive(pid)]
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        assert not left, f"left behind: {left}\n{self.log}"

    @property
    def log(self):
        with self._news:
            return "\n".join(self.lines)

    def wait_log(self, text, count=1):
        """Until ``text`` has stood in ``count`` lines of the log; the last of them."""

        def found():
            return [line for line in self.lines if text in line]

        with self._news:
            enough = self._news.wait_for(
                lambda: len(found()) >= count or self.lines[-1:] == ["<end of log>"], PATIENCE
            )
            assert enough, (text, self.lines)
            assert len(found()) >= count, (text, self.lines)
            return found()[-1]

    def wait_exit(self):
        return self.process.wait(PATIENCE)

    @property
    def workers(self):
        pids = children(self.process.pid)
        self.seen |= set(pids)
        return pids

    def get(self, path, **headers):
        return ask(self.port, "GET", path, headers)

    def ask_control(self, path, method="GET", **headers):
        status, body = ask(self.control, method, path, headers)
        return status, (json.loads(body) if body[:1] in b"{[" else body.decode())

    def wait_all_ready(self):
        wait_until(lambda: self.ask_control("/readyz")[1]["reasons"] == [])

    def wait_told(self, path):
        """What the control API says of the workers, once each has told it in time."""
        return wait_until(lambda: not (told := self.ask_control(path)[1])["silent"] and told)

    def wait_metric(self, name, value):
        """Until it has this value: a worker that is late is left out, or counts with what it said last."""
        wait_until(lambda: self.metric(name) == value)

    def metric(self, name):
        _, text = self.ask_control("/metrics")
        for line in text.splitlines():
            if line.rsplit(" ", 1)[0] == name:
                return float(line.rsplit(" ", 1)[1])
        raise AssertionError(f"no {name} in\n{text}")


def ask(port, method, path, headers=()):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request(method, path, headers=dict(headers))
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def children(pid):
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(word) for word in text.split()]


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_gone(pid):
    """Until a process that need not be our child has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        ready, _, _ = select.select([descriptor], [], [], PATIENCE)
        assert ready, f"process {pid} goes on"
    finally:
        os.close(descriptor)


def wait_until(condition):
    """For what cannot be waited on: look again and again."""
    deadline = time.monotonic() + PATIENCE
    while not (result := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        os.sched_yield()
        select.select([], [], [], 0.005)
    return result


def refused(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE).close()
    except ConnectionRefusedError:
        return True
    return False


class Stream:
    """An answer that goes on for as long as the test wants: what it writes comes through the gateway."""

    def __init__(self, port, tmp_path):
        self.fifo = tmp_path / f"fifo{time.monotonic_ns()}"
        os.mkfifo(self.fifo)
        self.writing = os.open(self.fifo, os.O_RDWR)  # so that the other side may open it when it likes
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        self.connection.request("GET", f"/stream?{self.fifo}")
        self.answer = self.connection.getresponse()
        self.greeting = self.answer.readline()

    def through(self, line):
        """Whether a line still goes through."""
        os.write(self.writing, line + b"\n")
        return self.answer.readline() == line + b"\n"

    def end(self):
        """What was left of the answer; raises IncompleteRead where it was cut."""
        os.close(self.writing)
        return self.rest()

    def rest(self):
        try:
            return self.answer.read()
        finally:
            self.answer.close()
            self.connection.close()

    def leave(self):
        self.answer.close()
        self.connection.close()

    def cut(self):
        """Until the answer breaks off; whether it did."""
        try:
            self.rest()
        except (http.client.IncompleteRead, ConnectionResetError):
            return True
        finally:
            os.close(self.writing)
        return False


def issue_certificate(folder, name):
    """A certificate for ``name`` that nobody has signed; its section of a configuration."""
    certificate, key = folder / "cert.pem", folder / "key.pem"
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    subprocess.run(
        ["openssl", "req", "-x509", *curve, "-keyout", key, "-out", certificate, "-subj", f"/CN={name}"],
        check=True,
        capture_output=True,
    )
    return {"certificate": str(certificate), "key": str(key)}


def served_name(port):
    """For whom the certificate is that a server shows."""
    pem = ssl.get_server_certificate(("127.0.0.1", port), timeout=PATIENCE)
    certificate = x509.load_pem_x509_certificate(pem.encode())
    return certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value
