"""One request and its answer, as the gateway sees them: the seam between HTTP and everything else.

Two have a caller behind them: the listener's (``net.listener``) and that of other servers (``net.asgi``).  The others
stand in for one of these where a request comes in another form (``gateway.over``), or by no connection at all
(``batches.exchange``).  Whoever serves is an :class:`Application`: the gateway, the simulator, a local model.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Container, Coroutine, Sequence
from typing import Any, Protocol

from penstock.messages import Headers

HeaderList = Sequence[tuple[bytes, bytes]]
BATCH = "batch"  # in the place of a client's address: the call is a line of a batch


class Watcher(Protocol):
    """Who wants to know what becomes of the client while an answer is under way.

    Both methods are called from the event loop, must not block and must not raise.
    """

    def on_gone(self) -> None:
        """The client is gone (reset, closed, or half-closed before the answer's end); called once."""

    def on_writable(self) -> None:
        """The client has taken what was buffered: writing may go on."""


class Exchange(Protocol):
    """One request and its answer.

    The answer is either :meth:`respond`, or :meth:`start`, then any number of :meth:`write`, then
    :meth:`end`.  After the client is gone all of these do nothing.  None of them blocks.
    """

    method: str
    path: str  # percent-encoding as sent, without the query
    query: str
    headers: Headers
    peer: str  # address of the client, for logs
    state: object  # None at first; free for the application, from `opening` to the end
    # None at first; what `opening` leaves here, it finds with the next request of the connection, if the head of that is
    # the same but for the length of its body.
    meaning: object

    @property
    def scheme(self) -> str:
        """``http`` or ``https``, as this process sees it; a proxy in front may have made it another."""

    @property
    def root(self) -> str:
        """The path below which the application is mounted, without a slash at its end; usually empty."""

    @property
    def gone(self) -> bool:
        """Whether the client has left."""

    @property
    def started(self) -> bool:
        """Whether a status line has been sent."""

    @property
    def segment(self) -> bytes:
        """The whole request as it came, if it came at once and nothing with it; else nothing.

        Only until the application has returned, and only where a :class:`Repeats` is told of requests.
        """

    @property
    def unsent(self) -> bool:
        """Whether something that was written has not left this process; of a client that is gone, whether it
        may have missed something.
        """

    async def body(self) -> bytes:
        """The whole body.

        :raises penstock.errors.BodyTooLarge: more than ``Application.opening`` allowed
        :raises penstock.errors.RequestTimeout: it came too slowly
        :raises penstock.errors.BadRequest: its framing was wrong
        :raises ConnectionError: the client left before its end
        """

    def whole_body(self) -> bytes:
        """The same at once, for an application that was called because the body is whole (or has failed)."""

    def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes, with back-pressure; for applications whose ``opening`` returned None."""

    def respond(self, status: int, headers: HeaderList, body: bytes) -> None:
        """A whole answer; ``content-length``, ``date`` and ``connection`` are added."""

    def start(self, status: int, headers: HeaderList) -> None:
        """The head of an answer of unknown length (``transfer-encoding: chunked``)."""

    def write(self, data: bytes) -> bool:
        """A piece of the answer. False: the buffer is over its high-water mark, await ``on_writable``."""

    def end(self) -> None:
        """The answer is complete."""

    def inform(self, status: int, headers: HeaderList) -> None:
        """An interim answer (1xx); does nothing where the client or the server cannot have one."""

    def abort(self) -> None:
        """Cut the connection, so that the client sees that the answer is not complete."""

    def watch(self, watcher: Watcher | None) -> None:
        """Who is told; if the client is gone already, ``on_gone`` is called at once."""


LATER = b""
"""In place of an answer that will be told by :meth:`Asker.told`."""


class Asker(Protocol):
    """The connection that a request came on which may be a repetition."""

    peer: str  # as of an Exchange

    @property
    def gone(self) -> bool:
        """Whether nobody takes an answer any more."""

    def told(self, answer: bytes | None) -> None:
        """What :meth:`Repeats.answer` promised for later, exactly once; it does not raise."""


class Repeats(Protocol):
    """Requests that came before, byte for byte, and whose answers are at hand."""

    @property
    def lengths(self) -> Container[int]:
        """Of the requests that are known, in bytes: one of another length need not be asked about."""

    def answer(self, segment: bytes, opening: bytes, asker: Asker) -> bytes | None:
        """The answer to a request with status 200; None: it is to be read; or :data:`LATER`.

        :param segment: what has come at once, where a request begins; it may be more or less than one
        :param opening: what the answer begins with: status line and date; what is told later has none
        """


class Application(Protocol):
    """What a listener serves."""

    def opening(self, exchange: Exchange) -> int | None:
        """The head of a request is complete; its body is not read yet.

        :returns: how many bytes of body may be buffered: the application is called when the body is
            whole; or None: it is called at once and reads :meth:`Exchange.pieces` itself.
            May already answer with ``exchange.respond``: the application is not called then, what is
            left of a body is read and dropped within limits, and the connection is closed if it is long.
        """

    def __call__(self, exchange: Exchange) -> Coroutine[Any, Any, None] | None:
        """Answer, now or later.

        :returns: a coroutine (so it may simply be an ``async def``), which is run as a task and must have
            answered when it ends; or None: the answer is given in callbacks, without a task, and the
            application sees to it that it ends.  An exception is a defect: 500, or the answer is cut.
        """
