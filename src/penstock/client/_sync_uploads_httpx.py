# Made from _async_uploads_httpx2.py by scripts/make_twins.py; change that one.

"""Large bodies on their way: the shell of I/O around ``_uploading``, ``_blocks`` and ``_lanes``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import httpx

from penstock.client._blocks import MOST_TOLD, InBlocks
from penstock.client._breaks import kind_of, reason_of
from penstock.client._calls import ClientCall
from penstock.client._home import Threads
from penstock.client._lanes import Append, Crawling, Lanes
from penstock.client._uploading import Outcome, Step, Upload

PIECE = 65_536  # bytes of an append that are written at once


class Uploading:
    """Sends bodies in a form that survives breaks.

    :param ask: makes one exchange of a call
    """

    def __init__(self, ask: Any) -> None:
        self._ask = ask

    def answered(
        self, call: ClientCall, request: httpx.Request, upload: Upload | InBlocks
    ) -> httpx.Response | None:
        """The answer to the last append; None: the server does not take the body in this way."""
        now = call.calls.now
        while True:
            peer = call.peer
            if isinstance(upload, InBlocks) and upload.side_by_side():
                if not self._side_by_side(call, request, upload):
                    return None
                continue
            step = upload.step(now())
            sent = _made(request, step, request.extensions)
            if step.content:
                sent.stream = _Pieces(call, step.content, call.watched(upload))
            call.sends(len(step.content))
            timeouts = request.extensions["timeout"]
            call.shorten_for_upload(timeouts)
            try:
                response: httpx.Response = self._ask(call, sent)
                outcome = upload.took(response.status_code, response.headers, now())
                if outcome is Outcome.ANSWER:
                    call.uploaded(upload, response.headers)
                    return response
                told = told_by(response)
                if outcome is Outcome.LACKING and isinstance(upload, InBlocks):
                    outcome = upload.lacks(told)
                if outcome is Outcome.REFUSED:
                    return None
                if outcome is Outcome.ONWARD:
                    if step.method == "HEAD":
                        call.upload_went_on(upload.offset)
                    continue
                raise httpx.RemoteProtocolError(f"status {response.status_code} for an append", request=sent)
            except Crawling as found:
                assert isinstance(upload, Upload)
                upload.broke()
                time.sleep(found.settled_in)
                parted = self._parted(call, request, upload)
                upload = call.crawled(upload, request.headers, found.rate, parted=parted)
            except httpx.RequestError as error:
                wait = call.upload_broke(upload, kind_of(error), reason_of(error))
                if wait is None:
                    raise
                if call.peer is not peer:  # its uploads are not known elsewhere
                    raise
                if wait:
                    time.sleep(wait)
                timeouts.update(call.limits())

    def _parted(self, call: ClientCall, request: httpx.Request, upload: Upload) -> bool:
        """Whether the server has let go of an upload, and kept what has come of it in its blocks."""
        while True:
            step = upload.parting()
            sent = _made(request, step, request.extensions)
            try:
                response: httpx.Response = self._ask(call, sent)
                told_by(response)
            except httpx.RequestError:
                return False  # it goes on as it is
            if step.method == "DELETE":
                return response.status_code < 300
            if upload.took(response.status_code, response.headers, call.calls.now()) is not Outcome.ONWARD:
                return False

    def _side_by_side(self, call: ClientCall, request: httpx.Request, upload: InBlocks) -> bool:
        """Send what is lacking over several connections; whether the server takes it."""
        lanes = Lanes(upload.side_by_side(), upload.link.width, upload.alone or 0.0, call.calls.now())
        try:
            with Threads() as tasks:
                for _ in range(lanes.more()):
                    tasks.start(self._lane, call, request, upload, lanes, tasks)
        except BaseException as error:
            lanes.fail(error)  # threads would go on
            raise
        if lanes.error is not None:
            raise lanes.error
        return not lanes.is_refused

    def _lane(
        self, call: ClientCall, request: httpx.Request, upload: InBlocks, lanes: Lanes, tasks: Threads
    ) -> None:
        """Send one block after the other."""
        peer = call.peer

        def broke(error: Exception) -> float | None:
            wait = call.upload_broke(upload, kind_of(error), reason_of(error))
            return wait if call.peer is peer else None  # what was sent here is not known elsewhere

        while True:
            with lanes.lock:
                taken = lanes.take()
            if taken is None:
                return
            wait = 0.0
            try:
                for _ in range(self._carried(call, request, upload, lanes, taken.digest)):
                    tasks.start(self._lane, call, request, upload, lanes, tasks)
            except httpx.RequestError as error:
                with lanes.lock:
                    wait = lanes.broke(taken, error, broke)
            except Exception as error:  # noqa: BLE001 - in a thread nobody would hear of it
                with lanes.lock:
                    lanes.fail(error)
            if wait:
                time.sleep(wait)

    def _carried(
        self, call: ClientCall, request: httpx.Request, upload: InBlocks, lanes: Lanes, digest: bytes
    ) -> int:
        """Send one block; how many lanes are to be begun then."""
        with lanes.lock:
            step = upload.put(digest)
        limits = call.limits()
        call.shorten_for_upload(limits)
        sent = _made(request, step, {**request.extensions, "timeout": limits})
        sent.stream = _Pieces(call, step.content, None)
        call.sends(len(step.content))
        response: httpx.Response = self._ask(call, sent)
        told_by(response)
        status = response.status_code
        if status == 429 or status >= 500:
            raise httpx.RemoteProtocolError(f"status {status} for a block", request=sent)
        with lanes.lock:
            if upload.took_block(digest, status, call.calls.now()) is Outcome.REFUSED:
                lanes.refuse()
            lanes.arrived(len(step.content), call.calls.now())
            return lanes.more()


class _Pieces(httpx.SyncByteStream):
    """The content of an append: each piece has the clock of writing for itself.

    :param watch: is told what has gone out
    """

    def __init__(self, call: ClientCall, content: bytes, watch: Append | None) -> None:
        self._call = call
        self._content = content
        self._watch = watch

    def __repr__(self) -> str:
        return f"<_Pieces of {len(self._content)} bytes>"

    def __iter__(self) -> Iterator[bytes]:
        for place in range(0, len(self._content), PIECE):
            piece = self._content[place : place + PIECE]
            yield piece
            self._call.went_out()
            if self._watch is not None:
                self._watch.went_out(len(piece), self._call.calls.now())


def _made(request: httpx.Request, step: Step, extensions: Any) -> httpx.Request:
    url = request.url if step.path is None else request.url.copy_with(raw_path=step.path.encode("ascii"))
    return httpx.Request(step.method, url, headers=step.headers, content=step.content, extensions=extensions)


def told_by(response: httpx.Response) -> bytes:
    """What an answer that is not the call's tells, if it is short."""
    told = bytearray()
    pieces: Any = response.iter_bytes()
    with closing(pieces):
        for piece in pieces:
            told += piece
            if len(told) > MOST_TOLD:
                break
    response.close()
    return bytes(told)
