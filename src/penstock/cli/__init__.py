"""The ``penstock`` command: one module per sub-command.

Each module has what its command is called (``-`` written ``_``): a function that typer makes a command
of, or a ``typer.Typer`` with commands of its own.  Only the module of the command that was asked for is
imported; the others are known by the line that the help shows of them.  So ``penstock --help`` is quick,
``penstock serve`` carries nothing that serving does not need, and a command whose extra is not installed
does not take the others with it.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import typer

from penstock import __version__
from penstock.cli._terminal import harmless
from penstock.errors import ConfigError, PenstockError
from penstock.installing import install_command

GROUPS = {
    "To serve": {
        "serve": "Start the gateway.",
        "check": "Check a configuration file, and name every mistake in it.",
        "key": "Make keys for callers.",
        "schema": "Print the JSON Schema of the configuration, for editors.",
        "import-litellm": "Convert the configuration of a LiteLLM proxy.",
    },
    "Of a gateway that runs": {
        "ask": "Ask a question, and show the answer as it comes.",
        "put": "Send a file to a gateway.",
        "explain": "Show what a request would come to at a running gateway, and why.",
        "versions": "Show, promote and roll back new versions on trial at a running gateway.",
        "drain": "Tell a running gateway that an upstream is going away.",
        "cache": "Fill the cache of a running gateway.",
        "ledger": "Show what calls have cost.",
        "log": "Show what a gateway's log comes to.",
    },
    "To try and test": {
        "sim": "Start simulated providers, which bill what they send.",
        "lab": "Carry connections over a link that is far, narrow and breaks.",
        "replay": "Send a recorded trace of production traffic to a gateway.",
    },
    "For models of your own": {
        "engine": "Serve a model that this machine computes itself.",
        "optimize": "Make a model smaller and quicker, and see what that costs it.",
        "triton-repo": "Write a model repository for Triton, with dynamic batching.",
    },
}
"""Sub-commands as the help puts them together."""

COMMANDS = {name: summary for group in GROUPS.values() for name, summary in group.items()}
"""Every sub-command with its line of help, in the order of the help."""


def main(args: Sequence[str] | None = None) -> None:
    """Entry point of the ``penstock`` script; ends with ``SystemExit``."""
    words = list(sys.argv[1:] if args is None else args)
    _open_standard_streams()
    try:
        application(words)(words, prog_name="penstock")
    except ConfigError as error:
        for mistake in error.mistakes:
            print(harmless(str(mistake)), file=sys.stderr)
        print(harmless(f"penstock: {error}"), file=sys.stderr)
        sys.exit(1)
    except PenstockError as error:
        print(harmless(f"penstock: {error}"), file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:
        # `penstock schema | head`: what the reader does not want, nobody needs to hear of.
        _write_no_more()
        sys.exit(1)
    except OSError as error:  # a disk that is full, say
        _write_no_more()
        print(harmless(f"penstock: {error}"), file=sys.stderr)
        sys.exit(1)


def _open_standard_streams() -> None:
    """Whoever has closed one of them wants to hear nothing: but the next file or socket would be in its place."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
            stream = open(number, "w" if number else "r", closefd=False)  # noqa: SIM115 - as long as the process
            setattr(sys, name, stream)


def _write_no_more() -> None:
    """What is left to write would fail once more when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def application(words: Sequence[str]) -> typer.Typer:
    """The command-line application, in which the command that ``words`` names is loaded.

    While a shell asks for completions, all of them are.
    """
    app = typer.Typer(
        name="penstock",
        no_args_is_help=True,
        # A traceback with local variables would show secrets.
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    completing = "_PENSTOCK_COMPLETE" in os.environ
    asked = next((word for word in words if not word.startswith("-")), None)
    for group, commands in GROUPS.items():
        for name, summary in commands.items():
            if completing or name == asked:
                _register(app, name, summary, group)
            else:
                app.command(name, help=summary, rich_help_panel=group)(_not_loaded)
    return app


def _register(app: typer.Typer, name: str, summary: str, group: str) -> None:
    attribute = name.replace("-", "_")
    try:
        module = importlib.import_module(f"penstock.cli.{attribute}")
    except ImportError as error:
        anything = {"allow_extra_args": True, "ignore_unknown_options": True}
        app.command(name, help=summary, rich_help_panel=group, context_settings=anything)(
            _unavailable(name, error)
        )
        return
    found: Any = getattr(module, attribute)
    if isinstance(found, typer.Typer):
        for inner in found.registered_commands:
            inner.help = inner.help or _paragraphs(inner.callback)
        app.add_typer(found, name=name, help=summary, rich_help_panel=group)
    else:
        app.command(name, help=_paragraphs(found), rich_help_panel=group)(found)


def _paragraphs(command: Callable[..., Any] | None) -> str:
    """A docstring without its line breaks: the terminal has its own."""
    text = inspect.getdoc(command) or ""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def _unavailable(name: str, error: ImportError) -> Callable[[], None]:
    def command() -> None:
        lacks_client = isinstance(error, ModuleNotFoundError) and error.name in ("anyio", "httpx2")
        remedy = f"; it needs the extra: {install_command('client')}" if lacks_client else ""
        print(f"penstock: {name} cannot be loaded: {error}{remedy}", file=sys.stderr)
        sys.exit(1)

    return command


def _not_loaded() -> None:
    raise AssertionError("only the command that was asked for is ever run")


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"penstock {__version__}")
        raise typer.Exit


def _root(
    *,
    version: bool = typer.Option(
        False, "--version", callback=_show_version, is_eager=True, help="Show the version, and nothing else."
    ),
) -> None:
    """A gateway for LLM APIs that is cheap to run and never loses or pays twice for a token."""
