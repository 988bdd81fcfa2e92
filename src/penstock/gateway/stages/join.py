"""Is the same question being answered right now?

The contract: an identical call in flight shares its generation with this one; else a new one is
made, whose producer is a task of the gateway, *not* of the connection.

Identical means: the same cache key (``cache.keys``), so streaming and plain callers share one answer.  By default
those calls are joined whose answer is meant to be one (temperature 0, or a seed); a model's ``join`` decides
otherwise, and so does a caller's ``Penstock-Join``.  A call that does more than ask is never joined.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from penstock.cache import keys
from penstock.errors import BadRequest
from penstock.generation.log import Generation
from penstock.generation.registry import Registry
from penstock.messages import Call

Name: TypeAlias = tuple[str, bytes]
"""What a question in flight is bound to in the registry."""


def name_of(call: Call, policy: Literal["auto", "always", "never"], *, open_to_all: bool) -> Name | None:
    """The name of this question; None: it is not to be joined.

    :param open_to_all: the gateway has no keys of its own
    :raises BadRequest: ``Penstock-Join`` says what cannot be understood
    """
    wish = call.headers.get(b"penstock-join")
    if wish is not None:
        if wish not in {b"always", b"never"}:
            raise BadRequest("Penstock-Join must be always or never", param="penstock-join")
        policy = "always" if wish == b"always" else "never"
    if policy == "never" or (policy == "auto" and not keys.is_deterministic(call)) or keys.has_effects(call):
        return None
    scope = keys.scope_of(call, open_to_all=open_to_all)
    version = f"{call.model}@{call.version}" if call.version else call.model
    return "question", keys.key(call, model_version=version, scope=scope)


def find(name: Name, registry: Registry) -> Generation | None:
    """The generation that answers this question right now."""
    for generation in registry.named(name):
        if generation.ending is None and not generation.abandoned:
            return generation
    return None
