"""The generated parts of the manual are up to date."""

from __future__ import annotations

import importlib.util

import pytest
from doc_pages import ROOT

from penstock.wire import left_out

_spec = importlib.util.spec_from_file_location("update_docs", ROOT / "scripts" / "update_docs.py")
script = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(script)


@pytest.mark.parametrize("part", script.PARTS, ids=lambda part: part.source)
def test_a_part_is_as_its_source_has_it(part):
    text = part.page.read_text(encoding="utf-8")
    assert part.updated(text) == text, "run `make docs`"


def test_everything_left_out_is_listed():
    tables = {name for name, value in vars(left_out).items() if name.isupper() and isinstance(value, dict)}
    listed = script.left_out_table()
    assert tables
    for table in tables:
        for what in getattr(left_out, table):
            assert f"`{what}`" in listed
