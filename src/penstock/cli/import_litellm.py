"""``penstock import-litellm``: bring the configuration of a LiteLLM proxy along."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import typer

from penstock.cli._terminal import harmless
from penstock.config.litellm import convert
from penstock.errors import ConfigError

MAX_BYTES = 4_194_304


def import_litellm(
    file: Path = typer.Argument(..., help="LiteLLM's config.yaml."),
    output: Path | None = typer.Option(
        None, "--output", "-o", help="Where to write; standard output without it."
    ),
    force: bool = typer.Option(False, "--force", help="Write over a file that exists."),
) -> None:
    """Convert the configuration of a LiteLLM proxy, and list what could not be converted, and why.

    The model list with its shares, keys, addresses, parameters and timeouts, aliases, fallbacks, retries, cooldowns,
    what is kept in Redis and the master key come along, and prices, which become a file beside the other.  Where there
    is a database, or a budget, what calls cost is written to a ledger.  The list goes to standard error and, as a
    comment, into the file.
    """
    try:
        if file.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{file} is larger than {MAX_BYTES} bytes")
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"{file} cannot be read: {reason}") from None
    prices = None if output is None else output.absolute().with_name(f"{output.stem}-prices.toml")
    conversion = convert(text, file.name, os.environ, "" if prices is None else str(prices))
    if output is None or prices is None:
        print(conversion.text, end="")
    else:
        written = {output: conversion.text} | ({prices: conversion.prices} if conversion.prices else {})
        for path in written:
            if path.exists() and not force:
                raise ConfigError(f"{path} exists; --force writes over it")
        for path, content in written.items():
            _write(path, content, force=force)
    counts = [(conversion.upstreams, "upstream"), (conversion.models, "model"), (conversion.keys, "key")]
    print(
        "Converted " + ", ".join(f"{n} {noun}{'' if n == 1 else 's'}" for n, noun in counts), file=sys.stderr
    )
    if conversion.left:
        print("\nNot converted:", file=sys.stderr)
        for left in conversion.left:
            print(harmless(f"  {left}"), file=sys.stderr)
    unset = [name for name in conversion.variables if name not in os.environ]
    if unset:
        print(f"\nSet these before you start it: {', '.join(unset)}", file=sys.stderr)


def _write(path: Path, text: str, *, force: bool) -> None:
    """It may hold keys that stood in the source: nobody but its owner reads it.

    :raises ConfigError: it exists, or cannot be written
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if force else os.O_EXCL), 0o600)
    except FileExistsError:
        raise ConfigError(f"{path} exists; --force writes over it") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from None
    with os.fdopen(descriptor, "w", encoding="utf-8") as target:
        target.write(text)
