"""Which proxy is on the way to which server."""

from __future__ import annotations

import os

import pytest

from penstock.cli.check import summary
from penstock.config.dump import dump_yaml
from penstock.config.load import parse as configuration
from penstock.config.proxy import Proxy, is_loopback, parse, proxy_to
from penstock.config.secret import Secret
from penstock.errors import ConfigError

ENVIRONMENT = Secret("environment")
PROXY = "http://proxy.corp:3128"


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


def only_mistake(upstream):
    with pytest.raises(ConfigError) as caught:
        configuration(f"upstreams:\n  a: {upstream}\n", "p.yaml", {})
    (mistake,) = caught.value.mistakes
    assert "secret" not in str(mistake)
    return str(mistake)


@pytest.mark.parametrize(
    ("url", "proxy"),
    [
        (PROXY, Proxy(False, "proxy.corp", 3128)),
        (PROXY + "/", Proxy(False, "proxy.corp", 3128)),
        ("https://Proxy.corp:443", Proxy(True, "proxy.corp", 443)),
        ("http://[fd00::1]:3128", Proxy(False, "fd00::1", 3128)),
        ("http://me:p%40ss%3Aw@proxy:1", Proxy(False, "proxy", 1, Secret("me:p@ss:w"))),
        ("http://me@proxy:1", Proxy(False, "proxy", 1, Secret("me:"))),
    ],
)
def test_a_url_is_read(url, proxy):
    assert parse(url) == proxy
    assert parse(str(proxy)) == Proxy(proxy.secure, proxy.host, proxy.port)


@pytest.mark.parametrize(
    "url",
    [
        "proxy.corp:3128",
        "socks5://secret@proxy:1080",
        "http://proxy",
        "http://proxy:0",
        "http://proxy:65536",
        "http://:3128",
        "http://me:secret@proxy:1/path",
        "http://me:sec/ret@proxy:1",
        "http://me:secret?@proxy:1",
        "http://me:secret#@proxy:1",
        "http://me%3Ayou:secret@proxy:1",
        "http://me:secret@pro xy:1",
        "http://me:secret\r\nx: y@proxy:1",
        "http://[secret:1",
        "http://sécret@proxy:1",
        "",
    ],
)
def test_what_is_no_proxy_is_a_mistake_that_never_shows_it(url):
    with pytest.raises(ValueError, match=r"must|is no|has a|holds") as caught:
        parse(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST.",
        "a.localhost",
        "127.0.0.1",
        "127.9.9.9",
        "::1",
        "::ffff:127.0.0.1",
        "0.0.0.0",
    ],
)
def test_this_machine_is_never_reached_through_a_proxy(monkeypatch, host):
    monkeypatch.setenv("HTTPS_PROXY", PROXY)
    assert is_loopback(host)
    assert proxy_to(ENVIRONMENT, "https", host, 443) is None
    assert proxy_to(Secret(PROXY), "https", host, 443) is None


@pytest.mark.parametrize("host", ["localhost.example.com", "10.0.0.1", "::2", "api.openai.com", "128.0.0.1"])
def test_others_are(host):
    assert not is_loopback(host)
    assert proxy_to(Secret(PROXY), "https", host, 443) == parse(PROXY)


def test_variables_mean_nothing_to_an_upstream_that_does_not_ask_for_them(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", PROXY)
    monkeypatch.setenv("ALL_PROXY", PROXY)
    assert proxy_to(None, "https", "api.openai.com", 443) is None


@pytest.mark.parametrize(
    ("variables", "https", "http"),
    [
        ({}, None, None),
        ({"HTTPS_PROXY": PROXY}, PROXY, None),
        ({"https_proxy": PROXY, "HTTPS_PROXY": "http://other:1"}, PROXY, None),
        ({"HTTP_PROXY": PROXY}, None, PROXY),
        ({"ALL_PROXY": PROXY}, PROXY, PROXY),
        ({"ALL_PROXY": "socks5://p:1", "HTTPS_PROXY": PROXY, "HTTP_PROXY": PROXY}, PROXY, PROXY),
        ({"HTTPS_PROXY": "proxy.corp:3128"}, PROXY, None),
    ],
)
def test_the_environment_has_one_for_each_scheme(monkeypatch, variables, https, http):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for scheme, wanted in (("https", https), ("http", http)):
        found = proxy_to(ENVIRONMENT, scheme, "api.openai.com", 443)
        assert found == (wanted and parse(wanted))


@pytest.mark.parametrize(
    ("no_proxy", "excepted"),
    [
        ("*", True),
        ("example.com", True),
        (".example.com", True),
        ("*.example.com", True),
        ("other.org, API.example.com", True),
        ("other.org api.example.com", True),
        ("example.com:443", True),
        ("example.com:80", False),
        ("ample.com", False),
        ("api.example.com.evil.org", False),
        (",.,", False),
        ("10.0.0.0/8", False),
    ],
)
def test_names_are_excepted_as_curl_does_it(monkeypatch, no_proxy, excepted):
    monkeypatch.setenv("HTTPS_PROXY", PROXY)
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert (proxy_to(ENVIRONMENT, "https", "api.example.com", 443) is None) is excepted


@pytest.mark.parametrize(
    ("host", "no_proxy", "excepted"),
    [
        ("10.1.2.3", "10.0.0.0/8", True),
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3", "10.1.2.3:443", True),
        ("10.1.2.3", "10.1.2.3:80", False),
        ("10.1.2.3", "192.168.0.0/16,nonsense/8", False),
        ("fd00::5", "fd00::/8", True),
        ("fd00::5", "[fd00::5]", True),
        ("fd00::5", "[fd00::5]:443", True),
        ("fd00::443", "fd00::443", True),
    ],
)
def test_addresses_are_excepted_by_themselves_or_by_network(monkeypatch, host, no_proxy, excepted):
    monkeypatch.setenv("HTTPS_PROXY", PROXY)
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert (proxy_to(ENVIRONMENT, "https", host, 443) is None) is excepted


def test_a_variable_that_names_no_proxy_is_named_without_its_value(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "socks5://me:secret@proxy:1080")
    with pytest.raises(ValueError, match=r"^HTTPS_PROXY of the environment must begin") as caught:
        proxy_to(ENVIRONMENT, "https", "api.openai.com", 443)
    assert "secret" not in str(caught.value)


def test_an_upstream_names_its_proxy_and_nobody_shows_the_password():
    config = configuration(
        "upstreams: {a: {kind: openai, proxy: 'http://me:${PASSWORD}@proxy.corp:3128'},"
        " b: {kind: openai, proxy: environment}, c: {kind: openai, proxy: '${NONE:-}'}}",
        "p.yaml",
        {"PASSWORD": "secret"},
    )
    wanted = config.upstreams["a"].proxy
    assert proxy_to(wanted, "https", "api.openai.com", 443) == Proxy(
        False, "proxy.corp", 3128, Secret("me:secret")
    )
    assert config.upstreams["c"].proxy is None
    for shown in (repr(config), dump_yaml(config), summary(config)):
        assert "secret" not in shown
    assert "through http://proxy.corp:3128" in summary(config)


@pytest.mark.parametrize(
    ("upstream", "words"),
    [
        ("{kind: openai, proxy: 'socks5://me:secret@p:1'}", "must begin with http:// or https://"),
        ("{kind: openai, proxy: enviroment}", "must begin with http:// or https://"),
        ("{kind: openai, base_url: 'http://127.0.0.1:8000/v1', proxy: 'http://p:1'}", "on this machine"),
        ("{kind: sim, proxy: 'http://p:1'}", "on this machine"),
        ("{kind: triton, base_url: 'http://t:1', proxy: environment}", "is not for the kind triton"),
    ],
)
def test_mistakes_are_named_with_their_key(upstream, words):
    mistake = only_mistake(upstream)
    assert ": upstreams.a.proxy: " in mistake
    assert words in mistake


def test_the_environments_proxies_may_be_asked_for_everywhere():
    assert (
        configuration("upstreams: {a: {kind: sim, proxy: environment}}").upstreams["a"].proxy == ENVIRONMENT
    )
