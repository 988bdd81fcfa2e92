"""``penstock drain``: tell a running gateway that an upstream is going away."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

import typer

from penstock.errors import ConfigError

_PATIENCE = 10.0  # seconds
_SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0}


def drain(
    upstream: str = typer.Argument(..., help="Its name in the configuration."),
    notice: str = typer.Option("", "--in", help="When it goes, as 30s, 2m or 1h; if not said, some time."),
    undo: bool = typer.Option(False, "--undo", help="It stays after all, or is back."),
    control: str = typer.Option("http://127.0.0.1:8081", "--control", help="The gateway's control URL."),
    control_key: str = typer.Option(
        "", "--control-key", envvar="PENSTOCK_CONTROL_KEY", help="The key for it."
    ),
) -> None:
    """Give an upstream no new calls, and have its answers go on elsewhere before it goes.

    What is said holds for all workers of the gateway, over reloads, and until it is undone.
    """
    if undo and notice:
        raise ConfigError("--undo takes no --in")
    told = {"in": seconds(notice)} if notice else {}
    found = _ask(control, control_key, upstream, None if undo else told)
    gone_in = found["gone_in"]
    if not found["leaving"]:
        print(f"{upstream} gets calls")
    elif gone_in is None:
        print(f"{upstream} gets no new calls")
    else:
        print(f"{upstream} gets no new calls, and is gone in {gone_in:.0f} s")


def seconds(text: str) -> float:
    """What a time like 30s means.

    :raises ConfigError: nothing
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|)", text.strip())
    if found is None:
        raise ConfigError(f"--in takes a time like 30s, 2m or 1h, not {text!r}")
    return float(found[1]) * _SECONDS[found[2]]


def _ask(control: str, control_key: str, upstream: str, notice: dict[str, float] | None) -> dict[str, Any]:
    """:raises ConfigError: the control API does not answer, or refuses"""
    where = f"{control.rstrip('/')}/v1/upstreams/{urllib.parse.quote(upstream, safe='')}/drain"
    request = urllib.request.Request(  # noqa: S310 - whatever the user names
        where,
        None if notice is None else json.dumps(notice).encode(),
        {"content-type": "application/json"},
        method="DELETE" if notice is None else "POST",
    )
    if control_key:
        request.add_header("authorization", f"Bearer {control_key}")
    try:
        with urllib.request.urlopen(request, timeout=_PATIENCE) as answer:  # noqa: S310
            found: dict[str, Any] = json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            raise ConfigError(
                f"{control} says {error.code}: {error.read(300).decode(errors='replace')}"
            ) from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{control} does not answer: {error}") from error
    return found
