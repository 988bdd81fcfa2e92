"""A gateway to run the documentation against."""

from __future__ import annotations

import pytest
import yaml
from doc_pages import ROOT

from penstock.testing import GatewayProcess


@pytest.fixture(scope="session")
def gateway(tmp_path_factory):
    """What examples/sim.yaml starts, on free ports, with a place for files."""
    folder = tmp_path_factory.mktemp("docs-gateway")
    config = yaml.safe_load((ROOT / "examples" / "sim.yaml").read_text())
    config["files"] = {"directory": str(folder / "kept")}
    config["models"]["tried"] = {
        "candidates": [{"upstream": "sim", "version": "1"}, {"upstream": "sim", "version": "2"}],
        "canary": {"version": "2"},
    }
    config["versions"] = {"path": str(folder / "versions.sqlite")}
    with GatewayProcess(config, folder) as running:
        yield running
