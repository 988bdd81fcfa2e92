"""What an upstream can do for an answer that broke off: the package's table, and the configuration over it."""

from __future__ import annotations

import functools
import re
import tomllib
from importlib import resources
from typing import Literal

import msgspec

from penstock.config.model import UpstreamConfig
from penstock.messages import Endpoint
from penstock.wire.converse import is_anthropics
from penstock.wire.further import Prefill

# The kinds of upstreams that speak Anthropic's API.
ANTHROPICS = frozenset({"anthropic", "bedrock", "vertex"})
_REMEMBERED = 1_024  # upstreams' models whose capabilities are remembered; callers may invent names


class Capabilities(msgspec.Struct, frozen=True):
    """Of one model at one upstream; see ``capabilities.toml``."""

    prefill: Prefill | Literal["none"] = "none"
    prefill_base: str = ""
    token_ids: bool = False
    deterministic: bool = True
    background: bool = False
    generations: bool = False
    usage_lookup: Literal["none", "generation", "stored"] = "none"

    def prefill_at(self, endpoint: Endpoint) -> Prefill | None:
        """How a prefill is written in a request to ``endpoint``; None: not at all."""
        if self.prefill == "none" or endpoint not in {Endpoint.CHAT, Endpoint.COMPLETIONS, Endpoint.MESSAGES}:
            return None
        return "trailing" if endpoint is Endpoint.MESSAGES else self.prefill


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    hosts: tuple[str, ...] = ()
    kind: str = ""
    models: str = ""
    source: str
    prefill: Prefill | Literal["none"] | None = None
    prefill_base: str | None = None
    token_ids: bool | None = None
    deterministic: bool | None = None
    background: bool | None = None
    generations: bool | None = None
    usage_lookup: Literal["none", "generation", "stored"] | None = None

    def fits(self, kind: str, host: str, model: str) -> bool:
        if self.kind and self.kind != kind:
            return False
        if self.hosts and not any(host == one or host.endswith("." + one) for one in self.hosts):
            return False
        return not self.models or re.match(self.models, model, re.IGNORECASE) is not None


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    version: str
    capability: tuple[_Entry, ...]


_SAID = (
    "prefill",
    "prefill_base",
    "token_ids",
    "deterministic",
    "background",
    "generations",
    "usage_lookup",
)


@functools.cache
def _table() -> _File:
    text = resources.files("penstock.upstream").joinpath("capabilities.toml").read_text("utf-8")
    return msgspec.convert(tomllib.loads(text), _File)


def capabilities(config: UpstreamConfig, host: str, model: str) -> Capabilities:
    """What the table says of this model there, with what the configuration says over it.

    :param host: of the upstream's address
    :param model: its own name for the model
    """
    name = model.rpartition("/")[2]
    if config.kind == "bedrock" and not is_anthropics(model):
        found = _listed("bedrock", host, name)
    elif config.kind in ANTHROPICS:
        # Bedrock's have a region and a vendor before it.
        found = _listed("anthropic", host, name[name.find("claude") :])
    else:
        found = _listed(config.kind, host, name)
    own = {name: value for name in _SAID if (value := getattr(config.capabilities, name, None)) is not None}
    return msgspec.structs.replace(found, **own) if own else found


@functools.lru_cache(_REMEMBERED)
def _listed(kind: str, host: str, model: str) -> Capabilities:
    said: dict[str, object] = {}
    for entry in _table().capability:
        if entry.fits(kind, host, model):
            said |= {name: value for name in _SAID if (value := getattr(entry, name)) is not None}
    return msgspec.convert(said, Capabilities)
