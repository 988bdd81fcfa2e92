"""A simulated upstream: cheap, deterministic, and able to fail in every way that real ones do.

It speaks the APIs of OpenAI and Anthropic, the latter also at the paths of clouds (``penstock.lab.clouds``);
``penstock.lab.text`` says what it answers, ``penstock.lab.scenario`` how it is told to behave, ``penstock.lab.bill``
what it charges for.  Beside the APIs there are::

    GET  /bill         what was charged, as JSON
    POST /bill/reset   begin a new bill; answers with the old one
    GET  /v1/generation?id=...  what one answer has cost, told afterwards (``penstock.lab.told``)
    GET  /v1/responses/{id}     a response that was asked for in the background (``penstock.lab.background``)
    POST /v1/responses/{id}/cancel
    /v1/files, /v1/batches, /v1/messages/batches  batches at half the price (``penstock.lab.batches``)
    GET  /requests     the last requests as they came in: path, headers, body
    GET  /healthz      {"status": "ok"}
"""

from __future__ import annotations

import base64
import math
import random
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

import msgspec

from penstock.errors import BadRequest
from penstock.lab import anthropic, media, openai, responses
from penstock.lab.answer import Answer, answer
from penstock.lab.background import Run, Runs
from penstock.lab.batches import Batches
from penstock.lab.bill import Bill, Item
from penstock.lab.clouds import at_a_cloud
from penstock.lab.delivery import Delivery, Job, PlainLater, Silence, Streaming, Trickle, reset, transport_of
from penstock.lab.prefill import Prefill
from penstock.lab.prompt import read
from penstock.lab.refusal import refusal
from penstock.lab.scenario import MODELS, Script, ScriptError, of_headers, of_model
from penstock.lab.stream import Stream
from penstock.lab.told import Told, generation_id
from penstock.lab.transcript import Request
from penstock.messages import BY_PATH, Dialect, Endpoint, Headers
from penstock.net.exchange import BATCH, Exchange, HeaderList
from penstock.net.wheel import Wheel

MOST_BODY = 134_217_728
_RESPONSE = "/v1/responses/"
_REMEMBERED = 10_000  # keys whose first time is known
_JSON: HeaderList = [(b"content-type", b"application/json")]
_SSE: HeaderList = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
_NO_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_REQUEST = b"req_%024x"
_REQUEST_ID = {Dialect.OPENAI: b"x-request-id", Dialect.ANTHROPIC: b"request-id"}
_HTML = (
    b"<!DOCTYPE html>\n<html><head><title>Welcome</title></head>"
    b"<body><h1>It works!</h1><p>But it is not the API that you wanted.</p></body></html>\n"
)
_GARBAGE = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 this is no HTTP\r\n\xff\xfe\x00\r\n\r\n"

_Seen = tuple[str, str, Headers, bytes]
_Render = Callable[[Request, list[Answer], int, int, int], bytes]
_RenderStream = Callable[[Request, list[Answer], int, int, int], Stream]
_PLAIN: dict[Endpoint, _Render] = {
    **openai.PLAIN,
    Endpoint.MESSAGES: anthropic.message,
    Endpoint.RESPONSES: responses.response,
    Endpoint.COMPACT: responses.compaction,
}
_STREAMED: dict[Endpoint, _RenderStream] = {
    **openai.STREAMED,
    Endpoint.MESSAGES: anthropic.message_stream,
    Endpoint.RESPONSES: responses.response_stream,
}


class Simulator:
    """The application that a listener serves (``penstock.net.exchange.Application``).

    :param defaults: how to behave where neither model name nor headers say
    :param now: monotonic seconds, by which pace and failures for a time go
    :param key: if given, the only API key that is accepted
    """

    def __init__(
        self,
        defaults: Script | None = None,
        *,
        now: Callable[[], float] = time.monotonic,
        key: str = "",
        keep: int = 1_000,
    ) -> None:
        self.bill = Bill(keep)
        self.told = Told()
        self._runs = Runs()
        self._prefill = Prefill()
        self.wheel = Wheel(now)
        self._batches = Batches(self, self.wheel)
        self._defaults = defaults or Script()
        self._key = key.encode()
        self._numbers = 0
        self._decode = msgspec.json.Decoder().decode
        self._strikes: OrderedDict[tuple[str, str], tuple[int, float]] = OrderedDict()
        self._chances = 0
        self._rand = random.Random(1)  # the same in every run
        self._seen: deque[_Seen] = deque(maxlen=64)

    def opening(self, exchange: Exchange) -> int | None:
        del exchange
        return MOST_BODY

    def __call__(self, exchange: Exchange) -> None:
        endpoint = BY_PATH.get(exchange.path)
        came = exchange
        if endpoint is None and (clouded := at_a_cloud(exchange)) is not None:
            exchange, endpoint = clouded, BY_PATH[clouded.path]
        if endpoint is None or exchange.method != "POST":
            self._other(exchange, endpoint)
            return
        data = exchange.whole_body()
        self._numbers = number = self._numbers + 1
        sent = data if came is exchange else came.whole_body()
        self._seen.append(
            (came.path, came.query, came.headers, sent if len(sent) <= 65_536 else sent[:65_536])
        )
        item = Item(number, endpoint.label, "", batched=exchange.peer == BATCH)
        if self._key and not item.batched and not self._admits(exchange):
            self._refuse(exchange, item, endpoint, "401")
            return
        try:
            made: media.Made | None = None
            if endpoint.opaque:
                asked = media.read(endpoint, exchange.headers.get(b"content-type", b""), data)
                item.model = asked.model
                made = media.made(asked)
                request = Request(endpoint, asked.model, int.from_bytes(asked.digest[:8], "big"))
            else:
                request = read(endpoint, self._decode(data))
                item.model = request.model
            script = of_headers(exchange.headers, of_model(request.model, self._defaults))
            answers = [
                answer(prompt, script, choice)
                for prompt in request.prompts or (request,)
                for choice in range(request.choices)
                if made is None
            ]
        except _NO_JSON as error:
            message = f"We could not parse the JSON body of your request. ({error})"
            self._refuse(exchange, item, endpoint, "400", message=message)
            return
        except BadRequest as error:
            self._refuse(
                exchange, item, endpoint, "400", message=error.message, param=error.param, code=error.code
            )
            return
        except ScriptError as error:
            self._refuse(exchange, item, endpoint, "404", message=str(error), param="model")
            return
        if script.no_prefill and request.prefix and not request.anchor:
            message = "This model does not support assistant message prefill. The conversation must end with a user message."
            self._refuse(exchange, item, endpoint, "400", message=message, param="messages")
            return
        if script.failure:
            script = self._afflicted(script, exchange, request)
        item.scenario = script.failure
        if script.spread:
            factor = math.exp(self._rand.gauss(0.0, script.spread))
            script = msgspec.structs.replace(script, ttft=script.ttft * factor)
        self._answer(exchange, item, endpoint, request, answers, script, made)

    # ---- answers -----------------------------------------------------------------------------------

    def _answer(
        self,
        exchange: Exchange,
        item: Item,
        endpoint: Endpoint,
        request: Request,
        answers: list[Answer],
        script: Script,
        made: media.Made | None,
    ) -> None:
        """Answer at once, or begin a delivery that goes on in callbacks."""
        failure = script.failure
        if failure[:1].isdigit():
            self._refuse(exchange, item, endpoint, failure, tokens=request.input_tokens, script=script)
            return
        self.bill.open(item)
        if failure in {"reset-before-headers", "garbage", "html"}:
            self._break_off(exchange, item, failure)
            return
        item.status = 200
        headers = [
            *(_SSE if request.stream else _JSON),
            (_REQUEST_ID[endpoint.dialect], _REQUEST % item.number),
            (b"x-generation-id", generation_id(item.number)),
        ]
        self.told.remember(item, script, self.wheel.now())
        job = Job(exchange, self.wheel, self.bill, item, script, headers, request.input_tokens)
        if failure == "no-answer":
            self._begin(Silence(job))
            return
        if made is not None:
            self._give(job, made, endpoint)
            return
        if endpoint not in _PLAIN:
            if endpoint is Endpoint.EMBEDDINGS:
                body = openai.embeddings(request)
            else:
                told = b'"object":"response.input_tokens",' if endpoint is Endpoint.INPUT_TOKENS else b""
                body = b'{%b"input_tokens":%d}' % (told, request.input_tokens)
                job.input_tokens = 0  # counting is free
            self._begin(_plain(job, body, 0))
            return
        if script.prefill or script.prefix_cache:
            job.script = script = self._prefill.take(request, script, self.wheel.now())
        job.cached = cached = min(script.cached, request.input_tokens)
        created = int(time.time())
        if request.background:
            self._run(job, request, answers, created)
            return
        if request.stream:
            stream = _STREAMED[endpoint](request, answers, item.number, created, cached)
            self._begin(_trickled(job, stream) if script.byte_seconds else Streaming(job, stream))
            return
        if failure == "error-event":
            status, text = refusal("500", endpoint.dialect, item.number)
            item.status = status
            self.bill.close(item, "failed")
            exchange.respond(status, headers, text)
            return
        body = _PLAIN[endpoint](request, answers, item.number, created, cached)
        output = sum(one.count for one in answers)
        if failure or script.ttft or script.tps:
            self._begin(_plain(job, body, output))
            return
        # The common case, without anything to wait for.
        self.bill.prompt(item, request.input_tokens, cached)
        self.bill.output(item, output)
        self.bill.close(item, "completed")
        exchange.respond(200, headers, body)

    def _run(self, job: Job, request: Request, answers: list[Answer], created: int) -> None:
        """Make a response in the background; who wants a stream reads it as it comes."""
        number, cached = job.item.number, job.cached

        def told(state: str) -> bytes:
            if state == "completed":
                return responses.response(request, answers, number, created, cached)
            return responses.unfinished(request, number, created, state)

        run = Run(job, responses.response_stream(request, answers, number, created, cached), told)
        self._runs.keep(responses.name_of(number), run)
        run.begin(self.wheel.now())
        if request.stream:
            run.read(job.exchange, -1, job.headers)
        else:
            job.exchange.respond(200, job.headers, told("in_progress"))

    def _told_of_run(self, exchange: Exchange, name: str, *, cancel: bool) -> None:
        run = self._runs.get(name)
        if run is None:
            message = f"Response with id '{name}' not found."
            status, body = refusal("404", Dialect.OPENAI, 0, message=message, code="not_found")
            exchange.respond(status, _JSON, body)
            return
        asked = parse_qs(exchange.query)
        if cancel:
            run.cancel()
        elif asked.get("stream") == ["true"]:
            after = asked.get("starting_after", ["-1"])[0]
            run.read(exchange, int(after) if after.isdecimal() else -1, _SSE)
            return
        exchange.respond(200, _JSON, run.told(run.state))

    def _give(self, job: Job, made: media.Made, endpoint: Endpoint) -> None:
        """An answer that is no prose."""
        job.input_tokens, job.units = made.input_tokens, made.units
        job.headers = [
            (b"content-type", made.kind),
            *(each for each in job.headers if each[0] != b"content-type"),
        ]
        if made.stream is not None:
            job.output = made.output_tokens
            slow = job.script.byte_seconds
            self._begin(_trickled(job, made.stream) if slow else Streaming(job, made.stream))
        elif job.script.failure == "error-event":
            status, text = refusal("500", endpoint.dialect, job.item.number)
            job.item.status = status
            self.bill.close(job.item, "failed")
            job.exchange.respond(status, job.headers, text)
        else:
            self._begin(_plain(job, made.body, made.output_tokens))

    def _begin(self, delivery: Delivery) -> None:
        # Watching comes before the first write: what is full at once must know when there is room.
        delivery.exchange.watch(delivery)
        delivery.begin(self.wheel.now())

    # ---- failures ----------------------------------------------------------------------------------

    def _afflicted(self, script: Script, exchange: Exchange, request: Request) -> Script:
        """The script, without its failure if this request is to be spared."""
        spared = False
        if script.share < 1:
            # The golden ratio spreads the strikes evenly over any stretch of requests.
            self._chances += 1
            spared = self._chances * 0.6180339887498949 % 1 >= script.share
        if not spared and (script.first or script.first_seconds):
            named = script.key or exchange.headers.get(b"x-sim-key", b"").decode("latin-1")
            key = (named or f"{request.digest:x}", script.failure)
            now = self.wheel.now()
            count, since = self._strikes.pop(key, (0, now))
            self._strikes[key] = (count + 1, since)
            if len(self._strikes) > _REMEMBERED:
                self._strikes.popitem(last=False)
            spared = count >= script.first if script.first else now - since >= script.first_seconds
        return msgspec.structs.replace(script, failure="", byte_seconds=0.0, delay=0.0) if spared else script

    def _refuse(
        self,
        exchange: Exchange,
        item: Item,
        endpoint: Endpoint,
        scenario: str,
        *,
        message: str = "",
        param: str | None = None,
        code: str | None = None,
        tokens: int = 0,
        script: Script | None = None,
    ) -> None:
        status, body = refusal(
            scenario, endpoint.dialect, item.number, message=message, param=param, code=code, tokens=tokens
        )
        item.status = status
        self.bill.open(item)
        self.bill.close(item, "failed")
        headers = [*_JSON, (_REQUEST_ID[endpoint.dialect], _REQUEST % item.number)]
        if script is not None and script.retry_after:
            headers.append((b"retry-after", script.retry_after.encode("latin-1", "replace")))
        exchange.respond(status, headers, body)

    def _break_off(self, exchange: Exchange, item: Item, failure: str) -> None:
        self.bill.close(item, "failed")
        if failure == "html":
            exchange.respond(200, ((b"content-type", b"text/html; charset=utf-8"),), _HTML)
        elif failure == "garbage":
            transport = transport_of(exchange)
            if transport is not None:
                transport.write(_GARBAGE)
            exchange.abort()
        else:
            reset(exchange)

    def _admits(self, exchange: Exchange) -> bool:
        given = exchange.headers.get(b"authorization", b"").removeprefix(b"Bearer ")
        return self._key in {given, exchange.headers.get(b"x-api-key", b"")}

    # ---- everything else ---------------------------------------------------------------------------

    def _other(self, exchange: Exchange, endpoint: Endpoint | None) -> None:
        path, method = exchange.path, exchange.method
        dialect = Dialect.OPENAI
        if b"anthropic-version" in exchange.headers or (endpoint and endpoint.dialect is Dialect.ANTHROPIC):
            dialect = Dialect.ANTHROPIC
        if endpoint is not None:
            status, body = refusal("405", dialect, 0)
            exchange.respond(status, [*_JSON, (b"allow", b"POST")], body)
        elif (method, path) == ("GET", "/bill"):
            exchange.respond(200, _JSON, msgspec.json.encode(self.bill.report()))
        elif (method, path) == ("POST", "/bill/reset"):
            report = self.bill.report()
            self.bill.reset()
            exchange.respond(200, _JSON, msgspec.json.encode(report))
        elif (method, path) == ("GET", "/requests"):
            exchange.respond(200, _JSON, msgspec.json.encode([_shown(*seen) for seen in self._seen]))
        elif (method, path) == ("GET", "/v1/generation"):
            self._tell(exchange, dialect)
        elif path.startswith(_RESPONSE) and method == "GET":
            self._told_of_run(exchange, path[len(_RESPONSE) :], cancel=False)
        elif path.startswith(_RESPONSE) and path.endswith("/cancel") and method == "POST":
            self._told_of_run(exchange, path[len(_RESPONSE) : -len("/cancel")], cancel=True)
        elif (method, path) == ("GET", "/healthz"):
            exchange.respond(200, _JSON, b'{"status":"ok"}')
        elif self._batches.serve(exchange):
            pass
        elif method == "GET" and (path == "/v1/models" or path.startswith("/v1/models/")):
            self._models(exchange, dialect, path[len("/v1/models/") :])
        else:
            status, body = refusal(
                "404", dialect, 0, message=f"Invalid URL ({method} {path})", code="not_found"
            )
            exchange.respond(status, _JSON, body)

    def _tell(self, exchange: Exchange, dialect: Dialect) -> None:
        names = parse_qs(exchange.query).get("id", [""])
        told = self.told.tell(names[0], self.wheel.now())
        if told is not None:
            exchange.respond(200, _JSON, told)
            return
        status, body = refusal(
            "404", dialect, 0, message=f"Generation {names[0]} not found", code="not_found"
        )
        exchange.respond(status, _JSON, body)

    def _models(self, exchange: Exchange, dialect: Dialect, name: str) -> None:
        form = anthropic.model if dialect is Dialect.ANTHROPIC else openai.model
        shown: Any
        if name:
            if name.partition(":")[0] not in MODELS:
                status, body = refusal(
                    "404", dialect, 0, message=f"The model '{name}' does not exist.", param="model"
                )
                exchange.respond(status, _JSON, body)
                return
            shown = form(name)
        elif dialect is Dialect.ANTHROPIC:
            shown = {
                "data": [form(model) for model in MODELS],
                "has_more": False,
                "first_id": MODELS[0],
                "last_id": MODELS[-1],
            }
        else:
            shown = {"object": "list", "data": [form(model) for model in MODELS]}
        exchange.respond(200, _JSON, msgspec.json.encode(shown))

    def __repr__(self) -> str:
        return f"<Simulator {self._numbers} requests so far, {self.bill!r}>"


def _plain(job: Job, body: bytes, output: int) -> PlainLater | Trickle:
    if job.script.byte_seconds:
        return Trickle(job, body, [len(body)] * output)
    return PlainLater(job, body, output)


def _trickled(job: Job, stream: Stream) -> Trickle:
    data = bytearray(stream.opening)
    marks = []
    for i in range(stream.total):
        data += stream.render(i, i + 1)
        if job.output is None:
            marks.append(len(data))
    data += stream.finish + stream.terminator
    return Trickle(job, bytes(data), marks)


def _shown(path: str, query: str, headers: Headers, body: bytes) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "path": path,
        "query": query,
        "headers": {name.decode("latin-1"): value.decode("latin-1") for name, value in headers.items()},
    }
    try:
        shown["body"] = body.decode()
    except UnicodeDecodeError:
        shown["body_base64"] = base64.b64encode(body).decode()
    return shown
