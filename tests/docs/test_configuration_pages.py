"""The manual of the configuration, the example and the list of dependencies say what is so."""

import re
import tomllib
from pathlib import Path

import pytest

from penstock.admin.fixed import NEEDS_RESTART
from penstock.cli import COMMANDS
from penstock.config.discover import LOCAL_SERVERS
from penstock.config.load import load, parse
from penstock.config.model import Config
from penstock.config.providers import PROVIDERS
from penstock.config.remarks import remarks
from penstock.config.schema import keys

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")


def test_every_key_is_mentioned():
    for key in keys():
        section, _, name = key.rpartition(".")
        table = PAGE.partition(f"### `{section}`\n" if section else "### The top level\n")[2].partition(
            "\n### "
        )[0]
        assert f"| `{name}` |" in table, key


def test_its_examples_are_right():
    examples = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert len(examples) == 2
    for example in examples:
        text = example if "upstreams:" in example else "upstreams: {openai: {kind: openai}}\n" + example
        parse(text, environ={"OPENAI_API_KEY": "k"})


def test_what_needs_a_restart_is_said():
    (sentence,) = re.findall(r"Taken at the start only: (.*?)\n", PAGE)
    assert {*NEEDS_RESTART, "tls"} == set(re.findall("`([a-z_]+)`", sentence))


def test_what_is_looked_for_without_a_file_is_said():
    for provider in PROVIDERS:
        assert f"`{provider.key_variables[0]}`" in PAGE
    for server in LOCAL_SERVERS:
        assert str(server.port) in PAGE


def test_commands_that_it_names_exist():
    assert set(re.findall(r"`penstock ([a-z-]+)", PAGE)) <= set(COMMANDS)


@pytest.mark.parametrize(
    "environ", [{}, {"OPENAI_API_KEY": "k", "PENSTOCK_CONTROL_KEY": "c", "PENSTOCK_WORKERS": "2"}]
)
def test_the_example_passes_check_without_and_with_its_variables(environ):
    config = load(ROOT / "examples" / "penstock.yaml", environ)
    assert isinstance(config, Config)
    assert len(config.models) == 5
    assert not [remark for remark in remarks(config) if "has no api_key" not in remark]


def test_every_dependency_has_its_sentence():
    page = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    lists = [
        project["project"]["dependencies"],
        *project["project"].get("optional-dependencies", {}).values(),
        *project["dependency-groups"].values(),
        project["build-system"]["requires"],
    ]
    declared = {
        re.match(r"[A-Za-z0-9_.-]+", item)[0] for group in lists for item in group if isinstance(item, str)
    }
    described = dict(re.findall(r"^- \*\*([A-Za-z0-9_.-]+)\*\*[^:\n]*: (.+\.)$", page, re.MULTILINE))
    assert set(described) == declared
