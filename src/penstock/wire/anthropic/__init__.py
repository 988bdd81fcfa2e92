"""Anthropic's Messages, to and from the neutral form.

https://docs.anthropic.com/en/api/messages
"""

from penstock.wire.anthropic.answer import decode_answer, encode_answer
from penstock.wire.anthropic.fold import fold_stream
from penstock.wire.anthropic.read_prompt import decode_prompt
from penstock.wire.anthropic.stream import StreamDecoder, StreamEncoder
from penstock.wire.anthropic.unfold import unfold_body
from penstock.wire.anthropic.write_prompt import DEFAULT_MAX_TOKENS, encode_prompt

__all__ = [
    "DEFAULT_MAX_TOKENS",
    "StreamDecoder",
    "StreamEncoder",
    "decode_answer",
    "decode_prompt",
    "encode_answer",
    "encode_prompt",
    "fold_stream",
    "unfold_body",
]
