"""Stores that several gateways share."""

import contextlib

import pytest
from durably import emptied

from penstock.config.model import GenerationsConfig
from penstock.config.secret import Secret
from penstock.generation.journal import Journal
from penstock.testing import RedisServer


@pytest.fixture(params=["disk", "shared"], scope="module")
def stores(request, tmp_path_factory):
    """Makes the settings of gateways that share a store."""
    number = iter(range(1_000))
    with contextlib.ExitStack() as stack:
        if request.param == "shared":
            redis = stack.enter_context(RedisServer())

        def settings(lease):
            path = tmp_path_factory.mktemp("store") / f"{next(number)}.sqlite"
            more = {"path": str(path)}
            if request.param == "shared":
                more = {"redis": Secret(emptied(redis.url, next(number) % 16))}
            return GenerationsConfig(durability=request.param, lease=lease, **more)

        yield settings


@pytest.fixture
def durable_budgets(monkeypatch):
    """Everybody waits for the store for as long as a busy machine takes."""
    monkeypatch.setattr("penstock.generation.names.CLAIM_BUDGET", 60.0)
    monkeypatch.setattr("penstock.generation.reading.READ_BUDGET", 60.0)
    monkeypatch.setattr("penstock.generation.attention._BUDGET", 60.0)
    monkeypatch.setattr("penstock.gateway.questions.BUDGET", 60.0)
    monkeypatch.setitem(Journal.__init__.__kwdefaults__, "budget", 60.0)


@pytest.fixture
def nothing_comes_back(monkeypatch):
    """What is not in the store is written anew by nobody: it is said to be unknown at once."""
    monkeypatch.setattr("penstock.generation.trouble.SETTLING", 0.0)


@pytest.fixture
def durable(stores, durable_budgets):
    """The same, with that."""
    return stores
