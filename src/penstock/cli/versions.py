"""``penstock versions``: new versions on trial at a running gateway."""

from __future__ import annotations

import json
from typing import Any

import typer

from penstock.cli._control import CONTROL, CONTROL_KEY, ask
from penstock.cli._terminal import one_line

versions = typer.Typer(no_args_is_help=True)


_AS_JSON = typer.Option(False, "--json", help="Print what the control API answers.")
_MODEL = typer.Argument(..., help="The model, as the configuration names it.")
_REASON = typer.Option("by hand", "--reason", help="What the log says to it.")


@versions.callback()
def _root() -> None:
    """New versions on trial at a running gateway."""


@versions.command("list")
def list_(control: str = CONTROL, control_key: str = CONTROL_KEY, as_json: bool = _AS_JSON) -> None:
    """Show which versions are on trial, how many calls they get, and how they do."""
    found = ask(control, control_key, "/v1/versions")
    _print(found, found["models"], as_json=as_json)


@versions.command()
def promote(
    model: str = _MODEL,
    wholly: bool = typer.Option(False, "--wholly", help="Give it all calls, not only its next share."),
    reason: str = _REASON,
    control: str = CONTROL,
    control_key: str = CONTROL_KEY,
    as_json: bool = _AS_JSON,
) -> None:
    """Give the new version of a model its next share of the calls."""
    found = ask(
        control, control_key, "/v1/versions/promote", {"model": model, "reason": reason, "wholly": wholly}
    )
    _print(found, [found], as_json=as_json)


@versions.command()
def rollback(
    model: str = _MODEL,
    reason: str = _REASON,
    control: str = CONTROL,
    control_key: str = CONTROL_KEY,
    as_json: bool = _AS_JSON,
) -> None:
    """Give the new version of a model no calls any more."""
    found = ask(control, control_key, "/v1/versions/rollback", {"model": model, "reason": reason})
    _print(found, [found], as_json=as_json)


@versions.command()
def restart(
    model: str = _MODEL,
    reason: str = _REASON,
    control: str = CONTROL,
    control_key: str = CONTROL_KEY,
    as_json: bool = _AS_JSON,
) -> None:
    """Begin the trial of a new version again, with its first share."""
    found = ask(control, control_key, "/v1/versions/restart", {"model": model, "reason": reason})
    _print(found, [found], as_json=as_json)


def lines(models: list[dict[str, Any]]) -> list[str]:
    """The trials for people."""
    if not models:
        return ["no version is on trial"]
    told = []
    for model in models:
        calls, failed = model["calls"], model["failed"]
        told.append(
            f"{model['model']}: version {model['version']} {model['phase'].replace('_', ' ')},"
            f" {100 * model['share']:g} % of the calls"
        )
        told.append(
            f"  {calls['new']} calls, {failed['new']} failed; of the others {calls['others']}, {failed['others']} failed"
        )
        told += [
            f"  {found['criterion'].replace('_', ' ')}: {_shown(found['new'])} instead of {_shown(found['old'])}:"
            f" {found['verdict']}"
            for found in model["findings"]
        ]
        if model["reason"]:
            told.append(f"  decided last: {model['reason']}")
        if model["trouble"]:
            told.append(f"  in trouble: {model['trouble']}")
    return told


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _print(found: dict[str, Any], models: list[dict[str, Any]], *, as_json: bool) -> None:
    print(json.dumps(found, indent=2) if as_json else "\n".join(map(one_line, lines(models))))
