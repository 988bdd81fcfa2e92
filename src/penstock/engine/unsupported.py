"""What other servers can be asked and no model here can: refused by name, unless it says what happens anyway.

A caller whose ``bad_words`` are passed over would take the answer for one without them.  The names are vLLM's, but for
those of OpenAI at the end.
"""

from __future__ import annotations

from penstock.engine.ruled import RuledBody
from penstock.errors import BadRequest
from penstock.messages import JSON

_ANYWAY: dict[str, tuple[JSON, ...]] = {
    "use_beam_search": (False,),
    "length_penalty": (1, 1.0),
    "early_stopping": (False,),
    "skip_special_tokens": (True,),
    "allowed_token_ids": ([],),
    "bad_words": ([],),
    "priority": (0,),
    "logits_processors": ([],),
    "return_tokens_as_token_ids": (False,),
    "modalities": (["text"], []),
}
"""Of the members below those that may be there, with the values that change nothing."""

_WHY = {
    "priority": ": a whole number in the header field Penstock-Priority says it, and higher goes first",
    "chat_template": " from a caller: it would be code; the model's own counts",
    "truncate_prompt_tokens": ": nothing of a prompt is cut off",
    "cache_salt": ": who shares a cache is decided with the model's prefix_cache",
    "skip_special_tokens": " as false: a text is told without them, and their ids with return_token_ids",
    "audio": ", which write text",
    "modalities": " but text",
}


class UnsupportedBody(RuledBody, kw_only=True):
    """The members that are refused."""

    use_beam_search: JSON = None
    length_penalty: JSON = None
    early_stopping: JSON = None
    allowed_token_ids: JSON = None
    bad_words: JSON = None
    skip_special_tokens: JSON = None
    truncate_prompt_tokens: JSON = None
    prompt_embeds: JSON = None
    priority: JSON = None
    cache_salt: JSON = None
    logits_processors: JSON = None
    return_tokens_as_token_ids: JSON = None
    repetition_detection: JSON = None
    thinking_token_budget: JSON = None
    chat_template: JSON = None
    kv_transfer_params: JSON = None
    vllm_xargs: JSON = None
    audio: JSON = None
    modalities: JSON = None
    web_search_options: JSON = None


_NAMES = tuple(name for name in UnsupportedBody.__struct_fields__ if name not in RuledBody.__struct_fields__)


def refuse_unsupported(body: UnsupportedBody) -> None:
    """Pass what asks for nothing that is not done.

    :raises BadRequest: it asks for something else
    """
    for name in _NAMES:
        said = getattr(body, name)
        if said is not None and said not in _ANYWAY.get(name, ()):
            raise unsupported(name, _WHY.get(name, ""))


def unsupported(param: str, why: str = "") -> BadRequest:
    """The refusal of a member.

    :param why: how the sentence ends
    """
    return BadRequest(
        f"{param} is not supported by local models{why}", param=param, code="unsupported_parameter"
    )


__all__ = ["UnsupportedBody", "refuse_unsupported", "unsupported"]
