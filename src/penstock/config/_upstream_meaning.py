"""What the types cannot say of an upstream's entry: see :mod:`penstock.config._meaning`."""

from __future__ import annotations

import re
import ssl
from urllib.parse import urlsplit

from penstock.config._bodies import check_leave_out
from penstock.config._files import check_readable
from penstock.config._reading import Path, Plain, Reader
from penstock.config.address import check_base_url
from penstock.config.proxy import ENVIRONMENT, is_loopback
from penstock.config.proxy import parse as parse_proxy
from penstock.config.secret import Secret

_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")  # RFC 9110, 5.6.2
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*\Z")  # RFC 9110, 5.5; nothing that could end the line
_PATH = re.compile(r"/[!-~]*\Z")  # and a query perhaps
_WITH_BATCHES = ("anthropic", "openai", "sim")  # whose API has batches of its own
CLOUDS = {"bedrock": "aws", "vertex": "google"}  # kinds of upstreams, and where their credentials come from
_OF_SOURCES = {
    "command": ("command",),
    "file": ("file", "google"),
    "scope": ("google", "entra"),
    "region": ("aws",),
    "service": ("aws",),
    "profile": ("aws",),
    "access_key": ("aws",),
}
_OUR_HEADERS = frozenset({"host", "content-length", "transfer-encoding", "connection", "upgrade"})


def check_upstream(upstream: Plain, at: Path, reader: Reader) -> None:
    if url := upstream.get("base_url"):
        try:
            check_base_url(url)
        except ValueError as error:
            reader.mistake((*at, "base_url"), str(error))
    for name, value in upstream.get("headers", {}).items():
        if fault := header_fault(name, value if isinstance(value, str) else ""):
            reader.mistake((*at, "headers", name), fault)
    if (secret := upstream.get("api_key")) and (fault := header_fault("authorization", secret.reveal())):
        reader.mistake((*at, "api_key"), fault)
    ca_file = upstream.get("ca_file")
    if ca_file and check_readable(ca_file, (*at, "ca_file"), reader):
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(ca_file)
        except ssl.SSLError:
            reader.mistake((*at, "ca_file"), f"{ca_file} holds no certificates in PEM form")
    if "triton" in upstream and upstream.get("kind") != "triton":
        reader.mistake((*at, "triton"), "is for upstreams of the kind triton")
    if upstream.get("api") and upstream.get("kind") != "bedrock":
        reader.mistake((*at, "api"), "is for upstreams of the kind bedrock")
    if upstream.get("batches") == "provider" and upstream.get("kind") not in _WITH_BATCHES:
        reader.mistake((*at, "batches"), f"provider is for the kinds {', '.join(_WITH_BATCHES)}")
    if upstream.get("http2") and upstream.get("kind") == "triton":
        reader.mistake((*at, "http2"), "is not for the kind triton, whose gRPC is HTTP/2 by itself")
    if upstream.get("kind") in CLOUDS and not upstream.get("base_url"):
        reader.mistake(
            (*at, "base_url"), "is missing: it says in which region, and of vertex for which project"
        )
    check_leave_out(upstream, at, reader)
    _check_credentials(upstream, at, reader)
    _check_proxy(upstream, at, reader)
    _check_departure(upstream, at, reader)
    if tokenizer := (upstream.get("triton") or {}).get("tokenizer"):
        check_readable(tokenizer, (*at, "triton", "tokenizer"), reader)
    if ca_file and upstream.get("verify") is False:
        reader.mistake((*at, "verify"), "with verify: false nothing is checked against ca_file; drop one")


def _check_proxy(upstream: Plain, at: Path, reader: Reader) -> None:
    wanted = upstream.get("proxy")
    if not isinstance(wanted, Secret):
        return
    if upstream.get("kind") == "triton":
        reader.mistake(
            (*at, "proxy"), "is not for the kind triton, whose library knows the environment's alone"
        )
    if wanted.reveal() == ENVIRONMENT:
        return
    try:
        parse_proxy(wanted.reveal())
    except ValueError as error:
        reader.mistake((*at, "proxy"), str(error))
    url = upstream.get("base_url")
    own = not url and upstream.get("kind") in {"sim", "local"}
    if own or (url and is_loopback(_host_of(url))):
        reader.mistake(
            (*at, "proxy"), "is for upstreams elsewhere: what is on this machine is reached directly"
        )


def _host_of(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""  # what is wrong with it is said elsewhere


def _check_credentials(upstream: Plain, at: Path, reader: Reader) -> None:
    wanted = upstream.get("credentials")
    if not wanted:
        return
    if upstream.get("api_key"):
        reader.mistake((*at, "credentials"), "stand instead of api_key; leave one of them out")
    if upstream.get("kind") == "triton":
        reader.mistake(
            (*at, "credentials"), "Triton is asked without; what stands before it may want headers"
        )
    source = wanted.get("source")
    if source == "command" and not wanted.get("command"):
        reader.mistake((*at, "credentials", "command"), "is missing: it is the source")
    if source == "file" and not wanted.get("file"):
        reader.mistake((*at, "credentials", "file"), "is missing: it is the source")
    if bool(wanted.get("access_key")) != (wanted.get("secret_key") is not None):
        reader.mistake((*at, "credentials", "access_key"), "access_key and secret_key belong together")
    if wanted.get("file") and source in {"file", "google"}:
        check_readable(wanted["file"], (*at, "credentials", "file"), reader)
    for key, of in _OF_SOURCES.items():
        if wanted.get(key) and source is not None and source not in of:
            reader.mistake((*at, "credentials", key), f"is not for the source {source}")


def _check_departure(upstream: Plain, at: Path, reader: Reader) -> None:
    departure = upstream.get("departure") or {}
    header = departure.get("header")
    if header is not None and not _HEADER_NAME.match(header):
        reader.mistake((*at, "departure", "header"), "is no name of a header")
    probe = departure.get("probe")
    if probe and not _PATH.match(probe):
        reader.mistake((*at, "departure", "probe"), "must be a path of its server, such as /health")
    if probe and upstream.get("kind") == "triton":
        reader.mistake((*at, "departure", "probe"), "is not for the kind triton")
    health = upstream.get("health")
    if health is not None and not _PATH.match(health.get("path", "/health")):
        reader.mistake((*at, "health", "path"), "must be a path of its server, such as /health")
    if health is not None and upstream.get("kind") == "triton":
        reader.mistake((*at, "health"), "is not for the kind triton")


def header_fault(name: str, value: str) -> str:
    """What is wrong with a header field that an upstream shall get; the value is not shown."""
    if not _HEADER_NAME.match(name):
        return "is no name of a header"
    if name.lower() in _OUR_HEADERS:
        return "is set by Penstock itself"
    if not _HEADER_VALUE.match(value):
        return "holds characters that no header may have, such as a line end"
    return ""
