"""Triton's tensors as answers of OpenAI's API."""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from penstock.errors import UpstreamBroken
from penstock.messages import JSON, Endpoint
from penstock.wire import sse
from penstock.wire.triton.model import ANSWER_TOKENS, FINISH, PROMPT_TOKENS, WHOLE, Model, Tensor

_encode = msgspec.json.Encoder().encode
_DONE = b"data: [DONE]\n\n"


class Piece(msgspec.Struct, frozen=True):
    """What one response of a model that generates text has."""

    text: str
    finish: str  # "": not told
    prompt_tokens: int | None
    answer_tokens: int | None  # of this piece; of the whole, where it comes in one


def piece_of(model: Model, tensors: Mapping[str, Tensor]) -> Piece:
    """What a response has.

    :raises UpstreamBroken: there is no text in it
    """
    slot = model.answer
    text = tensors.get(slot.name) if slot is not None else None
    if text is None:
        raise UpstreamBroken(f"Triton's model {model.name} answered without its text")
    finish = tensors.get(FINISH)
    return Piece(
        _text(b"".join(map(_bytes, text.values))),
        _text(_bytes(finish.values[0])) if finish is not None and finish.values else "",
        _number(model, tensors, PROMPT_TOKENS),
        _number(model, tensors, ANSWER_TOKENS),
    )


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def _text(data: bytes) -> str:
    return data.decode("utf-8", errors="replace")


def _number(model: Model, tensors: Mapping[str, Tensor], names: tuple[str, ...]) -> int | None:
    slot = model.output(names, WHOLE)
    found = tensors.get(slot.name) if slot is not None else None
    return int(sum(found.values)) if found is not None and found.values else None


class Writer:
    """The answer to one call for text, in OpenAI's form: as one body, or as the frames of a stream.

    :param asked_tokens: the most that the caller wanted: an answer of so many was cut, where nobody tells
    """

    def __init__(
        self,
        endpoint: Endpoint,
        model: str,
        call_id: str,
        created: int,
        *,
        asked_tokens: int | None,
        prompt_tokens: int | None,
    ) -> None:
        self._chat = endpoint is Endpoint.CHAT
        self._head: dict[str, JSON] = {
            "id": ("chatcmpl-" if self._chat else "cmpl-") + call_id.removeprefix("gen_"),
            "object": "chat.completion" if self._chat else "text_completion",
            "created": created,
            "model": model,
        }
        self._asked_tokens = asked_tokens
        self._prompt_tokens = prompt_tokens
        self._answer_tokens: int | None = None
        self._finish = ""
        self._text: list[str] = []
        self._begun = False

    def __repr__(self) -> str:
        return f"<Writer of {self._head['id']}, {len(self._text)} pieces>"

    def take(self, piece: Piece) -> None:
        """A response has come."""
        self._text.append(piece.text)
        self._finish = piece.finish or self._finish
        if piece.prompt_tokens is not None:
            self._prompt_tokens = piece.prompt_tokens
        if piece.answer_tokens is not None:
            self._answer_tokens = (self._answer_tokens or 0) + piece.answer_tokens

    def frame(self, piece: Piece) -> bytes:
        """The frame for it, in a stream."""
        self.take(piece)
        if not self._chat:
            return self._chunk({"index": 0, "text": piece.text, "logprobs": None, "finish_reason": None})
        delta: dict[str, JSON] = {"content": piece.text}
        if not self._begun:
            self._begun = True
            delta = {"role": "assistant", **delta}
        return self._chunk({"index": 0, "delta": delta, "finish_reason": None})

    def end(self) -> bytes:
        """The last frames of a stream."""
        last: dict[str, JSON] = {"index": 0, "finish_reason": self._finish_reason}
        if self._chat:
            last["delta"] = {}
        else:
            last |= {"text": "", "logprobs": None}
        frames = self._chunk(last)
        if (usage := self._usage) is not None:
            frames += sse.encode(_encode({**self._stream_head, "choices": [], "usage": usage}))
        return frames + _DONE

    def body(self) -> bytes:
        """The whole answer."""
        text = "".join(self._text)
        choice: dict[str, JSON] = {"index": 0, "logprobs": None, "finish_reason": self._finish_reason}
        if self._chat:
            choice["message"] = {"role": "assistant", "content": text, "refusal": None}
        else:
            choice["text"] = text
        whole = {**self._head, "choices": [choice]}
        if (usage := self._usage) is not None:
            whole["usage"] = usage
        return _encode(whole)

    @property
    def _stream_head(self) -> dict[str, JSON]:
        return {**self._head, "object": "chat.completion.chunk"} if self._chat else self._head

    def _chunk(self, choice: dict[str, JSON]) -> bytes:
        return sse.encode(_encode({**self._stream_head, "choices": [choice]}))

    @property
    def _finish_reason(self) -> str:
        if self._finish:
            return self._finish
        full = self._asked_tokens is not None and self._answer_tokens is not None
        return "length" if full and (self._answer_tokens or 0) >= (self._asked_tokens or 0) else "stop"

    @property
    def _usage(self) -> dict[str, JSON] | None:
        """None: nobody has counted; then the gateway estimates."""
        given, made = self._prompt_tokens, self._answer_tokens
        if given is None or made is None:
            return None
        return {"prompt_tokens": given, "completion_tokens": made, "total_tokens": given + made}


def vectors_of(model: Model, tensors: Mapping[str, Tensor], rows: int) -> list[list[float]]:
    """One vector a row.

    :raises UpstreamBroken: there are not as many
    """
    slot = model.vector
    found = tensors.get(slot.name) if slot is not None else None
    if found is None or not found.values or len(found.values) % rows:
        raise UpstreamBroken(f"Triton's model {model.name} answered without an embedding for each input")
    size = len(found.values) // rows
    return [found.values[at : at + size] for at in range(0, len(found.values), size)]


def embeddings_body(
    model: str, vectors: Sequence[Sequence[float]], prompt_tokens: int | None, *, in_base64: bool
) -> bytes:
    """The answer of ``/v1/embeddings``."""
    data = [
        {"object": "embedding", "index": index, "embedding": _packed(each) if in_base64 else list(each)}
        for index, each in enumerate(vectors)
    ]
    whole: dict[str, JSON] = {"object": "list", "data": data, "model": model}
    if prompt_tokens is not None:
        whole["usage"] = {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens}
    return _encode(whole)


def _packed(vector: Sequence[float]) -> str:
    """As OpenAI's SDK asks for it: little-endian floats of four bytes."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode("ascii")
