"""``penstock schema``: the configuration, described for editors."""

from __future__ import annotations

import enum
import json

import typer

from penstock.config import schema as described


class Form(enum.StrEnum):
    """JSON Schema for editors, or the tables of the manual."""

    json = "json"
    markdown = "markdown"


def schema(
    form: Form = typer.Option(Form.json, "--format", help="JSON Schema, or the manual's tables."),
) -> None:
    """Print the JSON Schema of the configuration.

    Save it beside your file and begin that with `# yaml-language-server: $schema=penstock.schema.json`:
    editors then complete keys and underline mistakes.
    """
    if form is Form.markdown:
        print(described.reference())
    else:
        print(json.dumps(described.json_schema(), indent=2, ensure_ascii=False))
