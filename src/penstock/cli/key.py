"""``penstock key``: make a caller's key, and see what is left of one."""

from __future__ import annotations

import json
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import typer

from penstock.cli._terminal import harmless
from penstock.config.expiry import said
from penstock.config.key_file import add_key, fault, remove_key
from penstock.config.keys import hash_key, new_key
from penstock.config.model import KeyConfig
from penstock.config.writing import escaped, flow_list, scalar
from penstock.errors import ConfigError

_PATIENCE = 15.0  # seconds
_LONGEST = 65_536  # bytes of an error that are read

key = typer.Typer(no_args_is_help=True)


@key.command()
def new(
    name: str = typer.Option(..., "--name", help="What the key is called in logs and in the ledger."),
    tenant: str = typer.Option("default", "--tenant", help="Whose calls these are."),
    tier: str = typer.Option("standard", "--tier", help="The service tier."),
    models: list[str] = typer.Option(
        [],
        "--model",
        help="A model, or a pattern with *, that it may use. Repeat for more; none: every model.",
    ),
    expires: str = typer.Option(
        "",
        "--expires",
        help="From when on it is refused: 12h, 30d ahead, a date (midnight UTC), or a time with its zone.",
    ),
    file: Path | None = typer.Option(
        None,
        "--file",
        help="Put it into this file, the configuration's keys_file, instead of printing lines.",
    ),
) -> None:
    """Make a key; print it once, with the lines for the configuration.

    The key goes to standard output alone, the lines to standard error, so that either can be kept by
    itself.  Penstock stores only the hash: a lost key is replaced, not recovered.
    """
    made = new_key()
    try:
        end = said(expires, time.time()) if expires else ""
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--expires") from None
    wanted = KeyConfig(name=name, hash=hash_key(made), tenant=tenant, tier=tier, models=models, expires=end)
    if wrong := fault(wanted, (), ()):
        raise ConfigError(wrong)
    if file is not None:
        add_key(file, wanted)
        print(made)
        return
    print("The key, shown this once:\n", file=sys.stderr)
    sys.stderr.flush()
    print(made, flush=True)
    print(f"\nFor the configuration:\n\n{entry(wanted)}", file=sys.stderr)


@key.command()
def remove(
    name: str = typer.Argument(..., help="What the key is called."),
    file: Path = typer.Option(..., "--file", help="The configuration's keys_file."),
) -> None:
    """Take a key out of the file; a running gateway refuses it from then on."""
    if not remove_key(file, name):
        raise ConfigError(f"there is no key {name!r} in {file}")


@key.command()
def show(
    url: str = typer.Option("http://127.0.0.1:8080", "--url", help="Base URL of a gateway."),
    api_key: str = typer.Option("", "--key", envvar="PENSTOCK_KEY", help="The key."),
    as_json: bool = typer.Option(False, "--json", help="What the gateway says, instead of a table."),
) -> None:
    """Show what a key may do, when it ends, and what is left of its limits and budgets."""
    found = _asked(url, api_key)
    if as_json:
        print(json.dumps(found))
        return
    from rich.console import Console  # noqa: PLC0415 - slow to import
    from rich.table import Table  # noqa: PLC0415

    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False, markup=False)
    models = ", ".join(found["models"]) or "every model"
    console.print(harmless(f"{found['name']}, tenant {found['tenant']}, tier {found['tier']}: {models}"))
    console.print(harmless(f"ends {found['expires_at'] or 'never'}"))
    table = Table(header_style="bold")
    for title in ("whose", "what"):
        table.add_column(title)
    for title in ("limit", "spent", "left", "whole again"):
        table.add_column(title, justify="right", no_wrap=True)
    for limit in found["limits"]:
        again = "" if limit["reset"] is None else f"in {limit['reset']:g} s"
        table.add_row(*_cells(limit, "scope", "of", "limit"), "", *_cells(limit, "remaining"), again)
    for budget in found["budgets"]:
        table.add_row(*_cells(budget, "scope", "of", "limit", "spent", "left", "resets_at"))
    console.print(table if table.row_count else "It is not limited.")
    if found["shared"] == "machines" and table.row_count:
        console.print(
            "Other machines use up the same: what they have spent, or hold, is in what is not left."
        )


@key.command("hash")
def hash_of_key() -> None:
    """Print the hash of a key that exists already, read from standard input.

    From standard input, because arguments end up in the history of the shell and the list of processes.
    """
    given = sys.stdin.readline().strip()
    if not given:
        print("penstock: there is no key on standard input", file=sys.stderr)
        raise typer.Exit(1)
    if len(given) < 32:
        print(
            "penstock: this key is short; one that can be guessed is not protected by its hash",
            file=sys.stderr,
        )
    print(hash_key(given))


def _asked(url: str, api_key: str) -> dict[str, Any]:
    """What a gateway says of a key.

    :raises ConfigError: it does not answer, or refuses
    """
    base = url.rstrip("/").removesuffix("/v1")
    request = urllib.request.Request(f"{base}/v1/key")  # noqa: S310 - whatever the user names
    if api_key:
        request.add_header("authorization", f"Bearer {api_key}")
    try:
        with urllib.request.urlopen(request, timeout=_PATIENCE) as answer:  # noqa: S310
            found: dict[str, Any] = json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            said = error.read(_LONGEST).decode(errors="replace")
        try:
            said = str(json.loads(said)["error"]["message"])
        except (ValueError, LookupError, TypeError):
            said = said[:300]
        raise ConfigError(harmless(f"{base} says {error.code}: {said}")) from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{base} does not answer: {error}") from error
    return found


def _cells(row: dict[str, Any], *names: str) -> list[str]:
    """What is not told is shown as such."""
    return ["not told" if row[name] is None else harmless(str(row[name])) for name in names]


def entry(wanted: KeyConfig) -> str:
    """The lines of one key, as they stand in the file."""
    lines = ["keys:", f"  - name: {scalar(escaped(wanted.name))}", f"    hash: {wanted.hash}"]
    if wanted.tenant != "default":
        lines.append(f"    tenant: {scalar(escaped(wanted.tenant))}")
    if wanted.tier != "standard":
        lines.append(f"    tier: {scalar(escaped(wanted.tier))}")
    if wanted.models:
        lines.append(f"    models: {flow_list(map(escaped, wanted.models))}")
    if wanted.expires:
        lines.append(f"    expires: {wanted.expires}")
    return "\n".join(lines)
