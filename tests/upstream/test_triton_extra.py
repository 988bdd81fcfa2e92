"""Without the extra, an upstream of the kind triton says what is missing."""

from __future__ import annotations

import importlib.util

import pytest

from penstock.config.load import parse
from penstock.errors import ConfigError
from penstock.gateway.compose import build
from penstock.testing import FakeClock

TEXT = """
upstreams: {t: {kind: triton}}
models: {m: {candidates: [{upstream: t}]}}
"""


def test_it_is_named(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *more: None if name == "tritonclient" else found(name, *more),
    )
    with pytest.raises(
        ConfigError, match=r"needs the extra 'triton': .* -m pip install 'penstock\[triton\]'"
    ):
        build(parse(TEXT), clock=FakeClock())


def test_its_address_has_a_default():
    assert parse(TEXT).upstreams["t"].base_url == "http://127.0.0.1:8001"


def test_its_settings_are_for_no_other_kind():
    with pytest.raises(ConfigError) as raised:
        parse(TEXT.replace("kind: triton", "kind: openai, triton: {pad: 1}"))
    assert "is for upstreams of the kind triton" in raised.value.mistakes[0]
