import asyncio
import inspect

import pytest
from redis_cluster import RedisCluster

try:
    from uvloop import new_event_loop
except ImportError:  # pragma: no cover
    from asyncio import new_event_loop

from penstock.testing import RedisServer


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    """Tests that are coroutines run in a loop of their own, of the kind in which the gateway runs."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True


@pytest.fixture(scope="package")
def redis_for_all():
    if not RedisServer.available():
        pytest.skip("there is no redis-server on this machine")
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="package")
def cluster_for_all():
    if not RedisServer.available():
        pytest.skip("there is no redis-server on this machine")
    with RedisCluster() as cluster:
        yield cluster
