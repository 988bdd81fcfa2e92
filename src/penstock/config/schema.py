"""What editors and readers know of the configuration, made from the model and its comments.

The comment at a key in ``model`` is its description, here, in the JSON Schema, and in the tables of
docs/configuration-reference.md: one sentence in one place.
"""

from __future__ import annotations

import ast
import inspect
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from typing import Any

import msgspec
import msgspec.inspect as types

from penstock.config import model
from penstock.config.model import Config
from penstock.config.secret import Secret

REFERENCE = r"\$\{.+\}"
"""What a value may be instead of a number or a switch: a reference to the environment or a file."""


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of the file, as editors with a YAML language server use it."""
    (root,), components = msgspec.json.schema_components([Config], schema_hook=_schema_of_secret)
    for name, component in components.items():
        struct = getattr(model, name)
        component["description"] = _summary(struct)
        for key, value in component.get("properties", {}).items():
            described = _referable(value)
            if text := comments(struct).get(key):
                described = {**described, "description": text}
            component["properties"][key] = described
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Penstock's configuration",
        **root,
        "$defs": components,
    }


def reference() -> str:
    """The tables of docs/configuration-reference.md: every key, with type, default and description.

    What several sections have in common stands once, at the shortest path to it, which names the others.
    """
    paths: dict[type, list[str]] = {}
    sections: dict[type, types.StructType] = {}
    for struct, path, section in _walk():
        paths.setdefault(struct, []).append(path.rstrip("."))
        sections[struct] = section
    homes = {struct: min(each, key=lambda path: path.count(".")) for struct, each in paths.items()}
    parts = [_index(list(homes.values()))]
    for struct, home in homes.items():
        others = [path for path in paths[struct] if path != home]
        parts.append(_section(struct, sections[struct], home, others, homes))
    return "\n\n".join(parts)


def keys() -> list[str]:
    """Every key in full, with ``NAME`` and ``[]`` where names and lists stand: ``upstreams.NAME.kind``."""
    return [
        key for _, path, section in _walk() for key in (path + field.encode_name for field in section.fields)
    ]


@cache
def comments(struct: type) -> dict[str, str]:
    """Key → the comment that stands behind it in the source of its section, or in the lines above."""
    source = inspect.getsource(struct)
    found = {
        token.start[0]: (token.string.lstrip("# ").strip(), token.line.lstrip().startswith("#"))
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.ClassDef)
    texts = {}
    for line in definition.body:
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            above: list[str] = []
            while (comment := found.get(line.lineno - 1 - len(above), ("", False)))[1]:
                above.insert(0, comment[0])
            text, _ = found.get(line.end_lineno or line.lineno, (" ".join(above), False))
            texts[line.target.id] = text
    return texts


def _schema_of_secret(kind: type) -> dict[str, Any]:
    if kind is Secret:
        return {"type": "string", "minLength": 1, "description": "A secret, such as ${NAME}."}
    raise NotImplementedError(kind)


def _referable(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a key, in which a number, switch or choice may also be a reference."""
    if "enum" in schema or schema.get("type") in ("integer", "number", "boolean"):
        rest = {key: value for key, value in schema.items() if key != "default"}
        default = {"default": schema["default"]} if "default" in schema else {}
        return {"anyOf": [rest, {"type": "string", "pattern": REFERENCE}], **default}
    return schema


def _summary(struct: type) -> str:
    text = inspect.cleandoc(struct.__doc__ or "") if "__doc__" in vars(struct) else ""
    return text.replace("``", "`").replace("\n", " ")


def _walk() -> Iterator[tuple[type, str, types.StructType]]:
    """Every section with the path of its keys, in the order of the model, parents first."""
    pending: list[tuple[str, types.Type]] = [("", types.type_info(Config))]
    while pending:
        path, kind = pending.pop(0)
        assert isinstance(kind, types.StructType)
        yield kind.cls, path, kind
        below = []
        for field in kind.fields:
            steps, inner = _into(field.type)
            if isinstance(inner, types.StructType):
                below.append((f"{path}{field.encode_name}{steps}.", inner))
        pending = below + pending


def _into(kind: types.Type) -> tuple[str, types.Type]:
    """Through optional, list and table to what is inside, with how that is written in a path."""
    if isinstance(kind, types.UnionType):
        (kind,) = (t for t in kind.types if not isinstance(t, types.NoneType))
    if isinstance(kind, types.ListType):
        steps, inner = _into(kind.item_type)
        return f"[]{steps}", inner
    if isinstance(kind, types.DictType):
        steps, inner = _into(kind.value_type)
        return f".NAME{steps}", inner
    return "", kind


def _index(homes: list[str]) -> str:
    """Links to all sections, one line for each key of the top level that has some."""
    lines: dict[str, list[str]] = {}
    for home in filter(None, homes):
        lines.setdefault(home.partition(".")[0].removesuffix("[]"), []).append(
            f"[`{home}`](#{_anchor(home)})"
        )
    return "\n".join(
        ["- [the top level](#the-top-level)", *(f"- {', '.join(each)}" for each in lines.values())]
    )


def _section(
    struct: type, section: types.StructType, home: str, others: list[str], homes: dict[type, str]
) -> str:
    lines = [f"## `{home}`" if home else "## The top level", ""]
    if summary := _summary(struct):
        lines += [summary, ""]
    if others:
        lines += [f"The same keys have {', '.join(f'`{path}`' for path in others)}.", ""]
    lines += ["| key | value | default | |", "|---|---|---|---|"]
    for field in section.fields:
        comment = comments(struct).get(field.encode_name, "").replace("|", "\\|")
        value = _shown_type(field.type)
        _, inner = _into(field.type)
        if isinstance(inner, types.StructType):
            value = f"[{value}](#{_anchor(homes[inner.cls])})"
        lines.append(f"| `{field.encode_name}` | {value} | {_shown_default(field)} | {comment} |")
    return "\n".join(lines)


def _anchor(path: str) -> str:
    """Of a section's heading, as GitHub makes it."""
    return re.sub(r"[^\w-]", "", path.lower())


def _shown_type(kind: types.Type) -> str:
    match kind:
        case types.UnionType(types=several):
            return " or ".join(_shown_type(t) for t in several if not isinstance(t, types.NoneType))
        case types.StrType():
            return "text"
        case types.CustomType():
            return "secret"
        case types.AnyType():
            return "any value"
        case types.BoolType():
            return "`true` or `false`"
        case types.LiteralType(values=values):
            return ", ".join(f"`{value}`" for value in values)
        case types.IntType():
            return "whole number" + _shown_bounds(kind)
        case types.FloatType():
            return "number" + _shown_bounds(kind)
        case types.ListType(item_type=item):
            return f"list of {_plural(item)}"
        case types.DictType(value_type=value):
            return f"name → {_shown_type(value)}"
        case types.StructType():
            return "section"
    raise TypeError(f"the model has a type that this page cannot show: {kind}")


def _plural(kind: types.Type) -> str:
    return {"text": "texts", "section": "sections"}.get(_shown_type(kind), _shown_type(kind))


def _shown_bounds(kind: types.IntType | types.FloatType) -> str:
    bounds = {"≥": kind.ge, ">": kind.gt, "≤": kind.le, "<": kind.lt}
    shown = [f"{sign} {bound:g}" for sign, bound in bounds.items() if bound is not None]
    return f", {', '.join(shown)}" if shown else ""


def _shown_default(field: types.Field) -> str:
    if field.required:
        return "**required**"
    default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
    if default is None:
        return "none"
    if isinstance(default, msgspec.Struct):
        return "its defaults"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, int):
        return f"{default:_}" if default >= 10_000 else str(default)
    if isinstance(default, float):
        return f"{default:g}"
    return f"`{default}`" if default else "empty"
