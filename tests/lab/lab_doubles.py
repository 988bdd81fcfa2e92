"""An exchange without a network, and time that is turned by hand."""

from __future__ import annotations

from penstock.lab.simulator import Simulator
from waiting import wait_until


class Exchange:
    """Collects an answer; ``room`` is how many writes are taken before the client is full."""

    def __init__(self, path, body=b"", *, method="POST", headers=(), room=10**9):
        self.method = method
        self.path = path
        self.query = ""
        self.headers = dict(headers)
        self.peer = "test"
        self.gone = False
        self.started = False
        self.status = 0
        self.answer_headers = {}
        self.writes = []
        self.ended = False
        self.aborted = False
        self.room = room
        self.watcher = None
        self._body = body

    @property
    def answer(self):
        return b"".join(self.writes)

    def whole_body(self):
        return self._body

    def respond(self, status, headers, body):
        self.start(status, headers)
        self.write(body)
        self.end()

    def start(self, status, headers):
        assert not self.started
        self.started = True
        self.status = status
        self.answer_headers = dict(headers)

    def write(self, data):
        assert self.started
        assert not self.ended
        if self.gone:
            return True
        self.writes.append(data)
        self.room -= 1
        return self.room > 0

    def end(self):
        assert self.started
        assert not self.ended
        self.ended = True

    def abort(self):
        self.aborted = True
        self.gone = True

    def watch(self, watcher):
        self.watcher = watcher

    def leave(self):
        """The client goes away."""
        self.gone = True
        if self.watcher is not None:
            self.watcher.on_gone()

    def drain(self, room=10**9):
        self.room = room
        self.watcher.on_writable()


class Stage:
    """A simulator, its time, and the calls under way."""

    def __init__(self, defaults=None, **options):
        self.time = 100.0
        self.simulator = Simulator(defaults, now=lambda: self.time, **options)

    async def ask(self, path, body=b"", **options):
        exchange = Exchange(path, body, **options)
        self.simulator(exchange)
        return exchange

    async def advance(self, seconds):
        self.time += seconds
        self.simulator.wheel.turn()

    @property
    def bill(self):
        return self.simulator.bill.report()

    def close(self):
        self.simulator.wheel.close()


def settled(simulator):
    """The bill, once nothing is under way any more."""

    def bill():
        told = simulator.bill()
        return None if told["in_flight"] else told

    return wait_until(bill)
