"""What is to be done with a call: the decisions, without I/O.

Theory of operation
-------------------
A **call** is what the application asks for once.  It gets one ``Idempotency-Key``, whatever becomes of it, and so
a gateway computes it once, however often it has to be sent.  There are two kinds of repetition:

* A *retry* follows a refusal (429, 5xx), or a server that may not have been told.  It can cost the server a
  second computation, so it waits, with back-off and jitter, and takes from a budget that all calls share.
* A *repetition of a broken transfer* to a gateway costs it nothing: the answer is there, or being made, under
  the key.  It is bounded by the number of attempts alone, and the first one does not wait.

Both end with the caller's own clock (``_clocks``): what the SDK's ``timeout`` says holds for all attempts together.

The SDKs retry by themselves, above this.  They are told not to (``x-should-retry: false``) once the attempts of a
call are spent; where they do it all the same, because an exception cannot tell them, the call is recognised by
its body, keeps its key, and gets one attempt only, or those that were left when the caller's clock ran out.  So the
attempts of two layers add up, and never multiply.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import quote

from blake3 import blake3

from penstock.cache import keys
from penstock.client import _clocks, _prompts
from penstock.client._blocks import InBlocks, in_blocks
from penstock.client._breaks import Break
from penstock.client._clocks import Clocks
from penstock.client._coded import CodedBody, Sent
from penstock.client._lanes import Append
from penstock.client._patience import Patience
from penstock.client._peers import Peer, Peers, best
from penstock.client._reading import StreamReading
from penstock.client._uploading import Upload
from penstock.client.options import Options
from penstock.client.statistics import Counters, Notice
from penstock.errors import BadRequest, Draining
from penstock.flow.retry import RetryBudget, delay
from penstock.messages import Call, Endpoint, Tenant
from penstock.wire import request as wire_request
from penstock.wire.prompt_left import Left

MOST_REMEMBERED = 1_000  # failed calls whose keys an SDK's retry gets again
_PATHS: Final = sorted(
    ((each.path.removeprefix("/v1"), each) for each in Endpoint if not each.opaque),
    key=lambda each: -len(each[0]),
)
_REFUSED_FOR_NOW = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529})
_NO_ROOM = frozenset({503, 529})
ATTEMPTS_HEADER = "Penstock-Attempts"  # of a call's own; no server is told
HEARTBEAT_HEADER = "penstock-heartbeat"
_IN_PATHS = "/:@!$&'()*+,;=~"
_NO_CLOCKS: Final[Mapping[str, float | None]] = {}
_REPEATABLE = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
_TENANT = Tenant()


class Calls:
    """What all calls of one client have in common.

    :param now: monotonic seconds
    :param wall: seconds since 1970
    """

    def __init__(
        self,
        options: Options,
        *,
        now: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        rand: Callable[[], float] = random.random,
    ) -> None:
        self.options = options
        self.counters = Counters(options.on_notice)
        self.peers = Peers(options.gateways, options.dictionary_bytes)
        self.now = now
        self.wall = wall
        self.rand = rand
        self.budget = RetryBudget(options.retry)
        self.lock = threading.Lock()
        self.is_closed = False  # the client, for good
        self._failed: deque[tuple[bytes, str, int]] = deque(maxlen=MOST_REMEMBERED)

    def __repr__(self) -> str:
        return f"<Calls to {self.peers!r}, {self.counters!r}>"

    def forked(self) -> None:
        """In a child process: what another thread held when it was made is held by nobody here."""
        self.lock = threading.Lock()
        self.counters.forked()
        self.peers.forked()

    def begin(
        self,
        method: str,
        scheme: str,
        netloc: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes,
        timeouts: Mapping[str, float | None] = _NO_CLOCKS,
    ) -> ClientCall:
        """A request of the application.

        :param headers: case-insensitive
        :param timeouts: as httpx has them
        :raises ValueError: its ``Penstock-Attempts`` is no number of attempts
        """
        endpoint, prefix = _endpoint(path) if method == "POST" else (None, "")
        candidates = self.peers.candidates(scheme, netloc)
        call = ClientCall(self, method, candidates, endpoint, prefix, headers, body, timeouts)
        if endpoint is not None:
            self.counters.add(calls=1)
            with self.lock:
                self.budget.deposit(self.now())
        return call

    def repetition(self, name: bytes) -> tuple[str, int]:
        """The key of a call that failed before, if this is the same, and how many attempts it has had."""
        with self.lock:
            for each in self._failed:
                if each[0] == name:  # of several that are alike, each has its own
                    self._failed.remove(each)
                    return each[1], each[2]
        return "", 0

    def remember(self, name: bytes, key: str, attempts: int) -> None:
        with self.lock:
            self._failed.append((name, key, attempts))


class ClientCall:
    """One call of the application, from its first attempt to its end.

    Waiting times are in seconds; where a method returns None instead of one, there is no further attempt.
    """

    def __init__(
        self,
        calls: Calls,
        method: str,
        candidates: list[Peer],
        endpoint: Endpoint | None,
        prefix: str,
        headers: Mapping[str, str],
        body: bytes,
        timeouts: Mapping[str, float | None],
    ) -> None:
        self.calls = calls
        self.endpoint = endpoint
        # What stands before the operation in the path, such as /v1; as it is written in a URL.
        self.prefix = quote(prefix, safe=_IN_PATHS)
        self.left_out: Left | None = None  # of the prompt, by us
        given = body
        rules = calls.options.prompts
        if rules and (found := _prompts.shortened(rules, endpoint, headers, given)) is not None:
            body, self.left_out = found
            calls.counters.add(bytes_saved=max(len(given) - len(body), 0))
        self.body = body
        self.began = calls.now()
        self.peer = best(candidates, self.began)
        self.attempts = 0
        self.received = 0  # bytes
        self.done = False
        self._repeatable = endpoint is not None or method in _REPEATABLE
        self._candidates = candidates
        self._headers = headers
        self._asked: Call | None = None
        self._clocks = Clocks(timeouts, self.began, self._deadline())
        self._patience = Patience(self._clocks, calls.options.resume_for, calls.rand)
        self._had = 0  # attempts, of those that the SDK made of the same call before
        self._most = self._attempts_in(headers)
        self._name = b""
        self.out_of_time = False  # the caller's clock ended it, and not its attempts
        self._coded = CodedBody(body, endpoint, headers, calls.options.upload_above, calls.counters)
        # What the request has been given.
        self.sent = self._coded.plain if self.left_out is None else Sent(given)
        self._upload: Upload | InBlocks | None = None
        self._blocks_refused = False
        self._confirmed = 0
        self._sent_plainly = False
        self.key = headers.get("idempotency-key", "")
        if endpoint is not None and not self.key:
            if headers.get("x-stainless-retry-count", "0") != "0":
                self._name = self._named()
                self.key, self._had = calls.repetition(self._name)
            self.key = self.key or "pen_" + os.urandom(16).hex()

    def __repr__(self) -> str:
        state = "done" if self.done else f"{self.attempts} attempts"
        return f"<ClientCall {self.key or 'without key'} at {self.peer!r}, {state}>"

    # ---- time ----

    def _deadline(self) -> float | None:
        """As monotonic seconds."""
        calls = self.calls
        usual = None if self.endpoint is None else calls.options.deadline
        return _clocks.deadline(self._headers.get("penstock-deadline"), usual, self.began, calls.wall())

    def _attempts_in(self, headers: Mapping[str, str]) -> int:
        told = headers.get(ATTEMPTS_HEADER)
        if told is None:
            return self.calls.options.retry.attempts
        if not (told.isascii() and told.isdigit() and 0 < int(told) < 1_000):
            raise ValueError(f"{ATTEMPTS_HEADER} is a number of attempts, from 1 on, and not {told!r}")
        return int(told)

    @property
    def left(self) -> float | None:
        """Seconds until the deadline; None: there is none."""
        return self._clocks.left(self.calls.now())

    @property
    def is_late(self) -> bool:
        """Whether the deadline has passed."""
        left = self.left
        return left is not None and left <= 0

    def limits(self) -> dict[str, float | None]:
        """The clocks of what is sent next, as httpx has them."""
        attempt = self.calls.options.attempt_timeout if self.peer.is_gateway else None
        return self._clocks.limits(self.calls.now(), again=self.attempts > 0, attempt=attempt)

    def shorten_for_upload(self, limits: dict[str, float | None]) -> None:
        """Let the clocks of an exchange be those of a body that survives breaks."""
        # Another gateway would have to be sent all of it.
        asks_again = self.calls.options.attempt_timeout is not None and len(self._candidates) == 1
        self._clocks.shorten_for_upload(limits, answer=asks_again)

    @property
    def heartbeat(self) -> str:
        """The signs of life that the peer is asked for; empty: none, or those that it shows unasked."""
        asks = self.endpoint is not None and self.peer.is_gateway and self.calls.options.stall_timeout is None
        return str(_clocks.HEARTBEAT) if asks else ""

    def limits_of_stream(self, headers: Mapping[str, str]) -> dict[str, float | None]:
        """The clocks of an answer whose events have begun to come; its header fields."""
        self._clocks.has_heartbeats = HEARTBEAT_HEADER in headers
        stall = self._clocks.stall(self.calls.options.stall_timeout)
        return self._clocks.limits_of_stream(stall if "penstock-generation" in headers else None)

    def limits_of_rest(self) -> dict[str, float | None]:
        """The clocks of asking for the rest of a stream: its head comes with the first sign of life."""
        self._patience.asked(self.calls.now())
        limits = self.limits()
        stall = self._clocks.stall(self.calls.options.stall_timeout)
        limits["read"] = _clocks.least(limits.get("read"), self._clocks.limits_of_stream(stall)["read"])
        return limits

    def _in_time(self, wait: float, now: float) -> bool:
        """Whether something can begin after so many seconds."""
        if self._clocks.allow(wait, now):
            return True
        left = self._clocks.left(now)
        self.out_of_time = left is None or wait < left
        return False

    # ---- before the answer ----

    def attempt(self) -> None:
        """Another one goes out."""
        self.attempts += 1
        if self.endpoint is not None:
            self.calls.counters.add(attempts=1, retries=self.attempts > 1)

    def sends(self, size: int) -> None:
        """So many bytes of a body go out."""
        if self.endpoint is not None:
            self.calls.counters.add(bytes_sent=size)

    # ---- the body ----

    def encoded(self) -> Sent:
        """The body as it goes to the present peer."""
        return self._coded.to(self.peer, self.calls.now())

    def went_out(self) -> None:
        """A piece of a large body did: slowness is no silence."""
        self._clocks.progress = self.calls.now()

    @property
    def stated(self) -> str:
        """What was left out of the prompt, as a gateway is told; empty: nothing was."""
        return "" if self.left_out is None else self.left_out.stated().decode()

    def stated_with(self, told: str | None) -> str:
        """The same as the application is told.

        :param told: what the gateway says that it has left out of the rest
        """
        return "" if self.left_out is None else _prompts.stated(self.left_out, told)

    def uploading(self, headers: Mapping[str, str]) -> Upload | InBlocks | None:
        """The body on its way in a form that survives breaks; None: it goes as it is."""
        body = self.sent.body
        link = self.peer.link
        if (
            self.endpoint is None
            or not self.peer.is_gateway
            or link.offers_uploads is False
            or len(body) < self.calls.options.upload_above
            or self._sent_plainly
        ):
            return None
        if self._upload is None or self._upload.link is not link:
            self._upload = self._in_blocks(headers) or Upload(body, headers, link, cuts=self.sent.cuts)
        return self._upload

    def _in_blocks(self, headers: Mapping[str, str]) -> InBlocks | None:
        peer, now = self.peer, self.calls.now()
        blocks = None if self._blocks_refused else self._coded.blocks(self.sent)
        if blocks is None:
            return None
        return in_blocks(blocks, headers, self.prefix, peer.blocks, peer.link, now)

    def watched(self, upload: Upload | InBlocks) -> Append | None:
        """An append that begins with the body, if it is to be looked at whether it crawls."""
        now = self.calls.now()
        if not isinstance(upload, Upload) or upload.offset or not self.sent.cuts or self._blocks_refused:
            return None
        return None if upload.link.width.at(now) else Append(self.sent.cuts, now)

    def crawled(
        self, upload: Upload, headers: Mapping[str, str], alone: float, *, parted: bool
    ) -> Upload | InBlocks:
        """How a body whose append was cut goes on: over several connections, or as it was, and is cut no more.

        :param alone: bytes a second that one carries
        :param parted: the server has let go of the upload
        """
        blocks, peer = self._coded.blocks(self.sent), self.peer
        if blocks is None or not parted:
            upload.link.width.found(1, self.calls.now())
            return upload
        most = len(blocks.places)
        told = InBlocks(blocks, headers, self.prefix, peer.blocks, (), peer.link, most=most, alone=alone)
        self._upload = told
        return told

    def uploaded(self, upload: Upload | InBlocks, headers: Mapping[str, str]) -> None:
        """The body is there: what is known of it now, for the next one."""
        if isinstance(upload, InBlocks):
            self.calls.counters.add(bytes_saved=upload.saved)
        elif "penstock-blocks" in headers:
            blocks = self._coded.blocks(self.sent)
            if blocks is not None:
                self.peer.blocks.add(blocks.owner, blocks.order, self.calls.now())

    def upload_broke(self, upload: Upload | InBlocks, kind: Break, reason: str) -> float | None:
        """How long to wait before the upload goes on; None: it is given up."""
        now = self.calls.now()
        upload.broke()
        if upload.offset > self._confirmed:
            self._confirmed = upload.offset
            self.came(0)
            self._patience.progressed()
        if kind is Break.SILENT:
            self._clocks.upload_stall *= 2
        wait = self._taken_up(kind, now)
        if wait is not None:
            self.tell("retry", delay=wait, reason=reason)
        return wait

    def upload_went_on(self, offset: int) -> None:
        """After a break, with so many bytes that need not be sent again."""
        self.calls.counters.add(resumed=1, bytes_saved=offset)

    def upload_refused(self, upload: Upload | InBlocks) -> None:
        """The server does not take the body in this way: it goes in another, at last as it is."""
        if isinstance(upload, InBlocks):
            self._blocks_refused = True
            self._upload = None
            return
        self.peer.link.offers_uploads = False
        self._goes_plainly()

    def _goes_plainly(self) -> None:
        """A call that is to be made anew: its upload would only tell the answer that there was."""
        self._sent_plainly = True
        self._upload = None

    def broke(self, kind: Break, reason: str) -> float | None:
        """No answer came, or only a part of a plain one: how long to wait for the next attempt."""
        now = self.calls.now()
        if self.endpoint is not None:
            self.calls.counters.add(broken=1)
        if kind is Break.UNREACHED or kind is Break.SILENT:
            self.peer.failed(now)
        if kind is Break.FATAL or not self._repeatable or self._spent:
            return None
        free = self.peer.is_gateway and kind is Break.BROKEN and self.endpoint is not None
        if kind is Break.SILENT and self.endpoint is not None and not self.peer.is_gateway:
            return None  # it may be computing, and would once more
        # Nothing has been asked where nobody was reached, and a peer that is well has not been asked yet.
        free = free or (kind is Break.UNREACHED and self._best(now).rests_until <= now)
        if not free and not self._withdraw(now):
            return None
        moved = self._move(now)
        wait = 0.0 if moved or (free and self.attempts == 1) else self._delay()
        return self._again(wait, reason)

    def refused(self, status: int, headers: Mapping[str, str]) -> float | None:
        """An answer came: how long to wait for another attempt; None: this is the answer."""
        if "penstock-generation" in headers:
            self.peer.is_gateway = True
        if self._coded.heard(self.peer, self.sent, status, headers, self.calls.now()):
            self.attempts -= 1  # nothing has been asked of any model
            return 0.0
        should = headers.get("x-should-retry")
        now = self.calls.now()
        if status not in _NO_ROOM:
            self.peer.well()
        if status < 400 or not self._repeatable or self._spent:
            return None
        if should == "false" or (status not in _REFUSED_FOR_NOW and should != "true"):
            return None
        asked = _retry_after(headers)
        moved = False
        if status in _NO_ROOM and len(self._candidates) > 1:
            self.peer.failed(now)
            moved = self._move(now)
        if asked is not None and asked > self.calls.options.retry.max_retry_after:
            if not moved:
                return None
            asked = None  # that was said of another server
        # Who goes away computes nothing more: a burst that it refuses is asked elsewhere, and multiplies nothing.
        if headers.get("penstock-status") != Draining.code and not self._withdraw(now):
            return None
        if isinstance(self._upload, Upload):
            self._goes_plainly()
        at_once = moved and self.peer.rests_until <= now
        wait = 0.0 if at_once else self._delay() if asked is None else asked
        return self._again(wait, f"status {status}")

    @property
    def _spent(self) -> bool:
        return self.attempts >= max(self._most - self._had, 1)

    def _withdraw(self, now: float) -> bool:
        with self.calls.lock:
            return self.calls.budget.withdraw(now)

    def _delay(self) -> float:
        return delay(self.calls.options.retry, self.attempts, self.calls.rand)

    def _best(self, now: float) -> Peer:
        return best(self._candidates, now)

    def _move(self, now: float) -> bool:
        """Go to another peer, if this one rests and there is a better one."""
        if self.peer.rests_until <= now:
            return False
        peer = self._best(now)
        if peer is self.peer:
            return False
        self.peer = peer
        if self.endpoint is not None:
            self.calls.counters.add(failovers=1)
            self.tell("failover")
        return True

    def _again(self, wait: float, reason: str) -> float | None:
        if not self._in_time(wait, self.calls.now()):
            return None
        self.tell("retry", delay=wait, reason=reason)
        return wait

    # ---- a stream ----

    def reading(self, *, is_gateway: bool) -> StreamReading:
        assert self.endpoint is not None
        self._clocks.began_to_stream()
        return StreamReading(
            self.endpoint,
            numbered=is_gateway,
            reproducible=self.calls.options.rerun and self.is_deterministic,
        )

    def came(self, size: int) -> None:
        """Something of the answer has come."""
        self.received += size
        self._clocks.progress = self.calls.now()
        self._clocks.silences = 0

    def stream_broke(self, kind: Break, reason: str, last: int) -> float | None:
        """How long to wait before the stream is taken up again; None: it is lost.

        :param last: the id of the last event that came
        """
        now, before = self.calls.now(), self.peer
        self._clocks.silences += kind is Break.SILENT
        self._patience.stream_broke(last, now)
        wait = self._taken_up(kind, now)
        if wait is not None and kind is Break.HANDED_OVER:
            wait = self._patience.after_handover(last, now, moved=self.peer is not before)
        if wait is not None:
            self.tell("resume", delay=wait, reason=reason)
        return wait

    def _taken_up(self, kind: Break, now: float) -> float | None:
        """How long to wait before what was begun goes on; None: it is given up."""
        self.calls.counters.add(broken=1)
        if kind in (Break.UNREACHED, Break.SILENT, Break.HANDED_OVER):
            self.peer.failed(now)
        wait = self._patience.again(kind, now)
        if wait is None:
            return None
        self._move(now)
        return wait if self._in_time(wait, now) else None

    def resumed(self, saved: int) -> None:
        """The stream goes on where it was; so many bytes did not have to come again."""
        self.peer.well()
        self.calls.counters.add(resumed=1, bytes_saved=saved)

    def may_ask_again(self, *, begun: bool) -> bool:
        """Whether the whole call may be sent once more, when its stream has broken.

        :param begun: the application has had a part of it
        """
        if self._spent or (begun and not self.calls.options.rerun):
            return False
        # A server that is no gateway computes it again, and bills it.
        return self.peer.is_gateway or self._withdraw(self.calls.now())

    def asks_again(self, *, begun: bool) -> None:
        self.attempts += 1
        self._coded.without_dictionary()
        if begun:
            self._goes_plainly()
        sums = {"reruns": 1} if begun else {"retries": 1}
        self.calls.counters.add(attempts=1, **sums)
        if begun:
            self.tell("rerun")

    # ---- what is asked ----

    @property
    def asked(self) -> Call | None:
        """The call as a gateway reads it; None: it would refuse it."""
        if self._asked is None and self.endpoint is not None:
            try:
                told = wire_request.read(self.endpoint, self.body)
            except BadRequest:
                return None
            self._asked = Call(
                id="",
                endpoint=self.endpoint,
                model=told.model,
                stream=told.stream,
                fields=told.fields,
                body=self.body,
                headers={name.lower().encode(): value.encode() for name, value in self._headers.items()},
                received=self.began,
                tenant=_TENANT,
                include_usage=told.include_usage,
                running_usage=told.running_usage,
                background=told.background,
            )
        return self._asked

    @property
    def is_deterministic(self) -> bool:
        asked = self.asked
        return asked is not None and keys.is_deterministic(asked) and not keys.has_effects(asked)

    def _named(self) -> bytes:
        owner = self._headers.get("authorization"), self._headers.get("x-api-key")
        return blake3(self.body + repr((self.endpoint, owner)).encode()).digest()

    # ---- the end ----

    def succeeded(self) -> None:
        self._ended("succeeded", succeeded=1)

    def failed(self, reason: str) -> None:
        """For good.  An SDK that repeats it all the same gets its key again."""
        if self.endpoint is not None:
            had = self._had + self.attempts if self.out_of_time else self._most
            self.calls.remember(self._name or self._named(), self.key, had)
        self._ended("failed", reason, failed=1)

    def abandoned(self) -> None:
        """The application does not want the rest."""
        self._ended("abandoned", abandoned=1)

    def answered_from_cache(self, size: int) -> None:
        self.calls.counters.add(cached=1, bytes_saved=size + len(self.body))
        self.tell("cached")
        self._ended("succeeded", succeeded=1)

    def _ended(self, kind: str, reason: str = "", **amounts: int) -> None:
        if self.done:
            return
        self.done = True
        if self.endpoint is None:
            return
        self.calls.counters.add(bytes_received=self.received, **amounts)
        self.tell(kind, reason=reason)

    def tell(self, kind: str, *, delay: float = 0.0, reason: str = "") -> None:
        counters = self.calls.counters
        if self.endpoint is not None and counters.listens:
            counters.tell(
                Notice(
                    kind=kind,  # type: ignore[arg-type]
                    call=self.key,
                    origin=self.peer.origin,
                    attempt=self.attempts,
                    delay=delay,
                    reason=reason,
                    seconds=self.calls.now() - self.began,
                    bytes_received=self.received,
                )
            )


def _endpoint(path: str) -> tuple[Endpoint | None, str]:
    for suffix, endpoint in _PATHS:
        if path.endswith(suffix) and "/threads/" not in path:  # messages of OpenAI's threads are stored state
            return endpoint, path.removesuffix(suffix)
    return None, ""


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds.  A date is not understood: no server of these APIs sends one."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            value = float(headers[name]) * unit
        except (KeyError, ValueError):
            continue
        if value >= 0:
            return value
    return None
