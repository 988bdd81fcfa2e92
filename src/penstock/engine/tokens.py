"""A text's token ids, and the text of token ids, as vLLM's ``/tokenize`` and ``/detokenize`` tell them.

What is tokenized is what a chat or a completion of the same members would be asked with.
"""

from __future__ import annotations

import msgspec

from penstock.engine.backend import CannotTake, ModelCard, Tokenizer
from penstock.engine.body import decoded
from penstock.engine.conversation import conversation_ids
from penstock.engine.request import Chat
from penstock.errors import BadRequest


class Told(msgspec.Struct, frozen=True):
    """The answer, which needs no computing.  ``model``: whose tokens were asked for; empty: nobody said."""

    model: str
    body: bytes


class _Text(msgspec.Struct):
    prompt: str
    model: str = ""
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = False


class _Messages(Chat, kw_only=True):
    model: str = ""
    return_token_strs: bool | None = False


class _Ids(msgspec.Struct):
    tokens: list[int]
    model: str = ""


class _Which(msgspec.Struct):
    messages: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_which = msgspec.json.Decoder(_Which).decode
_messages = msgspec.json.Decoder(_Messages).decode
_text = msgspec.json.Decoder(_Text).decode
_ids = msgspec.json.Decoder(_Ids).decode


def tokenized(body: bytes, tokenizer: Tokenizer, card: ModelCard) -> Told:
    """``count``, ``max_model_len``, ``tokens`` and, where they are asked for, ``token_strs``.

    :raises BadRequest: there is no text, or none that the model can read
    """
    if decoded(body, _which).messages is not msgspec.UNSET:
        asked = decoded(body, _messages)
        try:
            ids = conversation_ids(asked, tokenizer)
        except CannotTake as refusal:
            raise BadRequest(str(refusal)) from None
        return _told(asked.model, ids, bool(asked.return_token_strs), tokenizer, card)
    text = decoded(body, _text)
    ids = tokenizer.encode(text.prompt, special=text.add_special_tokens is not False)
    return _told(text.model, ids, bool(text.return_token_strs), tokenizer, card)


def detokenized(body: bytes, tokenizer: Tokenizer, card: ModelCard) -> Told:
    """``prompt``: the text, without tokens that stand for none.

    :raises BadRequest: there are ids that are no tokens, or the model keeps no way back
    """
    asked = decoded(body, _ids)
    if asked.tokens and not 0 <= min(asked.tokens) <= max(asked.tokens) < card.vocabulary:
        raise BadRequest("tokens: there are ids that are no tokens of this model", param="tokens")
    if card.dimensions:
        raise BadRequest("this model makes embeddings: its tokens are read, and not written", param="tokens")
    return Told(asked.model, msgspec.json.encode({"prompt": tokenizer.decode(asked.tokens)}))


def _told(model: str, ids: list[int], spelt: bool, tokenizer: Tokenizer, card: ModelCard) -> Told:
    if spelt and card.dimensions:
        raise BadRequest(
            "this model makes embeddings: its tokens are read, and not written", param="return_token_strs"
        )
    told = {
        "count": len(ids),
        "max_model_len": card.context,
        "tokens": ids,
        "token_strs": [tokenizer.decode([token]) for token in ids] if spelt else None,
    }
    return Told(model, msgspec.json.encode(told))


__all__ = ["Told", "detokenized", "tokenized"]
