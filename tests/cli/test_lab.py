"""``penstock lab``: a link from the command line."""

from __future__ import annotations

import re
import signal
import subprocess
import sys

import httpx2
import pytest

from penstock.testing import SimulatorProcess

PATIENCE = 60.0


def start(*words):
    return subprocess.Popen(
        [sys.executable, "-m", "penstock", "lab", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(("hazard", "broken"), [("0", 0), ("100000", 1)])
def test_it_carries_and_breaks_and_tells(hazard, broken):
    with SimulatorProcess() as simulator:
        process = start(simulator.url.removeprefix("http://"), "--hazard", hazard, "--kind", "close")
        try:
            url = re.search(r"link at (http://\S+) to", process.stdout.readline())[1]
            with httpx2.Client(trust_env=False, timeout=PATIENCE) as client:
                if broken:
                    with pytest.raises(httpx2.RemoteProtocolError):
                        client.get(url + "/healthz")
                else:
                    assert client.get(url + "/healthz").status_code == 200
            process.send_signal(signal.SIGTERM)
            out, _ = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
            process.wait()
    assert out.startswith(f"1 connections, {broken} broken, 0.0 MB up")
    assert process.returncode == 0


@pytest.mark.parametrize("target", ["nowhere", "host:", "host:x", "host:70000", "host:0"])
def test_a_target_that_is_none_is_told(target):
    done = start(target)
    _, err = done.communicate(timeout=PATIENCE)
    assert done.returncode == 2
    assert "HOST:PORT" in err


def test_a_port_that_is_taken_is_told():
    with SimulatorProcess() as simulator:
        port = simulator.url.rpartition(":")[2]
        done = start("127.0.0.1:1", "--port", port)
        _, err = done.communicate(timeout=PATIENCE)
    assert done.returncode == 1
    assert "cannot listen" in err
