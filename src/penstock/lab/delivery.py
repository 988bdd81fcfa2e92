"""Sending an answer at its pace, billing what is sent, and failing on purpose.

Each class is one way to send; all of them are woken by the wheel, told by the exchange when the client is
gone or has room again, and are ``done`` when nothing more will be sent.
"""

from __future__ import annotations

import socket
import struct
from typing import Any

import msgspec

from penstock.lab.bill import Bill, Item
from penstock.lab.scenario import Script
from penstock.lab.stream import Stream
from penstock.net.exchange import Exchange, HeaderList
from penstock.net.wheel import Wheel

_BURST = 128  # tokens in one write: some 25 KB, so that back-pressure is felt in time
LINGER = 0.02  # seconds between the last byte and a reset, which would overtake it
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


def transport_of(exchange: Exchange) -> Any:
    """The connection beneath, for what HTTP cannot do; None where the exchange has none of its own."""
    return getattr(exchange, "transport", None)


def reset(exchange: Exchange) -> None:
    """Cut the connection with a TCP reset."""
    transport = transport_of(exchange)
    sock = transport.get_extra_info("socket") if transport is not None else None
    if sock is not None and sock.family in {socket.AF_INET, socket.AF_INET6}:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    exchange.abort()


class Job(msgspec.Struct, eq=False):
    """A request that is to be answered."""

    exchange: Exchange
    wheel: Wheel
    bill: Bill
    item: Item
    script: Script
    headers: HeaderList
    input_tokens: int = 0
    cached: int = 0
    units: int = 0  # charged with the prompt
    output: int | None = None  # tokens charged with the prompt; None: each that is sent


class Delivery:
    """What all ways have in common: the end, and the client that leaves."""

    __slots__ = ("done", "exchange", "job", "prompt_billed", "wheel")

    def __init__(self, job: Job) -> None:
        self.job = job
        self.exchange = job.exchange
        self.wheel = job.wheel
        self.prompt_billed = False
        self.done = False

    def begin(self, now: float) -> None:
        """Send what is due already, and fall asleep until more is."""

    def proceed(self, now: float) -> None:
        """Send what has become due."""

    def wake(self, now: float) -> None:
        if self.done:
            return
        try:
            self.proceed(now)
        except BaseException:  # a defect: nobody else would end this answer
            self.exchange.watch(None)
            self.finish("failed")
            self.exchange.abort()
            raise

    def on_gone(self) -> None:
        self.finish("cancelled")

    def on_writable(self) -> None:
        pass

    def finish(self, state: str) -> None:
        if not self.done:
            self.done = True
            self.job.bill.close(self.job.item, state)

    def bill_prompt(self) -> None:
        if not self.prompt_billed:
            self.prompt_billed = True
            job = self.job
            job.bill.prompt(job.item, job.input_tokens, job.cached)
            if job.units:
                job.bill.units(job.item, job.units)
            if job.output is not None:
                job.bill.output(job.item, job.output)

    def strike(self, failure: str) -> None:
        """Break off as the scenario says; what was written before goes out first."""
        if failure == "cut-after":
            self.wheel.at(self.wheel.now() + LINGER, _Cut(self))
        elif failure == "close-after":
            self.exchange.watch(None)
            self.finish("failed")
            self.exchange.abort()
        # stall-after: nothing more happens until the client leaves

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.job.item!r}>"


class _Cut:
    __slots__ = ("_delivery",)

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery

    def wake(self, now: float) -> None:
        del now
        if not self._delivery.done:
            self._delivery.exchange.watch(None)
            self._delivery.finish("failed")
            reset(self._delivery.exchange)


class Silence(Delivery):
    """Never answers."""

    __slots__ = ()

    def on_gone(self) -> None:
        self.finish("failed")


class PlainLater(Delivery):
    """A plain answer that is due at a time."""

    __slots__ = ("_body", "_output")

    def __init__(self, job: Job, body: bytes, output: int) -> None:
        super().__init__(job)
        self._body = body
        self._output = output

    def begin(self, now: float) -> None:
        script = self.job.script
        pace = self._output / script.tps if script.tps else 0.0
        wait = script.ttft + script.delay + pace
        if wait:
            self.wheel.at(now + wait, self)
        else:
            self.wake(now)

    def proceed(self, now: float) -> None:
        del now
        self.bill_prompt()
        script, headers = self.job.script, self.job.headers
        failure = script.failure
        if failure in {"cut-after", "close-after", "stall-after"} and script.after <= self._output:
            # After the last token there is still the end of the body to be cut off.
            part = len(self._body) * script.after // (self._output + 1)
            self.exchange.start(200, headers)
            self.exchange.write(self._body[:part])
            self.job.bill.output(self.job.item, script.after)
            self.strike(failure)
            return
        self.job.bill.output(self.job.item, self._output)
        self.exchange.watch(None)  # a client that leaves with the whole answer is no loss
        body = self._body[: -len(self._body) // 3] if failure == "malformed-event" else self._body
        self.exchange.respond(200, headers, body)
        self.finish("failed" if failure == "malformed-event" else "completed")


class Streaming(Delivery):
    """A streamed answer, in bursts or at a pace."""

    __slots__ = ("_begun", "_blocked", "_first", "_script", "_sent", "_stop", "_stream")

    def __init__(self, job: Job, stream: Stream) -> None:
        super().__init__(job)
        script = job.script
        self._stream = stream
        self._script = script
        self._sent = 0
        self._begun = False
        self._blocked = False
        self._first = 0.0
        # Where something happens that is not the next token: the end, or the failure.
        self._stop = stream.total
        if script.failure.endswith("-event"):
            self._stop = min(script.after, stream.total)
        elif script.failure.endswith("-after"):
            if script.after <= stream.total:
                self._stop = script.after
            else:  # it would strike after the end
                self._script = _harmless(script)

    def begin(self, now: float) -> None:
        if self._script.early_head:
            self.exchange.start(200, self.job.headers)
        wait = self._script.ttft + self._script.delay
        if wait:
            self.wheel.at(now + wait, self)
        else:
            self.wake(now)

    def on_writable(self) -> None:
        self._blocked = False
        self.wake(self.wheel.now())

    def proceed(self, now: float) -> None:
        if self._blocked:
            return
        data = b""
        if not self._begun:
            self._begun = True
            self._first = now
            if not self._script.early_head:
                self.exchange.start(200, self.job.headers)
            self.bill_prompt()
            data = self._stream.opening
        tps = self._script.tps
        due = min(self._stop, int((now - self._first) * tps + 1e-6) + 1) if tps else self._stop
        while True:
            upto = min(due, self._sent + _BURST)
            data += self._stream.render(self._sent, upto)
            if upto == self._stop:
                self._last(data, upto)
                return
            writable = self._write(data, upto)
            if not writable:
                self._blocked = True
                return
            if upto == due:
                self.wheel.at(self._first + upto / tps, self)
                return
            data = b""

    def _write(self, data: bytes, upto: int) -> bool:
        if self.exchange.gone:
            return True
        writable = self.exchange.write(data) if data else True
        if self.job.output is None:
            self.job.bill.output(self.job.item, upto - self._sent)
        self._sent = upto
        return writable

    def _last(self, data: bytes, upto: int) -> None:
        stream, failure = self._stream, self._script.failure
        if failure == "malformed-event":
            # One event that makes no sense, and then on as if nothing had been.
            self._write(data + stream.malformed, upto)
            self._script = _harmless(self._script)
            self._stop = stream.total
            self.wheel.at(self.wheel.now(), self)
            return
        ends_badly = True
        if failure in {"cut-after", "close-after", "stall-after"}:
            self._write(data, upto)
            self.strike(failure)
            return
        if failure == "error-event":
            data += stream.error(upto)
        elif failure == "no-done":
            data += stream.finish
        elif failure != "no-terminator":
            data += stream.finish + stream.terminator
            ends_badly = False
        self._write(data, upto)
        self.exchange.watch(None)
        self.exchange.end()
        self.finish("failed" if ends_badly else "completed")


def _harmless(script: Script) -> Script:
    return msgspec.structs.replace(script, failure="")


class Trickle(Delivery):
    """Any answer, a byte at a time, each in a write of its own."""

    __slots__ = ("_byte_seconds", "_data", "_first", "_marks", "_sent")

    def __init__(self, job: Job, data: bytes, marks: list[int]) -> None:
        super().__init__(job)
        self._data = data
        self._marks = marks[::-1]  # offsets at which a token is complete, the next one last
        self._byte_seconds = job.script.byte_seconds
        self._sent = 0
        self._first = 0.0

    def begin(self, now: float) -> None:
        self._first = now
        self.exchange.start(200, self.job.headers)
        self.wake(now)

    def proceed(self, now: float) -> None:
        due = len(self._data)
        if self._byte_seconds:
            due = min(due, int((now - self._first) / self._byte_seconds) + 1)
        self.bill_prompt()
        while self._sent < due and not self.exchange.gone:
            self.exchange.write(self._data[self._sent : self._sent + 1])
            self._sent += 1
            while self._marks and self._marks[-1] <= self._sent:
                self._marks.pop()
                self.job.bill.output(self.job.item, 1)
        if self._sent == len(self._data):
            self.exchange.watch(None)
            self.exchange.end()
            self.finish("completed")
        else:
            self.wheel.at(self._first + self._sent * self._byte_seconds, self)
