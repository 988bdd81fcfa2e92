"""What commands ask a running gateway, at its control port."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

import typer

from penstock.errors import ConfigError

_PATIENCE = 15.0  # seconds
_LONGEST = 4_096  # bytes of an error that are read

CONTROL = typer.Option("http://127.0.0.1:8081", "--control", help="The gateway's control URL.")
CONTROL_KEY = typer.Option("", "--control-key", envvar="PENSTOCK_CONTROL_KEY", help="The key for it.")


def ask(
    control: str, key: str, path: str, body: dict[str, Any] | None = None, *, method: str = ""
) -> dict[str, Any]:
    """What the control API answers.

    :param body: none: the request has none
    :param method: empty: GET without a body, POST with one
    :raises ConfigError: it does not answer, or refuses
    """
    request = urllib.request.Request(  # noqa: S310 - whatever the user names
        control.rstrip("/") + path,
        None if body is None else json.dumps(body).encode(),
        {"content-type": "application/json"},
        method=method or None,
    )
    if key:
        request.add_header("authorization", f"Bearer {key}")
    try:
        with urllib.request.urlopen(request, timeout=_PATIENCE) as answer:  # noqa: S310
            found: dict[str, Any] = json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            raise ConfigError(f"{control} says {error.code}: {_said(error.read(_LONGEST))}") from error
    except urllib.error.URLError as error:
        why = error.reason.strerror if isinstance(error.reason, OSError) else error.reason
        raise ConfigError(
            f"{control} does not answer ({why}): is the gateway there, and is this its control port?"
        ) from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{control} does not answer: {error}") from error
    return found


def _said(body: bytes) -> str:
    """The sentence of an error, which stands under ``detail``."""
    try:
        detail = json.loads(body)["detail"]
    except (ValueError, LookupError, TypeError):
        return body.decode(errors="replace")[:300]
    return detail if isinstance(detail, str) else json.dumps(detail)
