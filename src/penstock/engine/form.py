"""Answers in the form of OpenAI's API, token ids in the form that vLLM gives them.

Chunks are put together of bytes: what is the same in all of them is rendered once for an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isnan

import msgspec

from penstock.engine.backend import Logprob
from penstock.engine.request import Asked
from penstock.engine.text import Piece
from penstock.engine.tools import Called
from penstock.messages import JSON, Endpoint

_encode = msgspec.json.Encoder().encode
DONE = b"data: [DONE]\n\n"

Spell = Callable[[int], str]
"""The text of one token, for log probabilities."""


def usage(input_tokens: int, output_tokens: int) -> bytes:
    return b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}' % (
        input_tokens,
        output_tokens,
        input_tokens + output_tokens,
    )


class Form:
    """How one request is answered."""

    __slots__ = ("_asked", "_chat", "_head", "_number", "_spell")

    def __init__(self, asked: Asked, number: int, created: int, spell: Spell) -> None:
        self._asked = asked
        self._number = number
        self._spell = spell
        self._chat = asked.endpoint is Endpoint.CHAT
        prefix = b"chatcmpl" if self._chat else b"cmpl"
        kind = b"chat.completion" if self._chat else b"text_completion"
        if self._chat and asked.stream:
            kind += b".chunk"
        self._head = b'{"id":"%b-%032x","object":"%b","created":%d,"model":%b,' % (
            *(prefix, number, kind, created),
            _encode(asked.model),
        )

    def __repr__(self) -> str:
        return f"<Form of {self._asked.endpoint.label}>"

    # ---- streamed ----

    def opening(self, choice: int, prompt: Sequence[int]) -> bytes:
        """The chunk before a choice's first text; empty where there is none."""
        if not self._chat:
            return b""
        ids = b',"prompt_token_ids":' + _encode(list(prompt)) if self._asked.wants_ids and not choice else b""
        return (
            b"data: %b"
            b'"choices":[{"index":%d,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]'
            b"%b%b" % (self._head, choice, ids, self._ending(0))
        )

    def chunk(
        self,
        choice: int,
        piece: Piece,
        finish: str,
        output_tokens: int,
        prompt: Sequence[int] | None,
        offset: int,
    ) -> bytes:
        """One chunk.

        :param output_tokens: of all choices so far
        :param prompt: its ids, with a completion's first chunk
        :param offset: letters of this choice before it
        """
        said = _encode(piece.text)
        text = b'"delta":{"content":%b}' % said if self._chat else b'"text":%b' % said
        return self._chunk(choice, text, piece, finish, output_tokens, prompt, offset)

    def call_chunk(self, choice: int, called: Called, place: int, finish: str, output_tokens: int) -> bytes:
        """The chunk of a whole call.

        :param place: of the call among those of its choice
        """
        text = b'"delta":{"tool_calls":[%b]}' % self._call(choice, called, place, b'"index":%d,' % place)
        return self._chunk(choice, text, called.piece, finish, output_tokens, None, 0)

    def _call(self, choice: int, called: Called, place: int, index: bytes = b"") -> bytes:
        kind, said = (b"custom", b"input") if called.is_custom else (b"function", b"arguments")
        return b'{%b"id":"call_%032x_%d_%d","type":"%b","%b":{"name":%b,"%b":%b}}' % (
            *(index, self._number, choice, place, kind, kind),
            *(_encode(called.name), said, _encode(called.arguments)),
        )

    def _chunk(
        self,
        choice: int,
        text: bytes,
        piece: Piece,
        finish: str,
        output_tokens: int,
        prompt: Sequence[int] | None,
        offset: int,
    ) -> bytes:
        ids = b""
        if self._asked.wants_ids:
            ids = b',"token_ids":' + _encode(piece.ids)
            if prompt is not None and not self._chat:
                ids += b',"prompt_token_ids":' + _encode(list(prompt))
        logprobs = self._logprobs(piece, offset) if piece.logprobs else b"null"
        return b'data: %b"choices":[{"index":%d,%b,"logprobs":%b,"finish_reason":%b%b}]%b' % (
            *(self._head, choice, text, logprobs),
            b'"%b"' % finish.encode() if finish else b"null",
            *(ids, self._ending(output_tokens)),
        )

    def closing(self, output_tokens: int) -> bytes:
        """What follows the last chunk."""
        if not self._asked.include_usage:
            return DONE
        told = usage(self._asked.input_tokens, output_tokens)
        return b'data: %b"choices":[],"usage":%b}\n\n%b' % (self._head, told, DONE)

    def _ending(self, output_tokens: int) -> bytes:
        if self._asked.running_usage:
            return b',"usage":%b}\n\n' % usage(self._asked.input_tokens, output_tokens)
        return b',"usage":null}\n\n' if self._asked.include_usage else b"}\n\n"

    # ---- plain ----

    def whole(
        self,
        choices: Sequence[tuple[Piece, str]],
        output_tokens: int,
        calls: Sequence[Sequence[Called]] = (),
        scores: Sequence[Sequence[Logprob]] = (),
    ) -> bytes:
        """The body of a plain answer: each choice's text and finish reason.

        :param calls: of tools, of each choice; their pieces are part of its own
        :param scores: of each choice's prompt, from its second token on
        """
        told_of = [self._of_prompt(index, each) for index, each in enumerate(scores)] or [b""] * len(choices)
        rendered = b",".join(
            self._choice(index, *choice, calls[index] if calls else (), b"" if self._chat else told_of[index])
            for index, choice in enumerate(choices)
        )
        ids = b""
        if self._asked.wants_ids and self._chat:
            ids = b',"prompt_token_ids":' + _encode(self._asked.prompts[0])
        if self._chat:
            ids += told_of[0]
        told = usage(self._asked.input_tokens, output_tokens)
        return b'%b"choices":[%b],"usage":%b%b}' % (self._head, rendered, told, ids)

    def _choice(
        self, index: int, piece: Piece, finish: str, calls: Sequence[Called], of_prompt: bytes
    ) -> bytes:
        said = _encode(piece.text) if piece.text or not calls else b"null"
        made = b",".join(self._call(index, called, place) for place, called in enumerate(calls))
        text = (
            b'"message":{"role":"assistant","content":%b,"refusal":null%b}'
            % (said, b',"tool_calls":[%b]' % made if calls else b"")
            if self._chat
            else b'"text":%b' % said
        )
        ids = b""
        if self._asked.wants_ids:
            ids = b',"token_ids":' + _encode(piece.ids)
            if not self._chat:
                prompt = self._asked.prompts[index // self._asked.choices]
                ids += b',"prompt_token_ids":' + _encode(prompt)
        logprobs = self._logprobs(piece, 0) if piece.logprobs else b"null"
        return b'{"index":%d,%b,"logprobs":%b,"finish_reason":"%b"%b}' % (
            *(index, text, logprobs, finish.encode(), ids + of_prompt),
        )

    # ---- log probabilities ----

    def _of_prompt(self, choice: int, scores: Sequence[Logprob]) -> bytes:
        """As vLLM tells them; empty: nobody asked for that."""
        if self._asked.sampling.prompt_logprobs is None or self._asked.echoes:
            return b""
        ids = self._asked.prompts[choice // self._asked.choices]
        told: list[JSON] = [None]
        for token, score in zip(ids[1:], scores, strict=True):
            likeliest = {each: (value, rank) for rank, (each, value) in enumerate(score.top, 1)}
            likeliest[token] = (score.value, score.rank)
            told.append(
                {
                    str(each): {
                        "logprob": value,
                        "rank": rank or None,
                        "decoded_token": self._spell(each),
                    }
                    for each, (value, rank) in likeliest.items()
                }
            )
        return b',"prompt_logprobs":' + _encode(told)

    def _logprobs(self, piece: Piece, offset: int) -> bytes:
        tokens = [self._spell(token) for token in piece.ids]
        if self._chat:
            content: list[JSON] = [
                {
                    **_likely(text, logprob.value),
                    "top_logprobs": [_likely(self._spell(token), value) for token, value in logprob.top],
                }
                for text, logprob in zip(tokens, piece.logprobs, strict=True)
            ]
            return _encode({"content": content, "refusal": None})
        offsets = []
        for text in tokens:
            offsets.append(offset)
            offset += len(text)
        return _encode(
            {
                "tokens": tokens,
                "token_logprobs": [logprob.value for logprob in piece.logprobs],
                "top_logprobs": self._top(tokens, piece) if self._asked.sampling.top_logprobs else None,
                "text_offset": offsets,
            }
        )

    def _top(self, tokens: Sequence[str], piece: Piece) -> list[JSON]:
        """The likeliest by their texts; the one that was chosen is always among them, as OpenAI's API has it.

        Of the first one of a prompt nothing is known.
        """
        return [
            None
            if isnan(logprob.value)
            else {self._spell(token): value for token, value in logprob.top} | {text: logprob.value}
            for text, logprob in zip(tokens, piece.logprobs, strict=True)
        ]


def _likely(text: str, value: float) -> dict[str, JSON]:
    return {"token": text, "logprob": value, "bytes": list(text.encode())}
