"""One configuration, ready for use."""

from __future__ import annotations

import msgspec

from penstock.config.model import Config
from penstock.flow.retry import RetryBudget
from penstock.gateway.cascade import Cascades
from penstock.gateway.stages.authenticate import Keyring
from penstock.gateway.stages.degrade import Degradation
from penstock.gateway.stages.route import Router
from penstock.upstream.http import HTTPUpstream


class Snapshot(msgspec.Struct, frozen=True, eq=False):
    """One configuration, ready for use.  A call keeps the one that it began with."""

    config: Config
    keyring: Keyring
    router: Router
    upstreams: dict[str, HTTPUpstream]
    budget: RetryBudget
    degradation: Degradation | None = None  # None: no tier has a ladder
    cascades: Cascades | None = None  # None: no model has a smaller one that is asked first
