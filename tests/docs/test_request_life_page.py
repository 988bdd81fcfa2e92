"""The page about the life of a request names what is there."""

from __future__ import annotations

import re

import pytest
from doc_pages import Page, resolve

PAGE = Page("docs/request-life.md")
ROOMS = ("admin", "errors", "flow", "gateway", "generation", "ledger", "messages", "net", "upstream", "wire")
FULL = sorted(name for name in PAGE.named if name.split(".")[0] in ROOMS)
SHORT = sorted(name for name in PAGE.named if re.fullmatch(r"[A-Z]\w+\.\w+", name))


@pytest.mark.parametrize("name", FULL)
def test_names_are_real(name):
    assert resolve(name) is not None


@pytest.mark.parametrize("name", SHORT)
def test_short_names_are_those_of_classes_named_in_full(name):
    kind, member = name.split(".")
    (full,) = {
        resolve(".".join(n.split(".")[: n.split(".").index(kind) + 1])) for n in FULL if kind in n.split(".")
    }
    assert hasattr(full, member)


def test_the_order_is_that_of_the_pipeline():
    """Front half and back half tell every stage that the pipeline imports."""
    source = resolve("gateway.pipeline").__file__
    with open(source, encoding="utf-8") as file:
        imported = set(re.findall(r"from penstock\.gateway\.stages\.(\w+) import", file.read()))
    assert imported <= {name.split(".")[2] for name in FULL if name.startswith("gateway.stages.")}
    assert len(imported) > 6
