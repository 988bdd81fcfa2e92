from __future__ import annotations

import pytest

from penstock.testing import SimulatorProcess


@pytest.fixture(scope="session")
def simulator():
    with SimulatorProcess() as process:
        yield process


@pytest.fixture
def fresh_bill(simulator):
    simulator.reset_bill()
    return simulator
