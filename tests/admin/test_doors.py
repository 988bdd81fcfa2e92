"""The same life with every server in front: the own listener and the three ASGI servers."""

from __future__ import annotations

import os
import signal
import sys

import pytest
from running import (
    Running,
    Stream,
    issue_certificate,
    refused,
    served_name,
    wait_until,
    write_config,
)

from penstock.admin.doors import SERVERS, UvicornDoor, check_server
from penstock.config.model import Config
from penstock.errors import ConfigError


@pytest.fixture(params=SERVERS)
def server(request):
    if request.param != "own":
        pytest.importorskip(request.param)
    return request.param


@pytest.fixture(scope="module", params=SERVERS)
def lasting(request, tmp_path_factory):
    """One with two workers, for what leaves it as it was, and its configuration."""
    if request.param != "own":
        pytest.importorskip(request.param)
    config = write_config(tmp_path_factory.mktemp(request.param) / "c.yaml", workers=2)
    with Running.standin(config, request.param) as running:
        yield running, config


def test_a_stream_in_flight_ends_by_itself_after_the_port_has_closed(tmp_path, server):
    with Running.standin(write_config(tmp_path / "c.yaml"), server) as running:
        stream = Stream(running.port, tmp_path)
        running.process.send_signal(signal.SIGTERM)
        wait_until(lambda: refused(running.port))
        assert stream.through(b"still here")
        assert stream.end() == b""
        assert running.wait_exit() == 0
        assert "Traceback" not in running.log


def test_a_stream_that_does_not_end_is_cut_at_the_deadline(tmp_path, server):
    with Running.standin(write_config(tmp_path / "c.yaml", drain_timeout=0.3), server) as running:
        stream = Stream(running.port, tmp_path)
        running.process.send_signal(signal.SIGTERM)
        assert stream.cut()
        assert running.wait_exit() == 0
        assert "killed" not in running.log


def test_two_workers_share_the_port(lasting):
    running, _ = lasting
    pids = set()
    wait_until(lambda: pids.add(int(running.get("/hello")[1].split()[1])) or len(pids) == 2)
    assert pids == set(running.workers)


def test_a_client_that_leaves_is_noticed(tmp_path, lasting):
    running, _ = lasting
    stream = Stream(running.port, tmp_path)
    assert len(running.wait_told("/v1/generations")["generations"]) == 1
    stream.leave()
    wait_until(lambda: not running.wait_told("/v1/generations")["generations"])
    os.close(stream.writing)


def test_a_stream_goes_on_while_the_configuration_is_swapped(tmp_path, lasting):
    running, config = lasting
    stream = Stream(running.port, tmp_path)
    write_config(config, workers=2, model="second")
    try:
        assert running.ask_control("/v1/reload", "POST")[0] == 200
        assert running.get("/hello")[1].startswith(b"second ")
        assert stream.through(b"still here")
        assert stream.end() == b""
    finally:
        write_config(config, workers=2)
        assert running.ask_control("/v1/reload", "POST")[0] == 200


def test_tls_is_served(tmp_path, server):
    tls = issue_certificate(tmp_path, "here")
    with Running.standin(write_config(tmp_path / "c.yaml", tls=tls), server) as running:
        assert served_name(running.port) == "here"


@pytest.mark.parametrize("server", [server for server in SERVERS if server != "granian"])
def test_a_renewed_certificate_is_used_without_a_restart(tmp_path, server):
    if server != "own":
        pytest.importorskip(server)
    tls = issue_certificate(tmp_path, "old")
    with Running.standin(write_config(tmp_path / "c.yaml", tls=tls), server) as running:
        assert served_name(running.port) == "old"
        (tmp_path / "key.pem").write_text("no key")
        assert running.ask_control("/v1/reload", "POST")[0] == 422
        assert served_name(running.port) == "old"
        issue_certificate(tmp_path, "new")
        running.wait_log("is in use")
        assert served_name(running.port) == "new"


def test_behind_granian_a_renewed_certificate_waits_for_a_restart_and_nothing_else_does(tmp_path):
    pytest.importorskip("granian")
    tls = issue_certificate(tmp_path, "old")
    config = write_config(tmp_path / "c.yaml", tls=tls)
    with Running.standin(config, "granian") as running:
        write_config(config, tls=tls, drain_timeout=7)
        assert running.ask_control("/v1/reload", "POST")[0] == 200
        assert "needs a restart" not in running.log
        issue_certificate(tmp_path, "new")
        write_config(config, tls=tls, drain_timeout=8)
        assert running.ask_control("/v1/reload", "POST")[0] == 200
        running.wait_log("tls has changed, which needs a restart behind granian")
        assert served_name(running.port) == "old"
        assert running.ask_control("/v1/config")[1]["config"]["drain_timeout"] == 8


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "granian", None)
    with pytest.raises(ConfigError, match=r"pip install 'penstock\[granian\]'"):
        check_server("granian")


def test_uvicorn_believes_no_forwarded_address_by_itself():
    """Whom to believe says `listener.trusted_proxies`; by itself it would believe everybody on this machine."""
    door = UvicornDoor(None, Config(), None)
    assert not door._settings.proxy_headers
