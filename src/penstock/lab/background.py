"""Responses that were asked for in the background: made and billed whether anybody reads them or not, and once.

Each is kept with all its events, so that it can be told (``GET /v1/responses/{id}``), read on after any event
(``?stream=true&starting_after=n``) and cancelled (``POST /v1/responses/{id}/cancel``).  A scenario that breaks off
strikes each connection anew, after so many tokens as went over that one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from penstock.lab.delivery import LINGER, Job, reset
from penstock.lab.stream import Stream
from penstock.net.exchange import Exchange, HeaderList

_KEPT = 1_000
_TOKEN = b".delta\n"
_BREAKS = frozenset({"cut-after", "close-after", "stall-after"})


class Run:
    """One such response.

    :param told: the response object, as it is in a state (``in_progress``, ``cancelled``, ``completed``)
    """

    __slots__ = (
        "_first",
        "_sent",
        "_stop",
        "_stream",
        "frames",
        "job",
        "malformed",
        "readers",
        "state",
        "told",
    )

    def __init__(self, job: Job, stream: Stream, told: Callable[[str], bytes]) -> None:
        self.job = job
        self.told = told
        self.state = "in_progress"
        self.frames: list[bytes] = []
        self.readers: list[Reader] = []
        self.malformed = stream.malformed
        self._stream = stream
        self._first = 0.0
        self._sent = 0
        failed = job.script.failure == "error-event" and job.script.after <= stream.total
        self._stop = job.script.after if failed else stream.total

    def __repr__(self) -> str:
        return f"<Run {self.state}, {len(self.frames)} events, {len(self.readers)} readers>"

    def begin(self, now: float) -> None:
        wait = self.job.script.ttft + self.job.script.delay
        if self.job.script.early_head:
            self._open()
        if wait:
            self.job.wheel.at(now + wait, self)
        else:
            self.wake(now)

    def wake(self, now: float) -> None:
        """Make what is due."""
        if self.state != "in_progress":
            return
        job, stream = self.job, self._stream
        if not self.frames:
            self._open()
        self._first = self._first or now
        tps = job.script.tps
        due = min(self._stop, int((now - self._first) * tps + 1e-6) + 1) if tps else self._stop
        self._add(stream.render(self._sent, due))
        job.bill.output(job.item, due - self._sent)
        self._sent = due
        if due < self._stop:
            job.wheel.at(self._first + due / tps, self)
        elif self._stop < stream.total or job.script.failure == "error-event":
            self._add(stream.error(due))
            self._end("failed")
        else:
            self._add(stream.finish + stream.terminator)
            self._end("completed")
        self._tell(now)

    def _open(self) -> None:
        self.job.bill.prompt(self.job.item, self.job.input_tokens, self.job.cached)
        self._add(self._stream.opening)

    def cancel(self) -> None:
        """Make no more of it; what has ended stays as it is."""
        if self.state == "in_progress":
            self._end("cancelled")
            self._tell(self.job.wheel.now())

    def read(self, exchange: Exchange, after: int, headers: HeaderList) -> None:
        """Send the events after that number, and those that are yet to come."""
        reader = Reader(exchange, self, after + 1)
        self.readers.append(reader)
        exchange.watch(reader)
        exchange.start(200, headers)
        reader.wake(self.job.wheel.now())

    def _end(self, state: str) -> None:
        self.state = state
        self.job.bill.close(self.job.item, state)

    def _tell(self, now: float) -> None:
        for reader in self.readers[:]:
            reader.wake(now)

    def _add(self, data: bytes) -> None:
        self.frames += [frame + b"\n\n" for frame in data.split(b"\n\n")[:-1]]


class Reader:
    """One connection over which such a response is sent."""

    __slots__ = ("_at", "_blocked", "_exchange", "_failure", "_run", "_tokens")

    def __init__(self, exchange: Exchange, run: Run, at: int) -> None:
        self._exchange = exchange
        self._run = run
        self._at = at
        self._tokens = 0  # that went over this connection
        self._blocked = False
        self._failure = run.job.script.failure

    def __repr__(self) -> str:
        return f"<Reader of {self._run!r} at {self._at}>"

    def on_gone(self) -> None:
        if self in self._run.readers:
            self._run.readers.remove(self)

    def on_writable(self) -> None:
        self._blocked = False
        self.wake(self._run.job.wheel.now())

    def wake(self, now: float) -> None:
        """Send what is there."""
        run, exchange = self._run, self._exchange
        if self not in run.readers:
            return
        ended = run.state != "in_progress"
        upto = len(run.frames)
        if run.state == "completed" and self._failure in {"no-terminator", "no-done"}:
            upto -= 1
        while not self._blocked and self._at < upto:
            if self._strikes(now):
                return
            frame = run.frames[self._at]
            self._at += 1
            self._tokens += _TOKEN in frame[:80]
            self._blocked = not exchange.write(frame)
        if self._strikes(now):
            return
        if ended and self._at >= upto:
            self.on_gone()
            exchange.watch(None)
            exchange.end()

    def _strikes(self, now: float) -> bool:
        """Break off, if it is time for that."""
        if self._tokens != self._run.job.script.after:
            return False
        exchange, failure = self._exchange, self._failure
        if failure == "malformed-event":
            self._failure = ""
            exchange.write(self._run.malformed)
        if failure not in _BREAKS or not self._at:
            return False
        self.on_gone()
        exchange.watch(None)
        if failure == "close-after":
            exchange.abort()
        elif failure == "cut-after":
            self._run.job.wheel.at(now + LINGER, _Cut(exchange))
        return True


class _Cut:
    """What was written goes out before the reset."""

    __slots__ = ("_exchange",)

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def wake(self, now: float) -> None:
        del now
        reset(self._exchange)


class Runs:
    """The last thousand of them, by their ids."""

    def __init__(self) -> None:
        self._runs: OrderedDict[str, Run] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Runs {len(self._runs)}>"

    def keep(self, name: str, run: Run) -> None:
        self._runs[name] = run
        if len(self._runs) > _KEPT:
            self._runs.popitem(last=False)

    def get(self, name: str) -> Run | None:
        return self._runs.get(name)
