"""The control API's ``/docs``: what each path answers, as one page that needs nothing from elsewhere.

FastAPI's own page loads its script from a public network, which a gateway's machine often cannot reach,
and which nobody should have to trust with a control port.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:50em;margin:2em auto;padding:0 1em}"
    "code{font-size:.95em}dt{margin-top:1em}dd{margin-left:1.5em}"
    "@media(prefers-color-scheme:dark){body{background:#111;color:#ddd}a{color:#8bf}}"
)


def render(description: Mapping[str, Any]) -> str:
    """:param description: of the API, as ``/openapi.json`` has it"""
    info = description["info"]
    return "".join(
        (
            '<!doctype html><html lang="en"><meta charset="utf-8">',
            f"<title>{escape(info['title'])}</title><style>{_STYLE}</style>",
            f"<h1>{escape(info['title'])} {escape(info['version'])}</h1>",
            f"<p>{_code(info.get('description', ''))}</p>",
            "<dl>",
            *_entries(description["paths"]),
            '</dl><p>With the form of every answer: <a href="openapi.json">openapi.json</a></p></html>\n',
        )
    )


def _entries(paths: Mapping[str, Mapping[str, Any]]) -> Iterable[str]:
    for path, methods in paths.items():
        for method, operation in methods.items():
            shown = f"<code>{method.upper()} {escape(path)}</code>"
            if method == "get" and "{" not in path:
                shown = f'<a href="{escape(path[1:])}">{shown}</a>'
            locked = (
                " (asks for <code>control_key</code> where one is set)" if "security" in operation else ""
            )
            yield f"<dt>{shown}{locked}</dt><dd>{_code(operation.get('description', ''))}</dd>"


def _code(text: str) -> str:
    """Escaped, with what stands between back-quotes as code."""
    pieces = escape(text.replace("``", "`")).split("`")
    return "".join(f"<code>{piece}</code>" if index % 2 else piece for index, piece in enumerate(pieces))
