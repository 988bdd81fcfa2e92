"""Parameters that LiteLLM drops: what an upstream here is not told (``leave_out``)."""

from __future__ import annotations

import re

from penstock.config._bodies import NEEDED, WRITTEN
from penstock.config.litellm._draft import Draft
from penstock.config.litellm._values import Plain, as_list

# What chat completions have, and neither Anthropic's API nor Converse: LiteLLM's `drop_params` drops it there.
_LACKING = (
    "frequency_penalty",
    "logit_bias",
    "logprobs",
    "n",
    "presence_penalty",
    "seed",
    "top_logprobs",
)
_LACK_THEM = frozenset({"anthropic", "bedrock", "vertex"})  # kinds of upstreams
_MEMBER = re.compile(r"\w+")


def take_dropped(draft: Draft, parameters: Plain, kind: str, name: str, *, drops: bool) -> tuple[str, ...]:
    """The members that the deployment's upstream is not told, taken out.

    :param drops: whether LiteLLM drops what a model lacks, unless the deployment says otherwise
    """
    drops = parameters.pop("drop_params", drops) is True
    kept = {*NEEDED, WRITTEN}
    dropped = [*_LACKING] if drops and kind in _LACK_THEM else []
    for member in as_list(parameters.pop("additional_drop_params", None)):
        if isinstance(member, str) and _MEMBER.fullmatch(member) and member not in kept:
            dropped.append(member)
        else:
            reason = "`leave_out` names members of the body, and none that a call needs or the gateway writes"
            draft.leave("model_list[].litellm_params.additional_drop_params", reason, name)
    return tuple(dict.fromkeys(dropped))
