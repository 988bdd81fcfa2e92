"""Where a Redis server is, as the configuration names it.

``redis://`` and ``rediss://`` name one server, ``redis+sentinel://`` and ``rediss+sentinel://HOST:PORT,HOST:PORT/SERVICE``
the sentinels that know the present master (``?sentinel_username=USER&sentinel_password=PASSWORD``: where they want to
know who asks; with TLS they are asked so, too), ``redis+cluster://`` and ``rediss+cluster://HOST:PORT,HOST:PORT`` some nodes of a cluster.
"""

from __future__ import annotations

from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

_DEFAULT_PORT, _SENTINEL_PORT = 6379, 26379
_ONE = ("redis", "rediss", "redis+sentinel")  # what a refusal lists; with TLS, sentinels are rediss+sentinel
_CLUSTERS = ("redis+cluster", "rediss+cluster")


class Address(msgspec.Struct, frozen=True):
    """Where the server is.  ``hosts`` are the sentinels' if ``service`` is set, a cluster's nodes, or one."""

    hosts: tuple[tuple[str, int], ...]
    service: str = ""
    tls: bool = False
    user: str = ""
    password: str = ""
    database: int = 0
    cluster: bool = False
    sentinel_user: str = ""
    sentinel_password: str = ""

    @classmethod
    def parse(cls, url: str, *, clusters: bool = False) -> Address:
        """:param clusters: whether it may be a cluster's
        :raises ValueError: this is no address of a Redis server; the message never shows it
        """
        kind, separator, rest = url.partition("://")
        taken = {*_ONE, "rediss+sentinel", *(_CLUSTERS if clusters else ())}
        if kind not in taken or not separator or not rest:
            *others, last = (f"{each}://" for each in (*_ONE, *(_CLUSTERS if clusters else ())))
            raise ValueError(f"must begin with {', '.join(others)} or {last}, and name a server")
        if any(character.isspace() or not character.isprintable() for character in rest):
            raise ValueError("holds white space or a control character: percent-encode it")
        # What stands in a password as it is ends the hosts, and what is left of it would be told as one of them.
        hosts_end = min((at for each in "/?#" if (at := rest.find(each)) >= 0), default=len(rest))
        try:
            return cls._read(kind, rest)
        except ValueError as error:
            if "@" not in rest[hosts_end:]:
                raise
            raise ValueError(f"{error}; within a password / is written %2F, ? %3F and # %23") from None

    @classmethod
    def _read(cls, kind: str, rest: str) -> Address:
        scheme, _, form = kind.partition("+")
        try:
            parts = urlsplit(f"redis://{rest}")
        except ValueError:  # brackets that do not match
            raise ValueError("is no address") from None
        if parts.fragment:
            raise ValueError("takes nothing behind a #")
        credentials, _, hosts = parts.netloc.rpartition("@")
        user, _, password = credentials.partition(":")
        steps = [step for step in parts.path.split("/") if step]
        service = ""
        if form == "sentinel":
            if not steps:
                raise ValueError(
                    "must name the service behind its sentinels, as in redis+sentinel://HOST/SERVICE"
                )
            service = steps.pop(0)
        elif parts.query:
            raise ValueError("takes nothing behind a ?")
        sentinels = _of_sentinels(parts.query)
        found = tuple(_host(host, _SENTINEL_PORT if service else _DEFAULT_PORT) for host in hosts.split(","))
        if len(found) > 1 and not form:
            raise ValueError("names several hosts, where there is one server")
        return cls(
            found,
            service,
            scheme == "rediss",
            unquote(user),
            unquote(password),
            _database(steps, form == "cluster"),
            form == "cluster",
            sentinels.get("sentinel_username", ""),
            sentinels.get("sentinel_password", ""),
        )


def _of_sentinels(query: str) -> dict[str, str]:
    """Who we are to the sentinels."""
    try:
        told = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
    except ValueError:
        told = {"": ""}  # nothing that is known
    if not told.keys() <= {"sentinel_username", "sentinel_password"}:
        raise ValueError("takes nothing but sentinel_username and sentinel_password behind its ?")
    return told


def _host(text: str, default: int) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text}")
        port = parts.port
    except ValueError:
        raise ValueError("has a port that is no number from 1 to 65535, or no address as its host") from None
    if not parts.hostname:
        raise ValueError("names no host")
    if port == 0:
        raise ValueError("has a port that is no number from 1 to 65535")
    return parts.hostname, port or default


def _database(steps: list[str], is_cluster: bool) -> int:
    if is_cluster:
        if steps:
            raise ValueError("has no database behind its hosts: a cluster has one alone")
        return 0
    if len(steps) > 1 or not all(step.isdecimal() and step.isascii() and len(step) < 6 for step in steps):
        raise ValueError("has at its end what is not the database's number, as in redis://HOST/0")
    return int(steps[0]) if steps else 0
