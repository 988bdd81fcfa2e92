"""Tools in namespaces, for upstreams whose tools have none.

Codex groups functions under a name (``{"type": "namespace", "name": "agents", "tools": [...]}``), and wants to read of
a call in which group it stands.  Such an upstream is offered each function under both names, ``agents__close``; in the
answer they are taken apart again, by the request's own tools and not by the look of the name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from penstock.errors import BadRequest
from penstock.messages import JSON
from penstock.wire.not_json import NOT_JSON

_BETWEEN: Final = "__"
_MARK: Final = b'"namespace"'
_decode = msgspec.json.Decoder(list[dict[str, Any]] | None).decode


def flat_name(namespace: str | None, name: str) -> str:
    """The one name of a function, for an upstream."""
    return f"{namespace}{_BETWEEN}{name}" if namespace else name


def flat(tools: Iterable[dict[str, JSON]], where: str) -> Iterator[tuple[dict[str, JSON], str, str]]:
    """Every tool, where it stands in the request, and the name that it has only for upstreams (else empty).

    What the namespace says of itself stands before what its first tool says: a model reads all of them.

    :raises BadRequest: a namespace without a name or without tools
    """
    for index, tool in enumerate(tools):
        at = f"{where}[{index}]"
        if tool.get("type") != "namespace":
            yield tool, at, ""
            continue
        namespace, inner, about = tool.get("name"), tool.get("tools"), tool.get("description")
        if not isinstance(namespace, str) or not namespace:
            raise BadRequest(f"{at} must have a name", param=f"{at}.name", code="missing_parameter")
        if not isinstance(inner, list) or not all(isinstance(each, dict) for each in inner):
            raise BadRequest(f"{at} must have an array of tools", param=f"{at}.tools", code="invalid_type")
        if about and inner:
            inner = [
                {**inner[0], "description": f"{about}\n\n{inner[0].get('description') or ''}".rstrip()},
                *inner[1:],
            ]
        for number, each in enumerate(inner):
            yield each, f"{at}.tools[{number}]", flat_name(namespace, str(each.get("name") or ""))


def namespaces_of(tools: msgspec.Raw) -> dict[str, tuple[str, str]]:
    """Namespace and name of each function that has one, by the name that the upstream knows; ``tools`` is JSON."""
    if _MARK not in bytes(tools):
        return {}
    try:
        found = flat(_decode(tools) or (), "tools")
        return {
            name: (name.removesuffix(_BETWEEN + each["name"]), each["name"])
            for each, _, name in found
            if name and isinstance(each.get("name"), str)
        }
    except (BadRequest, *NOT_JSON):  # no business of this: decode_prompt refuses it
        return {}
