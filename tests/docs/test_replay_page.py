"""The page about replaying has every option and every line of the report, and its command runs."""

from __future__ import annotations

import re
import shlex
import sys

import pytest
from doc_pages import ROOT, Page, options, run

PAGE = Page("docs/replay.md")
TRACES = ROOT / "tests" / "lab" / "data"


@pytest.fixture(scope="module")
def printed(gateway):
    """What the page's command prints, with a trace of ours in the place of the one that it names."""
    (command,) = [block.text for block in PAGE.blocks if block.language == "console"]
    _, *words = shlex.split(command)
    words[1] = str(TRACES / "azure_small.csv")
    words = [word.replace("http://127.0.0.1:8081", gateway.control_url) for word in words]
    return run(sys.executable, "-m", "penstock", *words, "--url", gateway.url)


def labels(report):
    """The names of a report's lines."""
    return set(re.findall(r"^ ([a-z][a-z' ]*?)(?:  |\d)", report, re.MULTILINE))


def test_the_report_has_the_lines_that_are_shown(printed):
    (shown,) = [block.text for block in PAGE.blocks if block.language == "text"]
    assert labels(printed) == labels(shown)
    assert len(labels(shown)) > 10
    assert "failed          0" in printed


def test_lines_that_are_explained_are_there(printed):
    table = PAGE.section("Replay it")
    explained = set(re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE))
    assert len(explained) > 4
    assert explained <= labels(printed)


def test_every_option_is_there_and_no_other():
    assert set(re.findall(r"--[a-z][a-z-]+", PAGE.prose)) == options("replay")


def test_both_forms_of_traces_are_described():
    for name in (
        "TIMESTAMP",
        "ContextTokens",
        "GeneratedTokens",
        "timestamp",
        "input_length",
        "output_length",
    ):
        assert f"`{name}`" in PAGE.text
