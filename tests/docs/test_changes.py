"""Fragments of the change log have the form that their README asks for."""

from __future__ import annotations

import re

import pytest
from doc_pages import ROOT

FRAGMENTS = [path for path in sorted((ROOT / "changes.d").iterdir()) if path.name != "README.md"]
KINDS = re.search(r"`KIND` is (.*?)\.\n", (ROOT / "changes.d" / "README.md").read_text())[1]


@pytest.mark.parametrize("path", FRAGMENTS, ids=lambda path: path.name)
def test_a_fragment_says_a_sentence_or_two(path):
    assert re.fullmatch(
        rf"[a-z0-9-]+\.({'|'.join(re.findall('[a-z]+', KINDS.replace(' or ', ' ')))})\.md", path.name
    )
    text = path.read_text(encoding="utf-8")
    assert text.endswith(".\n")
    assert text.count("\n") == 1
    assert not text.startswith(("#", "-", "*"))
    assert len(text) < 400


def test_the_explanation_is_short():
    lines = (ROOT / "changes.d" / "README.md").read_text().splitlines()
    assert len([line for line in lines if line]) <= 5
