from __future__ import annotations

import pytest
from lab_doubles import settled

from penstock.testing import SimulatorProcess


@pytest.fixture(scope="package")
def simulator():
    with SimulatorProcess() as process:
        yield process


@pytest.fixture
def fresh_bill(simulator):
    settled(simulator)  # a call of another test that has not ended yet would be counted here
    simulator.reset_bill()
    return simulator
