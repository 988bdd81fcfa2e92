"""Tiers of a cache that several gateways of a test have in common."""

import contextlib

from penstock.config.model import CacheConfig
from penstock.config.secret import Secret
from penstock.testing import RedisServer


@contextlib.contextmanager
def on_disk(folder):
    yield CacheConfig(disk=str(folder / "answers.sqlite"), disk_budget=30.0)


@contextlib.contextmanager
def with_redis(_folder):
    with RedisServer() as server:
        yield CacheConfig(redis=Secret(server.url), redis_budget=30.0, seal_key=Secret("s"))


@contextlib.contextmanager
def with_both(folder):
    with on_disk(folder) as disk, with_redis(folder) as redis:
        yield CacheConfig(
            disk=disk.disk, disk_budget=30.0, redis=redis.redis, redis_budget=30.0, seal_key=redis.seal_key
        )
