"""The configurations of nginx and HAProxy in deploy/, as they stand there, in front of two gateways."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import shutil
import socket
import ssl
import subprocess
import threading
from pathlib import Path

import pytest

from penstock.config.load import parse
from penstock.testing import GatewayProcess, SimulatorProcess
from penstock.testing._ports import free_port
from waiting import wait_until

DEPLOY = Path(__file__).parents[2] / "deploy"
PATIENCE = 60.0
HOST = "llm.example.org"
CALLER = "127.0.0.2"  # every address of 127.0.0.0/8 is this machine's; proxies and gateways are at 127.0.0.1
FILES = {"nginx": DEPLOY / "nginx/penstock.conf", "haproxy": DEPLOY / "haproxy/haproxy.cfg"}


@pytest.fixture(scope="module", params=FILES)
def name(request):
    if shutil.which(request.param) is None:
        pytest.skip(f"there is no {request.param} on this machine")
    return request.param


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """One that nobody has signed, with its key in the same file."""
    folder = tmp_path_factory.mktemp("certificate")
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    subject = ["-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST}"]
    files = ["-keyout", folder / "key.pem", "-out", folder / "cert.pem"]
    subprocess.run(["openssl", "req", "-x509", *curve, *files, *subject], check=True, capture_output=True)
    both = folder / "both.pem"
    both.write_text((folder / "cert.pem").read_text() + (folder / "key.pem").read_text())
    return both


@pytest.fixture(scope="module")
def gateways(tmp_path_factory):
    with SimulatorProcess("--output-tokens", "max") as simulator, contextlib.ExitStack() as stack:
        config = {
            "upstreams": {"sim": {"kind": "sim", "base_url": simulator.base_url}},
            "models": {
                "sim": {"candidates": [{"upstream": "sim"}]},
                "slow": {"candidates": [{"upstream": "sim", "model": "sim:tps=20"}]},
            },
            "drain_delay": config_in(FILES["haproxy"]).drain_delay,
            "listener": {"trusted_proxies": ["127.0.0.1"]},
        }
        found = []
        for _ in range(2):
            folder = tmp_path_factory.mktemp("gateway")
            ports = {
                port: f"127.0.0.1:{free_port()}" for port in ("listen", "control")
            }  # it is restarted there
            found.append(stack.enter_context(GatewayProcess(ports | config, folder)))
        yield found


@pytest.fixture
def balancer(name, gateways, certificate, tmp_path):
    """The port of one, with our addresses in the place of those of the example."""
    port = free_port()
    text = FILES[name].read_text()
    for number, gateway in enumerate(gateways, start=1):
        text, found = re.subn(rf"10\.0\.0\.{number}:8080", gateway.url.removeprefix("http://"), text)
        assert found == 1
    if name == "nginx":
        for old, new in (
            ("listen 443", f"listen 127.0.0.1:{port}"),
            ("/etc/ssl/llm/fullchain.pem", str(certificate)),
            ("/etc/ssl/llm/privkey.pem", str(certificate)),
            ("/var/log/nginx", str(tmp_path)),
        ):
            assert text.count(old) == 1
            text = text.replace(old, new)
        (tmp_path / "penstock.conf").write_text(text)
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        places = "".join(f"{kind}_temp_path {tmp_path}/{kind};\n" for kind in kinds)
        main = tmp_path / "nginx.conf"
        main.write_text(
            f"daemon off; pid {tmp_path}/pid; error_log {tmp_path}/error.log;\nevents {{}}\n"
            f"http {{ {places} include {tmp_path}/penstock.conf; }}"
        )
        command = ["nginx", "-e", str(tmp_path / "error.log"), "-c", str(main)]
        check = [*command, "-t"]
    else:
        checks = [gateway.control_url.rpartition(":")[2] for gateway in gateways]
        for place, control in zip("ab", checks, strict=True):
            text = re.sub(rf"(server {place} \S+)", rf"\1 port {control}", text)
        for old, new in ((":443", f"127.0.0.1:{port}"), ("/etc/ssl/llm/both.pem", str(certificate))):
            assert text.count(old) == 1
            text = text.replace(old, new)
        (tmp_path / "haproxy.cfg").write_text(text)
        command = ["haproxy", "-db", "-f", str(tmp_path / "haproxy.cfg")]
        check = [*command, "-c"]
    done = subprocess.run(check, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not re.search("warn|deprecat", done.stdout + done.stderr, re.IGNORECASE)
    with (tmp_path / "output").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        caller = Caller(port, certificate)
        wait_until(caller.is_served)
        yield caller
    finally:
        process.terminate()
        process.wait(PATIENCE)


class Caller:
    def __init__(self, port, certificate):
        self._port = port
        self._tls = ssl.create_default_context(cafile=certificate)

    def connection(self):
        """Over TLS, to the balancer."""
        connection = http.client.HTTPConnection(HOST, timeout=PATIENCE)
        plain = socket.create_connection(("127.0.0.1", self._port), PATIENCE, (CALLER, 0))
        connection.sock = self._tls.wrap_socket(plain, server_hostname=HOST)
        return connection

    def is_served(self):
        try:
            with self.connected() as connection:
                return self.call(connection)[0] == 200
        except OSError:
            return False

    def connected(self):
        return contextlib.closing(self.connection())

    def call(self, connection, text="hello", headers=(), **more):
        body = {"model": "sim", "max_tokens": 4, "messages": [{"role": "user", "content": text}], **more}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), dict(headers))
        answer = connection.getresponse()
        answer.generation = answer.headers["penstock-generation"]
        return answer.status, answer


def config_in(path):
    """What the comment at the file's beginning says of the gateways' configuration."""
    lines = re.findall(r"^#   (.*)$", path.read_text(), re.MULTILINE)
    return parse("\n".join([*lines, "upstreams: {sim: {kind: sim}}"]))


def log_line(gateways, generation):
    for gateway in gateways:
        for line in gateway.log.splitlines():
            if generation in line and '"status"' in line:
                return json.loads(line)
    return None


@pytest.mark.parametrize("file", FILES.values(), ids=FILES)
def test_what_the_gateways_are_to_be_told_is_configuration(file):
    config = config_in(file)
    assert config.drain_delay == 5
    assert config.listener.trusted_proxies == ["10.0.0.5"]


def test_the_caller_and_the_id_of_the_request_are_in_the_logs_of_both(balancer, gateways, tmp_path):
    forged = {"X-Forwarded-For": "198.51.100.7", "X-Request-Id": "forged"}
    with balancer.connected() as connection:
        status, answer = balancer.call(connection, headers=forged)
        assert status == 200
        answer.read()
    line = wait_until(lambda: log_line(gateways, answer.generation))
    assert line["peer"] == CALLER
    assert len(line["request_id"]) >= 32
    logs = [tmp_path / "penstock.log", tmp_path / "output"]
    written = lambda: "".join(path.read_text() for path in logs if path.exists())  # noqa: E731
    wait_until(lambda: answer.generation in written())
    assert line["request_id"] in written()


def test_a_stream_comes_as_it_is_made(balancer, gateways):
    with balancer.connected() as connection:
        status, answer = balancer.call(connection, model="slow", max_tokens=100, stream=True)
        assert status == 200
        assert answer.readline().startswith(b"id: ")
        assert [one for gateway in gateways for one in gateway.generations()]
        assert b"[DONE]" in answer.read()


def test_a_gateway_that_is_restarted_costs_nobody_his_call(balancer, gateways):
    """Callers send one request after the other on connections that stay open, and repeat none."""
    stop = threading.Event()
    failed, answered = [], []

    def call(number):
        connection = balancer.connection()
        while not stop.is_set():
            try:
                status, answer = balancer.call(connection, f"{number} {len(answered)}")
                answer.read()
                answered.append(status)
            except (OSError, http.client.HTTPException) as error:
                failed.append(repr(error))
                connection.close()
            if connection.sock is None:  # the balancer has closed it after an answer
                connection = balancer.connection()
        connection.close()

    callers = [threading.Thread(target=call, args=(number,)) for number in range(4)]
    for caller in callers:
        caller.start()
    connection = balancer.connection()
    try:
        status, answer = balancer.call(connection, "long", model="slow", max_tokens=400, stream=True)
        assert status == 200
        for gateway in gateways:
            before = len(answered)
            wait_until(lambda before=before: len(answered) > before + 20)
            assert gateway.stop() == 0
            gateway.start()
        assert b"[DONE]" in answer.read()
    finally:
        stop.set()
        for caller in callers:
            caller.join(PATIENCE)
        connection.close()
    assert failed == []
    assert set(answered) == {200}
