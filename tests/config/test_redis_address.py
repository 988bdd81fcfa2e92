"""What names a Redis server, and what is refused before anybody connects."""

from __future__ import annotations

import pytest

from penstock.config.load import parse as configuration
from penstock.config.redis_address import Address
from penstock.errors import ConfigError


def only_mistake(section, url):
    more = ", seal_key: 0123456789abcdef" if section == "cache" else ""
    with pytest.raises(ConfigError) as caught:
        configuration(f'files: {{directory: .}}\n{section}: {{redis: "{url}"{more}}}', "p.yaml", {})
    (mistake,) = caught.value.mistakes
    return str(mistake)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://host", Address((("host", 6379),))),
        ("rediss://host:1/", Address((("host", 1),), tls=True)),
        ("redis://:secret@[fd00::1]:6380/3", Address((("fd00::1", 6380),), password="secret", database=3)),
        ("redis://me:p%40s%2Fs%23w@host", Address((("host", 6379),), user="me", password="p@s/s#w")),
        ("redis://:a@b@host", Address((("host", 6379),), password="a@b")),
        ("redis+sentinel://a,b:2/mine", Address((("a", 26379), ("b", 2)), "mine")),
        ("rediss+sentinel://a/mine/2", Address((("a", 26379),), "mine", tls=True, database=2)),
        (
            "redis+sentinel://a/mine?sentinel_username=u&sentinel_password=p%26@w",
            Address((("a", 26379),), "mine", sentinel_user="u", sentinel_password="p&@w"),
        ),
    ],
)
def test_an_address_is_read(url, address):
    assert Address.parse(url) == address


def test_a_cluster_is_one_only_where_it_may_be():
    assert Address.parse("redis+cluster://a,b:1", clusters=True) == Address(
        (("a", 6379), ("b", 1)), cluster=True
    )
    with pytest.raises(ValueError, match=r"must begin with redis://, rediss:// or redis\+sentinel://"):
        Address.parse("redis+cluster://a,b:1")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("redis://:secret@[host/", "no address"),
        ("redis://:secret@host:port", "no number from 1 to 65535"),
        ("redis://:secret@host:99999", "no number from 1 to 65535"),
        ("redis://:secret@host:0", "no number from 1 to 65535"),
        ("redis://:secret@", "names no host"),
        ("redis:///0", "names no host"),
        ("redis://:secret@host/secret", "the database's number"),
        ("redis://:secret@host/-1", "the database's number"),
        ("redis://:secret@host/1/2", "the database's number"),
        ("redis://:secret@host,other", "names several hosts"),
        ("redis://:secret@host?db=2", "nothing behind a ?"),
        ("redis://:sec#ret@host", "%23"),
        ("redis://:sec/ret@host", "%2F"),
        ("redis://:sec?ret@host", "%3F"),
        ("redis://:secret@host:1\\n", "white space"),
        ("redis+sentinel://host", "name the service"),
        ("redis+sentinel://host/mine/secret", "the database's number"),
        ("redis+sentinel://host/mine?secret=1", "sentinel_username and sentinel_password"),
        ("redis+sentinel://host/mine?sentinel_password", "sentinel_username and sentinel_password"),
    ],
)
@pytest.mark.parametrize("section", ["limits", "generations", "uploads", "cache"])
def test_what_is_none_is_named_before_anything_starts_and_shown_nowhere(section, url, why):
    mistake = only_mistake(section, url)
    assert why in mistake
    assert not any(part in mistake for part in ("secret", "sec/ret", "sec#ret", "sec?ret"))
    assert f"{section}.redis" in mistake


def test_a_cluster_has_no_databases():
    assert "no database" in only_mistake("cache", "redis+cluster://a/1")
