"""An upstream that answers over HTTP: any OpenAI-compatible server, Anthropic, the simulator."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, ClassVar, cast

from penstock.config.model import TierConfig, TimeoutConfig, UpstreamConfig
from penstock.config.proxy import proxy_to
from penstock.errors import ConfigError, Overloaded, PenstockError, UpstreamError, untraced
from penstock.flow.batch import Batching
from penstock.flow.departure import Departure
from penstock.flow.gate import Gate
from penstock.flow.health import Health
from penstock.flow.hedge import Hedging
from penstock.flow.prefix import Replica
from penstock.generation.log import Generation
from penstock.installing import install_command
from penstock.messages import Call, Endpoint
from penstock.net import tasks
from penstock.net.client_tls import client_context
from penstock.net.clock import Clock
from penstock.net.connection import Connection, StaleConnection
from penstock.net.dial import DIRECT, Way
from penstock.net.origin import Origin
from penstock.net.pool import Pool
from penstock.net.reply import MAX_BYTES, Reply, reply_to
from penstock.net.tunnel import Tunnel
from penstock.upstream import inquiry
from penstock.upstream.capabilities import Capabilities, capabilities
from penstock.upstream.credentials import Credentials, credentials, with_credentials
from penstock.upstream.encoder import Encoder
from penstock.upstream.fields import Fields, has_no_key
from penstock.upstream.job import Herald, Job
from penstock.upstream.ladder import How, Point, spliced
from penstock.upstream.opaque import OpaqueTransfer
from penstock.upstream.run import of_log
from penstock.upstream.streamed import StreamTransfer
from penstock.upstream.transfer import Transfer
from penstock.upstream.whole import PlainTransfer
from penstock.wire import request, usage
from penstock.wire.credentials import key_in
from penstock.wire.request import Extra
from penstock.wire.translate import Translation

_CANCELLED_WITHIN = 10.0  # seconds that an upstream has for taking a cancellation
log = logging.getLogger("penstock.upstream")


class HTTPUpstream:
    """One configured upstream and its pool of connections.

    :ivar encoder: makes head and body of what it is asked

    :param forward_credentials: send the caller's own key where ``config`` has none (a gateway without keys
        of its own leaves authentication to the provider)
    :param gate: who may call when; None: whoever comes
    :param tiers: told to an upstream that has an order of its own (kind ``local``); None: it gets none
    """

    receiver: ClassVar[type[StreamTransfer]] = StreamTransfer  # of its streams
    whole: ClassVar[type[PlainTransfer]] = PlainTransfer  # of its plain answers
    encodes: ClassVar[type[Encoder]] = Encoder  # its requests
    # What this kind serves itself; none: see the configuration.
    native: ClassVar[frozenset[Endpoint]] = frozenset()

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
        self.name = name
        self.gate = gate
        self.departure: Departure | None = None  # None: it stays
        self.health: Health | None = None  # None: nobody asks how it is
        self.herald: Herald | None = None  # who hears of its answers that it goes; None: they do not say
        self.standings: Replica | None = None  # where models choose by what their upstreams have been like
        self.batching: Batching[Any] | None = (
            Batching(config.batching) if config.batching is not None else None
        )
        self.hedging = Hedging(config.hedge) if config.hedge is not None else None
        self.config = config
        self.origin, base = Origin.parse(config.base_url)
        self.pool = _pool(self.origin, config, clock, connect_timeout)
        self._clock = clock
        self.connect_timeout = connect_timeout
        self.forwards = forward_credentials and has_no_key(config)
        form = capabilities(config, self.origin.host, "").usage_lookup
        # How it is asked afterwards what an answer has cost; None: it cannot be.
        self.usage_lookup: inquiry.Form | None = None if form == "none" else form
        self._credentials = credentials(name, config, self.origin, clock.now)
        self.base = base  # path of its API
        self._base = base.removesuffix("/v1")
        self.fields = Fields(config, self.origin, clock.now, forwards=self.forwards, tiers=tiers)
        native = self.native or frozenset(_spoken_by(config))
        self.encoder = self.encodes(config, self.origin, base, self.fields, native)
        self._transfers: dict[Transfer, None] = {}
        self._cancelling: set[asyncio.Task[None]] = set()
        self._idle: asyncio.Future[None] | None = None
        self._closed = False
        clock.add(self)

    def __repr__(self) -> str:
        return f"<HTTPUpstream {self.name} {self.config.base_url} {len(self._transfers)} under way>"

    def sweep(self, now: float) -> None:
        """Check the clocks of all answers under way."""
        for transfer in list(self._transfers):
            transfer.check_clocks(now)
        if self.gate is not None:
            self.gate.sweep(now)
            if self._closed and not self._awaited:
                self._clock.remove(self)

    async def wait_idle(self) -> None:
        """Until no answer is under way."""
        if self._transfers:
            if self._idle is None:
                self._idle = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._idle])  # whoever stops waiting must not cancel it for the others

    async def close(self) -> None:
        """Close what is idle; a call that began with an older configuration may still come, and is served."""
        self._closed = True
        if not self._awaited:
            self._clock.remove(self)
        if self._cancelling:
            await asyncio.wait(self._cancelling)
        await self.pool.close()

    @property
    def _awaited(self) -> bool:
        """Whether an answer is under way, or a call waits for its turn."""
        return bool(self._transfers) or (self.gate is not None and len(self.gate.queue) > 0)

    def discard(self) -> None:
        """Let go of an upstream that was never used."""
        self._clock.remove(self)
        self._clock.remove(self.pool)

    def has(self, endpoint: Endpoint) -> bool:
        """Whether it serves this endpoint itself, untranslated."""
        return endpoint in self.encoder.native

    def counts(self, endpoint: Endpoint) -> bool:
        """Whether it can be asked for the tokens of a request, as this endpoint does; Anthropic's also of a response's."""
        if self.has(endpoint):
            return True
        return endpoint is Endpoint.INPUT_TOKENS and self.has(Endpoint.COUNT_TOKENS)

    def capabilities(self, model: str) -> Capabilities:
        """What it can do for an answer that broke off; ``model`` is its own name."""
        return self.encoder.capabilities(model)

    # ---- the receivers of its answers ----

    def transfer(
        self, call: Call, generation: Generation, timeouts: TimeoutConfig, hold_back: float = 0.0
    ) -> Transfer:
        """The receiver for this call's answer.

        :param hold_back: seconds that the first events of a stream wait
        :raises penstock.errors.Untranslatable: this upstream cannot serve the call's endpoint
        """
        encoder = self.encoder
        endpoint: Endpoint = call.endpoint
        translated: Translation | None = None
        if endpoint not in encoder.native:
            endpoint, translated = encoder.translated(call)
        prompt_tokens = usage.estimate_tokens(len(call.body))
        callers_key = self.forwards and bool(key_in(call.headers))
        job = Job(
            self.name,
            call,
            endpoint,
            translated,
            prompt_tokens,
            timeouts,
            callers_key,
            encoder.running_usage,
            hold_back,
        )
        if self.forwards and not callers_key:
            job.keyless = True
        if encoder.keeps_runs and call.stream:
            job.keeps_runs = True
        if self.herald is not None:
            job.herald = self.herald
        kind = self.receiver if call.stream else self.whole if not endpoint.opaque else OpaqueTransfer
        return kind(generation, job, self._clock.now)

    def continued(
        self,
        call: Call,
        generation: Generation,
        timeouts: TimeoutConfig,
        model: str,
        how: How,
        point: Point,
        extra: Extra = None,
    ) -> tuple[StreamTransfer, bytes, bytes]:
        """The receiver for the rest of an answer, and head and body of the request for it.

        :param extra: as for :meth:`penstock.upstream.encoder.Encoder.encode`
        :raises penstock.errors.Untranslatable: this upstream cannot be asked in this way
        """
        encoder = self.encoder
        endpoint, path, body = encoder.asked_more(call, model, how, point)
        if extra:
            body = request.with_members(body, extra)
        prompt_tokens = usage.estimate_tokens(len(call.body))
        job = Job(
            self.name,
            call,
            endpoint,
            None,
            usage.estimate_tokens(len(body)),
            timeouts,
            self.forwards and bool(key_in(call.headers)),
            encoder.running_usage,
            splice=spliced(how, point, endpoint, prompt_tokens),
            sent=body,
            cancel_grace=self.config.cancel_grace,
            herald=self.herald,
            keyless=self.forwards and not key_in(call.headers),
        )
        transfer = self.receiver(generation, job, self._clock.now)
        return transfer, *encoder.as_sent(call, endpoint, path, model, body)

    def taken_up(self, call: Call, generation: Generation, timeouts: TimeoutConfig) -> StreamTransfer | None:
        """The receiver of an answer that another process was receiving from a run of this upstream's, for :meth:`rest`
        and :meth:`end_run`; None: its log does not tell of one, or lacks nothing.
        """
        run = of_log(generation.events) if generation.events else None
        if run is None:
            return None
        transfer = self.transfer(call, generation, timeouts)
        assert isinstance(transfer, StreamTransfer), "only streams are asked for so"
        transfer.take_up(run)
        generation.kept = generation.attempts + 1
        return None if transfer.told else transfer

    def rest(self, transfer: Transfer) -> tuple[StreamTransfer, bytes] | None:
        """The receiver, and the head of the request, for reading on in the upstream's own run of an answer
        whose connection broke; None: it keeps none, or nothing is known of it.
        """
        if not isinstance(transfer, StreamTransfer) or transfer.run is None or not (target := transfer.rest):
            return None
        return transfer.successor(transfer.run), self._of_run(b"GET", target, transfer)

    def end_run(self, transfer: Transfer) -> None:
        """An answer is not read to its end: the upstream's own run of it is cancelled, where it keeps one."""
        run = transfer.run if isinstance(transfer, StreamTransfer) and not transfer.told else None
        if run is None or not (target := run.cancelled_at):
            return
        task = asyncio.get_running_loop().create_task(self._cancel(self._of_run(b"POST", target, transfer)))
        self._cancelling.add(task)
        task.add_done_callback(self._cancelling.discard)

    async def _cancel(self, head: bytes) -> None:
        try:
            async with asyncio.timeout(_CANCELLED_WITHIN):
                reply = await reply_to(self.pool, await self.permitted(head, b""))
            if reply.status >= 400:
                log.warning("%s: a response was not cancelled there: status %d", self.name, reply.status)
        except (PenstockError, TimeoutError) as error:
            log.warning("%s: a response was not cancelled there, and may go on: %s", self.name, error)

    def _of_run(self, method: bytes, target: str, transfer: Transfer) -> bytes:
        """The head of a request about the upstream's own run of an answer."""
        call, job = transfer.job.call, transfer.job
        return b"%b %b HTTP/1.1\r\n%b%b%b\r\n" % (
            method,
            (self._base + target).encode(),
            self.fields.own,
            self.fields.of_caller(call, job.endpoint.dialect),
            b"content-length: 0\r\n" if method == b"POST" else b"",
        )

    async def look_up(self, target: str, seconds: float) -> tuple[int, bytes]:
        """Status and body of what stands there, below the API's base; what is larger than 64 KiB is cut off.

        :raises penstock.errors.PenstockError: it cannot be had
        :raises TimeoutError: not within that time
        """
        base = self._base + "/v1" if self.config.base_url.rstrip("/").endswith("/v1") else self._base
        reply = await self.ask(base + target, seconds)
        return reply.status, bytes(reply.body)

    async def ask(self, path: str, seconds: float, lines: bytes = b"", *, most: int = MAX_BYTES) -> Reply:
        """What stands there, from the server's root.

        :param lines: more of the request's head
        :param most: bytes of its body; what is more is cut off
        :raises penstock.errors.PenstockError: it cannot be had
        :raises TimeoutError: not within that time
        """
        head = b"GET %b HTTP/1.1\r\n%b%b\r\n" % (path.encode(), self.fields.own, lines)
        async with asyncio.timeout(seconds):
            return await reply_to(self.pool, await self.permitted(head, b""), most=most)

    async def permitted(self, head: bytes, body: bytes) -> bytes:
        """The head of a request that is no call's, with what makes it good where credentials do not last.

        :raises penstock.errors.UpstreamFailed: there are none to be had
        """
        permits = self._credentials
        return head if permits is None else await with_credentials(permits, head, body)

    # ---- sending ----

    def _hide_address(self, error: PenstockError) -> None:
        """Callers learn which upstream failed, not where it stands in our network."""
        log.info("%s: %s", self.name, error.message)
        error.message = error.message.replace(self.origin.address, f"the upstream {self.name!r}")
        if isinstance(error, UpstreamError):
            error.upstream = self.name

    async def acquire(self, limit: float, *, fresh: bool = False) -> Connection:
        """A connection, in one's turn.

        :param limit: seconds that may be spent on waiting; 0: any number
        :param fresh: never one that was used before
        :raises penstock.errors.Overloaded: too many wait already, or none came free in time
        :raises penstock.errors.UpstreamError: no connection could be made
        """
        await tasks.own_task()
        try:
            async with asyncio.timeout(limit or None):
                return await self.pool.acquire(fresh=fresh)
        except TimeoutError:
            raise Overloaded(
                f"no connection to {self.name} came free in {limit:g} s", retry_after=1.0
            ) from None
        except PenstockError as error:
            if error.retry_after is None and isinstance(error, Overloaded):
                error.retry_after = 1.0
            self._hide_address(error)
            raise

    async def send(self, transfer: Transfer, connection: Connection, head: bytes, body: bytes) -> None:
        """Send on ``connection``, and wait until the answer has been received.

        A connection that had been closed by the upstream while it lay idle is replaced, once.

        :raises penstock.errors.PenstockError: the attempt failed; see ``Transfer.conclude``
        """
        if transfer.job.trace and self.config.trace_context:
            head = head[:-2] + transfer.job.trace + b"\r\n"
        if self._credentials is not None:
            head = await self._permitted(self._credentials, connection, head, body)
        if self._closed:
            self._clock.add(self)
        self._transfers[transfer] = None
        transfer.connection = connection
        try:
            transfer.answer = answer = connection.send(head, body, transfer)
            try:
                await answer
            except StaleConnection:
                await self._send_again(transfer, head, body)
        except asyncio.CancelledError:
            if transfer.connection is not None:
                transfer.connection.abort()
            raise
        except PenstockError as error:
            # What the transfer itself found wrong (a clock, a malformed event) tells more than
            # the broken connection that it left behind; and what it knows already, nothing can break.
            if transfer.failure is None and not transfer.cancelled and not transfer.told:
                self._hide_address(error)
                raise
            untraced(
                error
            )  # it stays in the transfer's answer, and its way leads through this frame to the transfer
        finally:
            if transfer.held:
                transfer.generation.hold(-transfer.held)
            if transfer.connection is not None:
                transfer.cut = transfer.connection.cut
                transfer.connection = None
            del self._transfers[transfer]
            if not self._transfers and (self._closed or self._idle is not None):
                self._left()
        try:
            transfer.conclude()
        except UpstreamError as error:
            if error.status == 503 and self.departure is not None:
                # It goes: others are asked at once, and nothing is retried here.
                raise self.departure.refusal(self.name, self._clock.now()) from error
            if transfer.status == 401 and self._credentials is not None:
                self._credentials.refused()
            self._sign(error)
            raise

    async def _permitted(
        self, permits: Credentials, connection: Connection, head: bytes, body: bytes
    ) -> bytes:
        """The head with what makes the request good; without it the connection is not used.

        :raises penstock.errors.UpstreamFailed: there are no credentials to be had
        """
        try:
            return await with_credentials(permits, head, body)
        except BaseException:
            connection.abort()
            raise

    async def _send_again(self, transfer: Transfer, head: bytes, body: bytes) -> None:
        """The idle connection had been closed: use one that was not used before."""
        if transfer.failure is not None or transfer.cancelled:
            return
        # Nothing to hang up on: leaving cancels the task instead.
        transfer.connection = transfer.answer = None
        connection = await self.acquire(transfer.job.timeouts.total, fresh=True)
        transfer.connection = connection
        if transfer.failure is not None or transfer.lost:  # a clock ran out meanwhile, or another was quicker
            connection.abort()
            return
        transfer.answer = answer = connection.send(head, body, transfer)
        await answer

    def _sign(self, error: UpstreamError) -> None:
        """Say whose fault it was, where the finder did not know the name."""
        if not error.upstream:
            error.upstream = self.name
            error.message = f"{self.name}: {error.message}"

    def _left(self) -> None:
        """The last answer that was under way has ended."""
        if self._closed and not self._awaited:
            self._clock.remove(self)
        if self._idle is not None:
            self._idle.set_result(None)
            self._idle = None


def _pool(origin: Origin, config: UpstreamConfig, clock: Clock, connect_timeout: float) -> Pool:
    """What stands for the connections to it: of HTTP/1.1, or streams of HTTP/2."""
    protocol = "h2" if config.http2 else "http/1.1"
    tls = client_context(config.ca_file, config.verify, protocol) if origin.secure else None
    way = _way(origin, config)
    if not config.http2:
        return Pool(origin, config.pool, clock, connect_timeout=connect_timeout, ssl=tls, way=way)
    try:
        from penstock.net.http2 import Streams  # noqa: PLC0415 - what it needs is an extra
    except ModuleNotFoundError as error:
        raise ConfigError(f"{origin}: http2 needs the extra 'http2': {install_command('http2')}") from error
    streams = Streams(origin, config.pool, clock, connect_timeout=connect_timeout, ssl=tls, way=way)
    return cast(Pool, streams)


def _way(origin: Origin, config: UpstreamConfig) -> Way:
    """How it is reached: directly, or through a proxy."""
    try:
        proxy = proxy_to(config.proxy, origin.scheme, origin.host, origin.port)
    except ValueError as error:
        raise ConfigError(f"{origin}: proxy: {error}") from None
    if proxy is None:
        return DIRECT
    return Tunnel(proxy, client_context(None, verify=True) if proxy.secure else None)


_OF_RESPONSES = frozenset({Endpoint.RESPONSES, Endpoint.INPUT_TOKENS, Endpoint.COMPACT})


def _spoken_by(config: UpstreamConfig) -> list[Endpoint]:
    """The endpoints that an upstream of this kind has itself."""
    if config.kind == "sim":
        return list(Endpoint)
    if config.kind == "local":
        return [Endpoint.CHAT, Endpoint.COMPLETIONS, Endpoint.EMBEDDINGS]
    return [
        endpoint
        for endpoint in Endpoint
        if endpoint.dialect.value == config.kind and (endpoint not in _OF_RESPONSES or config.responses)
    ]
