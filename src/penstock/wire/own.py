"""Members of one API that callers of another may give: Bedrock's Converse has some for which no other API has a word.

They go through to Converse as they came, as they do at other gateways; whoever is asked in another way refuses them.
"""

from __future__ import annotations

from penstock.errors import Untranslatable
from penstock.messages import JSON
from penstock.wire.conversation import Prompt
from penstock.wire.members import Members

CONVERSE = ("additionalModelRequestFields", "guardrailConfig", "performanceConfig", "requestMetadata")


def read(asked: Members) -> JSON | None:
    """Those that stand in a request; None: none does.

    :raises BadRequest: one is no object
    """
    found: dict[str, JSON] = {}
    for name in CONVERSE:
        if (value := asked.raw(name)) is not None:
            Members(value, asked.where(name))
            found[name] = value
    return found or None


def refuse(prompt: Prompt) -> None:
    """For all that is not Converse.

    :raises Untranslatable: there are some
    """
    for name in prompt.converse or ():
        raise Untranslatable(f"{name} cannot be translated: only Bedrock's Converse has it", param=name)
