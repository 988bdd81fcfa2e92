"""``penstock drain``: tell a running gateway that an upstream is going away."""

from __future__ import annotations

import re
import urllib.parse

import typer

from penstock.cli._control import CONTROL, CONTROL_KEY, ask
from penstock.errors import ConfigError

_SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0}


def drain(
    upstream: str = typer.Argument(..., help="Its name in the configuration."),
    notice: str = typer.Option("", "--in", help="When it goes, as 30s, 2m or 1h; if not said, some time."),
    undo: bool = typer.Option(False, "--undo", help="It stays after all, or is back."),
    control: str = CONTROL,
    control_key: str = CONTROL_KEY,
) -> None:
    """Give an upstream no new calls, and have its answers go on elsewhere before it goes.

    What is said holds for all workers of the gateway, over reloads, and until it is undone.
    """
    if undo and notice:
        raise ConfigError("--undo takes no --in")
    told = {"in": seconds(notice)} if notice else {}
    path = f"/v1/upstreams/{urllib.parse.quote(upstream, safe='')}/drain"
    if undo:
        found = ask(control, control_key, path, method="DELETE")
    else:
        found = ask(control, control_key, path, told)
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
