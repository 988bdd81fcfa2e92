"""The pages about decisions have their form, and what they say of imports is so."""

from __future__ import annotations

import re

import pytest
from doc_pages import ROOT, Page, python

PAGES = sorted((ROOT / "docs" / "decisions").glob("*.md"))


def test_they_are_numbered_without_gaps():
    assert [int(path.name[:4]) for path in PAGES] == list(range(1, len(PAGES) + 1))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_each_has_context_options_choice_and_consequences(path):
    page = Page(str(path.relative_to(ROOT)))
    assert page.text.startswith(f"# {int(path.name[:4])}. ")
    assert re.findall("^## (.*)$", page.text, re.MULTILINE) == [
        "Context",
        "Options",
        "Choice",
        "Consequences",
    ]


def test_a_worker_imports_no_web_framework():
    """Decision 3: the control API costs callers nothing."""
    printed = python(
        "import sys, penstock.admin.worker, penstock.gateway.compose, penstock.net.listener\n"
        "print([name for name in ('fastapi', 'uvicorn', 'pydantic', 'starlette') if name in sys.modules])"
    )
    assert printed == "[]\n"
