"""``penstock sim``: a simulated upstream of its own, to try a gateway on."""

from __future__ import annotations

import inspect
from typing import Annotated

import typer

from penstock.lab import scenario
from penstock.lab.serve import bind, run, tell_ready
from penstock.lab.simulator import Simulator


def sim(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes any that is free.", min=0, max=65535)] = 0,
    ttft_ms: Annotated[float, typer.Option(help="Time to the first token, milliseconds.", min=0)] = 0,
    tokens_per_second: Annotated[float, typer.Option(help="Pace after it; 0: all at once.", min=0)] = 0,
    output_tokens: Annotated[
        str, typer.Option(help="Length of an answer; 'max': what the caller allows.")
    ] = "64",
    script: Annotated[
        str, typer.Option("--scenario", help="More options, as in a model's name: 'cut-after=5,share=0.1'.")
    ] = "",
    scenarios: Annotated[bool, typer.Option("--scenarios", help="List all those options, and end.")] = False,
    key: Annotated[str, typer.Option(help="The only API key to accept; any, if not given.")] = "",
    ready_fd: Annotated[
        int,
        typer.Option(
            help="For programs: write the port to this descriptor once it listens, and end with standard input."
        ),
    ] = -1,
) -> None:
    """Run a simulated upstream that speaks OpenAI's and Anthropic's APIs; its bill is at /bill."""
    if scenarios:
        typer.echo(inspect.cleandoc(scenario.__doc__ or "").replace("``", ""))
        return
    options = f"ttft={ttft_ms},tps={tokens_per_second},tokens={output_tokens},{script}"
    try:
        defaults = scenario.parse(options)
    except scenario.ScriptError as error:
        typer.echo(f"penstock sim: {error}", err=True)
        raise typer.Exit(2) from None
    try:
        sock = bind(host, port)
    except OSError as error:
        typer.echo(f"penstock sim: cannot listen on {host}:{port}: {error.strerror or error}", err=True)
        raise typer.Exit(1) from None
    bound = sock.getsockname()[1]
    url = f"http://{f'[{host}]' if ':' in host else host}:{bound}"

    def ready() -> None:
        if ready_fd >= 0:
            tell_ready(ready_fd, bound)
        else:
            typer.echo(f"simulated upstream at {url} (base URL {url}/v1, bill {url}/bill)")

    run(Simulator(defaults, key=key), sock, ready=ready, with_parent=ready_fd >= 0)


if __name__ == "__main__":
    typer.run(sim)
