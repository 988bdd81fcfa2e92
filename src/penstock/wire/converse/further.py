"""The prompt that asks a model to go on with an answer that broke off; see :mod:`penstock.wire.further`."""

from __future__ import annotations

import msgspec

from penstock.errors import Untranslatable
from penstock.wire.conversation import Prompt, Text, Turn
from penstock.wire.further import INTERRUPTED


def prefilled(prompt: Prompt, text: str, received: int) -> Prompt:
    """The prompt with the answer so far as its last turn.

    :param text: what of the answer the model is to go on with
    :param received: output tokens that its limit has left fewer
    :raises Untranslatable: it cannot be said of this prompt
    """
    turns = prompt.turns
    if turns and turns[-1].role == "assistant":  # the caller's own prefill: it is all one text
        begun = turns[-1].parts
        if len(begun) != 1 or not isinstance(begun[0], Text):
            raise Untranslatable("the last message cannot be gone on with")
        turns, text = turns[:-1], begun[0].text + text
    return _shortened(prompt, (*turns, Turn("assistant", (Text(text),))), received)


def prompted(prompt: Prompt, text: str, anchor: str, received: int) -> Prompt:
    """The prompt with the answer so far as a turn that has ended, and one that asks to go on with it.

    :raises Untranslatable: it cannot be said of this prompt
    """
    if prompt.turns and prompt.turns[-1].role == "assistant":
        raise Untranslatable("the last message is the model's own")
    asked = Turn("user", (Text(INTERRUPTED.format(anchor=anchor)),))
    return _shortened(prompt, (*prompt.turns, Turn("assistant", (Text(text),)), asked), received)


def _shortened(prompt: Prompt, turns: tuple[Turn, ...], received: int) -> Prompt:
    limit = prompt.max_output_tokens
    if limit is not None:
        limit = max(1, limit - received)  # 0 would be refused; a figure of ours may be one too many
    return msgspec.structs.replace(prompt, turns=turns, max_output_tokens=limit)
