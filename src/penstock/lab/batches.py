"""The simulator's batches: OpenAI's files and batches, Anthropic's message batches, at half the price.

Each request of a batch is answered by the simulator itself, and does what its model's script says.  What the batch as a
whole does, the header ``x-sim-batch`` of its creation says, a list of options with commas between them::

    latency=MS       so long before the first request is run; 100 if it is not said
    pace=N           so many requests a second; else all at once
    expire-after=N   after N requests its time is over
    fail             it is found wrong before any is run (OpenAI's alone can)
    crowded          too much is under way for it; crowded=N: for the first N
    lost             it is made, and the answer that says so never comes; lost=N: of the first N
    late=MS          lists of batches do not show it before
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs

import msgspec

from penstock.batches.exchange import LineExchange
from penstock.errors import PenstockError
from penstock.lab.delivery import reset
from penstock.lab.refusal import refusal
from penstock.messages import Dialect
from penstock.net.exchange import Exchange
from penstock.net.wheel import Wheel
from penstock.upload.form import Field, FileBegin, FileData, FormReader

_JSON = [(b"content-type", b"application/json")]
_LINES = [(b"content-type", b"application/x-jsonl")]
_KEPT = 1_000  # batches, and files
_AT_ONCE = 50  # requests that are begun in one go
_WINDOW = 86_400.0
_ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
_PATHS = ("/v1/files", "/v1/batches", "/v1/messages/batches")
_ERRORS = (msgspec.MsgspecError, UnicodeError, PenstockError, KeyError, TypeError, ValueError)
_BETAS = b"anthropic-beta"
_CROWDED = "token_limit_exceeded", "Enqueued token limit reached. Please try again later."
_WRONG = "invalid_json_line", "This line is not parseable as valid JSON."


class _Options(msgspec.Struct, frozen=True):
    latency: float = 0.1  # seconds
    pace: float = 0.0
    expire_after: int = -1
    fail: bool = False
    crowded: int = 0
    lost: int = 0
    late: float = 0.0


def _options(header: bytes) -> _Options:
    """:raises ValueError: there is no such option"""
    found: dict[str, Any] = {}
    for option in filter(None, (part.strip() for part in header.decode("latin-1").split(","))):
        name, _, value = option.partition("=")
        match name:
            case "latency" | "late":
                found[name] = float(value) / 1_000
            case "pace":
                found[name] = float(value)
            case "expire-after":
                found["expire_after"] = int(value)
            case "lost" | "crowded":
                found[name] = int(value or 1)
            case "fail":
                found[name] = True
            case _:
                raise ValueError(f"{option}: a batch has no such option")
    return _Options(**found)


class _File(msgspec.Struct, eq=False):
    id: str
    data: bytes
    filename: str
    purpose: str
    created: float

    def shown(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "file",
            "bytes": len(self.data),
            "created_at": int(self.created),
            "filename": self.filename,
            "purpose": self.purpose,
            "status": "processed",
        }


class _Request(msgspec.Struct):
    custom_id: str
    body: msgspec.Raw = msgspec.Raw()
    params: msgspec.Raw = msgspec.Raw()
    url: str = "/v1/messages"


class _Requests(msgspec.Struct):
    requests: list[_Request]


_request = msgspec.json.Decoder(_Request).decode
_requests = msgspec.json.Decoder(_Requests).decode
_object = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.Encoder().encode


class _Batch:
    """One batch on its way."""

    def __init__(self, room: Batches, batch_id: str, asked: dict[str, Any], options: _Options) -> None:
        self.id = batch_id
        self.asked = asked
        self.options = options
        self.status = "validating"
        self.created = time.time()
        self.ended = 0.0
        self.cancelled = 0.0
        self.requests: list[_Request] = []
        self.results: list[tuple[_Request, LineExchange | None]] = []  # None: it was not run
        self.files: dict[str, str] = {}
        self.is_one_too_many = False
        self.betas = b""
        self.begun = 0
        self.under_way = 0
        self._next = 0  # the request that is run next
        self._room = room
        self._from = 0.0  # monotonic: when the first one is run

    def __repr__(self) -> str:
        return f"<_Batch {self.id} {self.status}, {len(self.results)} of {len(self.requests)}>"

    @property
    def is_messages(self) -> bool:
        return self.id.startswith("msgbatch_")

    def begin(self, now: float) -> None:
        self._from = now + self.options.latency
        self._room.wheel.at(self._from, self)

    def cancel(self) -> None:
        if self.status not in _ENDED:
            self.cancelled = time.time()
            self.status = "cancelling"
            self._room.wheel.at(self._room.wheel.now(), self)

    def wake(self, now: float) -> None:
        """Run what has become due, and end when nothing is left."""
        if self.status in _ENDED:
            return
        if (self.options.fail or self.is_one_too_many) and not self.is_messages:
            self._end("failed")
            return
        if self.status == "validating":
            self.status = "in_progress"
        until = len(self.requests)
        if self.status == "cancelling":
            until = self._next
        elif 0 <= self.options.expire_after < until:
            until = self.options.expire_after
        due = until
        if self.options.pace:
            due = min(until, 1 + int((now - self._from) * self.options.pace))
        due = min(due, self._next + _AT_ONCE)
        while self._next < due:
            request = self.requests[self._next]
            self._next += 1
            self.under_way += 1
            self._room.run(self, request)
        if self._next < until:
            self._room.wheel.at(now + (1 / self.options.pace if self.options.pace else 0.0), self)
        elif not self.under_way:
            self._end("cancelled" if self.status == "cancelling" else self._outcome())

    def _outcome(self) -> str:
        return "expired" if self._next < len(self.requests) else "completed"

    def answered(self, request: _Request, exchange: LineExchange) -> None:
        self.under_way -= 1
        self.results.append((request, exchange))
        if not self.under_way:
            self._room.wheel.at(self._room.wheel.now(), self)

    def _end(self, status: str) -> None:
        self.status = status
        self.ended = time.time()
        if status != "failed":
            self.results += [(request, None) for request in self.requests[self._next :]]
        self._room.ended(self)

    def unrun_code(self) -> str:
        return "batch_cancelled" if self.status == "cancelled" else "batch_expired"

    # ---- as OpenAI shows it ----

    def shown(self) -> dict[str, Any]:
        completed = sum(made is not None and made.status == 200 for _, made in self.results)
        times = {f"{status}_at": int(self.ended) if self.status == status else None for status in _ENDED}
        code, message = _CROWDED if self.is_one_too_many else _WRONG
        failed = [{"code": code, "message": message, "line": None}]
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": self.asked["endpoint"],
            "errors": {"object": "list", "data": failed} if self.status == "failed" else None,
            "input_file_id": self.asked["input_file_id"],
            "completion_window": self.asked["completion_window"],
            "status": self.status,
            "output_file_id": self.files.get("output"),
            "error_file_id": self.files.get("error"),
            "created_at": int(self.created),
            "expires_at": int(self.created + _WINDOW),
            "in_progress_at": int(self.created) if self._next else None,
            "cancelling_at": int(self.cancelled) or None,
            **times,
            "request_counts": {
                "total": len(self.requests) if self.status != "validating" else 0,
                "completed": completed,
                "failed": len(self.results) - completed,
            },
            "metadata": self.asked.get("metadata"),
        }

    # ---- as Anthropic shows it ----

    def shown_message_batch(self, url: str) -> dict[str, Any]:
        ended = self.status in _ENDED
        unrun = sum(made is None for _, made in self.results)
        succeeded = sum(made is not None and made.status == 200 for _, made in self.results)
        status = "ended" if ended else "canceling" if self.status == "cancelling" else "in_progress"
        return {
            "id": self.id,
            "type": "message_batch",
            "processing_status": status,
            "request_counts": {
                "processing": len(self.requests) - len(self.results),
                "succeeded": succeeded,
                "errored": len(self.results) - succeeded - unrun,
                "canceled": unrun if self.status == "cancelled" else 0,
                "expired": unrun if self.status == "expired" else 0,
            },
            "created_at": _moment(self.created),
            "expires_at": _moment(self.created + _WINDOW),
            "ended_at": _moment(self.ended) if ended else None,
            "cancel_initiated_at": _moment(self.cancelled) if self.cancelled else None,
            "archived_at": None,
            "results_url": f"{url}/v1/messages/batches/{self.id}/results" if ended else None,
        }


class Batches:
    """All files and batches of one simulator.

    :param answer: answers one request, as if it had come by itself
    """

    def __init__(self, answer: Callable[[LineExchange], None], wheel: Wheel) -> None:
        self.wheel = wheel
        self._answer = answer
        self._files: OrderedDict[str, _File] = OrderedDict()
        self._batches: OrderedDict[str, _Batch] = OrderedDict()
        self._numbers = 0
        self._lost = self._crowded = 0
        self._waiting: set[asyncio.Future[None]] = set()

    def __repr__(self) -> str:
        return f"<Batches {len(self._batches)}, {len(self._files)} files>"

    def serve(self, exchange: Exchange) -> bool:
        """Whether the request was one about files or batches; then it is answered."""
        path = exchange.path
        at = next((each for each in _PATHS if path == each or path.startswith(each + "/")), None)
        if at is None:
            return False
        steps = [step for step in path[len(at) :].split("/") if step]
        dialect = Dialect.ANTHROPIC if at == _PATHS[2] else Dialect.OPENAI
        serve = {_PATHS[0]: self._serve_file, _PATHS[1]: self._serve_batch}.get(at, self._serve_messages)
        try:
            serve(exchange, steps)
        except _Missing as missing:
            exchange.respond(*self._no("404", dialect, str(missing)))
        except _ERRORS as error:
            exchange.respond(*self._no("400", dialect, str(error)))
        return True

    def _no(self, scenario: str, dialect: Dialect, message: str) -> tuple[int, Any, bytes]:
        status, body = refusal(scenario, dialect, 0, message=message)
        return status, _JSON, body

    # ---- files ----

    def _serve_file(self, exchange: Exchange, steps: list[str]) -> None:
        match exchange.method, steps:
            case "POST", []:
                file = self._received(exchange)
                exchange.respond(200, _JSON, _encode(file.shown()))
            case "GET", []:
                shown = [file.shown() for file in reversed(self._files.values())]
                exchange.respond(200, _JSON, _encode({"object": "list", "data": shown, "has_more": False}))
            case "GET", [name]:
                exchange.respond(200, _JSON, _encode(self._file(name).shown()))
            case "GET", [name, "content"]:
                exchange.respond(200, [(b"content-type", b"application/octet-stream")], self._file(name).data)
            case "DELETE", [name]:
                del self._files[self._file(name).id]
                exchange.respond(200, _JSON, _encode({"id": name, "object": "file", "deleted": True}))
            case _:
                raise _Missing("there is no such path")

    def _received(self, exchange: Exchange) -> _File:
        reader = FormReader(exchange.headers.get(b"content-type", b""))
        data, filename, purpose = bytearray(), "", ""
        for part in reader.feed(exchange.whole_body()):
            if isinstance(part, FileData):
                data += part.data
            elif isinstance(part, FileBegin):
                filename = part.filename
            elif isinstance(part, Field) and part.name == "purpose":
                purpose = part.value
        reader.close()
        return self._keep(bytes(data), filename, purpose)

    def _keep(self, data: bytes, filename: str, purpose: str) -> _File:
        file = _File(self._name("file-"), data, filename, purpose, time.time())
        self._files[file.id] = file
        while len(self._files) > _KEPT:
            self._files.popitem(last=False)
        return file

    def _file(self, name: str) -> _File:
        if name not in self._files:
            raise _Missing(f"No such File object: {name}")
        return self._files[name]

    # ---- OpenAI's batches ----

    def _serve_batch(self, exchange: Exchange, steps: list[str]) -> None:
        match exchange.method, steps:
            case "POST", []:
                asked = _object(exchange.whole_body())
                lines = self._file(asked["input_file_id"]).data.splitlines()
                if asked["completion_window"] != "24h":
                    raise ValueError("completion_window must be 24h")
                options = _options(exchange.headers.get(b"x-sim-batch", b""))
                batch = _Batch(self, self._name("batch_"), asked, options)
                batch.requests = [_request(line) for line in lines]
                if any(request.url != asked["endpoint"] for request in batch.requests):
                    raise ValueError("a request's url is not the batch's endpoint")
                self._create(exchange, batch)
            case "GET", []:
                self._list(exchange, "batch_", "after", lambda batch: batch.shown())
            case "GET", [name]:
                exchange.respond(200, _JSON, _encode(self._batch(name).shown()))
            case "POST", [name, "cancel"]:
                batch = self._batch(name)
                batch.cancel()
                exchange.respond(200, _JSON, _encode(batch.shown()))
            case _:
                raise _Missing("there is no such path")

    # ---- Anthropic's ----

    def _serve_messages(self, exchange: Exchange, steps: list[str]) -> None:
        url = "http://" + exchange.headers.get(b"host", b"").decode("latin-1")
        match exchange.method, steps:
            case "POST", []:
                options = _options(exchange.headers.get(b"x-sim-batch", b""))
                batch = _Batch(self, self._name("msgbatch_"), {}, options)
                batch.requests = _requests(exchange.whole_body()).requests
                batch.betas = exchange.headers.get(_BETAS, b"")
                self._create(exchange, batch)
            case "GET", []:
                self._list(exchange, "msgbatch_", "after_id", lambda batch: batch.shown_message_batch(url))
            case "GET", [name]:
                exchange.respond(200, _JSON, _encode(self._batch(name).shown_message_batch(url)))
            case "POST", [name, "cancel"]:
                batch = self._batch(name)
                batch.cancel()
                exchange.respond(200, _JSON, _encode(batch.shown_message_batch(url)))
            case "GET", [name, "results"]:
                batch = self._batch(name)
                if batch.status not in _ENDED:
                    raise ValueError("the batch has not ended")
                results = b"".join(_message_result(batch, *each) for each in batch.results)
                exchange.respond(200, _LINES, results)
            case "DELETE", [name]:
                batch = self._batch(name)
                if batch.status not in _ENDED:
                    raise ValueError("the batch has not ended")
                del self._batches[name]
                exchange.respond(200, _JSON, _encode({"id": name, "type": "message_batch_deleted"}))
            case _:
                raise _Missing("there is no such path")

    # ---- both ----

    def _create(self, exchange: Exchange, batch: _Batch) -> None:
        if not batch.requests:
            raise ValueError("there must be at least one request")
        self._batches[batch.id] = batch
        while len(self._batches) > _KEPT:
            self._batches.popitem(last=False)
        batch.begin(self.wheel.now())
        if self._crowded < batch.options.crowded:
            self._crowded += 1
            batch.is_one_too_many = True
        if self._lost < batch.options.lost:
            self._lost += 1
            reset(exchange)
        elif batch.is_messages:
            url = "http://" + exchange.headers.get(b"host", b"").decode("latin-1")
            exchange.respond(200, _JSON, _encode(batch.shown_message_batch(url)))
        else:
            exchange.respond(200, _JSON, _encode(batch.shown()))

    def _list(
        self, exchange: Exchange, kind: str, word: str, show: Callable[[_Batch], dict[str, Any]]
    ) -> None:
        asked = parse_qs(exchange.query)
        limit, after = int(asked.get("limit", ["20"])[0]), asked.get(word, [""])[0]
        now = time.time()
        found = [
            batch
            for batch in reversed(self._batches.values())
            if batch.id.startswith(kind) and now >= batch.created + batch.options.late
        ]
        if after:
            found = found[[batch.id for batch in found].index(after) + 1 :]
        page = found[:limit]
        shown = {
            "object": "list",
            "data": [show(batch) for batch in page],
            "first_id": page[0].id if page else None,
            "last_id": page[-1].id if page else None,
            "has_more": len(found) > limit,
        }
        exchange.respond(200, _JSON, _encode(shown))

    def run(self, batch: _Batch, request: _Request) -> None:
        """Answer one request."""
        headers = {b"content-type": b"application/json"}
        if batch.is_messages:
            headers |= {b"anthropic-version": b"2023-06-01", _BETAS: batch.betas}
        body = request.params if batch.is_messages else request.body
        exchange = LineExchange(request.url, bytes(body), headers)
        waiting = asyncio.ensure_future(exchange.wait_answered())
        self._waiting.add(waiting)
        waiting.add_done_callback(self._waiting.discard)
        waiting.add_done_callback(lambda _: batch.answered(request, exchange))
        self._answer(exchange)

    def ended(self, batch: _Batch) -> None:
        if batch.is_messages:
            return
        for kind in ("output", "error"):
            right = kind == "output"
            data = b"".join(
                _result(batch, request, made)
                for request, made in batch.results
                if (made is not None and made.status == 200) is right
            )
            if data:
                batch.files[kind] = self._keep(data, f"{batch.id}_{kind}.jsonl", "batch_output").id

    def _batch(self, name: str) -> _Batch:
        if name not in self._batches:
            raise _Missing(f"No batch found with id '{name}'.")
        return self._batches[name]

    def _name(self, prefix: str) -> str:
        self._numbers += 1
        return f"{prefix}{self._numbers:024x}"


class _Missing(Exception):
    pass


def _result(batch: _Batch, request: _Request, made: LineExchange | None) -> bytes:
    response = error = None
    if made is None:
        error = {"code": batch.unrun_code(), "message": "This request was not run."}
    else:
        request_id = made.answer_headers.get(b"x-request-id", b"").decode()
        response = {
            "status_code": made.status,
            "request_id": request_id,
            "body": msgspec.Raw(made.answer),
        }
    told = {
        "id": f"batch_req_{request.custom_id}",
        "custom_id": request.custom_id,
        "response": response,
        "error": error,
    }
    return _encode(told) + b"\n"


def _message_result(batch: _Batch, request: _Request, made: LineExchange | None) -> bytes:
    if made is None:
        result: dict[str, Any] = {"type": "canceled" if batch.status == "cancelled" else "expired"}
    elif made.status == 200:
        result = {"type": "succeeded", "message": msgspec.Raw(made.answer)}
    else:
        result = {"type": "errored", "error": msgspec.Raw(made.answer)}
    return _encode({"custom_id": request.custom_id, "result": result}) + b"\n"


def _moment(unix_time: float) -> str:
    return datetime.fromtimestamp(unix_time, UTC).isoformat().replace("+00:00", "Z")
