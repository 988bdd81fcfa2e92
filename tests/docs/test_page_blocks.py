"""What every page shows is right as far as it can be told without running it.

Pages whose blocks can be run where the tests are have tests of their own, which run them.  What is left needs models of
gigabytes, providers, a cluster, or a machine's own files: of that, configurations are read, commands parsed, data decoded.
"""

from __future__ import annotations

import base64
import json
import re
import shlex
import tomllib

import pytest
import yaml
from doc_pages import Page, command, pages

from penstock.cli import COMMANDS
from penstock.config.load import parse
from penstock.errors import ConfigError
from penstock.optimize.recipe import read_recipe

BLOCKS = [
    pytest.param(block, id=f"{name}:{number}")
    for name in pages()
    for number, block in enumerate(Page(name).blocks, 1)
]
KNOWN = {"", "console", "json", "mermaid", "proto", "python", "sh", "sql", "text", "toml", "yaml"}
# What an excerpt may leave to the rest of its file, or to the machine that it is for.
LEFT_OUT = re.compile(
    r": there is no (?:upstream|model|key|directory) |cannot be read: No such file|set limits\.redis"
    r"|webhooks\.path: is missing"
)
SET = {"WEBHOOK_SECRET": "whsec_" + base64.b64encode(bytes(24)).decode(), "REDIS_URL": "redis://127.0.0.1"}


def blocks(*languages):
    found = [each for each in BLOCKS if each.values[0].language in languages]
    assert found
    return pytest.mark.parametrize("block", found)


def faults(text):
    """What is wrong with a configuration, but for what an excerpt leaves out."""
    environ = {name: SET.get(name, "x") for name in re.findall(r"\$\{([A-Z_]+)", text)}
    try:
        parse(text, environ=environ)
    except ConfigError as error:
        return [str(mistake) for mistake in error.mistakes if not LEFT_OUT.search(str(mistake))]
    return []


def whole(text):
    """An excerpt, indented as it stands in its section, with the keys above it."""
    above = ("models:", "  m:", "    cache:", "      prefetch:")
    indent = (len(text) - len(text.lstrip(" "))) // 2
    if indent:
        return "\n".join([*above[:indent], text]), True
    return text, False


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_says_what_it_is(block):
    assert block.language in KNOWN


@blocks("yaml")
def test_yaml_is_a_configuration_or_a_recipe_or_for_another_program(block, tmp_path):
    text, is_part = whole(block.text)
    given = yaml.safe_load(text)
    if "scrape_configs" in given:
        return  # Prometheus'
    if "model" in given:
        (tmp_path / "recipe.yaml").write_text(text)
        assert read_recipe(tmp_path / "recipe.yaml").steps
        return
    assert [line for line in faults(text) if not (is_part and "required key is missing" in line)] == []


def test_what_is_wrong_in_an_excerpt_is_found():
    assert faults("models: {m: {candidates: [{upstream: elsewhere}]}}") == []
    assert len(faults("models: {m: {candidate: [{upstream: elsewhere}]}}")) == 2


@blocks("json")
def test_json_is_json_whole_or_line_by_line(block):
    try:
        json.loads(block.text)
    except ValueError:
        assert [json.loads(line) for line in block.text.splitlines()]


@blocks("toml")
def test_toml_is_toml(block):
    assert tomllib.loads(block.text)


@blocks("python")
def test_python_compiles(block):
    compile(block.text, "block", "exec")


def shown_commands():
    for name in pages():
        for block in Page(name).blocks:
            if block.language in {"console", "sh"}:
                text = block.text.replace("\\\n", " ")
                for line in re.findall(r"^(?:\$ )?penstock (.+)$", text, re.MULTILINE):
                    yield pytest.param(line, id=f"{name}: {line[:40]}")


@pytest.mark.parametrize("line", list(shown_commands()))
def test_a_command_would_be_understood(line):
    words = shlex.split(re.split(r" [|>&<] ?", line)[0].replace("[FILE]", "penstock.yaml"), comments=True)
    assert words[0] in COMMANDS
    found, name = command(words[0]), words[0]
    words = words[1:]
    while hasattr(found, "commands") and words:
        name = f"{name} {words[0]}"
        found, words = found.commands[words[0]], words[1:]
    assert not found.make_context(name, words, resilient_parsing=False).args
