"""The gateway as an ASGI application, for uvicorn, granian, hypercorn, or inside somebody's FastAPI app.

::

    from penstock.asgi import create_app

    app = create_app("penstock.yaml")        # uvicorn module:app
    other.mount("/llm", create_app())        # base URL http://host/llm/v1

It costs 1.6 to 2 times the CPU of ``penstock serve``, and there is no control API.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.config.load import load, parse
from penstock.config.model import Config, ListenerConfig
from penstock.net.asgi import Receive, Scope, Send, serve_asgi
from penstock.net.clock import Clock
from penstock.net.exchange import Application

if TYPE_CHECKING:
    from penstock.gateway.compose import Gateway
    from penstock.lab.embedded import EmbeddedSimulator
    from penstock.upstream.local import LocalEngines

DEFAULT_FILE = "penstock.yaml"


def create_app(config: Config | str | os.PathLike[str] | Mapping[str, Any] | None = None) -> GatewayApp:
    """The gateway, ready to be served or mounted.

    :param config: a configuration, the path of a file, or the contents of one as a dict; without it
        ``./penstock.yaml`` if there is one, else what the environment offers, else a simulator
    :raises penstock.errors.ConfigError: the configuration cannot be used
    """
    return GatewayApp(_read(config))


def _read(config: Config | str | os.PathLike[str] | Mapping[str, Any] | None) -> Config:
    if isinstance(config, Config):
        return config
    if config is None and not Path(DEFAULT_FILE).exists():
        from penstock.config.discover import discover  # noqa: PLC0415 - asks servers, which a file need not

        return discover(os.environ).config
    if isinstance(config, Mapping):
        return parse(json.dumps(config), "create_app()")  # JSON is YAML
    return load(DEFAULT_FILE if config is None else config)


class ASGIApplication:
    """An :class:`~penstock.net.exchange.Application` for an ASGI server; somebody else starts and ends it."""

    def __init__(self, application: Application, limits: ListenerConfig) -> None:
        self._application = application
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await serve_asgi(self._application, scope, receive, send, self._limits)
        elif scope["type"] == "lifespan":
            await _lifespan(receive, send, None)
        else:
            await _refuse(scope, receive, send)

    def __repr__(self) -> str:
        return f"<ASGIApplication of {self._application!r}>"


class GatewayApp:
    """A gateway with its own beginning and end.

    Where the server speaks the lifespan protocol the gateway begins and ends by it.  A mounted app is not
    told of it: there the gateway begins with the first request, and :meth:`close` ends it.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self._running: _Running | None = None
        self._starting: asyncio.Task[_Running] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            running = self._running
            if running is None or running.loop is not asyncio.get_running_loop():
                running = await self._start()
            await serve_asgi(running.gateway.reception, scope, receive, send, self.config.listener)
        elif scope["type"] == "lifespan":
            await _lifespan(receive, send, self)
        else:
            await _refuse(scope, receive, send)

    async def start(self) -> None:
        """Begin now; a second time does nothing.

        :raises penstock.errors.ConfigError: something that the configuration names cannot be used
        """
        await self._start()

    async def close(self) -> None:
        """Let what is in flight end within ``drain_timeout``, and close everything."""
        running, self._running, self._starting = self._running, None, None
        if running is not None:
            await running.gateway.drain(self.config.drain_timeout)
            await running.gateway.close()
            running.clock.stop()
            if running.simulator is not None:
                await running.simulator.close()
            await running.engines.close()

    async def _start(self) -> _Running:
        """All who come while it starts wait for the one start; one that failed is tried again."""
        loop = asyncio.get_running_loop()
        if self._running is not None and self._running.loop is loop:
            return self._running
        if self._starting is None or self._starting.done() or self._starting.get_loop() is not loop:
            self._starting = loop.create_task(self._begin())
        return await asyncio.shield(self._starting)

    async def _begin(self) -> _Running:
        from penstock.gateway.compose import build  # noqa: PLC0415 - whoever only imports this need not wait
        from penstock.lab.embedded import EmbeddedSimulator, wants_simulator  # noqa: PLC0415
        from penstock.upstream.local import LocalEngines  # noqa: PLC0415

        config, simulator, engines = self.config, None, LocalEngines()
        try:
            config = await engines.resolve(config)
            if wants_simulator(config):
                simulator = EmbeddedSimulator()
                await simulator.start()
                config = simulator.fill(config)
            clock = Clock()
            clock.start(asyncio.get_running_loop())
            gateway = build(config, clock=clock)
            await gateway.start()
        except BaseException:
            if simulator is not None:
                await simulator.close()
            await engines.close()
            raise
        self._running = _Running(asyncio.get_running_loop(), gateway, clock, simulator, engines)
        return self._running

    def __repr__(self) -> str:
        state = repr(self._running.gateway) if self._running is not None else "not started"
        return f"<GatewayApp {state}>"


class _Running:
    __slots__ = ("clock", "engines", "gateway", "loop", "simulator")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        gateway: Gateway,
        clock: Clock,
        simulator: EmbeddedSimulator | None,
        engines: LocalEngines,
    ) -> None:
        self.loop = loop
        self.gateway = gateway
        self.clock = clock
        self.simulator = simulator
        self.engines = engines


async def _lifespan(receive: Receive, send: Send, app: GatewayApp | None) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            try:
                if app is not None:
                    await app.start()
            except Exception as error:
                await send({"type": "lifespan.startup.failed", "message": str(error)})
                raise
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            if app is not None:
                await app.close()
            await send({"type": "lifespan.shutdown.complete"})
            return


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    """A WebSocket: closed before it is accepted, which servers answer with 403."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1000})
        return
    raise ValueError(f"an ASGI scope of type {scope['type']!r} cannot be served here")
