"""The page that describes the control API."""

import re
from unittest.mock import Mock

from penstock.admin.control import make_app
from penstock.admin.docs_page import render

DESCRIPTION = make_app(Mock()).openapi()
PAGE = render(DESCRIPTION)


def test_every_path_is_there_with_what_it_does():
    for path, methods in DESCRIPTION["paths"].items():
        for method, operation in methods.items():
            assert f"<code>{method.upper()} {path}</code>" in PAGE
            assert operation["description"]
    assert PAGE.count("where one is set)") == sum(
        "security" in operation for methods in DESCRIPTION["paths"].values() for operation in methods.values()
    )


def test_nothing_is_loaded_from_elsewhere():
    assert re.findall(r"(?:src|href)=\"([^\"]*)\"", PAGE)
    assert not re.findall(r"<script|//|@import|url\(", PAGE)


def test_what_is_said_is_text_and_no_markup():
    page = render(
        {
            "info": {"title": "<b>", "version": "1", "description": "``a<`` & `b`"},
            "paths": {"/<x>": {"post": {}}},
        }
    )
    assert "<h1>&lt;b&gt; 1</h1>" in page
    assert "<code>a&lt;</code> &amp; <code>b</code>" in page
    assert "POST /&lt;x&gt;" in page
