"""What web pages may not do to the control port.

Whoever runs a browser beside the gateway lends its place to every page that it shows.  Two doors are shut here:

- a page of another origin cannot have anything *done*: reloads, drains, purges (``wire.pages``);
- where there is no ``control_key`` and the port is reached over the loopback interface, which is then all that keeps
  others out, the request must be for a name that is nobody's in the world: ``localhost``, an address, a name without
  dots.  Else a page could give its own name the address of this machine, and read what is here as its own ("DNS
  rebinding").
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import TYPE_CHECKING

from fastapi.responses import JSONResponse

from penstock.wire.pages import is_foreign

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

_READING = frozenset({"GET", "HEAD", "OPTIONS"})


class PagesKeptOut:
    """An ASGI application in front of another.

    :param is_keyed: whether the port wants a key, which no page has
    """

    def __init__(self, application: ASGIApp, is_keyed: Callable[[], bool]) -> None:
        self._application = application
        self._is_keyed = is_keyed

    def __repr__(self) -> str:
        return f"<PagesKeptOut of {self._application!r}>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        why = self._why_not(scope) if scope["type"] == "http" else ""
        if why:
            await JSONResponse({"detail": why}, 403)(scope, receive, send)
        else:
            await self._application(scope, receive, send)

    def _why_not(self, scope: Scope) -> str:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        if scope["method"] not in _READING and is_foreign(headers):
            return "a page of another origin may not do this"
        if self._is_keyed() or not _is_loopback(scope.get("server")):
            return ""
        if is_nobodys(headers.get(b"host", b"").decode("latin-1")):
            return ""
        return "without a control_key this port is for localhost, by that name or by its address: set one, or use these"


def is_nobodys(host: str) -> bool:
    """Whether no stranger can own the name in a ``Host`` field: one without dots, or that of this machine, or an address."""
    name = host.lower().rstrip(".")
    if name.startswith("["):
        name = name[1:].partition("]")[0]
    elif ":" in name:
        name = name.rpartition(":")[0]
    if "." not in name.rstrip(".") or name.endswith(".localhost"):
        return True
    return _is_address(name)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_loopback(server: tuple[str, int | None] | None) -> bool:
    """Whether the end of the connection that is ours has an address that only this machine reaches."""
    return server is not None and _is_address(server[0]) and ipaddress.ip_address(server[0]).is_loopback
