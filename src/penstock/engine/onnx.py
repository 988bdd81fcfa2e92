"""ONNX Runtime as the backend: the graphs that ONNX Runtime GenAI's builder makes, in int4, int8 or fp32.

GenAI's own loop computes static batches on a CPU: nobody gets on before the last one is through, and all have one
way of drawing.  Its graphs can do more (``_onnx_graph``), so here a step computes one more token of all answers
that are under way, and reads a part of the prompts that wait (docs/decisions/).

What it computes that way is compared with what the model says to a text by itself, before anybody is answered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import msgspec
import onnxruntime

from penstock.config.model import LocalConfig
from penstock.engine._drawing import Drawing, Logits, contradiction, draw_all, logprob_of, ranked
from penstock.engine._json_tokenizer import JSONTokenizer
from penstock.engine._onnx_graph import Decoder, Graph
from penstock.engine.backend import CannotTake, Logprob, ModelCard, Progress, Sampling, check_ends, usable
from penstock.engine.grammar import Grammars
from penstock.engine.memory import cache_pages
from penstock.engine.model_dir import ModelDir, check_memory
from penstock.errors import ModelUnusable

STEP_TOKENS = 256  # of prompts that a step reads
PART = 128  # tokens that are read at once; logits of all of them take memory
_PROBES = (40, 7)  # tokens of the texts by which a graph is tried out
_PROBE_TOKENS = 3
_NEAR = 0.05  # log probabilities that are the same but for rounding, of activations in int8 as well


class _Model(msgspec.Struct, frozen=True):
    decoder: Decoder
    vocab_size: int
    eos_token_id: int | list[int]


class _Search(msgspec.Struct, frozen=True):
    """How tokens are chosen where a call does not say."""

    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0


class _Told(msgspec.Struct, frozen=True):
    """``genai_config.json``."""

    model: _Model
    search: _Search = _Search()


class _Generation:
    """One that is under way.

    ``known``: how many of its ``ids`` have keys and values in its row.
    """

    __slots__ = ("drawing", "ids", "known", "number", "scores", "top")

    def __init__(self, number: int, ids: list[int], drawing: Drawing, top: int | None) -> None:
        self.number = number
        self.ids = ids
        self.drawing = drawing
        self.known = 0
        self.top = top  # of the likeliest, with each token of the prompt; None: nothing is wanted of these
        # Of the prompt's tokens from the second on, as far as it has been read.
        self.scores: list[Logprob] = []

    def score(self, logits: Logits) -> None:
        """Of the tokens of the prompt that follow those which were read last, unless they were read before."""
        first = self.known - len(logits)
        for place, row in enumerate(logits, first + 1):
            if len(self.scores) + 1 == place < self.drawing.start:
                self.scores.append(ranked(row, self.ids[place], self.top or 0))

    def __repr__(self) -> str:
        return f"<_Generation {self.number}, {self.known} of {len(self.ids)} tokens known, {self.drawing!r}>"


class OnnxBackend:
    """One model as ONNX Runtime GenAI's builder writes it, on the CPU.

    :raises penstock.errors.ModelUnusable: it does not fit into memory, or its graph is of another kind
    """

    def __init__(self, model: ModelDir, config: LocalConfig) -> None:
        if config.cache_precision == "int8":
            raise ModelUnusable(
                f"{model.path}: ONNX Runtime keeps keys and values as its graph has them: leave cache_precision out"
            )
        # Keys and values in 4 bytes each, as a graph for a CPU has them.
        self._most = cache_pages(config, model.context, 2 * model.cache_bytes, 1)  # tokens in all rows
        context = min(model.context, self._most)
        check_memory(model, self._most * 2 * model.cache_bytes)
        seats = config.slots + max(1, config.slots // 4)
        try:
            told = msgspec.convert(model.config, _Told)
            self._tokenizer = JSONTokenizer(model.path, told.model.vocab_size)
            self._graph = Graph(model.path, told.model.decoder, seats, context, config.threads)
            ends = told.model.eos_token_id
            self._ends = frozenset([ends] if isinstance(ends, int) else ends)
            check_ends(self._ends, told.model.vocab_size, model.path)
            self._grammars = Grammars(self._tokenizer.source, told.model.vocab_size, min(self._ends))
            self._seats = seats
            self._waiting: deque[_Generation] = deque()
            self._reading: _Generation | None = None  # in the row behind those of ``_ready``
            self._ready: list[_Generation] = []  # the prompt is read; each in the row of its place here
            self._card = ModelCard(
                directory=str(model.path),
                context=context,
                vocabulary=told.model.vocab_size,
                backend=f"ONNX Runtime {onnxruntime.__version__}",
                step_tokens=STEP_TOKENS,
                draws=True,
                scores=self._graph.tells_all,
                defaults=usable(_defaults(told.search)),
            )
            self._try_out()
        except ModelUnusable:
            raise
        except Exception as error:  # the library's own have nothing else in common
            why = " ".join(str(error).split())[:400] or type(error).__name__
            raise ModelUnusable(
                f"{model.path} ({model.architecture}) cannot be used by ONNX Runtime {onnxruntime.__version__}: {why}; "
                "was it made for the CPU by ONNX Runtime GenAI's builder, and is all of it there?"
            ) from error

    def __repr__(self) -> str:
        return f"<OnnxBackend {self._card.directory}, {self._under_way()} under way>"

    @property
    def card(self) -> ModelCard:
        return self._card

    @property
    def tokenizer(self) -> JSONTokenizer:
        return self._tokenizer

    def prepare(self, sampling: Sampling) -> None:
        self._grammars.rule(sampling)

    def add(self, number: int, prompt: Sequence[int], sampling: Sampling) -> None:
        if why := contradiction(sampling):
            raise CannotTake(why)
        drawing = Drawing(prompt, sampling, self._ends, self._grammars.rule(sampling))
        self._waiting.append(_Generation(number, list(prompt), drawing, sampling.prompt_logprobs))

    def cancel(self, number: int) -> None:
        for place, ready in enumerate(self._ready):
            if ready.number == number:
                self._leave(place)
                return
        if self._reading is not None and self._reading.number == number:
            self._reading = None
        self._waiting = deque(waiting for waiting in self._waiting if waiting.number != number)

    def step(self) -> list[Progress]:
        """One more token of each that is ready, and then a part of the prompts."""
        self._make_room()
        return self._compute() + self._read()

    def rest(self) -> None:
        """Nothing gathers here."""

    def statistics(self) -> dict[str, float]:
        return {
            "cache_usage_percent": 100 * self._held() / self._most,
            "cache_bytes": float(self._graph.written * self._graph.token_bytes()),
            "scheduled": float(len(self._ready) + (self._reading is not None)),
        }

    def close(self) -> None:
        self._waiting.clear()
        self._ready.clear()
        self._reading = None
        del self._graph

    # ---- a step --------------------------------------------------------------------------------------

    def _compute(self) -> list[Progress]:
        ready = self._ready
        if not ready:
            return []
        logits = self._graph.step([one.ids[-1] for one in ready], [one.known for one in ready])
        for one in ready:
            one.known += 1
        progress = _draw(logits, ready)
        for place in reversed(range(len(ready))):  # so that none of those that follow has moved
            if progress[place].finish:
                self._leave(place)
        return progress

    def _read(self) -> list[Progress]:
        """Prompts in the order in which they came, one after the other, as far as a step goes."""
        progress: list[Progress] = []
        left = STEP_TOKENS
        while left > 0 and (one := self._reading or self._next()) is not None:
            self._reading = one
            part = one.ids[one.known : one.known + min(PART, left)]
            logits = self._graph.read(len(self._ready), part, one.known)
            one.known += len(part)
            left -= len(part)
            if one.top is not None:
                one.score(logits)
            if one.known == len(one.ids):
                self._reading = None
                (said,) = _draw(logits[-1:], [one])
                if one.scores and one.drawing.count == 1:
                    said = msgspec.structs.replace(said, prompt=one.scores)
                progress.append(said)
                if not said.finish:
                    self._ready.append(one)  # it is in that row already
        return progress

    def _next(self) -> _Generation | None:
        """Who is read next, if there is a place, and memory for its text."""
        if not self._waiting or len(self._ready) >= self._seats:
            return None
        if self._ready and not self._has_room(len(self._waiting[0].ids)):
            return None
        return self._waiting.popleft()

    def _make_room(self) -> None:
        """Before there is more than memory was meant for: who came last waits again, and is read anew."""
        while not self._has_room(len(self._ready)) and len(self._ready) > 1:
            last = max(range(len(self._ready)), key=lambda place: self._ready[place].number)
            one = self._ready[last]
            self._leave(last)
            one.known = 0
            self._waiting.appendleft(one)

    def _has_room(self, tokens: int) -> bool:
        """Whether there is memory for so many more, that of rows which nobody uses included."""
        if self._held() + tokens > self._most:
            self._graph.release(len(self._ready) + (self._reading is not None))
        return self._held() + tokens <= self._most

    def _leave(self, place: int) -> None:
        """Its row is that of the last one now, and that one's of the prompt that is being read."""
        last = len(self._ready) - 1
        if place != last:
            self._graph.move(last, place, self._ready[last].known)
            self._ready[place] = self._ready[last]
        self._ready.pop()
        if self._reading is not None:
            self._graph.move(last + 1, last, self._reading.known)

    def _held(self) -> int:
        """Tokens that memory is taken for, or soon will be."""
        reading = self._reading
        return self._graph.written + (len(reading.ids) - reading.known if reading is not None else 0)

    def _under_way(self) -> int:
        return len(self._waiting) + len(self._ready) + (self._reading is not None)

    # ---- whether it can be used ----------------------------------------------------------------------

    def _try_out(self) -> None:
        """Compare a few tokens with what the graph says to each text by itself.

        :raises ValueError: they are others
        """
        vocabulary = self._card.vocabulary
        said: dict[int, list[tuple[int, float]]] = {}
        texts: dict[int, list[int]] = {}
        asked = Sampling(max_tokens=_PROBE_TOKENS, temperature=0.0, ignore_eos=True, logprobs=True)
        for number, length in enumerate(_PROBES, start=-len(_PROBES)):
            texts[number] = [(7 + 31 * place * place) % vocabulary for place in range(length)]
            said[number] = []
            self.add(number, texts[number], asked)
        while self._under_way():
            for progress in self.step():
                said[progress.number].append((progress.ids[0], progress.logprobs[0].value))
        for number, text in texts.items():
            for token, logprob in said[number]:
                # What is no number, because weights are none, is near to nothing.
                if not abs(logprob - logprob_of(self._graph.alone(text), token).value) <= _NEAR:
                    raise ValueError("among others it says something else than alone")
                text.append(token)


def _draw(logits: Logits, generations: Sequence[_Generation]) -> list[Progress]:
    """The next token of each becomes part of it."""
    drawings = [one.drawing for one in generations]
    tokens, logprobs = draw_all(logits, drawings)
    for one, token in zip(generations, tokens, strict=True):
        one.ids.append(token)
    return [
        Progress(one.number, [token], [] if logprob is None else [logprob], one.drawing.finish)
        for one, token, logprob in zip(generations, tokens, logprobs, strict=True)
    ]


def _defaults(search: _Search) -> Sampling:
    """What the model's own ``genai_config.json`` says."""
    return Sampling(
        temperature=search.temperature if search.do_sample else 0.0,
        top_p=search.top_p,
        top_k=search.top_k,
        repetition_penalty=search.repetition_penalty,
    )
