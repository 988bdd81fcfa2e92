"""``penstock engine``: models that this machine computes itself."""

from __future__ import annotations

import enum
import os
import socket
from pathlib import Path
from typing import Annotated

import typer

from penstock.config.model import LocalConfig

engine = typer.Typer(no_args_is_help=True)


class CachePrecision(enum.StrEnum):
    """Of keys and values."""

    AUTO = "auto"
    INT8 = "int8"
    FP32 = "fp32"


class BackendName(enum.StrEnum):
    """What computes."""

    AUTO = "auto"
    OPENVINO = "openvino"
    ONNX = "onnx"
    TRANSFORMERS = "transformers"


@engine.callback()
def _root() -> None:
    """Serve a model that this machine computes itself; it needs the extra `engine`, `onnx` or `transformers`."""


@engine.command()
def serve(
    model_dir: Annotated[
        Path | None,
        typer.Argument(help="Directory of the model; without one, the small one that comes with Penstock."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes any that is free.", min=0, max=65535)] = 8000,
    unix: Annotated[
        Path | None, typer.Option("--socket", help="Listen on this Unix socket, and on no port.")
    ] = None,
    name: Annotated[
        list[str] | None, typer.Option(help="What callers call it; the directory's name, if not given.")
    ] = None,
    backend: Annotated[
        BackendName, typer.Option(help="What computes; by itself what the directory's form is for.")
    ] = BackendName.AUTO,
    threads: Annotated[int, typer.Option(help="Threads that compute; 0: one per core.", min=0)] = 0,
    slots: Annotated[int, typer.Option(help="Answers under way at once.", min=1)] = 64,
    cache_bytes: Annotated[int, typer.Option(help="Memory for keys and values; 0: by itself.", min=0)] = 0,
    cache_precision: Annotated[
        CachePrecision, typer.Option(help="How exactly they are kept.")
    ] = CachePrecision.AUTO,
    prefix_cache: Annotated[bool, typer.Option(help="Compute once what prompts have in common.")] = True,
    exact: Annotated[
        bool,
        typer.Option(
            "--exact",
            help="Compute in fp32, so that an answer does not depend on what is computed beside it.",
        ),
    ] = False,
) -> None:
    """Serve a model with OpenAI's API: chat completions and completions, streamed or not, or embeddings."""
    from penstock.engine import demo  # noqa: PLC0415 - not for --help
    from penstock.engine.serve import EngineService, run  # noqa: PLC0415

    path = model_dir or demo.path()
    config = LocalConfig(
        model=str(path),
        backend=backend.value,
        threads=threads,
        slots=slots,
        cache_bytes=cache_bytes,
        cache_precision=cache_precision.value,
        prefix_cache=prefix_cache,
        exact=exact,
    )
    names = name or [path.resolve().name]
    sock, where = _bind(host, port, unix)

    def ready(service: EngineService) -> None:
        backend = service.engine.backend
        assert backend is not None, "it is loaded"
        card = backend.card
        typer.echo(f"{names[0]} at {where} ({card.backend}, context of {card.context} tokens)")

    try:
        run(config, sock, names, ready=ready)
    finally:
        if unix is not None:
            unix.unlink(missing_ok=True)


def _bind(host: str, port: int, unix: Path | None) -> tuple[socket.socket, str]:
    """A listening socket, and what callers call it."""
    if unix is not None:
        return _bind_unix(unix), f"unix:{unix}"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        typer.echo(f"penstock engine: cannot listen on {host}:{port}: {error.strerror or error}", err=True)
        raise typer.Exit(1) from None
    sock.setblocking(False)
    shown = f"[{host}]" if ":" in host else host
    return sock, f"http://{shown}:{sock.getsockname()[1]}/v1"


def _bind_unix(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.is_socket() and not _answers(path):
            path.unlink()  # left behind by a process that was killed
        before = os.umask(0o077)
        try:
            sock.bind(str(path))
        finally:
            os.umask(before)
    except OSError as error:
        sock.close()
        typer.echo(f"penstock engine: cannot listen on {path}: {error.strerror or error}", err=True)
        raise typer.Exit(1) from None
    sock.setblocking(False)
    return sock


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            sock.connect(str(path))
        except OSError:
            return False
    return True
