"""The page about the client names all that it takes and tells, and its examples print what they show."""

from __future__ import annotations

import inspect
import re

import pytest
from doc_pages import Page, python

from penstock import client
from penstock.client._calls import _REFUSED_FOR_NOW
from penstock.client.clients import _RETRY
from penstock.client.options import Options

PAGE = Page("docs/client.md")
BLOCKS = [block for block in PAGE.blocks if block.language in ("python", "text")]
PAIRS = list(zip(BLOCKS[::2], BLOCKS[1::2], strict=True))


def first_cells(section):
    rows = re.findall(r"^\| (`[^|]*) \|", PAGE.section(section), re.MULTILINE)
    return {name for row in rows for name in re.findall("`(\\w+)`", row)}


@pytest.mark.parametrize(("code", "output"), PAIRS, ids=["sdks", "cache", "prompts"])
def test_an_example_prints_what_it_shows(code, output, gateway):
    assert python(code.text.replace("http://127.0.0.1:8080", gateway.url)) == output.text


def test_every_argument_is_there():
    of_options = (set(Options.__struct_fields__) - {"retry"}) | set(_RETRY)
    own = {"library", "http2", "verify", "cert", "limits", "proxy", "trust_env", "transport"}
    assert first_cells("Arguments") == of_options | own
    told = set(re.findall(r":param (\w+):", inspect.getdoc(client.http_client)))
    assert told == of_options | {"library", "http2", "settings"}


def test_every_cache_option_is_there():
    assert first_cells("Keeping answers") - {"CacheOptions"} == set(client.CacheOptions.__struct_fields__)


def test_every_figure_is_there():
    text = PAGE.section("Watching it")
    rates = {"success_rate", "transfer_success_rate"}
    for name in {*client.Statistics.__struct_fields__, *rates, *client.Notice.__struct_fields__}:
        assert f"`{name}`" in text


def test_every_status_that_is_tried_again_is_there():
    line = next(line for line in PAGE.text.splitlines() if line.startswith("**Retries.**"))
    told = {int(each) for each in re.findall(r"\b[45]\d\d\b", line)}
    assert told == _REFUSED_FOR_NOW
