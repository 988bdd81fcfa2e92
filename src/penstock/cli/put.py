"""``penstock put``: a file sent to a gateway, through whatever the network does meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import httpx2
import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from penstock.cli._terminal import harmless
from penstock.client.putting import PutError
from penstock.client.putting import put as send

_TIMEOUT = httpx2.Timeout(30.0, connect=5.0)  # between two signs of life; the whole may take hours


def put(
    file: Annotated[Path, typer.Argument(help="The file.", exists=True, dir_okay=False, readable=True)],
    url: Annotated[str, typer.Option(help="Base URL of the gateway.")] = "http://127.0.0.1:8080",
    key: Annotated[str, typer.Option(envvar="PENSTOCK_KEY", help="API key.")] = "",
    purpose: Annotated[str, typer.Option(help="What it is for, as OpenAI's API names it.")] = "user_data",
    patience: Annotated[
        float, typer.Option(help="Seconds without progress after which it is given up.", min=0)
    ] = 60.0,
) -> None:
    """Send a file, and print its id; what has arrived before a break is not sent again."""
    told = Console(stderr=True, highlight=False, soft_wrap=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=told,
        disable=not told.is_terminal,
    )
    with bar, httpx2.Client(timeout=_TIMEOUT) as client:
        task = bar.add_task(file.name, total=None)

        def lost(reason: str) -> None:
            told.print(harmless(f"[{reason}; going on where it was]"), style="dim", markup=False)

        try:
            found = send(
                client,
                url,
                file,
                key=key,
                purpose=purpose,
                patience=patience,
                on_progress=lambda sent, size: bar.update(task, completed=sent, total=size),
                on_break=lost,
            )
        except (PutError, OSError, httpx2.InvalidURL) as error:
            bar.stop()
            told.print(harmless(f"penstock put: {error}"), style="red", markup=False)
            raise typer.Exit(1) from None
    print(harmless(str(found.get("id", ""))))


if __name__ == "__main__":
    typer.run(put)
