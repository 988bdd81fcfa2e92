from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import ConfigError
from penstock.net.origin import Origin


@pytest.mark.parametrize(
    ("url", "origin", "path", "authority"),
    [
        ("https://api.openai.com/v1", Origin("https", "api.openai.com", 443), "/v1", "api.openai.com"),
        ("https://api.openai.com/v1/", Origin("https", "api.openai.com", 443), "/v1", "api.openai.com"),
        ("http://localhost:11434", Origin("http", "localhost", 11434), "", "localhost:11434"),
        ("http://localhost:80/", Origin("http", "localhost", 80), "", "localhost"),
        ("https://h:80", Origin("https", "h", 80), "", "h:80"),
        ("HTTPS://API.Example.COM/V1", Origin("https", "api.example.com", 443), "/V1", "api.example.com"),
        ("http://127.0.0.1:8000/a/b/", Origin("http", "127.0.0.1", 8000), "/a/b", "127.0.0.1:8000"),
        ("http://[::1]:8000/v1", Origin("http", "::1", 8000), "/v1", "[::1]:8000"),
        ("https://[2001:DB8::0:1]", Origin("https", "2001:db8::1", 443), "", "[2001:db8::1]"),
        (
            "http://my_service.ns.svc:8000",
            Origin("http", "my_service.ns.svc", 8000),
            "",
            "my_service.ns.svc:8000",
        ),
        ("http://bücher.example/", Origin("http", "xn--bcher-kva.example", 80), "", "xn--bcher-kva.example"),
        ("http://h/a%20b", Origin("http", "h", 80), "/a%20b", "h"),
        ("http://h.", Origin("http", "h.", 80), "", "h."),
    ],
)
def test_a_base_url_gives_origin_and_path(url, origin, path, authority):
    assert Origin.parse(url) == (origin, path)
    assert origin.authority == authority
    assert Origin.parse(str(origin)) == (origin, "")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "api.openai.com/v1",
        "//api.openai.com",
        "localhost:8000",
        "ftp://h",
        "unix:/run/vllm.sock",
        "http://",
        "http:///v1",
        "http://:80",
        "http://h:",
        "http://h:0",
        "http://h:65536",
        "http://h:-1",
        "http://h:http",
        "http://h:8 0",
        "http://user:secret@h/",
        "http://user@h/",
        "http://user:secret@h:bad/",
        "http://user:secret@[::1/",
        "//user:secret@h/",
        "http://h/v1?key=1",
        "http://h/v1?",
        "http://h/v1#a",
        "http://h/v1#",
        "http://h/a b",
        "http://h/ä",
        "http://h/\r\nx: y",
        " http://h",
        "http://h\n",
        "http://a b/",
        "http://-a/",
        "http://a..b/",
        "http://a%20b/",
        "http://a,b/",
        "http://[::1/",
        "http://[::g]/",
        "http://[127.0.0.1]/",
        "http://[fe80::1%25eth0]/",
        "http://[v1.x]/",
        "http://" + "a" * 64,
        "http://" + "a." * 127 + "com",
    ],
)
def test_what_is_no_base_url_is_a_mistake_of_the_configuration(url):
    with pytest.raises(ConfigError) as caught:
        Origin.parse(url)
    assert "secret" not in caught.value.message


@given(st.text(max_size=40) | st.text(":/[]@?#%.ab1", max_size=20).map("http://".__add__))
def test_anything_else_is_parsed_or_refused_and_can_stand_in_a_request(url):
    try:
        origin, path = Origin.parse(url)
    except ConfigError:
        return
    line = f"{path} {origin.authority}"
    assert line.isascii()
    assert line.isprintable()
    assert line.count(" ") == 1
