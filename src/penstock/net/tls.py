"""TLS on the listening side."""

from __future__ import annotations

import ssl

from penstock.config.model import TLSConfig
from penstock.errors import ConfigError


def server_context(config: TLSConfig) -> ssl.SSLContext:
    """A context for the listener: TLS 1.2 or later, ``http/1.1`` by ALPN.

    :raises ConfigError: certificate or key cannot be read or do not belong together
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    # Without a password OpenSSL would ask at the terminal; an empty one makes it fail instead.
    password = config.key_password.reveal() if config.key_password is not None else ""
    try:
        context.load_cert_chain(config.certificate, config.key, password=lambda: password)
    except FileNotFoundError as error:
        raise ConfigError(f"tls: no such file: {config.certificate} or {config.key}") from error
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(f"tls: cannot use {config.certificate} with {config.key}: {error}") from error
    return context
