"""Listen addresses and base URLs."""

import pytest

from penstock.config.address import check_base_url, overlap, split_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8080", ("127.0.0.1", 8080)),
        ("localhost:0", ("localhost", 0)),
        (":8080", ("", 8080)),
        ("[::1]:65535", ("::1", 65535)),
        ("[::]:1", ("::", 1)),
    ],
)
def test_an_address_is_host_and_port(text, address):
    assert split_address(text) == address


@pytest.mark.parametrize(
    "text",
    ["", "8080", "a", "a:", "a:b", "a:-1", "a:65536", "a:٣", "::1:80", "[a]:80", "http://a:80", "a b:80"],
)
def test_anything_else_is_refused(text):
    with pytest.raises(ValueError, match=r"."):
        split_address(text)


@pytest.mark.parametrize(
    ("one", "other", "collide"),
    [
        ("127.0.0.1:1", "127.0.0.1:1", True),
        ("127.0.0.1:1", "127.0.0.1:2", False),
        ("127.0.0.1:1", "127.0.0.2:1", False),
        (":1", "127.0.0.1:1", True),
        ("127.0.0.1:1", "0.0.0.0:1", True),
        ("[::]:1", "[::1]:1", True),
        (":0", ":0", False),
    ],
)
def test_addresses_collide_where_both_cannot_be_bound(one, other, collide):
    assert overlap(one, other) is collide
    assert overlap(other, one) is collide


def test_base_urls_are_http_urls():
    check_base_url("https://api.example.com/v1")
    check_base_url("http://[::1]:8000")
    for url in (
        "ftp://a",
        "//a",
        "a",
        "http://",
        "http://a b",
        "http://ä",
        "http://u@h",
        "http://h?x",
        "http://h#",
    ):
        with pytest.raises(ValueError, match=r"."):
            check_base_url(url)
