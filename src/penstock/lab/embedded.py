"""A simulator as a child process: what answers where nothing else is configured."""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Callable

import msgspec

from penstock.config.model import Config
from penstock.sidecar import Service, Sidecar, run_beside

log = logging.getLogger("penstock.sim")

OPTIONS = "ttft=0,tps=0,tokens=64"
"""As ``penstock sim`` has them."""


def wants_simulator(config: Config) -> bool:
    """Whether an upstream of kind ``sim`` says nothing of where it is."""
    return any(upstream.kind == "sim" and not upstream.base_url for upstream in config.upstreams.values())


class EmbeddedSimulator(Sidecar):
    """Runs from :meth:`start` until :meth:`close`; one that dies is started again behind the same URL."""

    def __init__(self) -> None:
        super().__init__("the simulator", "penstock.lab.embedded", (), log)

    def fill(self, config: Config) -> Config:
        """The configuration with this simulator's URL where one is missing."""
        upstreams = {
            name: msgspec.structs.replace(upstream, base_url=self.url)
            if upstream.kind == "sim" and not upstream.base_url
            else upstream
            for name, upstream in config.upstreams.items()
        }
        return msgspec.structs.replace(config, upstreams=upstreams)


async def _begin(listening: socket.socket, end: Callable[[int], None]) -> Service:
    from penstock.lab import scenario  # noqa: PLC0415 - the parent needs none of this
    from penstock.lab.serve import Service as SimulatorService  # noqa: PLC0415
    from penstock.lab.simulator import Simulator  # noqa: PLC0415

    del end
    service = SimulatorService(Simulator(scenario.parse(OPTIONS)))
    await service.start(listening)
    return service


if __name__ == "__main__":
    sys.exit(run_beside(_begin))
