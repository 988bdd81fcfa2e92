"""Every method of the official SDKs, and the request that it makes, as its source has it."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Iterator
from typing import NamedTuple

import anthropic
import openai

_REQUEST = re.compile(
    r'self\._(get_api_list|get|post|put|patch|delete)\(\s*(?:path_template\(\s*)?f?"([^"]+)"', re.DOTALL
)


class Method(NamedTuple):
    """``path`` has ``{}`` for each id; empty: what it asks for is another method's affair, or no request at all."""

    name: str  # without "beta."
    verb: str = ""
    path: str = ""


def methods_of(sdk: str) -> list[Method]:
    """All methods of the resources of one SDK, ``openai`` or ``anthropic``."""
    if sdk == "openai":
        with openai.OpenAI(api_key="none", admin_api_key="none") as client:
            return sorted(set(_methods(client, "/v1", ())))
    with anthropic.Anthropic(api_key="none") as claude:
        return sorted(set(_methods(claude, "", ())))


def _methods(resource: object, base: str, names: tuple[str, ...]) -> Iterator[Method]:
    kind = type(resource)
    for name in dir(kind):
        if name.startswith(("_", "with_")):
            continue
        found = inspect.getattr_static(kind, name)
        if isinstance(found, functools.cached_property | property):
            inner = getattr(resource, name)
            if ".resources." in type(inner).__module__:
                yield from _methods(inner, base, names if name == "beta" else (*names, name))
        elif inspect.isfunction(found) and ".resources." in found.__module__:
            yield from _requests(".".join((*names, name)), inspect.getsource(found), base)


def _requests(name: str, source: str, base: str) -> Iterator[Method]:
    found = _REQUEST.findall(source)
    for kind, path in found:
        posted = kind == "get_api_list" and 'method="post"' in source
        verb = "POST" if posted else "GET" if kind == "get_api_list" else kind.upper()
        yield Method(name, verb, base + re.sub(r"\{[^}]*\}", "{}", path.partition("?")[0]))
    if not found:
        yield Method(name)
