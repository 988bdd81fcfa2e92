"""``penstock lab``: a link that is far, narrow and breaks, to try a client on."""

from __future__ import annotations

import signal
import threading
from typing import Annotated

import typer

from penstock.lab.faults import Conditions, FaultProxy, Kind


def lab(
    target: Annotated[str, typer.Argument(help="HOST:PORT of the server behind the link.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes any that is free.", min=0, max=65535)] = 0,
    delay_ms: Annotated[float, typer.Option(help="One way, milliseconds.", min=0)] = 0,
    mbit: Annotated[float, typer.Option(help="Mbit per second each way; 0: as fast as it goes.", min=0)] = 0,
    hazard: Annotated[float, typer.Option(help="Breaks per MB: P = 1 - exp(-hazard * MB).", min=0)] = 0,
    kind: Annotated[
        list[Kind] | None, typer.Option(help="How connections break; several times: all as likely.")
    ] = None,
    stall: Annotated[float, typer.Option(help="Seconds that a stall lasts.", min=0)] = 5,
    seed: Annotated[int, typer.Option(help="Decides where connections break.")] = 1,
) -> None:
    """Carry TCP connections to a server, slowly, and break some of them; ends with what went through."""
    there, colon, number = target.rpartition(":")
    if not colon or not number.isdecimal() or not 0 < int(number) < 65536:
        raise typer.BadParameter("HOST:PORT is wanted", param_hint="TARGET")
    conditions = Conditions(
        delay=delay_ms / 1e3,
        rate=mbit * 1e6 / 8,
        hazard=hazard,
        kinds=tuple(kind or [Kind.RESET]),
        stall=stall,
        seed=seed,
    )
    ended = threading.Event()
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda *_: ended.set())
    link = FaultProxy(there.strip("[]") or "127.0.0.1", int(number), conditions, listen=(host, port))
    try:
        link.start()
    except OSError as error:
        typer.echo(f"penstock lab: cannot listen on {host}:{port}: {error.strerror or error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(f"link at {link.url} to {target}")
    ended.wait()
    link.stop()
    figures = link.figures
    typer.echo(
        f"{figures.connections} connections, {figures.broken} broken, "
        f"{figures.bytes_up / 1e6:.1f} MB up, {figures.bytes_down / 1e6:.1f} MB down"
    )


if __name__ == "__main__":
    typer.run(lab)
