"""A gateway with a simulator behind it, for tests that break the way to it."""

from __future__ import annotations

import pytest
from client_gateway import config

from penstock.testing import GatewayProcess, SimulatorProcess


@pytest.fixture(scope="session")
def simulator():
    with SimulatorProcess() as running:
        yield running


@pytest.fixture(scope="session")
def gateway(simulator, tmp_path_factory):
    with GatewayProcess(config(simulator), tmp_path_factory.mktemp("gateway")) as running:
        yield running


@pytest.fixture
def provider():
    """One whose bill is the test's own."""
    with SimulatorProcess() as running:
        yield running
