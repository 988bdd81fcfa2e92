"""Pages, their code blocks, and how to run them."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import typer

from penstock.cli import application

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60.0


class Block(NamedTuple):
    """One fenced block: its language and its text."""

    language: str
    text: str


class Page:
    """A page of the documentation."""

    def __init__(self, name: str) -> None:
        self.path = ROOT / name
        self.text = self.path.read_text(encoding="utf-8")

    @property
    def prose(self) -> str:
        """Without its code blocks."""
        return re.sub(r"^```.*?^```$", "", self.text, flags=re.DOTALL | re.MULTILINE)

    @property
    def blocks(self) -> list[Block]:
        return [
            Block(*found)
            for found in re.findall(r"^```(\w*)\n(.*?)^```$", self.text, re.DOTALL | re.MULTILINE)
        ]

    def section(self, title: str) -> str:
        """What stands under a heading, its own sub-headings included."""
        found = re.search(
            rf"^(#+) {re.escape(title)}\n(.*?)(?=^#{{1,6}} |\Z)", self.text, re.DOTALL | re.MULTILINE
        )
        assert found is not None, f"{self.path.name} has no section {title!r}"
        level = len(found[1])
        rest = self.text[found.start(2) :]
        end = re.search(rf"^#{{1,{level}}} ", rest, re.MULTILINE)
        return rest[: end.start()] if end else rest

    @property
    def named(self) -> set[str]:
        """Everything that stands between backticks in the prose."""
        return set(re.findall(r"`([^`\n]+)`", self.prose))

    def __repr__(self) -> str:
        return f"<Page {self.path.name}>"


def command(*words: str) -> typer.core.TyperCommand:
    """A command of ``penstock``, such as ``command("key", "new")``."""
    found = typer.main.get_command(application(words))
    for word in words:
        found = found.commands[word]
    return found


def options(*words: str) -> set[str]:
    """The long options of a command."""
    return {
        name
        for parameter in command(*words).params
        for name in (*parameter.opts, *parameter.secondary_opts)
        if name.startswith("--") and name != "--help"
    }


def resolve(name: str) -> object:
    """What a dotted name below ``penstock`` stands for.

    :raises AttributeError: there is no such thing
    """
    words = ["penstock", *name.removeprefix("penstock.").split(".")]
    for length in range(len(words), 0, -1):
        try:
            found = importlib.import_module(".".join(words[:length]))
        except ModuleNotFoundError:
            continue
        for word in words[length:]:
            found = getattr(found, word)
        return found
    raise AttributeError(name)


def pages() -> list[str]:
    """Every page that readers are given."""
    found = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    return sorted(str(page.relative_to(ROOT)) for page in found)


def run(*command: str, text: str = "", environ: dict[str, str] | None = None) -> str:
    """A command's standard output."""
    done = subprocess.run(
        command, input=text, env=environ, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, (
        f"{shlex.join(command)} ended with {done.returncode}\n{done.stdout}{done.stderr}"
    )
    return done.stdout


def python(code: str) -> str:
    """What a piece of Python prints."""
    return run(sys.executable, "-", text=code)
