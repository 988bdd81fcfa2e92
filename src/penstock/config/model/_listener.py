"""Where callers connect: the port's limits and certificate, and how bodies may be coded."""

from __future__ import annotations

from typing import Literal

from penstock.config.model._section import Bytes, NotNegative, Positive, Seconds, Section
from penstock.config.secret import Secret


class TLSConfig(Section, frozen=True):
    """Certificate and key of the listener, PEM files."""

    certificate: str  # the chain, the server's own certificate first
    key: str  # its private key
    key_password: Secret | None = None  # if the key is encrypted


class ListenerConfig(Section, frozen=True):
    """Limits that the HTTP/1.1 listener enforces on its clients."""

    max_connections: Positive = 10_000  # per worker; further ones get 503
    max_header_bytes: Bytes = 65_536  # request line and header fields together
    max_headers: Positive = 100  # header fields of one request
    max_target_bytes: Bytes = 8_192  # path and query
    max_body_bytes: Bytes = 33_554_432  # a larger one gets 413
    # all bodies that are still coming in to one worker; past it those of more than 64 KiB get 503
    bodies_bytes: Bytes = 1_073_741_824
    header_timeout: Seconds = 10.0  # from the connection's (or request's) first byte to the end of the head
    body_timeout: Seconds = 60.0  # longest silence within a request's body
    min_body_rate: Positive = 256  # bytes per second, averaged since the head, after a grace of body_timeout
    idle_timeout: Seconds = 75.0  # between requests of one connection
    write_timeout: Seconds = 60.0  # a client that takes nothing for so long is gone
    write_high_water: Bytes = 65_536  # buffered for one slow reader before its stream pauses
    pipeline_bytes: Bytes = 65_536  # read ahead while a request is being answered
    # addresses and networks of proxies that say in X-Forwarded-For who calls, and in X-Request-Id how they call the
    # request; empty: nobody is believed
    trusted_proxies: list[str] = []


class CodingsConfig(Section, frozen=True):
    """How bodies and answers may be coded; which of it is used, the caller's header fields say."""

    # codings for answers to callers that accept them, the preferred one first; empty: answers are not coded
    answers: list[Literal["zstd", "br", "gzip"]] = []
    least_bytes: NotNegative = 1_024  # a plain answer that is shorter is not coded
    # events of a coded stream wait so long for each other; 0: only for those of the same moment
    flush_after: Seconds = 0.0
    # bodies remembered as dictionaries (dcz) for callers that ask, by each worker, and in `files.directory`; 0: none
    dictionary_bytes: NotNegative = 33_554_432
