"""``penstock explain``: what a request would come to at a running gateway, and why."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import typer

from penstock.cli._control import CONTROL, CONTROL_KEY, ask
from penstock.cli._terminal import one_line
from penstock.errors import ConfigError


def explain(
    file: Path = typer.Argument(
        ..., help="The request's body, or {path, headers, body}; - reads standard input."
    ),
    control: str = CONTROL,
    control_key: str = CONTROL_KEY,
    key: str = typer.Option("", "--key", envvar="PENSTOCK_KEY", help="The caller's key."),
    path: str = typer.Option("/v1/chat/completions", "--path", help="Where the request would go."),
    header: list[str] = typer.Option(
        [], "--header", help="A header of it, as 'Name: value'; may be repeated."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print what the control API answers."),
) -> None:
    """Show what a request would come to now: limits, cache, ladder, queue, and who would be asked.

    Nothing is sent to a provider, taken from a limit, or counted.
    """
    asked = _request(file, path, [_field(text) for text in header])
    if key:
        asked["headers"].setdefault("authorization", f"Bearer {key}")
    found = ask(control, control_key, "/v1/explain", asked)
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        print("\n".join(map(one_line, lines(found["explanation"]))))


def lines(explained: dict[str, Any]) -> list[str]:
    """The explanation for people: the outcome first, then the stages in their order."""
    told = [explained["outcome"]]
    if (retry_after := explained.get("retry_after")) is not None:
        told.append(f"  to come back in {retry_after:g} s")
    for name, value in explained.items():
        if name in ("outcome", "retry_after"):
            continue
        if isinstance(value, list):
            told.append(f"{name}:")
            told += [f"  {number}. {_pairs(item)}" for number, item in enumerate(value, 1)]
        else:
            told.append(f"{name}: {_pairs(value) if isinstance(value, dict) else _shown(value)}")
    return told


def _pairs(members: dict[str, Any]) -> str:
    return ", ".join(f"{name} {_shown(value)}" for name, value in members.items() if value != "")


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _field(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise ConfigError(f"--header takes 'Name: value', not {text!r}")
    return name.strip().lower(), value.strip()


def _request(file: Path, path: str, fields: list[tuple[str, str]]) -> dict[str, Any]:
    """What the control API takes.

    :raises ConfigError: the file cannot be read, or holds no request
    """
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{file} is not JSON: {error}") from None
    headers: dict[str, str] = {}
    if isinstance(value, dict) and isinstance(value.get("body"), dict):
        path = value.get("path") or value.get("url") or path
        headers = {str(name).lower(): str(each) for name, each in (value.get("headers") or {}).items()}
        text = json.dumps(value["body"])
    return {"path": path, "headers": headers | dict(fields), "body": text}
