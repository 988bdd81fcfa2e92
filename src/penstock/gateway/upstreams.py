"""The upstreams of a configuration: made, or taken over from the one before, so that their connections stay warm."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from penstock.config.model import Config, UpstreamConfig
from penstock.flow.gate import Gate
from penstock.gateway.stages.authenticate import Keyring
from penstock.net.clock import Clock
from penstock.upstream.bedrock import BedrockUpstream
from penstock.upstream.cloud import VertexUpstream
from penstock.upstream.fields import has_no_key
from penstock.upstream.http import HTTPUpstream

_KINDS = {"bedrock": BedrockUpstream, "vertex": VertexUpstream}


def make(
    config: Config,
    keyring: Keyring,
    clock: Clock,
    present: Mapping[str, HTTPUpstream],
    gate_of: Callable[[str, UpstreamConfig, HTTPUpstream | None], Gate | None],
) -> dict[str, HTTPUpstream]:
    """All of them, by name; where one cannot be made, none is.

    :param present: those of the configuration before
    :param gate_of: makes the gate of one that is made; None: it needs none
    :raises penstock.errors.ConfigError: one cannot be used as it is configured
    """
    made: dict[str, HTTPUpstream] = {}
    try:
        for name, wanted in config.upstreams.items():
            before = present.get(name)
            if before is not None and _serves(before, wanted, config, keyring):
                if before.gate is not None:
                    before.gate.use_tiers(config.tiers)
                if before.fields.tiers is not None:
                    before.fields.tiers = config.tiers
                made[name] = before
            else:
                made[name] = _made(name, wanted, config, keyring, clock, gate_of(name, wanted, before))
    except BaseException:
        for name, upstream in made.items():
            if upstream is not present.get(name):
                upstream.discard()
        raise
    return made


def _serves(before: HTTPUpstream, wanted: UpstreamConfig, config: Config, keyring: Keyring) -> bool:
    """Whether one that is there is what is wanted now."""
    return (
        before.config == wanted
        and before.connect_timeout == (wanted.timeouts or config.timeouts).connect
        and before.forwards == (keyring.open and has_no_key(wanted))
    )


def _made(
    name: str, wanted: UpstreamConfig, config: Config, keyring: Keyring, clock: Clock, gate: Gate | None
) -> HTTPUpstream:
    kind: type[HTTPUpstream] = _KINDS.get(wanted.kind, HTTPUpstream)
    if wanted.kind == "triton":
        from penstock.upstream.triton import TritonUpstream  # noqa: PLC0415 - what it needs is an extra

        kind = TritonUpstream
    return kind(
        name,
        wanted,
        clock,
        connect_timeout=(wanted.timeouts or config.timeouts).connect,
        forward_credentials=keyring.open,
        gate=gate,
        tiers=config.tiers if wanted.kind == "local" else None,
    )
