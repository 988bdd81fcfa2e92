"""An upstream that speaks Triton's own protocol, by tritonclient over gRPC, or over HTTP (``_triton_http``).

What the gateway asks of an upstream is a pool of connections, each of which takes a request and feeds an answer
to a receiver.  A :class:`Channel` is such a connection for one call: it makes tensors of the request
(``wire.triton``), asks Triton, and tells the receiver what an OpenAI server would have answered.  So everything
else (gate, clocks, retries, continuation, ledger) is as for any other upstream.

What a model takes and gives is read from Triton when it is first asked, and anew when Triton finds that a request
does not fit.
"""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, cast

import msgspec

from penstock.config.model import TierConfig, TimeoutConfig, TritonConfig, UpstreamConfig
from penstock.errors import BadRequest, ConfigError, PenstockError, UpstreamBroken, UpstreamUnreachable
from penstock.flow.gate import Gate
from penstock.installing import install_command
from penstock.messages import Endpoint
from penstock.net import tasks
from penstock.net.clock import Clock
from penstock.net.connection import Connection
from penstock.net.pool import PoolStatistics
from penstock.net.response import Receiver
from penstock.upstream.http import HTTPUpstream
from penstock.upstream.transfer import Transfer
from penstock.wire.triton.answered import Writer, embeddings_body, piece_of, vectors_of
from penstock.wire.triton.asked import Asked, Form, Tokenize, asked
from penstock.wire.triton.model import Model, Tensor, model_of

_MICROSECONDS = 1_000_000
_KEEP_ALIVE_MS = 30_000
_BUCKETS = tuple(2**power for power in range(4, 18))
_JSON = {b"content-type": b"application/json"}
_EVENTS = {b"content-type": b"text/event-stream"}

# gRPC's statuses as HTTP's: https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto
_STATUS = {
    "INVALID_ARGUMENT": 400,
    "OUT_OF_RANGE": 400,
    "NOT_FOUND": 404,
    "UNIMPLEMENTED": 400,
    "PERMISSION_DENIED": 403,
    "UNAUTHENTICATED": 401,
    "RESOURCE_EXHAUSTED": 429,
    "DEADLINE_EXCEEDED": 504,
    "CANCELLED": 499,
    "UNAVAILABLE": 503,
}


class _Refused(Exception):
    """Triton has answered with an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class TritonUpstream(HTTPUpstream):
    """One configured Triton server.

    :raises penstock.errors.ConfigError: the extra is not installed, or the tokenizer cannot be read
    """

    native = frozenset({Endpoint.CHAT, Endpoint.COMPLETIONS, Endpoint.EMBEDDINGS})

    def __init__(
        self,
        name: str,
        config: UpstreamConfig,
        clock: Clock,
        *,
        connect_timeout: float,
        forward_credentials: bool = False,
        gate: Gate | None = None,
        tiers: Mapping[str, TierConfig] | None = None,
    ) -> None:
        if importlib.util.find_spec("tritonclient") is None:
            raise ConfigError(f"the upstream {name!r} needs the extra 'triton': {install_command('triton')}")
        super().__init__(
            name,
            config,
            clock,
            connect_timeout=connect_timeout,
            forward_credentials=forward_credentials,
            gate=gate,
            tiers=tiers,
        )
        clock.remove(self.pool)
        self.pool = cast(Any, Channels(self.origin.host, self.origin.port, config, clock))
        clock.add(self.pool)

    def __repr__(self) -> str:
        return f"<TritonUpstream {self.name} {self.config.base_url} {len(self._transfers)} under way>"


class Channels:
    """Stands where other upstreams have a pool: calls share one HTTP/2 connection, which gRPC keeps."""

    def __init__(self, host: str, port: int, config: UpstreamConfig, clock: Clock) -> None:
        self.now = clock.now
        self.config = config.triton or TritonConfig()
        self.address = f"{host}:{port}"
        self._secure = config.base_url.startswith("https")
        self._ca_file = config.ca_file
        self._most = config.pool.max_open
        self._client: Any = None
        self._open: set[Channel] = set()
        self._asked_total = 0
        self._failed_total = 0
        self._models: dict[str, Model] = {}
        self.headers = dict(config.headers)
        if config.api_key is not None:
            self.headers["authorization"] = f"Bearer {config.api_key.reveal()}"
        self.form = Form(
            template=self.config.template,
            buckets=tuple(sorted(self.config.buckets)) or _BUCKETS,
            pad=self.config.pad,
            tokenize=_tokenizer(self.config.tokenizer) if self.config.tokenizer else None,
        )

    def __repr__(self) -> str:
        return f"<Channels to {self.address}, {len(self._open)} calls>"

    def sweep(self, now: float) -> None:
        """Nothing here waits for a clock: gRPC has its own."""

    def acquire_nowait(self) -> Connection:
        channel = Channel(self)
        self._open.add(channel)
        return cast(Connection, channel)

    async def acquire(self, *, fresh: bool = False) -> Connection:  # noqa: ARG002 - none is ever used twice
        return self.acquire_nowait()

    def let_go(self, channel: Channel) -> None:
        self._open.discard(channel)

    def statistics(self) -> PoolStatistics:
        return PoolStatistics(
            open=1 if self._client is not None else 0,
            idle=0 if self._open else 1 if self._client is not None else 0,
            busy=len(self._open),
            waiting=0,
            opened_total=1 if self._client is not None else 0,
            reused_total=max(0, self._asked_total - 1),
            stale_total=0,
            connect_errors_total=self._failed_total,
        )

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    # ---- Triton ----

    @property
    def client(self) -> Any:
        """tritonclient's, made where it is first used: it belongs to the loop that runs then."""
        if self._client is None and self.config.protocol == "http":
            from penstock.upstream._triton_http import HTTPClient  # noqa: PLC0415 - an extra

            secure = ssl.create_default_context(cafile=self._ca_file) if self._secure else False
            self._client = HTTPClient(self.address, secure)
        if self._client is None:
            from tritonclient.grpc import KeepAliveOptions  # noqa: PLC0415 - an extra
            from tritonclient.grpc.aio import InferenceServerClient  # noqa: PLC0415

            self._client = InferenceServerClient(
                self.address,
                ssl=self._secure,
                root_certificates=self._ca_file,
                keepalive_options=KeepAliveOptions(keepalive_time_ms=_KEEP_ALIVE_MS),
            )
        return self._client

    def inputs(self, tensors: list[Tensor]) -> list[Any]:
        """Tensors in the client's form."""
        import numpy as np  # noqa: PLC0415 - an extra
        from tritonclient.utils import triton_to_np_dtype  # noqa: PLC0415

        if self.config.protocol == "http":
            from tritonclient.http import InferInput  # noqa: PLC0415
        else:
            from tritonclient.grpc import InferInput  # noqa: PLC0415
        found = []
        for each in tensors:
            made = InferInput(each.name, list(each.shape), each.datatype)
            kind = np.object_ if each.datatype == "BYTES" else triton_to_np_dtype(each.datatype)
            made.set_data_from_numpy(np.array(each.values, dtype=kind).reshape(each.shape))
            found.append(made)
        return found

    async def model(self, name: str) -> Model:
        """What Triton says of a model."""
        known = self._models.get(name)
        if known is None:
            told = await self.called(self.client.get_model_config(name, headers=self.headers, as_json=True))
            known = self._models[name] = model_of(told)
        return known

    def forget(self, name: str) -> None:
        """What is known of a model does not hold any more, perhaps."""
        self._models.pop(name, None)

    async def called(self, call: Any) -> Any:
        """The answer to one call of the client.

        :raises UpstreamUnreachable: nobody is there
        """
        self._asked_total += 1
        try:
            return await call
        except Exception as error:
            raise self.translated(error) from error

    def translated(self, error: Exception) -> Exception:
        """An error of tritonclient's: ours, if there was no answer, else Triton's answer."""
        from tritonclient.utils import InferenceServerException  # noqa: PLC0415

        if not isinstance(error, InferenceServerException):
            return error
        message = error.message() or "no reason was given"
        code = str(error.status() or "").rpartition(".")[2]  # over HTTP: its own
        if code == "UNAVAILABLE" and ("failed to connect" in message or "connection" in message.lower()):
            self._failed_total += 1
            return UpstreamUnreachable(f"{self.address} cannot be reached")
        if "unknown model" in message or "not found" in message:
            return _Refused(404, message)
        if "timeout expired" in message.lower():
            return _Refused(504, message)
        if "exceeds maximum queue size" in message.lower():
            return _Refused(503, message)
        return _Refused(int(code) if code.isdigit() else _STATUS.get(code, 500), message)


class Channel:
    """One call; stands where other upstreams have a connection."""

    def __init__(self, home: Channels) -> None:
        self._home = home
        self._task: asyncio.Task[None] | None = None
        self._future: tasks.Answer | None = None
        self._flowing = asyncio.Event()
        self._flowing.set()
        self.reused = True
        self.cut = False
        self._gone = False

    def __repr__(self) -> str:
        return f"<Channel to {self._home.address}{', busy' if self._task is not None else ''}>"

    def send(self, head: bytes, body: bytes, receiver: Receiver) -> tasks.Answer:  # noqa: ARG002 - HTTP's
        loop = asyncio.get_running_loop()
        self._future = future = tasks.answer(loop)
        self._task = loop.create_task(self._run(body, cast(Transfer, receiver), future))
        return future

    def pause(self) -> None:
        """Nothing more is read until :meth:`resume`; gRPC's flow control does the rest."""
        self._flowing.clear()

    def resume(self) -> None:
        self._flowing.set()

    def hang_up(self, grace: float) -> None:  # noqa: ARG002 - Triton stops at once
        """Triton is told that nobody waits any more; nothing more comes."""
        self._gone = True
        self._end(None)

    def abort(self) -> None:
        self._end(UpstreamBroken(f"the call to {self._home.address} was cut off by this side"))

    def _end(self, error: PenstockError | None) -> None:
        future = self._future
        if self._task is not None and future is not None and not future.done():
            self.cut = True
            self._task.cancel()
            future.fail(error)
            if error is not None:
                future.exception()
        self._home.let_go(self)

    async def _run(self, body: bytes, transfer: Transfer, future: tasks.Answer) -> None:
        error: Exception | None = None
        try:
            await self._answer(body, transfer)
        except _Refused as refused:
            told = {"error": {"message": refused.message, "type": None, "code": None}}
            transfer.on_head(refused.status, _JSON)
            transfer.on_data(msgspec.json.encode(told))
        except asyncio.CancelledError:
            raise
        except PenstockError as caught:
            error = caught
        except Exception as caught:  # noqa: BLE001 - whatever a library raises: this answer is broken, not the gateway
            error = UpstreamBroken(f"the answer of {self._home.address} made no sense: {caught}")
        self._home.let_go(self)
        if future.done():
            return
        if error is None:
            future.succeed()
        else:
            future.fail(error)

    async def _answer(self, body: bytes, transfer: Transfer) -> None:
        try:
            told = msgspec.json.decode(body, type=_Told)
        except msgspec.ValidationError as error:
            raise BadRequest(str(error)) from None
        home, job = self._home, transfer.job
        model = await home.model(told.model)
        requests = asked(model, job.endpoint, body, home.form)
        settings = _settings(home, transfer)
        try:
            if job.endpoint is Endpoint.EMBEDDINGS:
                await self._embed(model, told, requests, transfer, settings)
            else:
                await self._generate(model, told, requests[0], transfer, settings)
        except _Refused as refused:
            if refused.status == 400:
                home.forget(told.model)
            raise

    async def _embed(
        self, model: Model, told: _Told, requests: list[Asked], transfer: Transfer, settings: dict[str, Any]
    ) -> None:
        home = self._home
        calls = [
            home.called(home.client.infer(model.name, home.inputs(each.tensors), **settings))
            for each in requests
        ]
        results = await asyncio.gather(*calls)
        vectors: dict[int, list[float]] = {}
        for each, result in zip(requests, results, strict=True):
            found = vectors_of(model, _tensors(model, result), len(each.rows))
            vectors |= zip(each.rows, found, strict=True)
        counted = [each.prompt_tokens for each in requests]
        tokens = None if None in counted else sum(each or 0 for each in counted)
        transfer.on_head(200, _JSON)
        transfer.on_data(
            embeddings_body(
                told.model,
                [vectors[row] for row in range(len(vectors))],
                tokens,
                in_base64=told.encoding_format == "base64",
            )
        )

    async def _generate(
        self, model: Model, told: _Told, request: Asked, transfer: Transfer, settings: dict[str, Any]
    ) -> None:
        writer = Writer(
            transfer.job.endpoint,
            told.model,
            transfer.job.call.id,
            int(time.time()),
            asked_tokens=told.max_completion_tokens or told.max_tokens,
            prompt_tokens=request.prompt_tokens,
        )
        stream = told.stream
        begun = False
        async for result in self._responses(model, request, settings):
            await self._flowing.wait()
            piece = piece_of(model, _tensors(model, result))
            if not stream:
                writer.take(piece)
                continue
            if not begun:
                begun = True
                transfer.on_head(200, _EVENTS)
            transfer.on_data(writer.frame(piece))
        if not stream:
            transfer.on_head(200, _JSON)
            transfer.on_data(writer.body())
        else:
            if not begun:
                transfer.on_head(200, _EVENTS)
            transfer.on_data(writer.end())

    async def _responses(self, model: Model, request: Asked, settings: dict[str, Any]) -> AsyncIterator[Any]:
        """What Triton answers: once, or piece by piece where the model is decoupled."""
        home = self._home
        if not model.decoupled:
            yield await home.called(home.client.infer(model.name, home.inputs(request.tensors), **settings))
            return
        # The stream is ours alone, so gRPC's own status says whether the answer is whole: it is OK only when
        # Triton has nothing more to send.  (tritonclient's asynchronous form cannot ask for a final response.)
        inputs = home.inputs(request.tensors)
        timeout = settings.pop("client_timeout", None)
        headers = settings.pop("headers")

        async def requests() -> AsyncIterator[dict[str, Any]]:
            yield {
                "model_name": model.name,
                "inputs": inputs,
                **settings,
            }

        responses = home.client.stream_infer(requests(), stream_timeout=timeout, headers=headers)
        try:
            async for result, error in responses:
                if error is not None:
                    raise home.translated(error)  # noqa: TRY301 - it comes beside the results, not by being raised
                if result.get_response().outputs:
                    yield result
        except (PenstockError, _Refused, asyncio.CancelledError):
            raise
        except Exception as error:
            raise home.translated(error) from error
        finally:
            responses.cancel()


class _Told(msgspec.Struct):
    """What of the request matters besides the tensors."""

    model: str
    stream: bool = False
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    encoding_format: str | None = None


def _settings(home: Channels, transfer: Transfer) -> dict[str, Any]:
    """Priority and time of a call, as Triton takes them."""
    config, job = home.config, transfer.job
    settings: dict[str, Any] = {"headers": home.headers}
    priority = config.priorities.get(job.call.tenant.tier)
    if priority is not None:
        settings["priority"] = priority
    if config.queue_timeout:
        settings["timeout"] = round(config.queue_timeout * _MICROSECONDS)
    total = _left(job.timeouts, transfer)
    if total is not None:
        settings["client_timeout"] = total
    return settings


def _left(timeouts: TimeoutConfig, transfer: Transfer) -> float | None:
    """Seconds of the call's whole time that are left; None: any number."""
    if not timeouts.total:
        return None
    return max(0.001, timeouts.total - (transfer.now() - transfer.started))


def _tensors(model: Model, result: Any) -> Mapping[str, Tensor]:
    found = {}
    for output in result.get_response().outputs:
        if output.name in model.outputs:
            values = result.as_numpy(output.name)
            found[output.name] = Tensor(
                output.name, output.datatype, tuple(values.shape), values.reshape(-1).tolist()
            )
    return found


def _tokenizer(path: str) -> Tokenize:
    """:raises ConfigError: it cannot be read, or tokenizers is not installed"""
    try:
        from tokenizers import Tokenizer  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        raise ConfigError(
            "triton.tokenizer needs the package tokenizers; it comes with the extra 'triton'"
        ) from None
    try:
        tokenizer = Tokenizer.from_file(path)
    except Exception as error:  # the library raises nothing narrower
        raise ConfigError(f"triton.tokenizer: {path} cannot be read: {error}") from error
    return functools.partial(_ids, tokenizer.encode)


def _ids(encode: Callable[[str], Any], text: str) -> list[int]:
    ids: list[int] = encode(text).ids
    return ids
