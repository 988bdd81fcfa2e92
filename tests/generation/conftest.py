"""Redis servers for the stores of several machines."""

import subprocess
import time

import pytest

from penstock.testing import RedisServer


@pytest.fixture(scope="module")
def server():
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="module")
def cluster_node(tmp_path_factory):
    """A whole cluster of one node, which refuses a command or script whose keys are not in one slot."""
    files = tmp_path_factory.mktemp("cluster")
    bus = str(RedisServer().port)  # the usual one is 10,000 higher than the other, and may not exist
    with RedisServer("--cluster-enabled", "yes", "--cluster-port", bus, "--dir", str(files)) as server:
        command = ["redis-cli", "-p", str(server.port)]
        subprocess.run(
            [*command, "cluster", "addslotsrange", "0", "16383"], check=True, stdout=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 60
        while b"cluster_state:ok" not in subprocess.check_output([*command, "cluster", "info"]):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield server
