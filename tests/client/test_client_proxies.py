"""The environment's proxies, for each request the one that httpx would take."""

from __future__ import annotations

import httpx
import pytest

from penstock.client._proxies import Proxies

URLS = (
    "http://127.0.0.1/",
    "https://api.example.com/v1",
    "http://api.example.com/",
    "http://example.com/",
    "http://notexample.com",
    "http://localhost:8080/",
    "http://localhost:8081/",
    "http://[::1]:80/",
    "http://gateway/",
)
ALL = {"ALL_PROXY": "http://p:1"}


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "REQUEST_METHOD"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    return monkeypatch


def as_httpx_does(client, url):
    """The proxy's URL."""
    proxy = getattr(client._transport_for_url(httpx.URL(url))._pool, "_proxy_url", None)
    return None if proxy is None else f"{proxy.scheme.decode()}://{proxy.host.decode()}:{proxy.port}"


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"HTTP_PROXY": "http://p:1"},
        {"http_proxy": "p:1"},
        {"HTTPS_PROXY": "p:1", "HTTP_PROXY": ""},
        {"ALL_PROXY": "p:1"},
        {**ALL, "HTTP_PROXY": "http://q:2"},
        *({**ALL, "NO_PROXY": name} for name in ("*", "example.com", "localhost", "localhost:8080", "::1")),
        *({**ALL, "NO_PROXY": name} for name in ("127.0.0.1,::1", " example.com , gateway", "nowhere", "")),
    ],
    ids=str,
)
def test_each_request_has_the_proxy_that_httpx_takes(environment, told):
    for name, value in told.items():
        environment.setenv(name, value)
    proxies = Proxies(wanted=True)
    with httpx.Client() as client:
        for url in map(httpx.URL, URLS):
            found = proxies.of(url.scheme, url.host, url.netloc.decode())
            assert found == as_httpx_does(client, url), url


def test_who_does_not_want_the_environments_has_none(environment):
    environment.setenv("ALL_PROXY", "http://p:1")
    assert Proxies(wanted=False).of("http", "example.com", "example.com") is None
