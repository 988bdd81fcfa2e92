"""``penstock replay``: production traffic as it was recorded, sent to a gateway."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from penstock.cli._terminal import harmless
from penstock.errors import ConfigError
from penstock.lab.gateway_ledger import LedgerSum, LedgerUnreadableError, ledger_sum, settled_sum
from penstock.lab.replay import MODEL, Plan, Replay
from penstock.lab.trace import TraceError, read_trace
from penstock.messages import Dialect

_LATE = 0.05  # seconds at p99 beyond which this client, not the server, is what was measured


class _Dialects(StrEnum):
    openai = "openai"
    anthropic = "anthropic"


def replay(
    trace: Annotated[Path, typer.Argument(help="An Azure CSV or a Mooncake JSONL trace, gzipped or not.")],
    url: Annotated[str, typer.Option(help="Base URL of the server.")] = "http://127.0.0.1:8080",
    speed: Annotated[
        float, typer.Option(help="How many times faster than it was recorded.", min=0.001)
    ] = 10.0,
    limit: Annotated[int | None, typer.Option(help="Only the first so many calls.", min=1)] = None,
    hang_up: Annotated[float, typer.Option(help="Share of clients that leave midway.", min=0, max=1)] = 0.0,
    plain_share: Annotated[
        float, typer.Option(help="Share of calls that do not stream.", min=0, max=1)
    ] = 0.0,
    key: Annotated[str, typer.Option(envvar="PENSTOCK_KEY", help="API key.")] = "",
    model: Annotated[str, typer.Option(help="Model to ask for.")] = MODEL,
    dialect: Annotated[_Dialects, typer.Option(help="Which API to speak.")] = _Dialects.openai,
    concurrency: Annotated[int, typer.Option(help="Connections at most; more calls wait.", min=1)] = 10_000,
    timeout: Annotated[float, typer.Option(help="Seconds for one whole answer.", min=0.001)] = 600.0,
    check: Annotated[
        bool, typer.Option("--check", help="Compare every text with what the simulator must have said.")
    ] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
    seed: Annotated[int, typer.Option(help="Decides who hangs up and who does not stream.")] = 1,
    salt: Annotated[str, typer.Option(help="Changes all prompts, so that nothing is in a cache yet.")] = "",
    control: Annotated[
        str, typer.Option(help="The gateway's control URL: its ledger's tokens and cost are shown too.")
    ] = "",
    control_key: Annotated[str, typer.Option(envvar="PENSTOCK_CONTROL_KEY", help="The key for it.")] = "",
    ca_file: Annotated[str | None, typer.Option(help="Trust this certificate authority.")] = None,
) -> None:
    """Replay a trace with its arrival times, sizes and prefix reuse, and measure what comes back.

    Ends with status 1 if any call failed or was incomplete.
    """
    out = Console()
    plan = Plan(
        url=url,
        speed=speed,
        dialect=Dialect(dialect.value),
        model=model,
        key=key,
        hang_up=hang_up,
        plain=plain_share,
        concurrency=concurrency,
        timeout=timeout,
        check=check,
        salt=salt,
        seed=seed,
        ca_file=ca_file,
    )
    try:
        calls = read_trace(trace, limit)
        work = Replay(plan, calls)
        before = ledger_sum(control, control_key) if control else LedgerSum()
        interrupted = _run(work, out)
        report = {"trace": trace.name, **work.report()}
        if control:
            ledger = settled_sum(control, control_key).since(before)
            report |= {
                "ledger": msgspec.to_builtins(ledger),
                "cost_usd": ledger.cost_usd,
                "cost_told": work.done,
            }
    except (TraceError, ConfigError, LedgerUnreadableError) as error:
        print(f"penstock replay: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    if json_file is not None:
        try:
            json_file.write_text(json.dumps(report, indent=2) + "\n")
        except OSError as error:
            print(f"penstock replay: {json_file}: {error.strerror}", file=sys.stderr)
            raise typer.Exit(1) from None
    _show(report, out)
    if interrupted:
        raise typer.Exit(130)
    if report["errors"]:
        raise typer.Exit(1)


def _run(work: Replay, out: Console) -> bool:
    """Replay, with a bar; whether the user broke it off."""
    interrupted = False
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("[cyan]{task.fields[flying]} in flight[/] [red]{task.fields[failed]}[/]"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )

    async def main() -> None:
        nonlocal interrupted
        loop = asyncio.get_running_loop()

        def on_interrupt() -> None:
            nonlocal interrupted
            interrupted = True
            work.stop()

        if sys.platform != "win32":
            loop.add_signal_handler(signal.SIGINT, on_interrupt)
        # Whoever is not at a terminal gets the table alone.
        with Progress(*columns, console=out, disable=not out.is_terminal, auto_refresh=False) as bar:
            task = bar.add_task("replaying", total=len(work.calls), flying=0, failed="")
            turns = 0

            def on_turn() -> None:
                nonlocal turns
                turns += 1
                if turns % 10 == 0:  # drawing takes a millisecond, which the calls would feel
                    errors = work.errors.total()
                    failed = f"{errors} failed" if errors else ""
                    bar.update(task, completed=work.done, flying=len(work.in_flight), failed=failed)
                    bar.refresh()

            await work.run(on_turn)
            bar.update(task, completed=work.done, flying=0)

    if sys.platform == "win32":
        asyncio.run(main())
    else:
        import uvloop  # noqa: PLC0415 - not to be had on Windows

        uvloop.run(main())
    return interrupted


def _show(report: dict[str, Any], out: Console) -> None:
    failed = sum(report["errors"].values())
    out.print(
        f"{report['sent']} of {report['calls']} calls of {report['trace']} in {report['seconds']:.1f} s",
        highlight=False,
        soft_wrap=True,
    )
    counts = Table(show_header=False, box=None)
    counts.add_row("completed", f"{report['completed']}")
    counts.add_row("hung up", f"{report['hung_up']}")
    counts.add_row("failed", f"[{'red' if failed else 'green'}]{failed}[/]")
    for kind, number in report["errors"].items():
        counts.add_row(f"  {kind}", f"{number}")
    counts.add_row("most in flight", f"{report['most_in_flight']}")
    cached = report["cached_input_tokens"]
    counts.add_row("tokens in", f"{report['input_tokens']}" + (f" ({cached} cached)" if cached else ""))
    counts.add_row("tokens out", f"{report['output_tokens']} reported, {report['received_tokens']} received")
    ledger = report.get("ledger")
    if ledger:
        counts.add_row(
            "in the ledger",
            f"{ledger['attempts']} attempts, {ledger['input_tokens']} in, {ledger['output_tokens']} out",
        )
    cost = report["cost_usd"]
    told, done = report["cost_told"], report["sent"]
    missing = f" for {told} of {done} calls, which told it" if told < done else ""
    counts.add_row("cost", "not reported" if cost is None else f"$ {cost:.6f}{missing}")
    if report["checked"]:
        counts.add_row("texts", "compared with the simulator's")
    out.print(counts)
    times = Table("milliseconds", *(["p50", "p90", "p99", "max"]), box=None)
    for column in times.columns[1:]:
        column.justify = "right"
    for name, label in (
        ("ttft", "time to first token"),
        ("between_tokens", "between tokens"),
        ("total", "whole answer"),
        ("late", "this client's lateness"),
    ):
        summary = report[name]
        times.add_row(label, *(_milliseconds(summary[each]) for each in ("p50", "p90", "p99", "max")))
    out.print(times)
    for example in report["error_examples"]:
        out.print(harmless(example), style="red", markup=False, highlight=False, soft_wrap=True)
    if (report["late"]["p99"] or 0) > _LATE:
        out.print(
            "[yellow]This client was late itself: its latencies say more about it than about the server. "
            "Replay slower, or from another machine.[/]"
        )


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.1f}"


if __name__ == "__main__":
    typer.run(replay)
