"""The page about penstock.testing names all of it, and its examples print what they show."""

from __future__ import annotations

import re

import pytest
from doc_pages import Page, python

from penstock import testing
from penstock.testing import Step

PAGE = Page("docs/testing.md")
BLOCKS = [block for block in PAGE.blocks if block.language in ("python", "text")]
PAIRS = list(zip(BLOCKS[::2], BLOCKS[1::2], strict=True))


def test_every_public_double_is_there():
    table = PAGE.text.partition("## ")[0]
    assert set(re.findall("`([A-Z]\\w+|[a-z_]+)`", table)) == set(testing.__all__)


def test_every_step_is_there():
    assert set(re.findall(r"^\| `Step\.(\w+)`", PAGE.text, re.MULTILINE)) == set(Step.__members__)


@pytest.mark.parametrize(("code", "output"), PAIRS, ids=["simulator", "gateway", "scripted"])
def test_an_example_prints_what_it_shows(code, output):
    assert (code.language, output.language) == ("python", "text")
    assert python(code.text) == output.text


def test_members_that_are_named_exist():
    for kind, members in (
        (testing.SimulatorProcess, re.findall(r"`simulator\.(\w+)", PAGE.text)),
        (testing.GatewayProcess, re.findall(r"`gateway\.(\w+)", PAGE.text)),
    ):
        assert members
        for member in members:
            assert hasattr(kind, member) or member in kind("", "").__dict__
