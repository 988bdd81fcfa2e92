"""What the configuration may leave out of requests' bodies, and put into them."""

from __future__ import annotations

from typing import Any

from penstock.config._reading import Path, Reader

NEEDED = frozenset({"input", "messages", "model", "prompt", "stream"})  # what no call can be asked without
WRITTEN = "stream_options"  # by the gateway itself, which asks every stream for its usage

# What the gateway goes by, and would not see: whether an answer may be shared and kept, how much of it there is, and
# whether it can be gone on with after a break, which is not so where a grammar rules it.
_GONE_BY = frozenset(
    [
        "background",
        "best_of",
        "conversation",
        "container",
        "echo",
        "ebnf",
        "functions",
        "grammar",
        "guided_choice",
        "guided_grammar",
        "guided_json",
        "guided_regex",
        "json_schema",
        "logprobs",
        "mcp_servers",
        "n",
        "output_config",
        "previous_response_id",
        "regex",
        "response_format",
        "store",
        "structural_tag",
        "structured_outputs",
        "suffix",
        "text",
        "thread",
        "tool_choice",
        "tools",
        "web_search_options",
    ]
)
_LIMITS = frozenset({"max_completion_tokens", "max_output_tokens", "max_tokens"})
_UNNAMED: tuple[Any, ...] = (None, "", [])  # as where nothing is said


def check_leave_out(upstream: dict[str, Any], at: Path, reader: Reader) -> None:
    for i, name in enumerate(upstream.get("leave_out", [])):
        if name in NEEDED:
            reader.mistake((*at, "leave_out", i), f"without its {name} a call is none")
        elif name == WRITTEN:
            reader.mistake(
                (*at, "leave_out", i), f"{name} is written anew for each stream, to be told its usage"
            )
    if upstream.get("leave_out") and upstream.get("kind") == "triton":
        reader.mistake((*at, "leave_out"), "is not for the kind triton, which is told what its models take")


def check_parameters(model: dict[str, Any], at: Path, reader: Reader) -> None:
    """A parameter that would never be used is a mistake: something else was meant."""
    defaults, overrides = model.get("parameters") or {}, model.get("overrides") or {}
    for name, value in defaults.items():
        if value not in _UNNAMED and overrides.get(name) not in _UNNAMED:
            reader.mistake((*at, "parameters", name), "is of no use: overrides has it, too")
    most = model.get("max_output_tokens")
    for section, asked in (("parameters", defaults), ("overrides", overrides)):
        tokens = asked.get("max_tokens")
        if most is not None and tokens is not None and tokens > most:
            reader.mistake((*at, section, "max_tokens"), f"is more than max_output_tokens ({most})")


def check_extra_body(candidate: dict[str, Any], upstreams: dict[str, Any], at: Path, reader: Reader) -> None:
    extra = candidate.get("extra_body") or {}
    for name in extra:
        if fault := extra_body_fault(name):
            reader.mistake((*at, "extra_body", name), fault)
    kind = (upstreams.get(candidate.get("upstream", "")) or {}).get("kind")
    if extra and kind == "triton":
        reader.mistake((*at, "extra_body"), "is not for the kind triton, which is told what its models take")


def extra_body_fault(name: str) -> str:
    """Why this cannot be a member of ``extra_body``; empty: it can."""
    if name in NEEDED or name == WRITTEN:
        return "is the call's own, or written by Penstock"
    if name in _LIMITS:
        return "is counted before a call is asked: say max_tokens in the model's parameters or overrides"
    if name in _GONE_BY:
        return "is the caller's to say: Penstock goes by it, and would not see it here"
    return ""
