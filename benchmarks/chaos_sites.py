"""Where the calls of ``benchmarks.chaos`` come to, and what is killed there: workers of a machine, or whole machines."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from penstock.testing import GatewayProcess, RedisServer
from penstock.testing._ports import free_port


class Workers:
    """One machine: a supervisor and two workers, which share a ledger and a file of generations.

    :param config: of the gateway, without where things are kept
    :param lease: seconds after which a killed worker's generations are taken over
    """

    def __init__(self, config: Mapping[str, Any], folder: Path, lease: float) -> None:
        self.ledgers = [folder / "ledger.sqlite"]
        kept = {"durability": "disk", "path": str(folder / "generations.sqlite"), "lease": lease}
        ledger = {"path": str(self.ledgers[0])}
        self._gateway = GatewayProcess(
            {**config, "workers": 2, "generations": kept, "ledger": ledger}, folder
        )

    def __enter__(self) -> Self:
        self._gateway.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._gateway.stop()

    @property
    def addresses(self) -> list[tuple[str, int]]:
        return [_address(self._gateway)]

    @property
    def log(self) -> str:
        return self._gateway.log

    def under_way(self) -> bool:
        return bool(self._gateway.generations())

    async def kill(self, turn: int) -> None:
        """``kill -9`` to one worker after the other."""
        while True:
            pids = await asyncio.to_thread(self._gateway.worker_pids)
            if (pid := pids[turn % len(pids)]) is not None:
                os.kill(pid, signal.SIGKILL)
                return
            await asyncio.sleep(0.1)


class Machines:
    """Several machines with a worker and a ledger each, which have nothing in common but a Redis server.

    The parameters are those of :class:`Workers`.
    """

    def __init__(self, config: Mapping[str, Any], folder: Path, lease: float, count: int) -> None:
        self._stack = ExitStack()
        self._redis = RedisServer()
        self._away = 2 * lease  # seconds for which a machine that was killed stays away
        self._config, self._lease = config, lease
        self._folders = [folder / f"machine-{number}" for number in range(count)]
        self.ledgers = [one / "ledger.sqlite" for one in self._folders]
        self._gateways: list[GatewayProcess] = []
        self._logs: list[str] = []  # of those that were killed
        self._back: asyncio.Task[None] | None = None

    def __enter__(self) -> Self:
        redis = self._stack.enter_context(self._redis)
        for folder, ledger in zip(self._folders, self.ledgers, strict=True):
            folder.mkdir()
            kept = {"durability": "shared", "redis": redis.url, "lease": self._lease}
            config = {
                **self._config,
                "workers": 1,
                "listen": f"127.0.0.1:{free_port()}",  # where it is found again
                "generations": kept,
                "ledger": {"path": str(ledger)},
            }
            gateway = GatewayProcess(config, folder)
            self._stack.callback(gateway.stop)
            self._gateways.append(gateway.start())
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def addresses(self) -> list[tuple[str, int]]:
        return [_address(gateway) for gateway in self._gateways]

    @property
    def log(self) -> str:
        return "".join([*self._logs, *(gateway.log for gateway in self._gateways)])

    def under_way(self) -> bool:
        return any(gateway.generations() for gateway in self._gateways)

    async def kill(self, turn: int) -> None:
        """``kill -9`` to all of one machine after the other; it comes back when its answers are somebody else's."""
        gateway = self._gateways[turn % len(self._gateways)]
        workers = await asyncio.to_thread(gateway.worker_pids)
        for pid in [gateway.pid, *(pid for pid in workers if pid is not None)]:
            os.kill(pid, signal.SIGKILL)
        self._back = asyncio.create_task(self._come_back(gateway))
        await asyncio.shield(self._back)

    async def wait_back(self) -> None:
        """Until no machine is away."""
        if self._back is not None:
            await self._back

    async def _come_back(self, gateway: GatewayProcess) -> None:
        await asyncio.sleep(self._away)
        await asyncio.to_thread(gateway.stop)
        self._logs.append(gateway.log)
        await asyncio.to_thread(gateway.start)


def _address(gateway: GatewayProcess) -> tuple[str, int]:
    parts = urlsplit(gateway.url)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port
