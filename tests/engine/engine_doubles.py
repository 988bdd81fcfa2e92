"""A model that needs no library: its next token is a sum of the last ones, and each step waits to be allowed."""

from __future__ import annotations

import asyncio
import contextlib
import threading

from penstock.engine.backend import CannotTake, Logprob, ModelCard, Progress, Sampling
from penstock.engine.engine import Engine, Job

WORDS = [
    b"\xe6",
    b"\xbc",
    b"\xa2",
    *(bytes([letter]) for letter in range(32, 127)),
]  # 漢, in parts, and ASCII
FIRST_LETTER = 3


class LetterTokenizer:
    """A token for each letter; ``<`` and ``>`` are around the roles of a chat."""

    def encode(self, text, *, special):
        del special
        return [WORDS.index(bytes([byte])) for byte in text.encode()]

    def decode(self, ids):
        return b"".join(WORDS[token] for token in ids).decode("utf-8", "replace")

    def render(self, messages, *, answer, tools=(), more=None):
        text = "".join(f"({name} {value})" for name, value in (more or {}).items())
        if any(message["role"] == "nobody" for message in messages):
            raise CannotTake("the chat template knows no role 'nobody'")
        text += "".join(f"[{tool['function']['name']}]" for tool in tools)
        for message in messages:
            text += f"<{message['role']}>{message['content']}"
            text += "".join(f"{{{call['function']}}}" for call in message.get("tool_calls", ()))
        return text + ("<assistant>" if answer else "")

    def pieces(self):
        return WORDS


def following(ids):
    """The token that the model says after these."""
    letters = len(WORDS) - FIRST_LETTER
    return FIRST_LETTER + (7 * ids[-1] + 3 * sum(ids[-3:]) + len(ids) * len(ids)) % letters


def greedy(prompt, count):
    """What it says to a prompt, computed alone."""
    ids = list(prompt)
    for _ in range(count):
        ids.append(following(ids))
    return ids[len(prompt) :]


class LetterBackend:
    """Steps wait for ``allow``; without ``held`` they are all allowed."""

    def __init__(self, *, context=200, step_tokens=64, held=False, end=None):
        self.card = ModelCard(
            directory="letters",
            context=context,
            vocabulary=len(WORDS),
            backend="letters",
            step_tokens=step_tokens,
            defaults=Sampling(),
        )
        self.tokenizer = LetterTokenizer()
        self.prepared = []
        self.unfit = ""  # why rules are refused
        self.added = []  # numbers, in their order
        self.cancelled = []
        self.running = {}
        self.most = 0
        self.steps = 0
        self.rests = 0
        self.fail = None  # raised by the next step
        self.refuse = False
        self.closed = False
        self.end = end
        self._held = held
        self._allowed = threading.Semaphore(0)
        self.stepped = threading.Semaphore(0)

    def allow(self, steps=1):
        for _ in range(steps):
            self._allowed.release()

    def release(self):
        self._held = False
        self._allowed.release()

    def prepare(self, sampling):
        if self.unfit:
            raise CannotTake(self.unfit)
        self.prepared.append(sampling)

    def add(self, number, prompt, sampling):
        if self.refuse:
            raise CannotTake("it will not")
        self.added.append(number)
        self.running[number] = (list(prompt), sampling, [])
        self.most = max(self.most, len(self.running))

    def rest(self):
        assert not self.running
        self.rests += 1

    def cancel(self, number):
        self.cancelled.append(number)
        self.running.pop(number, None)

    def step(self):
        if self._held:
            self._allowed.acquire()
        if self.fail is not None:
            raise self.fail
        self.steps += 1
        progress = []
        for number, (prompt, sampling, said) in list(self.running.items()):
            token = following(prompt + said)
            said.append(token)
            finish = ""
            if token == self.end and not sampling.ignore_eos:
                finish = "stop"
            elif len(said) >= sampling.max_tokens:
                finish = "length"
            if finish:
                del self.running[number]
            progress.append(Progress(number, [token], [Logprob(-0.5)] if sampling.logprobs else [], finish))
        self.stepped.release()
        return progress

    def statistics(self):
        return {"letters": float(len(WORDS))}

    def close(self):
        self.closed = True


class SayingBackend(LetterBackend):
    """Says a text, to whatever it is asked, and ends."""

    def __init__(self, text, **more):
        super().__init__(context=1_000, step_tokens=1_000, **more)
        self.said = LetterTokenizer().encode(text, special=False)
        self.prompts = []

    def add(self, number, prompt, sampling):
        super().add(number, prompt, sampling)
        self.prompts.append(self.tokenizer.decode(prompt))

    def step(self):
        if self._held:
            self._allowed.acquire()
        progress = []
        for number, (_, sampling, said) in list(self.running.items()):
            said.append(self.said[len(said)])
            finish = (
                "stop"
                if len(said) == len(self.said)
                else "length"
                if len(said) == sampling.max_tokens
                else ""
            )
            if finish:
                del self.running[number]
            progress.append(Progress(number, said[-1:], [Logprob(-0.5)] if sampling.logprobs else [], finish))
        return progress


async def until_added(backend, count):
    while len(backend.added) < count:  # the engine's thread takes its orders by itself
        await asyncio.sleep(0)


class Reader:
    """A follower that can be awaited."""

    def __init__(self):
        self.ids = []
        self.finish = ""
        self.error = None
        self._news = asyncio.Event()
        self.ended = asyncio.Event()

    def on_progress(self, progress):
        self.ids += progress.ids
        self.finish = progress.finish
        self._tell(progress.finish)

    def on_failure(self, error):
        self.error = error
        self._tell("failed")

    def _tell(self, ended):
        self._news.set()
        if ended:
            self.ended.set()

    async def wait_ids(self, count):
        while len(self.ids) < count:
            self._news.clear()
            await self._news.wait()


def job(prompt, tokens=5, **more):
    return Job(prompt, Sampling(max_tokens=tokens, temperature=0), **more)


@contextlib.asynccontextmanager
async def running(backend, **options):
    engine = Engine(lambda: backend, **options)
    await engine.loaded()
    try:
        yield engine
    finally:
        backend.release()
        await engine.close()
        assert backend.closed
