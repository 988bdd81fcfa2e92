"""What in a request decides how its answer may be continued; read when an answer breaks, and not before."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from penstock.messages import JSON, Endpoint
from penstock.wire.not_json import NOT_JSON

_value = msgspec.json.Decoder().decode

# Output that a grammar rules: a machine that starts anew in the middle would begin a second value.  The names
# are OpenAI's, Anthropic's, and those of vLLM, SGLang and llama.cpp.
_RULED = (
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "structured_outputs",
    "structural_tag",
    "grammar",
    "json_schema",
    "regex",
    "ebnf",
)


class Demand(msgspec.Struct, frozen=True):
    """``deterministic``: the same request gives the same answer, if the upstream keeps its word.  ``greedy``: because
    each token is the likeliest one, whatever of the text before it was prompt and what was answer.
    """

    deterministic: bool
    greedy: bool
    choices: int
    logprobs: bool
    ruled: bool  # the output's form is ruled by a schema or a grammar
    tools: bool  # the model may call tools
    thinking: bool  # it was asked to think first
    odd: bool  # echo, suffix, best_of: what the answer's text is, another request could not say


def demand(endpoint: Endpoint, fields: Mapping[str, msgspec.Raw]) -> Demand:
    """Read a request's members."""

    def of(name: str) -> JSON:
        value = fields.get(name)
        if value is None:
            return None
        try:
            return _value(value)
        except NOT_JSON:
            return None

    temperature, tool_choice = of("temperature"), of("tool_choice")
    choices = of("n")
    logprobs = of("logprobs")
    return Demand(
        deterministic=temperature == 0 or of("seed") is not None,
        greedy=temperature == 0 and not (of("presence_penalty") or of("frequency_penalty")),
        choices=choices if isinstance(choices, int) else 1,
        # Legacy completions ask with a number, of which 0 is one.
        logprobs=bool(logprobs or of("top_logprobs"))
        or (endpoint is Endpoint.COMPLETIONS and logprobs is not None),
        ruled=_formatted(of) or any(name in fields for name in _RULED),
        tools=bool(of("tools") or of("functions")) and tool_choice != "none",
        thinking=_thinks(of("thinking"), of("reasoning_effort"), of("reasoning")),
        odd=bool(of("echo") or of("suffix") or (of("best_of") or 1) != 1),
    )


def _formatted(of: JSON) -> bool:
    text, output = of("text"), of("output_config")
    formats = (
        of("response_format"),
        of("output_format"),
        text.get("format") if isinstance(text, dict) else None,
        output.get("format") if isinstance(output, dict) else None,
    )
    return any(isinstance(one, dict) and one.get("type") != "text" for one in formats)


def _thinks(thinking: JSON, effort: JSON, reasoning: JSON) -> bool:
    if isinstance(thinking, dict):
        return thinking.get("type") != "disabled"
    if isinstance(reasoning, dict):
        effort = reasoning.get("effort")
    return effort not in (None, "none")
