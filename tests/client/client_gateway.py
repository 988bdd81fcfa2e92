"""The gateway that the client's tests talk to."""

from __future__ import annotations


def config(simulator):
    return {
        "upstreams": {"sim": {"kind": "sim", "base_url": simulator.base_url}},
        "models": {"*": {"candidates": [{"upstream": "sim"}]}},
        "generations": {"kept_bytes": 134_217_728},
    }
