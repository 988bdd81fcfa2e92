"""Finished answers of tenants that have agreed to it go to who writes transcripts.

What is taken is a reference to what is there anyway; it is made readable in the writer's thread.  Only what a model
can learn from by text alone is: conversations without tools, images and the like, one answer each, that came to its
own end.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from penstock.config.model import TranscriptsConfig
from penstock.config.patterns import resolve
from penstock.errors import PenstockError
from penstock.generation.log import Generation
from penstock.messages import Call, Endpoint, Event
from penstock.metrics import Registry
from penstock.net.clock import Clock
from penstock.transcripts.files import Files
from penstock.transcripts.transcript import Message, Transcript
from penstock.transcripts.writer import Fate, Writer
from penstock.wire import anthropic, chat
from penstock.wire.cache_control import control_of
from penstock.wire.conversation import Part, Prompt, Text, Thinking
from penstock.wire.fold import fold

_SPOKEN = frozenset({Endpoint.CHAT, Endpoint.MESSAGES, Endpoint.RESPONSES})
_FATES: tuple[Fate, ...] = ("written", "unusable", "dropped", "failed")


class Transcriber:
    """Chooses what is written down.  Nothing is, and nothing runs, until a configuration names a directory."""

    def __init__(self, metrics: Registry, clock: Clock) -> None:
        self._clock = clock
        fates = metrics.counter(
            "penstock_transcripts_total",
            "Answers that were to be written down, by what became of them.",
            labels=("outcome",),
        )
        self._fates = {fate: fates.labels(fate) for fate in _FATES}
        self._writer: Writer | None = None
        self._tenants: frozenset[str] = frozenset()
        self._models: frozenset[str] = frozenset()
        self._share = 1.0

    def __repr__(self) -> str:
        return f"<Transcriber of {len(self._tenants)} tenants, {self._writer}>"

    def use(self, config: TranscriptsConfig) -> Callable[[Call, Generation], None] | None:
        """From now on, as this configuration says.

        :returns: what is to be called with every answer that came to its end; None: nobody has agreed to anything
        """
        self._tenants = frozenset(config.tenants)
        self._models = frozenset(config.models)
        self._share = config.share
        if not config.directory:
            return None
        files = Files(
            Path(config.directory),
            kept_for=config.kept_for,
            max_bytes=config.max_bytes,
            file_bytes=config.file_bytes,
        )
        if self._writer is None:
            self._writer = Writer(files, self._count)
            self._clock.add(self._writer)  # what is old goes, also where nobody agrees to more
        else:
            self._writer.use(files)
        return self._ended if self._tenants else None

    def _count(self, fate: Fate) -> None:
        self._fates[fate].add()

    async def close(self) -> None:
        """Write down what waits."""
        if self._writer is not None:
            self._clock.remove(self._writer)
            await asyncio.get_running_loop().run_in_executor(None, self._writer.close)

    def _ended(self, call: Call, generation: Generation) -> None:
        if call.tenant.name not in self._tenants or call.endpoint not in _SPOKEN:
            return
        if self._models and resolve(self._models, call.model) is None:
            return
        field = call.headers.get(b"cache-control")
        if field is not None and not control_of(field).stores:  # the caller's own word
            return
        if bytes(call.fields.get("store", b"")) == b"false":  # OpenAI's word: not to be learnt from, or kept
            return
        if self._share < 1.0 and random.random() >= self._share:
            return
        assert self._writer is not None, "use() has made one"
        ended = _Ended(
            call.id,
            time.time(),
            call.tenant.name,
            call.model,
            *generation.served_by,
            call.endpoint,
            call.body,
            tuple(generation.events),
            generation.stream,
        )
        self._writer.put(ended.transcript, len(call.body) + generation.size)


class _Ended(msgspec.Struct, frozen=True):
    id: str
    at: float
    tenant: str
    model: str
    upstream: str
    upstream_model: str
    endpoint: Endpoint
    body: bytes
    events: tuple[Event, ...]
    stream: bool

    def transcript(self) -> Transcript | None:
        """None: there is more to it than text, or its answer is not whole."""
        try:
            prompt = _prompt(self.endpoint, self.body)
            answer = fold(self.endpoint, self.events) if self.stream else b"".join(self.events)
            said = _answered(self.endpoint, answer)
        except PenstockError:
            return None
        if prompt.count != 1 or prompt.tools or not said.strip():
            return None
        if not prompt.turns or prompt.turns[-1].role != "user":  # the answer's beginning was given
            return None
        messages = []
        for turn in prompt.turns:
            content = _text(turn.parts)
            if content is None:
                return None
            role = "system" if turn.role == "developer" else turn.role
            messages.append(Message(role, content))
        return Transcript(
            self.id,
            self.at,
            self.tenant,
            self.model,
            self.upstream,
            self.upstream_model,
            (*messages, Message("assistant", said)),
        )


def _prompt(endpoint: Endpoint, body: bytes) -> Prompt:
    if endpoint is Endpoint.RESPONSES:
        from penstock.wire import responses  # noqa: PLC0415 - not every process needs it

        return responses.decode_prompt(body)
    return chat.decode_prompt(body) if endpoint is Endpoint.CHAT else anthropic.decode_prompt(body)


def _answered(endpoint: Endpoint, body: bytes) -> str:
    """The text of an answer that came to its own end; empty: it did not, or there is more to it."""
    if endpoint is Endpoint.RESPONSES:
        return _responded(body)
    answer = chat.decode_answer(body) if endpoint is Endpoint.CHAT else anthropic.decode_answer(body)
    return (_text(answer.parts) or "") if answer.stop == "stop" else ""


class _Content(msgspec.Struct):
    type: str
    text: str = ""


class _Item(msgspec.Struct):
    type: str
    content: list[_Content] | None = None


class _Response(msgspec.Struct):
    status: str
    output: list[_Item]


def _responded(body: bytes) -> str:
    try:
        response = msgspec.json.decode(body, type=_Response)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
    said = [item for item in response.output if item.type != "reasoning"]
    contents = [each for item in said for each in item.content or []]
    if response.status != "completed" or any(item.type != "message" for item in said):
        return ""
    if any(each.type != "output_text" for each in contents):
        return ""
    return "".join(each.text for each in contents)


def _text(parts: tuple[Part, ...]) -> str | None:
    """None: there is something that is not text.  What a model has thought is not what it has answered."""
    texts = []
    for part in parts:
        if isinstance(part, Text):
            texts.append(part.text)
        elif not isinstance(part, Thinking):
            return None
    return "".join(texts)
