"""The page about commands has every command, argument, option and environment variable, and no others."""

from __future__ import annotations

import re
import shlex

import pytest
from doc_pages import Page, command, options

from penstock.cli import COMMANDS
from penstock.cli.ledger import Grouping, parse_since
from penstock.cli.log import Field
from penstock.cli.serve import LogFormat, Server
from penstock.config.providers import PROVIDERS

PAGE = Page("docs/commands.md")
TOLD = re.findall(r"^## `penstock ([a-z -]+)`$", PAGE.text, re.MULTILINE)


def commands():
    """Every command, with the sub-commands of those that have some."""
    for name in COMMANDS:
        found = command(name)
        for inner in getattr(found, "commands", {}) or [""]:
            yield f"{name} {inner}".strip()


def test_every_command_has_a_section():
    assert list(commands()) == TOLD


@pytest.mark.parametrize("name", [name for name in TOLD if name != "replay"])
def test_a_section_has_every_option_of_its_command(name):
    section = PAGE.section(f"`penstock {name}`")
    assert set(re.findall(r"--[a-z][a-z0-9-]+", section)) == options(*name.split())


@pytest.mark.parametrize("name", TOLD)
def test_a_section_shows_a_command_that_would_run(name):
    """As far as its words go: arguments, options and what they take."""
    section = PAGE.section(f"`penstock {name}`")
    shown = re.search(r"^penstock (.*)$", section, re.MULTILINE)[1].partition(" >")[0].partition(" <")[0]
    words = shlex.split(shown.replace("[FILE]", "penstock.yaml"))[len(name.split()) :]
    found = command(*name.split())
    context = found.make_context(name, words, resilient_parsing=False)
    assert not context.args


@pytest.mark.parametrize(
    ("name", "choices"), [("ledger", Grouping), ("log", Field), ("serve", Server), ("serve", LogFormat)]
)
def test_choices_are_those_of_the_command(name, choices):
    named = set(re.findall("`([a-z]+)`", PAGE.section(f"`penstock {name}`")))
    assert {each.value for each in choices} <= named


def test_ages_and_dates_are_understood():
    row = re.search(r"^\| `--since 7d` \| (.*)$", PAGE.text, re.MULTILINE)[1]
    shown = re.findall("`([^`]+)`", row)
    assert len(shown) == 7
    for each in shown:
        parse_since(each, 2e9)


def test_every_environment_variable_is_named():
    of_options = {
        parameter.envvar
        for name in commands()
        for parameter in command(*name.split()).params
        if parameter.envvar
    }
    named = set(re.findall("`([A-Z_]{6,})`", PAGE.section("Environment variables")))
    assert of_options <= named
    configuration = Page("docs/configuration.md").section("Without a file")
    for provider in PROVIDERS:
        of_headers = [variable for variable, _ in provider.header_variables]
        for variable in (*provider.key_variables, *provider.url_variables, *of_headers):
            assert f"`{variable}`" in configuration
    assert "`OLLAMA_HOST`" in configuration


def test_the_root_has_no_other_options():
    told = set(re.findall(r"--[a-z][a-z0-9-]+", PAGE.text.partition("## ")[0]))
    assert told == options() | {"--help"}
