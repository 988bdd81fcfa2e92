"""A local model behind OpenAI's API: the application that a listener serves.

::

    POST /v1/chat/completions, /v1/completions    of a model that writes text
    POST /v1/embeddings                           of one that makes these
    POST /tokenize, /detokenize                   a text's token ids, and back, as vLLM has it
    GET  /v1/models, /v1/models/{id}              the one model that is here
    GET  /healthz, /health, /ping                 200 while the model can be used; 503 before, and when it cannot
    GET  /version        ours
    GET  /metrics        for Prometheus

While the model is being loaded calls wait for it.  If it cannot be loaded, each is told why.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from math import inf
from urllib.parse import unquote

import msgspec

from penstock.engine import embeddings, tokens
from penstock.engine.answer import JSON_HEADERS, Answer, Choice, refuse
from penstock.engine.backend import Backend, CannotTake, Sampling
from penstock.engine.embeddings import AskedVectors, VectorAnswer
from penstock.engine.engine import Engine, Job
from penstock.engine.forced import ForcedText
from penstock.engine.form import Form
from penstock.engine.measures import Measures
from penstock.engine.readings import Readings
from penstock.engine.request import Asked, read
from penstock.engine.text import TextStream, text_of
from penstock.engine.tokens import Told
from penstock.engine.tools import ToolText
from penstock.errors import BadRequest, MethodNotAllowed, NotFound, PenstockError, UnknownModel
from penstock.messages import Dialect, Endpoint
from penstock.metrics import CONTENT_TYPE, Registry, render
from penstock.net.exchange import Exchange
from penstock.wire import problems
from penstock.wire.deadline import seconds_until

MOST_BODY = 33_554_432
LONG_BODY = 20_000  # bytes; what takes longer than a millisecond to cut into tokens goes to a thread
_ENDPOINTS = {
    endpoint.path: endpoint for endpoint in (Endpoint.CHAT, Endpoint.COMPLETIONS, Endpoint.EMBEDDINGS)
}
_LABELS = {path: endpoint.label for path, endpoint in _ENDPOINTS.items()} | {
    "/tokenize": "tokenize",
    "/detokenize": "detokenize",
}
_HEALTH = frozenset({"/healthz", "/health", "/ping"})


class EngineServer:
    """Serves one engine (``penstock.net.exchange.Application``).

    :param names: under which the model is asked for; empty: whatever a call says
    :param now: monotonic seconds
    """

    def __init__(
        self, engine: Engine, names: Sequence[str] = (), *, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.engine = engine
        self._names = tuple(names)
        self._now = now
        self._metrics = Registry()
        self._measures = Measures(self._metrics, engine)
        self._created = int(time.time())
        self._requests = 0
        self._ours = secrets.randbits(64) << 64  # ids are our own, also after a restart
        self._spelt: list[str | None] = []
        self._pieces: list[bytes] | None = None
        self._backend: Backend | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._preparing = ThreadPoolExecutor(1, "penstock-rules")

    def __repr__(self) -> str:
        return f"<EngineServer {', '.join(self._names) or 'of any name'}, {self._requests} requests, {self.engine!r}>"

    def opening(self, exchange: Exchange) -> int | None:
        if exchange.path in _LABELS and exchange.method == "POST":
            return MOST_BODY
        self._other(exchange)
        return 0

    def __call__(self, exchange: Exchange) -> None:
        """Read the request and hand it to the engine; from there on the answer goes in callbacks."""
        received = self._now()
        backend = self._backend
        if backend is None or len(exchange.whole_body()) > LONG_BODY:
            self._later(self._take_slowly(exchange, received))
            return
        try:
            asked = _read(exchange.path, exchange.whole_body(), backend)
            if isinstance(asked, Asked) and asked.sampling.is_ruled:
                self._later(self._take_slowly(exchange, received, asked))
            else:
                self._begin(exchange, asked, backend, received)
        except PenstockError as error:
            self._measures.answered(_LABELS[exchange.path], refuse(exchange, error))

    def _later(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _take_slowly(
        self, exchange: Exchange, received: float, asked: Asked | AskedVectors | Told | None = None
    ) -> None:
        """The same for a request that waits for the model, whose text is long, or whose answer keeps to a rule."""
        try:
            backend = self._backend or await self._loaded()
            if asked is None:
                asked = await asyncio.to_thread(_read, exchange.path, exchange.whole_body(), backend)
            if isinstance(asked, Asked) and asked.sampling.is_ruled:
                await self._prepare(asked.sampling, backend)
            self._begin(exchange, asked, backend, received)
        except PenstockError as error:
            self._measures.answered(_LABELS[exchange.path], refuse(exchange, error))
        except BaseException:
            exchange.abort()
            raise

    async def _prepare(self, sampling: Sampling, backend: Backend) -> None:
        """One rule after the other, in a thread of their own: who asks for none waits for none."""
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._preparing, backend.prepare, sampling)
        except CannotTake as refusal:
            raise BadRequest(str(refusal)) from None

    async def _loaded(self) -> Backend:
        backend = await self.engine.loaded()
        if not backend.card.dimensions:
            self._pieces = await asyncio.to_thread(backend.tokenizer.pieces)
        self._spelt = [None] * backend.card.vocabulary
        self._backend = backend
        return backend

    def _begin(
        self, exchange: Exchange, asked: Asked | AskedVectors | Told, backend: Backend, received: float
    ) -> None:
        """Submit a job for each choice, or each text.

        :raises PenstockError: there is no room for one, or the model is another
        """
        if self._names and asked.model not in self._names and (asked.model or not isinstance(asked, Told)):
            raise UnknownModel(f"the model {asked.model!r} is not here", param="model")
        if isinstance(asked, Told):
            exchange.respond(200, JSON_HEADERS, asked.body)
            self._measures.answered(_LABELS[exchange.path], 200)
            return
        self._requests += 1
        priority = _priority(exchange.headers.get(b"penstock-priority"))
        due = exchange.headers.get(b"penstock-deadline")
        deadline = inf if due is None else received + seconds_until(due, time.time())
        if isinstance(asked, AskedVectors):
            self._begin_vectors(exchange, asked, received, priority, deadline)
        else:
            self._begin_text(exchange, asked, backend, received, priority, deadline)

    def _begin_vectors(
        self, exchange: Exchange, asked: AskedVectors, received: float, priority: int, deadline: float
    ) -> None:
        def end(status: int) -> None:
            self._measures.answered(Endpoint.EMBEDDINGS.label, status)
            self._measures.duration.observe(self._now() - received)

        def job(prompt: list[int]) -> Job:
            return Job(prompt, Sampling(), priority, deadline)

        answer = VectorAnswer(exchange, self.engine, asked, job, end)
        try:
            answer.begin()
        except PenstockError:
            answer.give_up()
            raise
        exchange.watch(answer)

    def _begin_text(
        self,
        exchange: Exchange,
        asked: Asked,
        backend: Backend,
        received: float,
        priority: int,
        deadline: float,
    ) -> None:
        label = asked.endpoint.label

        def first() -> None:
            self._measures.first_token.observe(self._now() - received)

        def end(status: int, output_tokens: int) -> None:
            del output_tokens
            self._measures.answered(label, status)
            self._measures.duration.observe(self._now() - received)

        form = Form(asked, self._ours + self._requests, int(time.time()), self._spell)
        answer = Answer(exchange, self.engine, asked, form, first, end)
        try:
            for at, prompt in enumerate(asked.prompts):
                for place in range(asked.choices):
                    texts = text_of(self._pieces, backend.tokenizer.decode, prompt)
                    text = TextStream(texts, asked.stops, keep_stop=asked.keeps_stop)
                    tools = _tools_of(asked)
                    echo = asked.echoes[at] if asked.echoes else ""
                    readings = _readings_of(asked, backend)
                    choice = Choice(answer, len(answer.choices), text, tools, echo, readings)
                    job = Job(prompt, _of_choice(asked, place, len(prompt), backend), priority, deadline)
                    choice.number = self.engine.submit(job, choice)
                    answer.choices.append(choice)
        except PenstockError:
            for choice in answer.choices:
                self.engine.cancel(choice.number)
            raise
        exchange.watch(answer)

    def _spell(self, token: int) -> str:
        assert self._backend is not None
        text = self._spelt[token]
        if text is None:
            text = self._spelt[token] = self._backend.tokenizer.decode([token])
        return text

    # ---- everything else ---------------------------------------------------------------------------

    def _other(self, exchange: Exchange) -> None:
        path, method = exchange.path, exchange.method
        if path in _LABELS:
            refuse(exchange, MethodNotAllowed(f"{path} takes POST", allow="POST"))
        elif method not in {"GET", "HEAD"}:
            refuse(exchange, NotFound(f"there is nothing at {path}"))
        elif path in _HEALTH:
            self._health(exchange)
        elif path == "/metrics":
            exchange.respond(
                200, ((b"content-type", CONTENT_TYPE.encode()),), render(self._metrics.collect())
            )
        elif path == "/v1/models":
            models = [self._model(name) for name in self._names or ("local",)]
            body = msgspec.json.encode({"object": "list", "data": models})
            exchange.respond(200, JSON_HEADERS, body)
        elif path.startswith("/v1/models/"):
            self._one_model(exchange, unquote(path.removeprefix("/v1/models/")))
        elif path == "/version":
            exchange.respond(200, JSON_HEADERS, b'{"version":"%b"}' % version("penstock").encode())
        else:
            refuse(exchange, NotFound(f"there is nothing at {path}"))

    def _one_model(self, exchange: Exchange, name: str) -> None:
        if self._names and name not in self._names:
            refuse(exchange, UnknownModel(f"the model {name!r} is not here", param="model"))
        else:
            exchange.respond(200, JSON_HEADERS, msgspec.json.encode(self._model(name)))

    def _model(self, name: str) -> dict[str, object]:
        model: dict[str, object] = {
            "id": name,
            "object": "model",
            "created": self._created,
            "owned_by": "penstock-engine",
        }
        backend = self.engine.backend
        if backend is not None:
            model["max_model_len"] = backend.card.context  # as vLLM calls it
        return model

    def _health(self, exchange: Exchange) -> None:
        if self.engine.backend is not None and self.engine.failure is None:
            exchange.respond(200, JSON_HEADERS, b'{"status":"ok"}')
        elif self.engine.failure is not None:
            _, headers, body = problems.render(self.engine.failure, Dialect.OPENAI)
            exchange.respond(503, headers, body)
        else:
            exchange.respond(503, JSON_HEADERS, b'{"status":"loading"}')


def _read(path: str, body: bytes, backend: Backend) -> Asked | AskedVectors | Told:
    if path not in _ENDPOINTS:
        made = tokens.tokenized if path == "/tokenize" else tokens.detokenized
        return made(body, backend.tokenizer, backend.card)
    endpoint = _ENDPOINTS[path]
    if endpoint is Endpoint.EMBEDDINGS:
        return embeddings.read(body, backend.tokenizer, backend.card)
    return read(endpoint, body, backend.tokenizer, backend.card)


def _tools_of(asked: Asked) -> ToolText | ForcedText | None:
    """What finds the calls of one answer; None: there are none to call."""
    if asked.forced is not None:
        return ForcedText(asked.forced)
    return ToolText(asked.tools) if asked.tools else None


def _readings_of(asked: Asked, backend: Backend) -> Readings | None:
    """What counts the readings of one answer; None: nobody need, as the library has its rule in another form."""
    grammar = asked.sampling.grammar
    if grammar is None or (grammar.regex() if backend.card.draws else grammar.right_linear()):
        return None
    return grammar.readings()


def _of_choice(asked: Asked, place: int, length: int, backend: Backend) -> Sampling:
    sampling = asked.sampling
    limit = sampling.max_tokens or backend.card.context - length
    seed = sampling.seed
    if seed is not None and place:
        seed += place  # the same choice several times is not what anybody asks for
    return msgspec.structs.replace(sampling, max_tokens=limit, seed=seed)


def _priority(said: bytes | None) -> int:
    if said is None:
        return 0
    try:
        return int(said)
    except ValueError:
        raise BadRequest("Penstock-Priority must be a whole number", param="Penstock-Priority") from None
