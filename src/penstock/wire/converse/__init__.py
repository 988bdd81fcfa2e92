"""Bedrock's Converse API, from the neutral form and back: the form in which Amazon has all vendors' models.

Requests are made of the neutral form like those of every other API.  Answers are told as Anthropic's Messages
(:mod:`.message`): Converse's events are nearly theirs, and so whatever watches, counts and continues streams of
messages does the same for these.

The names and shapes are those of the service model that Amazon's SDK carries (``botocore/data/bedrock-runtime``),
which https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html is generated from.
"""

from penstock.wire.converse.answer import decode_answer
from penstock.wire.converse.further import prefilled, prompted
from penstock.wire.converse.message import ConverseStream, message_of
from penstock.wire.converse.model import is_anthropics, keeps_none, keeps_prompts, speaks_converse
from penstock.wire.converse.stream import StreamDecoder
from penstock.wire.converse.write_prompt import encode_prompt

__all__ = [
    "ConverseStream",
    "StreamDecoder",
    "decode_answer",
    "encode_prompt",
    "is_anthropics",
    "keeps_none",
    "keeps_prompts",
    "message_of",
    "prefilled",
    "prompted",
    "speaks_converse",
]
