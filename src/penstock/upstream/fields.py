"""The header fields of an upstream's requests: its own, and those that a request has of its caller's."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from math import inf

from penstock import __version__
from penstock.config.model import TierConfig, UpstreamConfig
from penstock.flow.deadline import deadline_of
from penstock.messages import Call, Dialect
from penstock.net.origin import Origin
from penstock.wire.credentials import account_lines, bearer, bearer_field, field_for, key_in

ANTHROPIC_VERSION = b"2023-06-01"
_ANTHROPIC = Dialect.ANTHROPIC

# The caller's header fields that a provider understands and that change its answer.
_FORWARDED = {
    "openai": (b"openai-beta",),
    "anthropic": (b"anthropic-beta",),
    "local": (),
    "sim": (
        b"x-sim-ttft-ms",
        b"x-sim-tokens-per-second",
        b"x-sim-output-tokens",
        b"x-sim-scenario",
        b"x-sim-key",
        b"anthropic-beta",
        b"openai-beta",
    ),
    "triton": (),
    "bedrock": (),  # what its callers wish stands in the body
    "vertex": (b"anthropic-beta",),
}

_CREDENTIALS = frozenset({"authorization", "x-api-key", "api-key"})


class Fields:
    """Of one upstream; all are header lines, each with its end.

    :ivar own: of every request
    :ivar tiers: told to an upstream that has an order of its own; None: it gets none
    :param forwards: the caller's own key is sent
    """

    def __init__(
        self,
        config: UpstreamConfig,
        origin: Origin,
        now: Callable[[], float],
        *,
        forwards: bool,
        tiers: Mapping[str, TierConfig] | None,
    ) -> None:
        self.own = _own(config, origin)
        self._forwarded = _FORWARDED[config.kind]
        self._forwards = forwards
        self._headers = config.headers
        self.tiers = tiers
        self._now = now

    def __repr__(self) -> str:
        return f"<Fields {len(self.own)} bytes>"

    def of_caller(self, call: Call, dialect: Dialect) -> bytes:
        """The lines that this call's request has of its caller's; ``dialect`` is the upstream's."""
        headers = call.headers
        lines = b"" if self.tiers is None else self._order(call, self.tiers)
        for name in self._forwarded:
            if name in headers:
                lines += name + b": " + headers[name] + b"\r\n"
        if dialect is _ANTHROPIC:
            version = headers.get(b"anthropic-version", ANTHROPIC_VERSION)
            lines += b"anthropic-version: " + version + b"\r\n"
        if self._forwards:
            key = key_in(headers)
            if key:
                # In the form in which it came, if the upstream may know that: Anthropic has keys for either.
                same = dialect is call.endpoint.dialect and bearer(headers.get(b"authorization", b"")) == key
                lines += (bearer_field(key) if same else field_for(key, dialect)) + b"\r\n"
                if dialect is not _ANTHROPIC:
                    lines += account_lines(headers, self._headers)
        return lines

    def _order(self, call: Call, tiers: Mapping[str, TierConfig]) -> bytes:
        """The call's place in a local model's own line: its tier's priority, and when its first token is due."""
        tier = tiers.get(call.tenant.tier)
        lines = b"" if tier is None or not tier.priority else b"penstock-priority: %d\r\n" % tier.priority
        deadline = deadline_of(call)
        if deadline < inf:
            # A moment, because the call may still wait for its turn.
            lines += b"penstock-deadline: %.3f\r\n" % (time.time() + deadline - self._now())
        return lines


def _own(config: UpstreamConfig, origin: Origin) -> bytes:
    """Of every request."""
    lines = [
        b"host: " + origin.authority.encode(),
        b"user-agent: penstock/" + __version__.encode(),
        b"content-type: application/json",
        b"accept-encoding: identity",
    ]
    if config.api_key is not None:
        key = config.api_key.reveal().encode()
        lines.append(b"x-api-key: " + key if config.kind == "anthropic" else b"authorization: Bearer " + key)
    lines += [f"{name}: {value}".encode() for name, value in config.headers.items()]
    return b"".join(line + b"\r\n" for line in lines)


def has_no_key(config: UpstreamConfig) -> bool:
    """Whether the configuration leaves it to the callers to be known to this upstream."""
    return (
        config.api_key is None
        and config.credentials is None
        and _CREDENTIALS.isdisjoint(name.lower() for name in config.headers)
    )
