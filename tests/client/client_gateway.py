"""The gateway that the client's tests talk to, and links to it that break."""

from __future__ import annotations

import base64
import random
from urllib.parse import urlsplit

from penstock.lab.faults import Conditions, FaultProxy


def config(simulator):
    return {
        "upstreams": {"sim": {"kind": "sim", "base_url": simulator.base_url}},
        "models": {"*": {"candidates": [{"upstream": "sim"}]}},
        "generations": {"kept_bytes": 134_217_728},
    }


def noise(size, seed=1):
    """A question that still has about so many bytes when it is compressed."""
    return [{"role": "user", "content": base64.b64encode(random.Random(seed).randbytes(size)).decode()}]


def through(gateway, *breaks, **conditions):
    """A link whose first connection has the first of these breaks, and so on."""
    parts = urlsplit(gateway.url)
    return FaultProxy(parts.hostname, parts.port, Conditions(**conditions), breaks=breaks)


def through_all(gateway, *breaks, **conditions):
    """A link on which each of these breaks strikes: the next connection has it if the one before was given up early."""

    def planned():
        for number, each in enumerate(breaks):
            while link.figures.broken == number:
                yield each

    parts = urlsplit(gateway.url)
    link = FaultProxy(parts.hostname, parts.port, Conditions(**conditions), breaks=planned())
    return link
