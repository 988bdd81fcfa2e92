"""From one dialect to the other: a request on its way out, an answer or a stream on its way back.

Needed only where the caller's dialect is not the upstream's (``translation``); otherwise bytes pass
through.  Each way goes through the neutral form of ``wire.conversation``::

    request   caller's body   -> decode_prompt -> Prompt       -> encode_prompt -> upstream's body
    answer    upstream's body -> decode_answer -> Answer       -> encode_answer -> caller's body
    stream    upstream frame  -> StreamDecoder -> AnswerEvents -> StreamEncoder -> caller's frames

A dialect is a module that has these six names (``wire.dialect``); this file only says which two belong together.
"""

from __future__ import annotations

import msgspec

from penstock.errors import Untranslatable
from penstock.messages import Dialect, Endpoint
from penstock.wire import anthropic, chat, counting, custom_tools
from penstock.wire._json_values import check_answered
from penstock.wire.conversation import AnswerEvent, Finished, Prompt, Started
from penstock.wire.dialect import AnswersForm, AsksForm, Decoder, Encoder


class StreamTranslation:
    """One streamed answer: the upstream's frames in, the caller's frames out."""

    __slots__ = ("_created", "_decoder", "_encoder", "_model", "finished")

    def __init__(self, decoder: Decoder, encoder: Encoder, model: str, created: int) -> None:
        self._decoder = decoder
        self._encoder = encoder
        self._model = model
        self._created = created
        self.finished = False

    def feed(self, frame: bytes) -> list[bytes]:
        """The frames that this frame becomes; none, if it says nothing to the caller.

        :raises penstock.errors.UpstreamBroken: the frame makes no sense
        :raises penstock.errors.PenstockError: the frame is an error event of the upstream
        """
        return self._encode(self._decoder.feed(frame))

    def close(self) -> list[bytes]:
        """The upstream's stream is at its end.

        :raises penstock.errors.UpstreamBroken: it was not complete
        """
        return self._encode(self._decoder.close())

    def _encode(self, events: list[AnswerEvent]) -> list[bytes]:
        frames: list[bytes] = []
        for event in events:
            if isinstance(event, Started):
                event = msgspec.structs.replace(  # noqa: PLW2901 - told under the caller's name for the model
                    event, model=self._model, created=event.created or self._created
                )
            elif isinstance(event, Finished):
                self.finished = True
            frames += self._encoder.feed(event)
        return frames


class Translation:
    """``endpoint`` is what is asked of the upstream."""

    __slots__ = ("_answers", "_asks", "endpoint")

    def __init__(self, asks: AsksForm, answers: AnswersForm, endpoint: Endpoint) -> None:
        self._asks = asks
        self._answers = answers
        self.endpoint = endpoint

    @property
    def has_custom_tools(self) -> bool:
        """Whether functions of the answer stand for custom tools of the caller's."""
        return isinstance(self._asks, custom_tools.WithCustomTools)

    def request(self, body: bytes, model: str) -> bytes:
        """The upstream's request; ``model`` is the upstream's name. A stream is asked to tell its usage.

        :raises penstock.errors.BadRequest: the body is not a request of the caller's dialect
        :raises penstock.errors.Untranslatable: the upstream's dialect cannot say it
        """
        return self._answers.encode_prompt(self.prompt(body, model))

    def prompt(self, body: bytes, model: str) -> Prompt:
        """What the caller asks for, of the upstream's ``model``.

        :raises penstock.errors.BadRequest: the body is not a request of the caller's dialect
        :raises penstock.errors.Untranslatable: the neutral form has no place for something in it
        """
        return msgspec.structs.replace(self._asks.decode_prompt(body), model=model)

    def answer(self, body: bytes, model: str, *, created: int = 0) -> bytes:
        """The caller's answer; ``model`` is the caller's name. ``created``: Unix time, for dialects that tell it.

        :raises penstock.errors.UpstreamBroken: the body is not an answer, or of too many values
        """
        check_answered(body)
        answer = self._answers.decode_answer(body)
        return self._asks.encode_answer(
            msgspec.structs.replace(answer, model=model, created=answer.created or created)
        )

    def stream(self, model: str, include_usage: bool = False, *, created: int = 0) -> StreamTranslation:
        """A new streamed answer; ``model`` is the caller's name."""
        return StreamTranslation(
            self._answers.StreamDecoder(),
            self._asks.StreamEncoder(include_usage=include_usage),
            model,
            created,
        )


class CountTranslation(Translation):
    """Of the tokens that a response would read: Anthropic is asked for those of the same as a message."""

    __slots__ = ()

    def __init__(self, asks: AsksForm) -> None:
        super().__init__(asks, anthropic, Endpoint.COUNT_TOKENS)

    def request(self, body: bytes, model: str) -> bytes:
        return counting.asked_count(super().request(body, model))

    def answer(self, body: bytes, model: str, *, created: int = 0) -> bytes:  # noqa: ARG002 - of Translation
        return counting.counted_input(counting.told_count(body))


def translation(endpoint: Endpoint, dialect: Dialect, body: bytes = b"{}", name: str = "") -> Translation:
    """How a call of ``endpoint`` is answered by an upstream that speaks ``dialect``.

    RESPONSES is translated for both dialects: towards OpenAI it becomes a chat completion.

    :param body: the caller's; a response repeats its settings
    :param name: the generation's id; a response's ids are made of it
    :raises penstock.errors.Untranslatable: the upstream's dialect has nothing like this endpoint
    """
    counts = endpoint is Endpoint.INPUT_TOKENS and dialect is Dialect.ANTHROPIC
    if endpoint is Endpoint.RESPONSES or counts:
        from penstock.wire import responses  # noqa: PLC0415 - not every process needs it

        asks: AsksForm = responses.Asked(body, name)
    elif endpoint is Endpoint.CHAT:
        asks = chat
    elif endpoint is Endpoint.MESSAGES:
        asks = anthropic
    else:
        raise Untranslatable(f"the upstream of this model has nothing like {endpoint.path}", param="model")
    if counts:
        return CountTranslation(asks)
    names = custom_tools.custom_names(body) if asks is not anthropic else frozenset()
    if names:
        asks = custom_tools.WithCustomTools(asks, names)
    if dialect is Dialect.ANTHROPIC:
        return Translation(asks, anthropic, Endpoint.MESSAGES)
    return Translation(asks, chat, Endpoint.CHAT)
