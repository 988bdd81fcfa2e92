"""The manual of the configuration, the example and the list of dependencies say what is so."""

import re
import tomllib
from pathlib import Path

import pytest

from penstock.cli import COMMANDS
from penstock.config.discover import LOCAL_SERVERS
from penstock.config.load import load, parse
from penstock.config.model import Config
from penstock.config.providers import PROVIDERS
from penstock.config.remarks import remarks
from penstock.config.schema import keys

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
SECTIONS = re.split(
    r"^## ", (ROOT / "docs" / "configuration-reference.md").read_text(encoding="utf-8"), flags=re.MULTILINE
)[1:]


def test_every_key_is_mentioned():
    tables = {}
    for text in SECTIONS:
        head, _, table = text.partition("\n|")
        title, *others = head.split("\n")
        also = re.findall(r"^The same keys have (.*)\.$", "\n".join(others), re.MULTILINE)
        for section in re.findall(r"`([^`]+)`", " ".join([title, *also])) or [""]:
            assert section not in tables, section
            tables[section] = table
    for key in keys():
        section, _, name = key.rpartition(".")
        assert f"| `{name}` |" in tables[section], key


def test_every_key_of_the_top_level_is_for_something():
    table = PAGE.partition("## Which key for what\n")[2].partition("\n## ")[0]
    named = set(re.findall(r"`([a-z_]+)[`.]", table))
    assert {key for key in keys() if "." not in key} - named == set()


def test_what_is_for_something_is_a_key():
    table = PAGE.partition("## Which key for what\n")[2].partition("\n## ")[0]
    names = re.findall(r"`([a-zA-Z_.]+)`", table)
    assert names
    for name in names:
        assert name in keys() or name == "redis", name


def test_its_examples_are_right():
    examples = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert len(examples) == 3
    for example in examples:
        upstreams = "upstreams: {openai: {kind: openai}, vllm: {kind: openai}}\n"
        text = example if "upstreams:" in example else upstreams + example
        parse(text, environ={"OPENAI_API_KEY": "k"})


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
    expected = ("has no api_key", "only the worker that made an answer")
    assert not [remark for remark in remarks(config) if not any(part in remark for part in expected)]


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
