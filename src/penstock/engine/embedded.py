"""The process of a local model beside a gateway: ``penstock.upstream.local`` starts it and keeps it alive.

A model that cannot be loaded does not end the process: it tells every call why not, and looks from time to time
whether somebody has mended the directory.  A model that fails in the middle of a step does end it, and another one
starts; the gateway goes on with the answers that were cut.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from penstock import logs
from penstock.config.model import LocalConfig, LogConfig
from penstock.engine.serve import EngineService, load
from penstock.sidecar import Service, run_beside

log = logging.getLogger("penstock.engine")

LOOK_AGAIN = 5.0  # seconds between two looks at a directory that could not be used
_MENDED = 0  # exit status


async def _begin(listening: socket.socket, end: Callable[[int], None]) -> Service:
    config = msgspec.json.decode(sys.argv[1], type=LocalConfig)
    logs.configure(LogConfig(format="text" if sys.stderr.isatty() else "json"))
    loop = asyncio.get_running_loop()

    def broken() -> None:
        failure = service.engine.failure
        log.error("%s", failure)
        if service.engine.was_loaded:
            end(1)
        else:
            look_again(_looks_of(config))

    def look_again(looks: object) -> None:
        if _looks_of(config) != looks:
            end(_MENDED)
        else:
            loop.call_later(LOOK_AGAIN, look_again, looks)

    service = EngineService(lambda: load(config), config, on_broken=broken)
    await service.start(listening)
    return service


def _looks_of(config: LocalConfig) -> object:
    """What changes when somebody mends a directory: names, sizes and times."""
    try:
        return sorted((entry.name, *_looks_of_file(entry)) for entry in Path(config.model).iterdir())
    except OSError as error:
        return error.errno


def _looks_of_file(file: Path) -> tuple[int, int]:
    try:
        stat = file.stat()
    except OSError:  # a link that leads nowhere
        return -1, 0
    return stat.st_size, stat.st_mtime_ns


if __name__ == "__main__":
    sys.exit(run_beside(_begin))
