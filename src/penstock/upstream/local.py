"""Local models beside a gateway: each in a process of its own, which is kept alive, behind an address of its own.

The rest of the gateway sees an upstream like any other.  What runs in those processes (``penstock.engine``) is
nothing that this one imports.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping

import msgspec

from penstock.config.model import Config, LocalConfig, UpstreamConfig
from penstock.sidecar import Sidecar

ENGINE = "penstock.engine.embedded"
"""The program that serves a model; its first argument is the :class:`LocalConfig` as JSON."""

log = logging.getLogger("penstock.engine")

_TUNABLES = "GLIBC_TUNABLES"
_LARGE_PAGES = "glibc.malloc.hugetlb=1"  # of 2.35 and later: madvise(MADV_HUGEPAGE); none need be reserved


def is_ours(upstream: UpstreamConfig) -> bool:
    """Whether the upstream's model is to run beside the gateway: it says nothing of being elsewhere."""
    return upstream.kind == "local" and not upstream.base_url


def in_large_pages(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment whose processes ask Linux for memory in pages of 2 MB, as far as they use much of it.

    Each token reads all weights once, and pages of 4 KB are then looked up more often than the processor can keep in
    mind: docs/engine.md has what it saves.  Other C libraries than GNU's pass it over; who has chosen is not asked.
    """
    chosen = environment.get(_TUNABLES, "")
    if "glibc.malloc.hugetlb=" in chosen:
        return dict(environment)
    tunables = f"{chosen}:{_LARGE_PAGES}" if chosen else _LARGE_PAGES
    return {**environment, _TUNABLES: tunables}


class LocalEngines:
    """The engines of a gateway, by the names of their upstreams."""

    def __init__(self) -> None:
        self._engines: dict[str, tuple[LocalConfig, Sidecar]] = {}
        self._replaced: list[Sidecar] = []
        self._retiring: dict[Sidecar, asyncio.Task[None]] = {}

    def __repr__(self) -> str:
        return f"<LocalEngines {', '.join(self._engines) or 'none'}>"

    @property
    def restarts(self) -> int:
        """How often one was started in the place of one that had died."""
        return sum(sidecar.restarts for _, sidecar in self._engines.values())

    async def resolve(self, config: Config) -> Config:
        """The configuration with the addresses of its local models, which are started if they do not run.

        :raises penstock.errors.ConfigError: a process cannot be started
        """
        upstreams = dict(config.upstreams)
        for name, upstream in config.upstreams.items():
            if is_ours(upstream):
                sidecar = await self._engine(name, upstream.local)
                upstreams[name] = msgspec.structs.replace(upstream, base_url=sidecar.url)
        return msgspec.structs.replace(config, upstreams=upstreams)

    def retire(self, config: Config, drain: float) -> None:
        """End those that the configuration in use has no use for.

        :param drain: seconds that their answers are given to end
        """
        used = {upstream.base_url for upstream in config.upstreams.values()}
        idle = [name for name, (_, sidecar) in self._engines.items() if sidecar.url not in used]
        unused = [sidecar for sidecar in self._replaced if sidecar.url not in used]
        self._replaced = [sidecar for sidecar in self._replaced if sidecar.url in used]
        for sidecar in [*unused, *(self._engines.pop(name)[1] for name in idle)]:
            self._retiring[sidecar] = asyncio.create_task(self._retire(sidecar, drain))

    async def close(self) -> None:
        retiring, self._retiring = self._retiring, {}
        for task in retiring.values():
            task.cancel()
        await asyncio.gather(*retiring.values(), return_exceptions=True)
        running = [*retiring, *self._replaced, *(sidecar for _, sidecar in self._engines.values())]
        self._engines, self._replaced = {}, []
        for sidecar in running:
            await sidecar.close()

    async def _engine(self, name: str, wanted: LocalConfig) -> Sidecar:
        present = self._engines.get(name)
        if present is not None and present[0] == wanted:
            return present[1]
        argument = msgspec.json.encode(wanted).decode()
        sidecar = Sidecar(f"the local model {name}", ENGINE, (argument,), log, in_large_pages(os.environ))
        await sidecar.start()
        if present is not None:
            self._replaced.append(present[1])
        self._engines[name] = (wanted, sidecar)
        return sidecar

    async def _retire(self, sidecar: Sidecar, drain: float) -> None:
        await asyncio.sleep(drain)
        await sidecar.close()
        self._retiring.pop(sidecar, None)
