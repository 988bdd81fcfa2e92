"""References in values: ``${NAME}``, ``${NAME:-default}``, ``${file:/path}``; ``$${`` is a plain ``${``.

As in a shell, ``:-`` gives the default where the variable is unset *or empty*.  What a reference stood
for is never part of a message.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

MAX_FILE_BYTES = 65_536  # a secret, not a document

_REFERENCE = re.compile(
    r"""
    \$\$\{                                                  # escaped
    | \$\{ (?P<name> [A-Za-z_][A-Za-z0-9_]* ) (?: :- (?P<default> [^}]* ) )? \}
    | \$\{ file: (?P<path> [^}]+ ) \}
    | \$\{ (?P<wrong> [^}]* ) \}?
    """,
    re.VERBOSE,
)


def has_reference(text: str) -> bool:
    return "${" in text


def expand(text: str, environ: Mapping[str, str]) -> tuple[str, list[str]]:
    """The text with its references resolved, and what is wrong with those that cannot be."""
    problems: list[str] = []

    def resolved(found: re.Match[str]) -> str:
        if found.group() == "$${":
            return "${"
        if name := found["name"]:
            if found["default"] is not None:
                return environ.get(name) or found["default"]
            if name not in environ:
                problems.append(f"environment variable {name} is not set")
                return ""
            return environ[name]
        if path := found["path"]:
            return _contents(path, problems)
        problems.append("a reference is ${NAME}, ${NAME:-default} or ${file:/path}; $${ stands for ${ itself")
        return ""

    return _REFERENCE.sub(resolved, text), problems


def _contents(path: str, problems: list[str]) -> str:
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            problems.append(f"file {path} is larger than {MAX_FILE_BYTES} bytes")
            return ""
        # One line end, as an editor or `echo` leaves it, is not part of the secret.
        return data.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        problems.append(f"file {path} is not UTF-8 text")
    except OSError as error:
        problems.append(f"file {path} cannot be read: {error.strerror}")
    return ""


def files(text: str) -> set[str]:
    """The files that the text refers to."""
    return {match["path"] for match in _REFERENCE.finditer(text) if match["path"]}


def variables(text: str) -> set[str]:
    """The environment variables that the text refers to, those with a default left out."""
    found = _REFERENCE.finditer(text)
    return {match["name"] for match in found if match["name"] and match["default"] is None}
