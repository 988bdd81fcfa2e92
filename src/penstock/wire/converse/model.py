"""What a model's id at Bedrock tells: whose it is, and what it understands that others do not.

An id is a vendor's and a model's name (``meta.llama3-3-70b-instruct-v1:0``), before which the place of an inference
profile may stand (``us.``, ``global.``), or an ARN, which ends in such a name or in one that tells nothing.
"""

from __future__ import annotations

import re

# [place.]vendor.model: what stands behind the last slash of an ARN, or the id itself.
_NAMED = re.compile(r"(?:[a-z-]+\.)?[a-z0-9]+\.[a-z][\w.:-]*", re.IGNORECASE | re.ASCII)
_ANTHROPICS = re.compile(r"(?:^|[./])anthropic\.|claude", re.IGNORECASE)
# Anthropic's from before Bedrock kept prompts, or for which it keeps them in a preview only.
_KEEPS_NONE = re.compile(r"claude-(?:v\d|instant|3-(?:opus|sonnet|haiku|5-sonnet))", re.IGNORECASE)
_NOVA = re.compile(r"\bnova-", re.IGNORECASE)
_NOVA_2 = re.compile(r"\bnova-2-", re.IGNORECASE)
_TAKES_EFFORT = re.compile(r"gpt-oss|kimi", re.IGNORECASE)
_GPT = re.compile(r"\bopenai\.gpt-\d", re.IGNORECASE)
_MISTRAL = re.compile(r"\bmistral\.", re.IGNORECASE)


def is_anthropics(model: str) -> bool:
    """Whether it is one of Anthropic's models, as far as its id tells."""
    return _ANTHROPICS.search(model) is not None


def speaks_converse(model: str) -> bool:
    """Whether a model is asked by Converse where nobody says how: its id names a vendor that is not Anthropic."""
    return not is_anthropics(model) and _NAMED.fullmatch(model.rpartition("/")[2]) is not None


def keeps_prompts(model: str) -> bool:
    """Whether it takes marks for its prompt cache at Bedrock; the others refuse requests with one.

    https://docs.aws.amazon.com/bedrock/latest/userguide/prompt-caching.html, "Supported models"
    """
    if is_anthropics(model):
        return not keeps_none(model)
    return _NOVA.search(model) is not None


def keeps_none(model: str) -> bool:
    """Whether it is one of Anthropic's that refuses marks at Bedrock, as far as its id tells."""
    return _KEEPS_NONE.search(model) is not None


def top_k_of(model: str, top_k: int) -> dict[str, object] | None:
    """``additionalModelRequestFields`` that say it; None: nobody knows whether the model has it, and under what name.

    https://docs.aws.amazon.com/nova/latest/userguide/complete-request-schema.html,
    https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-mistral-chat-completion.html
    """
    if _NOVA.search(model):
        return {"inferenceConfig": {"topK": top_k}}
    return {"top_k": top_k} if is_anthropics(model) or _MISTRAL.search(model) else None


def effort_of(model: str, effort: str) -> dict[str, object] | None:
    """``additionalModelRequestFields`` that say how much it shall think; None: as for :func:`top_k_of`.

    https://docs.aws.amazon.com/nova/latest/nova2-userguide/request-response-schema.html,
    https://github.com/langchain-ai/langchain-aws/pull/1188, https://github.com/stdapi-ai/stdapi.ai/issues/283
    """
    if _NOVA_2.search(model):
        return {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": effort}}
    if _TAKES_EFFORT.search(model):
        return {"reasoning_effort": effort}
    return {"reasoning": {"effort": effort}} if _GPT.search(model) else None
