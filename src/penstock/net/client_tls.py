"""TLS towards upstreams: whom we believe, and what we offer."""

from __future__ import annotations

import ssl
from pathlib import Path

import certifi

from penstock.errors import ConfigError


def client_context(ca_file: str | None, verify: bool, protocol: str = "http/1.1") -> ssl.SSLContext:
    """A context for connections to upstreams: TLS 1.2 or later, and one protocol for ALPN.

    Trust comes from ``ca_file`` alone if one is named; else from the system's store, or from certifi's
    where the system has none (slim container images).  A context with a full trust store takes one or
    two megabytes: share it among the pools that need the same.

    :param verify: False accepts any certificate from anybody: for tests and closed networks
    :raises ConfigError: ``ca_file`` cannot be read or holds no certificate
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if not verify else _verifying(ca_file)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols([protocol])
    return context


def _verifying(ca_file: str | None) -> ssl.SSLContext:
    if ca_file is None:
        return ssl.create_default_context(cafile=None if _system_store() else certifi.where())
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"ca_file {ca_file!r} cannot be used: {error.strerror or error}") from error


def _system_store() -> bool:
    """Whether OpenSSL's default paths hold anything (the directory is read only when a name is looked up)."""
    paths = ssl.get_default_verify_paths()
    if paths.cafile is not None and Path(paths.cafile).stat().st_size > 0:
        return True
    return paths.capath is not None and any(Path(paths.capath).glob("*.0"))
