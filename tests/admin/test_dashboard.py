"""The page on the control port: it asks for what there is, and nothing else may be loaded or run."""

import re
from pathlib import Path
from unittest.mock import Mock

from fastapi.testclient import TestClient

from penstock.admin.control import make_app
from penstock.admin.dashboard import page, policy

METRICS = Path(__file__).parents[2] / "docs" / "metrics.md"


def test_it_is_the_first_page_and_asks_for_no_key():
    answer = TestClient(make_app(Mock())).get("/")
    assert (answer.status_code, answer.text) == (200, page())
    assert answer.headers["content-security-policy"] == policy()


def test_it_asks_for_paths_that_are_there():
    paths = make_app(Mock()).openapi()["paths"]
    asked = set(re.findall(r'["`]((?:v1/|readyz|metrics)[a-z/]*)', page()))
    assert asked == {"v1/ledger", "readyz", "metrics"}
    assert {f"/{path}" for path in asked} <= set(paths)


def test_it_reads_metrics_that_are_there():
    told = set(re.findall(r"`(penstock_\w+)`", METRICS.read_text()))
    read = set(re.findall(r'"(penstock_[a-z_]+)"', page())) - {"penstock_first_token_seconds_count"}
    assert len(read) >= 4
    assert read <= told


def test_nothing_comes_from_elsewhere():
    assert "://" not in page()
    assert "innerHTML" not in page()  # what callers name is text, never markup
    assert "default-src 'none'" in policy()
    assert "unsafe-inline" not in policy().partition("script-src")[2].partition(";")[0]
