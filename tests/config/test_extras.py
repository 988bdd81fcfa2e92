"""What an installation lacks for a configuration."""

import pytest

from penstock.config import extras
from penstock.config.extras import missing_extras
from penstock.config.load import parse
from penstock.config.remarks import remarks
from penstock.installing import install_command

EVERYTHING = """
upstreams:
  a: {kind: openai, api_key: k, http2: true}
  b: {kind: triton, base_url: "http://127.0.0.1:1"}
models:
  m: {candidates: [{upstream: a}, {upstream: b}], cache: {semantic: {}}}
limits: {redis: "redis://127.0.0.1:1"}
cache: {redis: "redis://127.0.0.1:1", seal_key: 0123456789abcdef0123456789abcdef}
files: {directory: kept}
uploads: {s3: {bucket: b}}
codings: {answers: [gzip, br]}
traces: {endpoint: "http://127.0.0.1:1"}
"""


@pytest.fixture
def nothing_installed(monkeypatch):
    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda name: None)


@pytest.mark.usefixtures("nothing_installed")
def test_each_extra_that_is_missing_is_named_once_with_who_wants_it():
    assert missing_extras(parse(EVERYTHING)) == [
        ("codings.answers", "brotli"),
        ("limits.redis", "redis"),
        ("models.m.cache.semantic", "semantic"),
        ("traces.endpoint", "otel"),
        ("uploads.s3", "s3"),
        ("upstreams.a.http2", "http2"),
        ("upstreams.b", "triton"),
    ]


@pytest.mark.usefixtures("nothing_installed")
def test_what_wants_no_extra_lacks_none():
    assert missing_extras(parse("codings: {answers: [gzip]}")) == []


def test_every_extra_is_known_by_a_module_that_it_brings(pytestconfig):
    text = (pytestconfig.rootpath / "pyproject.toml").read_text()
    for extra, module in extras._MODULE.items():
        (line,) = [line for line in text.splitlines() if line.startswith(f"{extra} = [")]
        assert f'"{module.replace(".", "-")}' in line


@pytest.mark.usefixtures("nothing_installed")
def test_it_is_a_remark_since_another_machine_may_have_it():
    assert (
        f"limits.redis needs the extra redis, which is not installed here: {install_command('redis')}"
        in remarks(parse(EVERYTHING))
    )
