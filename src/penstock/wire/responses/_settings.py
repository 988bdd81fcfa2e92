"""What a response object repeats of the request that it answers."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from penstock.errors import BadRequest
from penstock.wire.namespaces import namespaces_of
from penstock.wire.not_json import NOT_JSON

NULL: Final = msgspec.Raw(b"null")
_AUTO: Final = msgspec.Raw(b'"auto"')
_TRUE: Final = msgspec.Raw(b"true")
_ZERO: Final = msgspec.Raw(b"0")
_NONE: Final = msgspec.Raw(b"[]")
_EMPTY: Final = msgspec.Raw(b"{}")
_REASONING: Final = msgspec.Raw(b'{"effort":null,"summary":null}')
_TEXT: Final = msgspec.Raw(b'{"format":{"type":"text"}}')


class Settings(msgspec.Struct, frozen=True):
    """Members of the request, undecoded, in the form in which the response object repeats them."""

    model: str = ""
    instructions: msgspec.Raw = NULL
    max_output_tokens: msgspec.Raw = NULL
    max_tool_calls: msgspec.Raw = NULL
    metadata: msgspec.Raw = NULL
    parallel_tool_calls: msgspec.Raw = NULL
    prompt_cache_key: msgspec.Raw = NULL
    reasoning: msgspec.Raw = NULL
    safety_identifier: msgspec.Raw = NULL
    temperature: msgspec.Raw = NULL
    text: msgspec.Raw = NULL
    tool_choice: msgspec.Raw = NULL
    tools: msgspec.Raw = NULL
    top_logprobs: msgspec.Raw = NULL
    top_p: msgspec.Raw = NULL
    user: msgspec.Raw = NULL

    def __post_init__(self) -> None:
        for name, default in _DEFAULTS.items():
            if bytes(getattr(self, name)) == b"null":
                msgspec.structs.force_setattr(self, name, default)

    @property
    def namespaces(self) -> dict[str, tuple[str, str]]:
        """Namespace and name of each function that has one, by the name that the upstream knows."""
        return namespaces_of(self.tools)

    @property
    def reasoning_as_summary(self) -> bool:
        """Whether the caller wants to see the reasoning as a summary (else as the text that it is)."""
        try:
            wanted = _wanted_summary(self.reasoning)
        except NOT_JSON:  # no business of this: decode_prompt refuses it
            return False
        return (wanted.summary or wanted.generate_summary) is not None


# What OpenAI's API says where the request says nothing.  `temperature` and `top_p` stay null: which
# values the upstream took is not known here.
_DEFAULTS: Final = {
    "metadata": _EMPTY,
    "parallel_tool_calls": _TRUE,
    "reasoning": _REASONING,
    "text": _TEXT,
    "tool_choice": _AUTO,
    "tools": _NONE,
    "top_logprobs": _ZERO,
}


class _WantedSummary(msgspec.Struct, frozen=True):
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None


_wanted_summary = msgspec.json.Decoder(_WantedSummary).decode
_settings = msgspec.json.Decoder(Settings).decode


def read_settings(body: bytes) -> Settings:
    """The settings of a request, unchecked: that is for ``decode_prompt`` to do.

    :raises BadRequest: not a JSON object, or the model's name no string
    """
    try:
        return _settings(body)
    except NOT_JSON as error:
        raise BadRequest(f"the body cannot be read: {error}") from None
