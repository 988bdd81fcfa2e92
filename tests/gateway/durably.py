"""Several gateways, which know each other only by their store."""

import contextlib
import socket
from urllib.parse import urlsplit

from serving import config, serving, until

from penstock.config.model import CandidateConfig, ModelConfig, RetryConfig
from penstock.testing import ScriptedUpstream


def emptied(url, database):
    """A database of a server, with nothing in it of a test before: keys are the same in many."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port)) as connection:
        connection.sendall(b"SELECT %d\r\nFLUSHDB\r\n" % database)
        answer = b""
        while answer != b"+OK\r\n+OK\r\n":
            answer += connection.recv(100)
    return f"{url}/{database}"


@contextlib.asynccontextmanager
async def two(scripts, durable, lease=60.0, retry=None, *, troubled=False, keys=(), tiers=None, **more):
    """Two gateways with one store and one upstream: ``(gateway, port)`` of each, and the upstream.

    :param durable: makes the settings of their store, given its lease
    :param more: of their model
    :param troubled: their store is broken on purpose, so that they may complain
    """
    generations = durable(lease)
    models = {"m": ModelConfig(candidates=[CandidateConfig(upstream="up0")], **more)}
    async with ScriptedUpstream(scripts) as upstream:
        settings = config(
            upstream.url,
            generations=generations,
            models=models,
            retry=retry or RetryConfig(),
            keys=list(keys),
            tiers=tiers or {},
        )
        async with (
            serving(settings, troubled=troubled) as here,
            serving(settings, troubled=troubled) as there,
        ):
            yield here, there, upstream


async def stored(gateway):
    """Until everything is in the store, to its end."""
    await until(lambda: not keeper_of(gateway).journal.statistics().open)


def keeper_of(gateway):
    (keeper,) = gateway._durable.keepers.values()
    return keeper
