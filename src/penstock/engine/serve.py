"""Running a model's server: on a socket of its own event loop, as a whole process, or beside a gateway."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from penstock.config.model import ListenerConfig, LocalConfig
from penstock.engine import demo, model_dir
from penstock.engine.backend import Backend
from penstock.engine.engine import Engine
from penstock.engine.server import MOST_BODY, EngineServer
from penstock.errors import ModelUnusable
from penstock.installing import install_command
from penstock.net.clock import Clock
from penstock.net.listener import Listener

_FORMATS: dict[str, model_dir.Format | None] = {
    "auto": None,
    "openvino": "openvino",
    "transformers": "safetensors",
    "onnx": "onnx",
}
_LISTENER = ListenerConfig(max_body_bytes=MOST_BODY, idle_timeout=600.0)


def load(config: LocalConfig) -> Backend:
    """The model that a configuration names, ready to be used.

    :raises penstock.errors.ModelUnusable: it cannot be
    """
    path = Path(config.model) if config.model else demo.path()
    model = model_dir.inspect(path, _FORMATS[config.backend])
    if model.format == "safetensors":
        return _by_transformers(model, config)
    if model.format == "onnx":
        return _by_onnx(model, config)
    try:
        from penstock.engine.openvino import OpenVINOBackend  # noqa: PLC0415 - an extra
        from penstock.engine.openvino_encoder import load as embedder  # noqa: PLC0415
    except ImportError as error:
        raise ModelUnusable(f"a local model needs the extra: {install_command('engine')} ({error})") from None
    if model.embeds:
        return embedder(model, config)
    return OpenVINOBackend(model, config)


def _by_transformers(model: model_dir.ModelDir, config: LocalConfig) -> Backend:
    try:
        from penstock.engine.transformers import TransformersBackend  # noqa: PLC0415 - an extra
        from penstock.engine.transformers_encoder import load as embedder  # noqa: PLC0415
    except ImportError as error:
        raise ModelUnusable(
            f"{model.path} holds safetensors, which are computed by the extra `transformers`, and that is not "
            f"installed ({error}); without it, convert the model for OpenVINO with `optimum-cli export openvino "
            f"--model {model.path} --weight-format int8 OUT_DIR` (package optimum-intel), and name OUT_DIR"
        ) from None
    if model.embeds:
        return embedder(model, config)
    return TransformersBackend(model, config)


def _by_onnx(model: model_dir.ModelDir, config: LocalConfig) -> Backend:
    try:
        from penstock.engine.onnx import OnnxBackend  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ModelUnusable(
            f"{model.path} holds an ONNX graph, which needs the extra: {install_command('onnx')} ({error})"
        ) from None
    return OnnxBackend(model, config)


class EngineService:
    """A model's server that listens in the running event loop, until :meth:`close`.

    :param on_broken: called when the model is not, or no longer, to be used
    """

    def __init__(
        self,
        make: Callable[[], Backend],
        config: LocalConfig,
        names: Sequence[str] = (),
        *,
        on_broken: Callable[[], None] = lambda: None,
    ) -> None:
        self.engine = Engine(make, slots=config.slots, max_waiting=config.max_waiting, on_broken=on_broken)
        self.server = EngineServer(self.engine, names)
        self.clock = Clock()
        self._listener = Listener(self.server, _LISTENER, self.clock)

    async def start(self, sock: socket.socket) -> None:
        self.clock.start(asyncio.get_running_loop())
        await self._listener.serve(sock)

    async def close(self, deadline: float = 0.0) -> None:
        """Stop listening, and cut what is still under way after ``deadline`` seconds."""
        await self._listener.drain(deadline)
        await self.engine.close()
        self.clock.stop()

    def __repr__(self) -> str:
        return f"<EngineService {self.server!r}, {self._listener!r}>"


def run(
    config: LocalConfig, sock: socket.socket, names: Sequence[str], *, ready: Callable[[EngineService], None]
) -> None:
    """Serve until SIGTERM or SIGINT.

    :param ready: called when the model can be used
    :raises penstock.errors.ModelUnusable: it cannot be
    """

    async def main() -> None:
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        service = EngineService(lambda: load(config), config, names, on_broken=stop.set)
        await service.start(sock)
        loading = asyncio.ensure_future(service.engine.loaded())
        stopped = asyncio.ensure_future(stop.wait())
        await asyncio.wait({loading, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if loading.done() and loading.exception() is None:
            ready(service)
        await stopped
        await service.close()
        if service.engine.failure is not None:
            raise service.engine.failure

    if sys.platform == "win32":
        asyncio.run(main())
    else:
        import uvloop  # noqa: PLC0415 - not to be had on Windows

        uvloop.run(main())
