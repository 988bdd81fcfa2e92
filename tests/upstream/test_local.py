"""Which processes run for which configuration; simulators stand for the models."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from urllib.parse import urlsplit

import pytest

from penstock.config.model import Config, LocalConfig, UpstreamConfig
from penstock.upstream import local
from penstock.upstream.local import LocalEngines
from waiting import until


@pytest.fixture(autouse=True)
def _simulators(monkeypatch):
    monkeypatch.setattr(local, "ENGINE", "penstock.lab.embedded")


def config(**upstreams):
    return Config(upstreams=upstreams)


def model(name="", **more):
    return UpstreamConfig(kind="local", local=LocalConfig(model=name), **more)


def answers(url):
    """Whether somebody listens there."""
    parts = urlsplit(url)
    with contextlib.suppress(OSError), socket.create_connection((parts.hostname, parts.port)):
        return True
    return False


def play(test):
    async def main():
        engines = LocalEngines()
        try:
            await test(engines)
        finally:
            await engines.close()

    asyncio.run(asyncio.wait_for(main(), 60))


def test_each_local_model_gets_an_address_and_others_keep_theirs():
    async def test(engines):
        elsewhere = model(base_url="http://10.0.0.5:8000/v1")
        remote = UpstreamConfig(kind="openai", base_url="https://example.org/v1")
        found = (await engines.resolve(config(a=model(), b=model("x"), c=elsewhere, d=remote))).upstreams
        assert found["c"] == elsewhere
        assert found["d"] == remote
        assert found["a"].base_url != found["b"].base_url
        assert answers(found["a"].base_url)
        assert answers(found["b"].base_url)
        await engines.close()
        assert not answers(found["a"].base_url)

    play(test)


def test_what_has_not_changed_runs_on_and_what_has_is_replaced_once_its_answers_may_have_ended():
    async def test(engines):
        first = await engines.resolve(config(a=model(), b=model()))
        second = await engines.resolve(config(a=model(), b=model("other")))
        assert second.upstreams["a"] == first.upstreams["a"]
        assert second.upstreams["b"].base_url != first.upstreams["b"].base_url
        assert answers(first.upstreams["b"].base_url)  # in use, until the new configuration is
        engines.retire(second, 0.0)
        await until(lambda: not answers(first.upstreams["b"].base_url))
        assert answers(second.upstreams["a"].base_url)
        assert answers(second.upstreams["b"].base_url)

    play(test)


def test_what_is_not_configured_any_more_ends():
    async def test(engines):
        first = await engines.resolve(config(a=model()))
        engines.retire(await engines.resolve(config()), 0.0)
        await until(lambda: not answers(first.upstreams["a"].base_url))

    play(test)


def test_a_configuration_that_was_not_taken_leaves_the_old_one_served():
    async def test(engines):
        first = await engines.resolve(config(a=model()))
        await engines.resolve(config(a=model("wrong")))
        again = await engines.resolve(config(a=model()))
        engines.retire(again, 0.0)
        await until(lambda: not answers(first.upstreams["a"].base_url))
        assert answers(again.upstreams["a"].base_url)

    play(test)


def test_at_the_end_nothing_is_left_not_even_what_was_to_end_later():
    async def test(engines):
        first = await engines.resolve(config(a=model()))
        second = await engines.resolve(config(a=model("other")))
        engines.retire(second, 3_600.0)
        await engines.close()
        assert not answers(first.upstreams["a"].base_url)
        assert not answers(second.upstreams["a"].base_url)

    play(test)
