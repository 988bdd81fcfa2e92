"""Whether ``penstock serve`` with these arguments runs a model that OpenVINO computes: exit status 0, else 1.

``make serve`` asks before it installs what that takes.  A configuration that cannot be read needs nothing: who serves it
is told why.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from penstock.cli.serve import DEFAULT_FILE
from penstock.config.discover import DEMO, discover
from penstock.config.load import load
from penstock.config.model import UpstreamConfig
from penstock.errors import ConfigError


def needs_engine(arguments: Sequence[str], environ: Mapping[str, str], here: Path) -> bool:
    """:param here: where ``serve`` runs"""
    said = [name for name in arguments if name.endswith((".yaml", ".yml"))]
    named = here / (said[0] if said else DEFAULT_FILE)
    if not said and not named.is_file():
        return DEMO in discover(environ, engine=True).config.upstreams
    try:
        upstreams = load(named).upstreams
    except ConfigError:
        return False
    return any(_is_computed_by_openvino(upstream) for upstream in upstreams.values())


def _is_computed_by_openvino(upstream: UpstreamConfig) -> bool:
    if upstream.kind != "local" or upstream.base_url:
        return False
    model, backend = upstream.local.model, upstream.local.backend
    return backend in {"auto", "openvino"} and (not model or (Path(model) / "openvino_model.xml").is_file())


if __name__ == "__main__":
    sys.exit(not needs_engine(sys.argv[1:], os.environ, Path.cwd()))
