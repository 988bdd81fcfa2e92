# Made from _async_httpx2.py by scripts/make_twins.py; change that one.

"""The transport, and the client that holds it: the shell of I/O around ``_calls`` and ``_reading``."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpcore2
import httpx2

from penstock.client._breaks import kind_of, reason_of
from penstock.client._calls import ATTEMPTS_HEADER, HEARTBEAT_HEADER, Calls, ClientCall
from penstock.client._coded import Sent
from penstock.client._home import is_over, of_threads
from penstock.client._kept import Keeping, Kept
from penstock.client._prompts import HEADER as PROMPT_HEADER
from penstock.client._proxies import Proxies
from penstock.client._reading import Cut, HandedOver, NotReproduced
from penstock.client._sockets import KEEP_ALIVE
from penstock.client._sync_heads import head_clock, with_clocks
from penstock.client._sync_uploads_httpx2 import Uploading, told_by
from penstock.client.options import Options
from penstock.client.statistics import Counters, Statistics
from penstock.errors import UpstreamBroken

LATE = "the call's deadline has passed"
CLOSED = "the client has been closed"
GOODBYE_SECONDS = 1.0  # that telling the gateway to stop may take, when the application gives a stream up
_NOT_FOR_RESUMPTION = frozenset(
    {
        "accept",
        "content-encoding",
        "content-length",
        "content-type",
        "idempotency-key",
        "penstock-deadline",
        "penstock-dictionary",
        "penstock-prompt-changed",
    }
)
_Connect = Callable[[str | None], httpx2.BaseTransport]
_Inner = dict[object, dict[str | None, httpx2.BaseTransport]]  # by where they belong, by proxy
_Timeouts = dict[str, float | None]


class Client(httpx2.Client):
    """An ``httpx2.Client`` whose calls survive; see :func:`penstock.http_client`."""

    def __init__(self, transport: Transport, **settings: Any) -> None:
        super().__init__(transport=transport, **settings)
        self._calls = transport.calls

    @property
    def counters(self) -> Counters:
        return self._calls.counters

    def statistics(self) -> Statistics:
        """What became of the calls so far."""
        return self._calls.counters.statistics()

    def close(self) -> None:
        self._calls.is_closed = True
        super().close()


class Transport(httpx2.BaseTransport):
    """Sends calls so that they survive broken connections, refusals and servers that die.

    :param connect: makes the transport that goes through this proxy, or through none
    :param kept: answers that are kept here; closed with this
    :param proxied: whether to look for proxies in the environment
    """

    def __init__(self, options: Options, connect: _Connect, kept: Kept | None, *, proxied: bool) -> None:
        self.calls = Calls(options)
        self._kept = kept
        self._connect = connect
        self._proxies = Proxies(wanted=proxied)
        self._unused: httpx2.BaseTransport | None = connect(None)  # a wrong setting is told at once
        self._inner: _Inner = {}
        self._process = os.getpid()
        self._uploading = Uploading(self._asked)

    def __repr__(self) -> str:
        return f"<Transport of {self.calls!r}>"

    def _forked(self) -> None:
        """In a child of the process that made the connections: if both used one, they would mix up answers."""
        self._process = os.getpid()
        self._unused, self._inner = None, {}
        self.calls.forked()
        if self._kept is not None:
            self._kept.forked()

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        if os.getpid() != self._process:
            self._forked()
        body = _body(request)
        if body is None:
            return self.send(request)
        url = request.url
        call = self.calls.begin(
            request.method,
            url.scheme,
            url.netloc.decode("ascii"),
            url.path,
            request.headers,
            body,
            request.extensions.get("timeout", {}),
        )
        keeping = None
        if self._kept is not None and call.endpoint is not None:
            keeping = self._kept.keeping(call)
            if keeping is not None:
                if (ahead := self._kept.ahead) is not None:
                    ahead.saw(str(url), request.headers, body)
                found = keeping.remembered()
                if found is None and keeping.may_be_in_file:
                    found = _aside(keeping, keeping.in_file)
                if found is not None:
                    call.answered_from_cache(found.size)
                    told = httpx2.Response(
                        200, headers=found.headers, stream=httpx2.ByteStream(found.body), extensions={}
                    )
                    return _stated(call, told)
        try:
            return _stated(call, self._answered(call, request, keeping))
        except httpx2.RequestError as error:
            call.failed(reason_of(error))
            raise
        except BaseException:  # cancelled: nobody waits for it
            call.abandoned()
            raise

    def _answered(
        self, call: ClientCall, request: httpx2.Request, keeping: Keeping | None
    ) -> httpx2.Response:
        """The answer's head, and its body: whole, if it is plain, or as a stream that resumes by itself."""
        timeouts: _Timeouts = {}
        request.extensions = {**request.extensions, "timeout": timeouts}
        if call.key:
            request.headers["Idempotency-Key"] = call.key
        request.headers.pop(ATTEMPTS_HEADER, None)
        if call.stated:
            request.headers[PROMPT_HEADER] = call.stated
        while True:
            self._prepare(call, request, timeouts)
            call.attempt()
            try:
                response = self.exchanged(call, request)
                wait = call.refused(response.status_code, response.headers)
                if wait is None:
                    if call.endpoint is None:
                        call.succeeded()
                        return response
                    if _is_stream(response):
                        return self._streamed(call, request, response, timeouts, keeping)
                    return self._whole(call, response, keeping)
                response.close()
            except httpx2.RequestError as error:
                broken = call.broke(kind_of(error), reason_of(error))
                if broken is None:
                    raise
                wait = broken
            if wait:
                time.sleep(wait)

    def _prepare(self, call: ClientCall, request: httpx2.Request, timeouts: _Timeouts) -> None:
        """Address the next attempt, and tell it how much time there is."""
        _address(call, request)
        timeouts.update(call.limits())
        if call.heartbeat:
            request.headers[HEARTBEAT_HEADER] = call.heartbeat
        left = call.left
        if left is None:
            return
        if left <= 0:
            raise httpx2.ReadTimeout(LATE, request=request)
        request.headers["Penstock-Deadline"] = f"{left:.3f}"

    def exchanged(self, call: ClientCall, request: httpx2.Request) -> httpx2.Response:
        """The answer's head, for a body that goes as it is, or in a form that survives breaks."""
        sent = call.encoded()
        if sent is not call.sent:
            _set_body(request, sent)
            call.sent = sent
        while (upload := call.uploading(request.headers)) is not None:
            response = self._uploading.answered(call, request, upload)
            if response is not None:
                return response
            call.upload_refused(upload)
        call.sends(len(sent.body))
        return self._asked(call, request)

    def _asked(self, call: ClientCall, request: httpx2.Request) -> httpx2.Response:
        """What a server of these APIs answers.

        :raises httpx2.RemoteProtocolError: it is a page, of somebody on the way who wants to be seen first
        """
        response = self.send(request, call.left)
        if call.endpoint is not None and _is_page(response):
            response.close()
            raise httpx2.RemoteProtocolError("a page came in the place of an answer", request=request)
        return response

    def _whole(self, call: ClientCall, response: httpx2.Response, keeping: Keeping | None) -> httpx2.Response:
        """A plain answer, read to its end: if that breaks, there can be another attempt."""
        pieces: list[bytes] = []
        try:
            for piece in response.stream:  # type: ignore[union-attr] # as bytes came, still encoded
                pieces.append(piece)
                call.came(len(piece))
                if call.is_late:  # what comes drop by drop is never silent
                    raise httpx2.ReadTimeout(LATE)
        finally:
            response.close()
        body = b"".join(pieces)
        told = httpx2.Response(
            response.status_code,
            headers=response.headers,
            stream=httpx2.ByteStream(body),
            extensions=response.extensions,
        )
        if response.status_code >= 400:
            if not call.out_of_time:
                told.headers["x-should-retry"] = "false"  # all attempts that make sense have been made
            call.failed(f"status {response.status_code}")
            return told
        if keeping is not None and response.status_code == 200:
            if "content-encoding" in response.headers:
                body = httpx2.Response(200, headers=response.headers, content=body).content
            _aside(keeping, keeping.keep_plain, body, dict(response.headers))
        call.succeeded()
        return told

    def _streamed(
        self,
        call: ClientCall,
        request: httpx2.Request,
        response: httpx2.Response,
        timeouts: _Timeouts,
        keeping: Keeping | None,
    ) -> httpx2.Response:
        headers = response.headers.copy()
        for name in ("content-encoding", "content-length"):  # it is decoded here
            headers.pop(name, None)
        stream = _ResumedStream(self, call, request, response, timeouts, keeping)
        return httpx2.Response(
            response.status_code, headers=headers, stream=stream, extensions=response.extensions
        )

    def send(self, request: httpx2.Request, left: float | None = None) -> httpx2.Response:
        """One exchange, through the proxy that the environment wants for it.

        :param left: seconds after which the head of its answer is of no use; None: it always is
        :raises httpx2.LocalProtocolError: the client was closed in the middle of a call
        """
        if self.calls.is_closed:  # nobody would close what is connected now
            raise httpx2.LocalProtocolError(CLOSED, request=request)
        url = request.url
        proxy = self._proxies.of(url.scheme, url.host, url.netloc.decode("ascii"))
        here = self._inner.get(home := of_threads())
        if here is None:
            for each in list(self._inner):  # other threads, with loops of their own, do this too
                if is_over(each):
                    self._inner.pop(each, None)
            here = self._inner.setdefault(home, {})
        inner = here.get(proxy)
        if inner is None:
            unused, self._unused = self._unused, None
            made = unused if unused is not None and proxy is None else self._connect(proxy)
            inner = here.setdefault(proxy, made)
        timeouts = request.extensions.get("timeout", {})
        silence = timeouts.get("read")
        if silence is None:
            return inner.handle_request(request)
        timeouts["read"] = head_clock(silence, left)
        try:
            return inner.handle_request(request)
        finally:
            timeouts["read"] = silence

    def close(self) -> None:
        """End the connections that belong to this loop."""
        unused, self._unused = self._unused, None
        for inner in self._inner.pop(of_threads(), {None: unused}).values():
            if inner is not None:
                inner.close()
        if self._kept is not None:
            self._kept.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        self.calls.is_closed = True
        self.close()


class _ResumedStream(httpx2.SyncByteStream):
    """The body of a streamed answer: goes on over another connection when one breaks."""

    def __init__(
        self,
        transport: Transport,
        call: ClientCall,
        request: httpx2.Request,
        response: httpx2.Response,
        timeouts: _Timeouts,
        keeping: Keeping | None,
    ) -> None:
        self._transport = transport
        self._call = call
        self._request = request
        self._response = response
        self._timeouts = timeouts
        self._keeping = keeping
        self._generation = ""
        self._take(response)
        self._home = call.peer  # where the log is
        self._reading = call.reading(is_gateway=bool(self._generation))

    def __repr__(self) -> str:
        return f"<_ResumedStream of {self._generation or 'no generation'}, {self._reading!r}>"

    def _take(self, response: httpx2.Response) -> None:
        self._response = response
        self._verdict = b""  # an event: what has become of the answer, as a gateway says
        self._generation = response.headers.get("penstock-generation", "")
        # A gateway shows signs of life, so that silence is a break.  The dictionary is the one that the
        # connection reads its limits from, when its body is begun.
        self._timeouts.update(self._call.limits_of_stream(response.headers))

    def __iter__(self) -> Iterator[bytes]:
        call, reading = self._call, self._reading
        while True:
            try:
                pieces: Any = self._response.iter_bytes()  # a generator, which the types do not say
                with closing(pieces):
                    for piece in pieces:
                        call.came(len(piece))
                        if passed := reading.feed(piece):
                            if self._keeping is not None:
                                self._keeping.take(passed)
                            yield passed
                        if reading.handover:
                            raise HandedOver("the gateway goes away")
                if rest := reading.ended():
                    yield rest
                break
            except (httpx2.RequestError, Cut, UpstreamBroken) as error:
                if self._mended(error):
                    continue
                if reading.is_whole:
                    break
                call.failed(reason_of(error))
                if last := reading.handover or self._verdict:
                    yield last
                    return
                if isinstance(error, httpx2.RequestError):
                    raise
                raise httpx2.RemoteProtocolError(str(error), request=self._request) from error
            except NotReproduced as error:
                call.failed(str(error))
                raise httpx2.RemoteProtocolError(str(error), request=self._request) from error
        self._whole()

    def _whole(self) -> None:
        """The application has all of it."""
        if self._call.done:
            return
        if self._keeping is not None:
            _aside(self._keeping, self._keeping.keep_stream, dict(self._response.headers))
        self._call.succeeded()

    def _mended(self, error: Exception) -> bool:
        """Whether there is a connection again that goes on with the answer.  False: it is whole, or lost."""
        call, reading = self._call, self._reading
        self._response.close()
        if reading.is_whole or not (self._generation or reading.can_rerun):
            return False
        while True:
            wait = call.stream_broke(kind_of(error), reason_of(error), reading.last)
            if wait is None:
                return False
            if wait:
                time.sleep(wait)
            self._timeouts.update(call.limits())
            try:
                if self._generation and reading.last >= 0:
                    self._timeouts.update(call.limits_of_rest())
                    request = self._resumption()
                    response = self._transport.send(request)
                    status = response.status_code
                    # Words of another answer would follow those of this one.
                    of = response.headers.get("penstock-generation", "")
                    if _is_stream(response) and of == self._generation:
                        self._take(response)
                        reading.reconnected()
                        call.resumed(reading.delivered)
                        return True
                    self._judged(response)
                    error = httpx2.RemoteProtocolError(f"status {status} {of} for the rest", request=request)
                    final = response.headers.get("x-should-retry") == "false"
                    if final or status in (204, 400, 401, 403):
                        return False
                    if status not in (404, 409, 410):
                        continue
                    if call.peer is not self._home and not reading.can_rerun:
                        call.peer = self._home  # who has it may come back
                        continue
                return self._asked_again()
            except httpx2.RequestError as again:
                error = again

    def _judged(self, response: httpx2.Response) -> None:
        """There is no rest: note what the gateway says has become of the answer, if it says that."""
        try:
            named = response.headers.get("penstock-generation") == self._generation
            if named and response.status_code >= 500:
                self._verdict = self._reading.verdict(told_by(response))
        finally:
            response.close()

    def _asked_again(self) -> bool:
        """The whole call once more: by its key the gateway finds its log, or makes a new one.

        :returns: whether there is an answer that can go on
        """
        call, reading = self._call, self._reading
        begun = reading.delivered > 0
        if not reading.can_rerun or not call.may_ask_again(begun=begun):
            return False
        request = self._request
        request.headers["Idempotency-Key"] = call.key
        _address(call, request)
        call.asks_again(begun=begun)
        response = self._transport.exchanged(call, request)
        if response.status_code != 200 or not _is_stream(response):
            response.close()
            if response.status_code < 500:
                return False
            raise httpx2.RemoteProtocolError(f"status {response.status_code} for the call", request=request)
        before = self._generation
        self._take(response)
        self._home = call.peer
        if before and self._generation == before:
            reading.reconnected()
        else:
            reading.restarted(numbered=bool(self._generation))
        return True

    def _resumption(self) -> httpx2.Request:
        url = self._request.url
        headers = {
            name: value
            for name, value in self._request.headers.items()
            if name.lower() not in _NOT_FOR_RESUMPTION
        }
        headers["Accept"] = "text/event-stream"
        headers["Last-Event-ID"] = str(self._reading.last)
        path = f"{self._call.prefix}/generations/{quote(self._generation, safe='')}/events"
        request = httpx2.Request(
            "GET",
            url.copy_with(raw_path=path.encode("ascii")),
            headers=headers,
            extensions={"timeout": self._timeouts},
        )
        _address(self._call, request)
        return request

    def close(self) -> None:
        self._response.close()
        if self._call.done:
            return
        if self._reading.is_whole:  # an SDK may stop at the terminator
            self._whole()
            return
        self._call.abandoned()
        if self._generation:
            self._say_goodbye()

    def _say_goodbye(self) -> None:
        """The application does not want the rest: the gateway would wait for us, and go on to compute it."""
        request = self._resumption()
        path = f"{self._call.prefix}/generations/{quote(self._generation, safe='')}/cancel"
        limits = dict.fromkeys(("connect", "read", "write", "pool"), GOODBYE_SECONDS)
        goodbye = httpx2.Request(
            "POST",
            request.url.copy_with(raw_path=path.encode("ascii") + b"?unread=true"),
            headers=request.headers,
            extensions={"timeout": limits},
        )
        with nullcontext():  # async, this must not be cancelled
            try:
                (self._transport.send(goodbye)).close()
            except httpx2.RequestError:
                pass  # then it waits for its grace time


def make(
    options: Options,
    kept: Kept | None,
    *,
    verify: Any,
    cert: Any,
    http2: bool,
    limits: Any,
    proxy: Any,
    trust_env: bool,
    inner: httpx2.BaseTransport | None,
    **settings: Any,
) -> Client:
    """A client; the arguments are those of ``httpx2.HTTPTransport`` and ``httpx2.Client``."""
    given = {} if limits is None else {"limits": limits}

    def connect(through: str | None) -> httpx2.BaseTransport:
        if inner is not None:
            return inner
        made = httpx2.HTTPTransport(
            verify=verify,
            cert=cert,
            http2=http2,
            proxy=proxy if through is None else through,
            trust_env=trust_env,
            socket_options=KEEP_ALIVE,
            **given,
        )
        return with_clocks(made, httpcore2.ReadTimeout)

    transport = Transport(options, connect, kept, proxied=trust_env and proxy is None and inner is None)
    return Client(transport, trust_env=trust_env, **settings)


def _body(request: httpx2.Request) -> bytes | None:
    """None: it is a stream of the application's own, and cannot be sent twice."""
    try:
        return bytes(request.content)
    except httpx2.RequestNotRead:  # also where we gave it one, and it was redirected
        return b"".join(request.stream) if isinstance(request.stream, httpx2.ByteStream) else None


def _address(call: ClientCall, request: httpx2.Request) -> None:
    """Direct a request to the peer of the call, if it is not directed there already."""
    peer = call.peer
    netloc = peer.netloc.encode("ascii")
    if request.url.netloc != netloc or request.url.scheme != peer.scheme:
        request.url = request.url.copy_with(scheme=peer.scheme, netloc=netloc)
        request.headers["Host"] = peer.netloc


def _set_body(request: httpx2.Request, sent: Sent) -> None:
    """Give a request the body as its present peer wants it."""
    request.stream = httpx2.ByteStream(sent.body)
    request.headers["Content-Length"] = str(len(sent.body))
    request.headers.pop("Content-Encoding", None)
    request.headers.pop("Penstock-Dictionary", None)
    if sent.coding:
        request.headers["Content-Encoding"] = sent.coding
    if sent.asks_to_keep:
        request.headers["Penstock-Dictionary"] = "keep"


def _stated(call: ClientCall, response: httpx2.Response) -> httpx2.Response:
    """An answer that says what was left out of its prompt."""
    if call.left_out is not None:
        response.headers[PROMPT_HEADER] = call.stated_with(response.headers.get(PROMPT_HEADER))
    return response


def _is_stream(response: httpx2.Response) -> bool:
    content_type: str = response.headers.get("content-type", "")
    return response.status_code == 200 and content_type.startswith("text/event-stream")


def _is_page(response: httpx2.Response) -> bool:
    content_type: str = response.headers.get("content-type", "")
    return response.status_code == 200 and content_type.startswith("text/html")


def _aside(keeping: Keeping, work: Callable[..., Any], *args: Any) -> Any:
    """Work that touches the disk, if there is a file."""
    if not keeping.may_be_in_file:
        return work(*args)
    return work(*args)
