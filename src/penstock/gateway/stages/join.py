"""Is the same question being answered right now?

The contract (DESIGN section 2): an identical call in flight shares its generation with this one; else a new one is
made, whose producer is a task of the gateway, *not* of the connection.

Today every call gets a generation of its own.
"""

from __future__ import annotations

from penstock.generation.log import Generation
from penstock.generation.registry import Registry
from penstock.messages import Call


def join(call: Call, registry: Registry) -> Generation:
    """The generation to read.

    :raises penstock.errors.Overloaded: the logs in flight hold too much already
    """
    return registry.create(call)
