"""``penstock key``: make a caller's key."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import typer

from penstock.config.expiry import said
from penstock.config.key_file import add_key, remove_key
from penstock.config.keys import hash_key, new_key
from penstock.config.model import KeyConfig
from penstock.config.writing import escaped, flow_list, scalar
from penstock.errors import ConfigError

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
