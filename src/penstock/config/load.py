"""Reads a configuration: all of its mistakes at once, each with file, line, column and full key.

Nothing here changes anything outside, so that a running gateway can read a changed file and keep what it
has when the new one is wrong.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml

from penstock.config import _meaning
from penstock.config._reading import TOO_MANY, Mistake, Reader, TooManyNodes
from penstock.config.key_file import with_more
from penstock.config.model import Config
from penstock.config.references import files
from penstock.errors import ConfigError

MAX_BYTES = 4_194_304  # a configuration; more than Kubernetes would hold in a ConfigMap by far


def load(path: str | os.PathLike[str], environ: Mapping[str, str] | None = None) -> Config:
    """The configuration in the file at ``path``.

    :param environ: what references such as ``${NAME}`` are looked up in; the process's own by default
    :raises penstock.errors.ConfigError: it cannot be read or used; ``mistakes`` has one line for each fault
    """
    name = os.fspath(path)
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise _refused(name, [Mistake(0, 0, "", f"cannot be read: {error.strerror}")]) from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line, column = before.count(b"\n") + 1, error.start - (before.rfind(b"\n") + 1) + 1
        raise _refused(name, [Mistake(line, column, "", "is not UTF-8 text")]) from None
    return parse(text, name, environ)


def referenced_files(path: str | os.PathLike[str]) -> list[Path]:
    """The files whose contents are values of the configuration at ``path`` (``${file:…}``); none, if it is no YAML."""
    try:
        tokens = list(yaml.scan(Path(path).read_text("utf-8-sig"), Loader=yaml.SafeLoader))
    except (OSError, ValueError, OverflowError, yaml.YAMLError):
        return []
    found = [files(token.value) for token in tokens if isinstance(token, yaml.ScalarToken)]
    return sorted(map(Path, set().union(*found)))


def parse(text: str, name: str = "<text>", environ: Mapping[str, str] | None = None) -> Config:
    """The configuration in ``text``; ``name`` is what mistakes call it.

    :raises penstock.errors.ConfigError: as :func:`load`
    """
    if len(text) > MAX_BYTES:
        raise _refused(name, [Mistake(0, 0, "", f"is larger than {MAX_BYTES} bytes")])
    try:
        node = _composed(text)
    except yaml.MarkedYAMLError as error:
        raise _refused(name, [_syntax_mistake(error, text)]) from None
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        line, column = before.count("\n") + 1, error.position - (before.rfind("\n") + 1) + 1
        raise _refused(
            name, [Mistake(line, column, "", "holds a character that YAML does not allow")]
        ) from None
    except RecursionError:
        raise _refused(name, [Mistake(0, 0, "", "is nested too deep")]) from None
    if node is None or node.tag == "tag:yaml.org,2002:null":
        # What an editor leaves for a moment while it writes; to take it for a configuration would, on
        # reload, drop every model.
        raise _refused(name, [Mistake(0, 0, "", "is empty")])

    reader = Reader(os.environ if environ is None else environ)
    try:
        plain = reader.read(node, Config)
    except TooManyNodes:
        raise _refused(name, [Mistake(0, 0, "", TOO_MANY)]) from None
    if isinstance(plain, dict):
        _meaning.check(plain, reader)
    if reader.mistakes:
        raise _refused(name, reader.mistakes)
    _meaning.fill_in(plain)
    try:
        config = msgspec.convert(plain, Config, dec_hook=_as_it_is)
    except msgspec.ValidationError as error:  # a rule of the model that the reader does not know
        raise _refused(name, [Mistake(0, 0, "", str(error))]) from error
    return with_more(config)


def _composed(text: str) -> yaml.Node | None:
    loader = yaml.SafeLoader(text)
    try:
        return loader.get_single_node()
    except (ValueError, OverflowError):  # PyYAML makes a character of any number: "\\UFFFFFFFF"
        raise yaml.MarkedYAMLError(
            problem="there is no character of this number", problem_mark=loader.get_mark()
        ) from None


def _as_it_is(_: type, value: Any) -> Any:
    """The reader has made every secret already."""
    return value


def _syntax_mistake(error: yaml.MarkedYAMLError, text: str) -> Mistake:
    # Never str(error): it quotes the line, and a secret may stand in it.
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
    if mark and text.startswith("${", mark.index - 1):
        # Unquoted, the brace ends the value: the mistake that everybody makes once.
        return Mistake(line, column - 1, "", 'within { } or [ ] a reference must be quoted: "${NAME}"')
    context = f" ({error.context})" if error.context else ""
    return Mistake(line, column, "", f"is no YAML: {error.problem or 'it cannot be read'}{context}")


def _refused(name: str, mistakes: list[Mistake]) -> ConfigError:
    lines = tuple(mistake.at(name) for mistake in sorted(set(mistakes)))
    count = "1 mistake" if len(lines) == 1 else f"{len(lines)} mistakes"
    return ConfigError(f"{name} has {count}", lines)
