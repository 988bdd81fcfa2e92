"""``penstock triton-repo``: a model repository for Triton."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from penstock.errors import ConfigError
from penstock.optimize.triton_repository import TUNED, Batching, write_repository


def triton_repo(
    models: Annotated[list[str], typer.Argument(help="Model directories; NAME=DIRECTORY names one.")],
    into: Annotated[Path, typer.Option(help="The repository to make.")],
    max_batch_size: Annotated[int, typer.Option(help="Calls that are run together.", min=1)] = 32,
    max_queue_delay_us: Annotated[
        int | None, typer.Option(help="Microseconds that a call waits for others.", min=0)
    ] = None,
    tuned: Annotated[
        bool, typer.Option("--tuned", help="Wait for others hardly at all: quicker with few callers.")
    ] = False,
    priority_levels: Annotated[int, typer.Option(help="0: all calls are alike.", min=0)] = 0,
    max_queue_size: Annotated[int, typer.Option(help="Places in the line; 0: any number.", min=0)] = 0,
    streaming: Annotated[bool, typer.Option(help="Answers are streamed.")] = True,
) -> None:
    """Write a model repository for Triton, with dynamic batching."""
    named: dict[str, Path] = {}
    for each in models:
        name, given, path = each.rpartition("=")
        directory = Path(path)
        name = name if given else directory.resolve().name
        if name in named:
            raise ConfigError(f"two models are called {name}: name them, as in NAME=DIRECTORY")
        named[name] = directory
    batching = msgspec.structs.replace(
        TUNED if tuned else Batching(),
        max_batch_size=max_batch_size,
        priority_levels=priority_levels,
        max_queue_size=max_queue_size,
    )
    if max_queue_delay_us is not None:
        batching = msgspec.structs.replace(batching, max_queue_delay_us=max_queue_delay_us)
    fitting = tuple(size for size in batching.preferred if size <= max_batch_size)
    batching = msgspec.structs.replace(batching, preferred=fitting)
    write_repository(named, into, batching, decoupled=streaming)
    print(f"{into}: {', '.join(named)}")
