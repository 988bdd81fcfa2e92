"""``penstock ask``: a question from the terminal, whose answer survives what happens on the way."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from rich.console import Console

from penstock.cli._terminal import harmless
from penstock.client import http_client
from penstock.client.asking import AskError
from penstock.client.asking import ask as pieces
from penstock.client.statistics import Notice

PATIENCE = 60.0  # seconds that a person waits for a server to come back


def ask(
    question: Annotated[str, typer.Argument(help="What to ask; - reads it from standard input.")],
    model: Annotated[str, typer.Option(help="Model to ask.")] = "sim",
    url: Annotated[
        list[str] | None,
        typer.Option(help="Base URL of a gateway; several times: of those that take over from each other."),
    ] = None,
    key: Annotated[str, typer.Option(envvar="PENSTOCK_KEY", help="API key.")] = "",
    system: Annotated[str, typer.Option(help="What the model shall be.")] = "",
    max_tokens: Annotated[int | None, typer.Option(help="Length of the answer at most.", min=1)] = None,
    temperature: Annotated[
        float | None, typer.Option(help="0: the same answer each time, as far as the model can.", min=0)
    ] = None,
) -> None:
    """Ask, and show the answer as it comes; a broken connection is mended, and said on standard error."""
    urls = url or ["http://127.0.0.1:8080"]
    told = Console(stderr=True, highlight=False, soft_wrap=True)
    body: dict[str, Any] = {
        "model": model,
        "messages": [
            *([{"role": "system", "content": system}] if system else []),
            {"role": "user", "content": sys.stdin.read() if question == "-" else question},
        ],
    }
    if max_tokens is not None:
        body["max_tokens"] = max_tokens
    if temperature is not None:
        body["temperature"] = temperature
    gateways = urls if len(urls) > 1 else ()
    try:
        client = http_client(
            gateways=gateways,
            attempts=10,
            max_delay=PATIENCE / 10,
            resume_for=PATIENCE,
            on_notice=lambda notice: _tell(told, notice),
        )
    except ValueError as error:
        told.print(f"penstock ask: {error}", style="red", markup=False)
        raise typer.Exit(2) from None
    terminal = sys.stdout.isatty()
    with client:
        try:
            for piece in pieces(client, urls[0], body, key):
                sys.stdout.write(harmless(piece) if terminal else piece)
                sys.stdout.flush()
        except AskError as error:
            print()
            told.print(harmless(f"penstock ask: {error}"), style="red", markup=False)
            raise typer.Exit(1) from None
        print()


def _tell(told: Console, notice: Notice) -> None:
    """What a person wants to know while nothing seems to happen."""
    texts = {
        "retry": f"[{notice.reason}; trying again in {notice.delay:.1f} s]",
        "resume": f"[{notice.reason}; going on with the answer]",
        "rerun": "[the answer so far is lost; asking once more]",
        "failover": f"[going on at {notice.origin}]",
    }
    if notice.kind in texts:
        told.print(harmless(texts[notice.kind]), style="dim", markup=False)


if __name__ == "__main__":
    typer.run(ask)
