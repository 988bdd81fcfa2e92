"""How many tokens has a prompt at least?

An estimate says what is likely; this must never be too high, for who goes by it refuses a call, or sends it elsewhere.  So
it counts words: what stands between white space.  No vocabulary in use has tokens that reach over white space from one
word into the next (they cut a text there before they look for tokens, SentencePiece too), so each word is a token at
least; most are one and a third.  Scripts without spaces, images, sound, tools, and what a template puts between messages
count nothing or hardly anything.

What a server may leave out before the model reads it counts nothing either: earlier thoughts, and prompts that their
server is asked to shorten.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from penstock.messages import JSON, Endpoint
from penstock.wire.not_json import NOT_JSON

_PROMPTS: dict[Endpoint, tuple[str, ...]] = {
    Endpoint.CHAT: ("messages",),
    Endpoint.MESSAGES: ("system", "messages"),
    Endpoint.RESPONSES: ("instructions", "input"),
}
# By these a server is asked to make the prompt fit: OpenAI's responses, Anthropic's context editing, vLLM, OpenRouter.
_SHORTENING = frozenset(
    {"truncation", "context_management", "truncate_prompt_tokens", "transforms", "plugins", "truncate"}
)
_TEXTS = ("content", "text", "output")  # members in which texts stand, of messages and of their parts
_LEFT_OUT = frozenset({"thinking", "redacted_thinking", "reasoning", "compaction"})
_MASK = bytes(0x20 if byte in b" \t\n\r\x0b\x0c" else 0x78 for byte in range(256))  # a blank, or an x
_THOUGHT = b"</think>"  # what stands before it, templates leave out of earlier turns


def least_tokens(endpoint: Endpoint, fields: Mapping[str, msgspec.Raw], enough: int) -> int:
    """A number of tokens that the prompt has for any model; not counted on once it is above ``enough``."""
    if endpoint not in _PROMPTS or not _SHORTENING.isdisjoint(fields):
        return 0
    tokens = 0
    for name in _PROMPTS[endpoint]:
        if name not in fields:
            continue
        try:
            value: JSON = msgspec.json.decode(fields[name])
        except NOT_JSON:
            return 0
        for text in _texts(value):
            tokens += _words(text.rpartition(_THOUGHT)[2])
            if tokens > enough:
                return tokens
    return tokens


def _words(text: bytes) -> int:
    """As many as ``len(text.split())``, without making them: a megabyte holds the event loop for 3 ms, not for 12."""
    mask = text.translate(_MASK)
    return mask.count(b" x") + mask.startswith(b"x")


def _texts(value: JSON) -> Iterator[bytes]:
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, str):
            yield one.encode("utf-8", "surrogatepass")
        elif isinstance(one, list):
            left += one
        elif isinstance(one, dict) and one.get("type") not in _LEFT_OUT:
            left += [one[name] for name in _TEXTS if name in one]
