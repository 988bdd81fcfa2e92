"""What a model server does before the first token: it computes the prompt, but for the beginning that it has already.

Prompts are computed one after the other.  What is kept are blocks of 16 tokens, each known by the digest of all that stands
up to its end, as vLLM has them; those that were used longest ago go first.  The last token is always computed.
"""

from __future__ import annotations

from collections import OrderedDict

import msgspec
from blake3 import blake3

from penstock.lab.scenario import Script
from penstock.lab.transcript import BYTES_PER_TOKEN, Request

BLOCK_TOKENS = 16
_BLOCK = BLOCK_TOKENS * BYTES_PER_TOKEN


class Prefill:
    """The one of a simulator."""

    def __init__(self) -> None:
        self._kept: OrderedDict[bytes, None] = OrderedDict()
        self._free_at = 0.0  # when all prompts that have come are computed

    def __repr__(self) -> str:
        return f"<Prefill, {len(self._kept)} blocks kept>"

    def take(self, request: Request, script: Script, now: float) -> Script:
        """The script of a request, with the time that its prompt takes, and what of that was there."""
        cached = script.cached
        if script.prefix_cache:
            cached = min(self._found(request.text, script.prefix_cache), max(0, request.input_tokens - 1))
        ttft = script.ttft
        if script.prefill:
            began = max(now, self._free_at)
            self._free_at = began + (request.input_tokens - cached) / script.prefill
            ttft += self._free_at - now
        return msgspec.structs.replace(script, ttft=ttft, cached=cached)

    def _found(self, text: bytes, keep: int) -> int:
        """Tokens of a prompt that were there; from now on all of it is."""
        hasher, blocks = blake3(), []
        for end in range(_BLOCK, len(text) + 1, _BLOCK):
            hasher.update(text[end - _BLOCK : end])
            blocks.append(hasher.digest(8))
        kept = self._kept
        found = next((count for count, block in enumerate(blocks) if block not in kept), len(blocks))
        for block in reversed(blocks):
            kept[block] = None
            kept.move_to_end(block)
        while len(kept) * BLOCK_TOKENS > keep:
            kept.popitem(last=False)
        return found * BLOCK_TOKENS
