"""The page about operating says what is so: figures, fields, settings."""

from __future__ import annotations

import re

import pytest
from doc_pages import Page

from penstock import logs
from penstock.admin import backoff
from penstock.admin.fixed import NEEDS_RESTART
from penstock.config import model
from penstock.config.load import parse
from penstock.config.proxy import proxy_to
from penstock.config.schema import keys
from penstock.config.secret import Secret
from penstock.errors import ConfigError
from penstock.generation.log import State
from penstock.metrics import Registry
from penstock.wire import heartbeat

PAGE = Page("docs/operating.md")
GIBS = {1 << 16: "64 KiB", 32 << 20: "32 MiB", 64 << 20: "64 MiB", 512 << 20: "512 MiB"}


def test_what_needs_a_restart_is_said():
    (sentence,) = re.findall(r"Only a restart changes (.*?) A reload", PAGE.text)
    assert {*NEEDS_RESTART, "tls"} == set(re.findall("`([a-z_]+)`", sentence))


def test_the_fields_of_a_log_line_are_those_of_the_log():
    table = PAGE.section("Logs")
    told = {
        name
        for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
        for name in re.findall("`([a-z_]+)`", row)
    }
    line = logs.RequestLine
    assert told == {line.__struct_config__.tag_field, *line.__struct_encode_fields__}
    outcomes = {state.value for state in State} | {"refused"}
    assert outcomes <= set(re.findall("`([a-z]+)`", table))


def test_settings_that_are_named_exist():
    named = set(re.findall(r"`((?:listener|ledger|log|pool|retry|timeouts)\.[a-z_]+)[`:]", PAGE.text))
    assert len(named) > 8
    for name in named:
        assert any(f".{key}".endswith(f".{name}") for key in keys()), name


def test_figures_are_those_of_the_source():
    text = PAGE.text
    config = model.Config()
    assert f"`drain_timeout` ({config.drain_timeout:g} s)" in text
    assert f"1, 2, 4 … {backoff.MAX_DELAY:g} s" in text
    assert backoff.GOOD_LIFE == 60
    assert f"a sign of life every {heartbeat.USUAL:g} s" in text
    assert f"`listener.idle_timeout` ({config.listener.idle_timeout:g} s)" in text
    assert logs.MAX_BUFFER == 1 << 20
    assert Registry()._max_children == 200
    memory = PAGE.section("Memory")
    for name, size in (
        ("generations_bytes", config.generations_bytes),
        ("max_answer_bytes", config.max_answer_bytes),
        ("listener.max_body_bytes", config.listener.max_body_bytes),
        ("listener.max_header_bytes", config.listener.max_header_bytes),
        ("listener.write_high_water", config.listener.write_high_water),
        ("listener.pipeline_bytes", config.listener.pipeline_bytes),
    ):
        assert f"`{name}` ({GIBS[size]})" in memory
    assert f"`listener.max_headers` ({config.listener.max_headers})" in memory
    assert f"`pool.max_waiting` ({model.PoolConfig().max_waiting:,})" in memory
    assert f"`ledger.max_rows_in_memory` ({config.ledger.max_rows_in_memory:,})" in memory


def test_the_example_of_tls_has_the_right_keys():
    """The files are those of whoever follows it; here it is enough that nothing but these is missing."""
    (block,) = [
        block.text for block in PAGE.blocks if block.language == "yaml" and block.text in PAGE.section("TLS")
    ]
    with pytest.raises(ConfigError) as refused:
        parse(block + "upstreams: {sim: {kind: sim}}\n")
    assert len(refused.value.mistakes) == 2
    assert all("/etc/penstock/" in mistake for mistake in refused.value.mistakes)


def test_the_example_of_a_proxy_is_one():
    section = PAGE.section("Through a proxy")
    (block,) = [block.text for block in PAGE.blocks if block.language == "yaml" and block.text in section]
    upstream = parse(block, environ={"OPENAI_API_KEY": "sk", "PROXY_PASSWORD": "pw"}).upstreams["openai"]
    proxy = proxy_to(upstream.proxy, "https", "api.openai.com", 443)
    assert str(proxy) == "http://proxy.example.com:3128"
    assert proxy.login == Secret("penstock:pw")
