"""One request for a response, as the form in which its answers are written."""

from __future__ import annotations

from penstock.wire.conversation import Answer, Prompt
from penstock.wire.responses._answer import encode_answer
from penstock.wire.responses._prompt import decode_prompt
from penstock.wire.responses._settings import Settings, read_settings
from penstock.wire.responses._stream import StreamEncoder


class Asked:
    """The dialect, bound to one request: its answers repeat the request's settings and bear one name.

    :param body: the request
    :param name: of the answer: all ids are made of it, so that they are this answer's alone even where
        an upstream gives every answer the same id (LangChain merges messages whose ids are equal)
    """

    __slots__ = ("_body", "_name", "_read")

    def __init__(self, body: bytes, name: str) -> None:
        self._body = body
        self._name = name
        self._read: Settings | None = None

    def __repr__(self) -> str:
        return f"<Asked for response {self._name}>"

    @property
    def settings(self) -> Settings:
        if self._read is None:
            self._read = read_settings(self._body)
        return self._read

    def decode_prompt(self, body: bytes) -> Prompt:
        return decode_prompt(body)

    def encode_answer(self, answer: Answer) -> bytes:
        return encode_answer(answer, self.settings, name=self._name)

    def StreamEncoder(self, *, include_usage: bool = False) -> StreamEncoder:  # noqa: N802 - of AsksForm
        return StreamEncoder(self.settings, name=self._name, include_usage=include_usage)
