"""What the README says works as pasted."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tomllib

import pytest
from doc_pages import PATIENCE, ROOT, Page, python, run

from penstock.config.load import parse
from penstock.config.remarks import remarks

README = Page("README.md")


@pytest.fixture
def here(gateway):
    """A block of the README as it stands, but for the port."""
    return lambda text: text.replace("http://127.0.0.1:8080", gateway.url)


def block(language, number=0):
    return [found.text for found in README.blocks if found.language == language][number]


def shape(value):
    """The members of an answer, without what differs from call to call."""
    if isinstance(value, dict):
        return {name: shape(member) for name, member in value.items() if name not in ("id", "created")}
    return value


def test_it_is_short():
    assert len(README.text.splitlines()) < 120


def test_the_curl_prints_what_it_shows(here):
    command = next(found.text for found in README.blocks if found.text.startswith("curl"))
    printed = run(*shlex.split(here(command)))
    assert shape(json.loads(printed)) == shape(json.loads(block("json")))


def test_the_sdk_prints_what_it_shows(here):
    assert python(here(block("python"))).strip() == block("text").strip()


def test_the_sdk_example_has_five_lines():
    assert len([line for line in block("python").splitlines() if line and not line.startswith("from")]) == 4


def test_the_commands_are_there():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    commands = [found.text.strip() for found in README.blocks if found.language == "console"]
    assert commands[:2] == ["make serve", "make test"]
    assert {command.split()[1] for command in commands[:2]} <= targets
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"penstock": "penstock.cli:main"}


def test_make_serve_starts_a_gateway():
    """With this environment in the place of one made anew."""
    words = [
        "make",
        "-C",
        ROOT,
        "--no-print-directory",
        "-o",
        ".venv/.bare",
        "-o",
        ".venv/.engine",
        "serve",
        f"PYTHON={sys.executable}",
    ]
    arguments = "examples/sim.yaml --listen 127.0.0.1:0 --control 127.0.0.1:0"
    process = subprocess.Popen(
        [*words, f"ARGS={arguments}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        process_group=0,
    )
    try:
        greeting = process.stdout.readline()
        assert re.fullmatch(r"Penstock serves http://127\.0\.0\.1:\d+/v1\n", greeting)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(PATIENCE)
        process.stdout.close()


def test_the_configuration_is_right():
    config = parse(block("yaml"), environ={"OPENAI_API_KEY": "o", "ANTHROPIC_API_KEY": "a"})
    assert remarks(config) == []
