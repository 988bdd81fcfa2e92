"""OpenAI's chat completions, to and from the neutral form.

https://platform.openai.com/docs/api-reference/chat, and what the servers that are compatible with it
have added: ``reasoning_content`` (DeepSeek, vLLM, SGLang) or ``reasoning`` (OpenRouter, newer vLLM) for
what a model thought, and ``reasoning_details`` (OpenRouter) where a thought has a signature.
"""

from penstock.wire.chat.answer import decode_answer, encode_answer
from penstock.wire.chat.fold import fold_stream
from penstock.wire.chat.read_prompt import decode_prompt
from penstock.wire.chat.stream import StreamDecoder, StreamEncoder
from penstock.wire.chat.unfold import unfold_body
from penstock.wire.chat.write_prompt import encode_prompt

__all__ = [
    "StreamDecoder",
    "StreamEncoder",
    "decode_answer",
    "decode_prompt",
    "encode_answer",
    "encode_prompt",
    "fold_stream",
    "unfold_body",
]
