"""An upstream's own batch API: files and batches of OpenAI's, message batches of Anthropic's.

``wire.provider_batch`` knows what is said; here it is sent.  Nothing here is tried again: who asks knows what a second
time would cost.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import msgspec

from penstock.errors import PenstockError, UpstreamBroken, UpstreamTimeout
from penstock.messages import Dialect, Endpoint, Headers
from penstock.net.connection import Connection
from penstock.net.reply import reply_to
from penstock.net.tasks import Answer
from penstock.upstream.fields import ANTHROPIC_VERSION
from penstock.upstream.http import HTTPUpstream
from penstock.upstream.transfer import MAX_ERROR_BYTES
from penstock.wire import problems
from penstock.wire.provider_batch import (
    ANTHROPIC,
    OPENAI,
    TAG,
    Form,
    NotMade,
    Page,
    Told,
    file_id,
)

FILES: Final = "/v1/files"
BATCHES: Final = "/v1/batches"
MESSAGE_BATCHES: Final = "/v1/messages/batches"
ANSWERED_WITHIN: Final = 60.0  # seconds, for what is small
SENT_WITHIN: Final = 600.0  # the same, for what is not
SILENCE: Final = 60.0  # seconds without a byte of a file of results, after which no more is expected
PAGE: Final = 100  # batches
_MOST: Final = 8 << 20  # bytes of an answer that is no file: a page of batches with all their metadata
_HELD: Final = 1 << 20  # bytes of a file of results that have come and are not written yet
_JSON: Final = b"content-type: application/json\r\n"

_encode = msgspec.json.Encoder().encode

_T = TypeVar("_T")


class ProviderBatches:
    """That of one upstream, for calls of one endpoint.

    :param endpoint: the upstream's own
    :ivar takes_files: requests are uploaded as a file before; else they are a part of the request for a batch
    """

    def __init__(self, upstream: HTTPUpstream, endpoint: Endpoint) -> None:
        self.takes_files = endpoint.dialect is Dialect.OPENAI
        self.form: Form = OPENAI if self.takes_files else ANTHROPIC
        self._upstream = upstream
        self._endpoint = endpoint
        self._batches = BATCHES if self.takes_files else MESSAGE_BATCHES

    def __repr__(self) -> str:
        return f"<ProviderBatches of {self._upstream.name}, {self._endpoint.path}>"

    async def upload(self, lines: bytes, name: str) -> str:
        """The id of a new file, which costs nothing.

        :raises PenstockError: it is not known whether there is one
        """
        mark = secrets.token_hex(16).encode()
        body = (
            b'--%b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
            b'--%b\r\ncontent-disposition: form-data; name="file"; filename="%b.jsonl"\r\n'
            b"content-type: application/jsonl\r\n\r\n%b\r\n--%b--\r\n"
        ) % (mark, mark, name.encode(), lines, mark)
        kind = b"multipart/form-data; boundary=" + mark
        text = await self._ask(b"POST", FILES, body, kind=kind, seconds=SENT_WITHIN)
        return self._read(file_id, text)

    async def create(self, requests: bytes, name: str, betas: str) -> Told:
        """Make a batch.

        :param requests: the id of the file that holds them; or all of them, as lines
        :param name: by which it can be found again, where the provider has a place for it
        :param betas: Anthropic's, that its requests ask for
        :raises NotMade: there is none
        :raises PenstockError: it is not known whether there is one
        """
        if self.takes_files:
            body = _encode(
                {
                    "input_file_id": requests.decode(),
                    "endpoint": self._endpoint.path,
                    "completion_window": "24h",
                    "metadata": {TAG: name},
                }
            )
        else:
            body = b'{"requests":[%b]}' % requests.rstrip(b"\n").replace(b"\n", b",")
        lines = b"anthropic-beta: %b\r\n" % betas.encode("latin-1") if betas else b""
        text = await self._ask(
            b"POST", self._batches, body, lines=lines, seconds=SENT_WITHIN, is_creation=True
        )
        return self._read(self.form.told, text)

    async def page(self, after: str) -> Page:
        """Some of all batches, newest first."""
        word = "after" if self.takes_files else "after_id"
        more = f"&{word}={after}" if after else ""
        text = await self._ask(b"GET", f"{self._batches}?limit={PAGE}{more}")
        return self._read(self.form.page, text)

    async def look(self, batch_id: str) -> Told:
        """How a batch stands."""
        return self._read(self.form.told, await self._ask(b"GET", f"{self._batches}/{batch_id}"))

    async def cancel(self, batch_id: str) -> None:
        """Have no more requests of a batch begun."""
        await self._ask(b"POST", f"{self._batches}/{batch_id}/cancel", b"")

    async def delete(self, batch_id: str) -> None:
        """Have the provider forget a batch that has ended, where it can."""
        if not self.takes_files:
            await self._ask(b"DELETE", f"{self._batches}/{batch_id}")

    async def delete_file(self, file_id: str) -> None:
        await self._ask(b"DELETE", f"{FILES}/{file_id}")

    async def download(self, results: str, write: Callable[[bytes], Awaitable[object]]) -> None:
        """All lines of one of :attr:`Told.results`; no more than about a megabyte is held at a time."""
        path = f"{FILES}/{results}/content" if self.takes_files else f"{self._batches}/{results}/results"
        head = await self._head(b"GET", path, b"", b"", _JSON)
        connection = await self._upstream.acquire(ANSWERED_WITHIN)
        receiver = _Download(connection)
        ended = asyncio.ensure_future(_ended(connection.send(head, b"", receiver)))
        try:
            while not (ended.done() and receiver.is_empty):
                await self._wait(receiver, ended)
                piece = receiver.take()
                if receiver.status == 200 and piece:
                    await write(piece)
                else:
                    receiver.refusal += piece[: MAX_ERROR_BYTES - len(receiver.refusal)]
            await ended
        except BaseException:
            if not ended.done():  # else it may be busy for somebody else
                ended.cancel()
                connection.abort()
            raise
        if receiver.status != 200:
            raise self._refused(receiver.status, receiver.headers, bytes(receiver.refusal))

    async def _wait(self, receiver: _Download, ended: asyncio.Future[None]) -> None:
        waiting: asyncio.Future[Any] = asyncio.ensure_future(receiver.come.wait())
        both: set[asyncio.Future[Any]] = {waiting, ended}
        try:
            done, _ = await asyncio.wait(both, timeout=SILENCE, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if not done:
            raise UpstreamTimeout(
                f"{self._upstream.name} sent nothing of its results for {SILENCE:g} s",
                clock="between_tokens",
                upstream=self._upstream.name,
            )

    # ---- asking ----

    async def _ask(
        self,
        method: bytes,
        path: str,
        body: bytes | None = None,
        *,
        lines: bytes = b"",
        kind: bytes = b"application/json",
        seconds: float = ANSWERED_WITHIN,
        is_creation: bool = False,
    ) -> bytes:
        upstream = self._upstream
        if body is not None:
            lines += b"content-length: %d\r\n" % len(body)
        head = await self._head(method, path, lines, body or b"", b"content-type: %b\r\n" % kind)
        try:
            async with asyncio.timeout(seconds):
                reply = await reply_to(upstream.pool, head, body or b"", most=_MOST, once=is_creation)
        except TimeoutError:
            raise UpstreamTimeout(
                f"{upstream.name} did not answer within {seconds:g} s", clock="total", upstream=upstream.name
            ) from None
        if not 200 <= reply.status < 300:
            error = self._refused(reply.status, reply.headers, bytes(reply.body))
            if is_creation and 400 <= reply.status < 500 and reply.status not in {408, 409}:
                raise NotMade(error)
            raise error
        return bytes(reply.body)

    async def _head(self, method: bytes, path: str, lines: bytes, body: bytes, kind: bytes) -> bytes:
        upstream = self._upstream
        own = upstream.fields.own.replace(_JSON, kind, 1)
        if not self.takes_files:
            own += b"anthropic-version: %b\r\n" % ANTHROPIC_VERSION
        target = upstream.encoder.place_of(path).encode()
        return await upstream.permitted(b"%b %b HTTP/1.1\r\n%b%b\r\n" % (method, target, own, lines), body)

    def _refused(self, status: int, headers: Headers, body: bytes) -> PenstockError:
        return problems.from_upstream(self._upstream.name, status, headers, body)

    def _read(self, read: Callable[[bytes], _T], text: bytes) -> _T:
        try:
            return read(text)
        except (ValueError, TypeError, OverflowError) as error:
            raise UpstreamBroken(
                f"{self._upstream.name}: what it says of its batches makes no sense: {error}",
                upstream=self._upstream.name,
            ) from error


class _Download:
    """Receives a file, and lets no more of it come than somebody takes."""

    def __init__(self, connection: Connection) -> None:
        self.status = 0
        self.headers: Headers = {}
        self.refusal = bytearray()
        self.come = asyncio.Event()
        self._connection = connection
        self._pieces: list[bytes] = []
        self._size = 0
        self._paused = False

    def __repr__(self) -> str:
        return f"<_Download {self.status}, {self._size} bytes held>"

    @property
    def is_empty(self) -> bool:
        return not self._pieces

    def on_head(self, status: int, headers: Headers) -> None:
        self.status, self.headers = status, headers

    def on_data(self, data: bytes) -> None:
        self._pieces.append(data)
        self._size += len(data)
        self.come.set()
        if self._size > _HELD and not self._paused:
            self._paused = True
            self._connection.pause()

    def take(self) -> bytes:
        """All that has come since it was taken last."""
        piece, self._pieces, self._size = b"".join(self._pieces), [], 0
        self.come.clear()
        if self._paused:
            self._paused = False
            self._connection.resume()
        return piece


async def _ended(answer: Answer) -> None:
    await answer
