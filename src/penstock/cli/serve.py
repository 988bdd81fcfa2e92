"""``penstock serve``: start the gateway."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from penstock import logs
from penstock.admin.supervisor import Supervisor
from penstock.config.load import load, referenced_files
from penstock.config.model import Config

if TYPE_CHECKING:
    from rich.console import Console

DEFAULT_FILE = "penstock.yaml"


class Server(enum.StrEnum):
    """Who speaks HTTP to the callers."""

    own = "own"
    uvicorn = "uvicorn"
    granian = "granian"
    hypercorn = "hypercorn"


class LogFormat(enum.StrEnum):
    json = "json"
    text = "text"


def serve(
    config: Annotated[
        Path | None,
        typer.Argument(
            help=f"The configuration file. Without it: ./{DEFAULT_FILE} if there is one, else what the "
            "environment offers, else a simulator."
        ),
    ] = None,
    *,
    listen: Annotated[
        str | None, typer.Option(help="Where callers connect, host:port; port 0: any free one.")
    ] = None,
    control: Annotated[str | None, typer.Option(help="Where the control API listens, host:port.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Worker processes; one for each core is plenty.")
    ] = None,
    server: Annotated[
        Server, typer.Option(help="Who speaks HTTP: Penstock's own listener, or an ASGI server.")
    ] = Server.own,
    http2: Annotated[
        bool, typer.Option("--http2", help="Speak HTTP/2, too: behind hypercorn; needs TLS.")
    ] = False,
    http3: Annotated[
        bool, typer.Option("--http3", help="Speak HTTP/2 and HTTP/3, too: behind hypercorn; needs TLS.")
    ] = False,
    log_format: Annotated[LogFormat | None, typer.Option(help="How the log is written.")] = None,
) -> None:
    """Start the gateway.

    SIGHUP, or a change of the file, loads the configuration anew.  SIGTERM and Ctrl-C finish what is in
    flight; a second Ctrl-C ends at once.
    """
    changes = {"listen": listen, "control": control, "workers": workers}
    overrides: dict[str, object] = {key: value for key, value in changes.items() if value is not None}
    path = config or (Path(DEFAULT_FILE) if Path(DEFAULT_FILE).exists() else None)
    reader = _Reader(path, overrides, log_format)
    settings = reader.read()
    logs.configure(settings.log)
    supervisor = Supervisor(
        settings,
        reread=reader.read,
        files=reader.files,
        server=server.value,
        http2=http2,
        http3=http3,
        on_ready=_greet(reader),
    )
    sys.exit(asyncio.run(_run(supervisor)))


async def _run(supervisor: Supervisor) -> int:
    try:
        return await supervisor.run()
    finally:
        # All is written down: a second signal now must not make an orderly end look like a death.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)


class _Reader:
    """Reads the configuration the same way every time; what the command line says goes before the file."""

    def __init__(self, path: Path | None, overrides: dict[str, object], log_format: LogFormat | None) -> None:
        self.path = path
        self.findings: tuple[str, ...] = ()
        self._overrides = overrides
        self._log_format = log_format

    def read(self) -> Config:
        """:raises penstock.errors.ConfigError: the file cannot be used"""
        config = self._discover() if self.path is None else load(self.path)
        config = msgspec.structs.replace(config, **self._overrides)
        if self._log_format is not None:
            log = msgspec.structs.replace(config.log, format=self._log_format.value)
            config = msgspec.structs.replace(config, log=log)
        return config

    def files(self) -> list[Path]:
        """Those that :meth:`read` reads: the configuration and what it refers to."""
        return [self.path, *referenced_files(self.path)] if self.path is not None else []

    def _discover(self) -> Config:
        from penstock.config.discover import discover  # noqa: PLC0415 - asks servers, which a file need not

        base = msgspec.structs.replace(Config(), **self._overrides)
        if sys.stderr.isatty():
            base = msgspec.structs.replace(base, log=msgspec.structs.replace(base.log, format="text"))
        discovery = discover(os.environ, base=base)
        self.findings = discovery.findings
        return discovery.config


def _greet(reader: _Reader) -> Callable[[Supervisor], None]:
    def greet(supervisor: Supervisor) -> None:
        from rich.console import Console  # noqa: PLC0415 - while nobody waits for it

        # Whoever does not want to read it (`penstock serve | head`) does not want the gateway to end.
        # rich turns a broken pipe into SystemExit.
        with contextlib.suppress(OSError, SystemExit):
            _print_greeting(Console(highlight=False), reader, supervisor)

    return greet


def _print_greeting(console: Console, reader: _Reader, supervisor: Supervisor) -> None:
    scheme = "https" if supervisor.config.tls is not None else "http"
    base = f"{scheme}://{supervisor.listen.reachable}"
    console.print(f"[bold]Penstock[/bold] serves {base}/v1")
    console.print(f"  control  http://{supervisor.control.reachable}/")
    if reader.path is not None:
        console.print(f"  config   {reader.path}")
    for finding in reader.findings:
        console.print(f"  found    {finding}", markup=False, soft_wrap=True)
    console.print()
    console.print(f"  {_example(base, supervisor.config)}", markup=False, soft_wrap=True)
    console.file.flush()


def _example(base: str, config: Config) -> str:
    """A first request that works as pasted, where the configuration names a model."""
    model = next((name for name in config.models if "*" not in name), "")
    if not model:
        others = config.models.get("*")
        simulated = others is not None and config.upstreams[others.candidates[0].upstream].kind == "sim"
        model = "sim" if simulated else "MODEL"
    key = " -H 'Authorization: Bearer YOUR_KEY'" if config.keys or config.keys_file else ""
    insecure = " -k" if base.startswith("https") else ""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hello"}]})
    return f"curl{insecure} {base}/v1/chat/completions{key} -H 'Content-Type: application/json' -d '{body}'"
