"""Spans wait in a bounded queue for a thread; whoever puts them there neither waits nor fails."""

import threading

import pytest

from penstock.config.model import TracesConfig
from penstock.traces import sender as module
from penstock.traces.sender import BATCH, MOST_WAITING, REFUSED, Sender

PATIENCE = 60.0
CONFIG = TracesConfig(endpoint="http://127.0.0.1:9")


class Ended:
    def span(self):
        return "a span"


class Exporter:
    """Takes spans when it is let."""

    def __init__(self, takes=True):
        self.takes = takes
        self.let, self.asked = threading.Event(), threading.Event()
        self.batches = []
        self.stopped = False

    def export(self, spans):
        self.asked.set()
        assert self.let.wait(PATIENCE)
        self.batches.append(len(spans))
        if isinstance(self.takes, Exception):
            raise self.takes
        return self.takes

    def stop(self):
        self.stopped = True
        self.let.set()


def sender_to(exporter):
    return Sender(CONFIG, lambda config, timeout: exporter)


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(module, "INTERVAL", 0.0)


def test_what_was_put_in_is_sent_when_it_is_closed():
    exporter = Exporter()
    exporter.let.set()
    sender = sender_to(exporter)
    for _ in range(3):
        sender.put(Ended())
    sender.close(PATIENCE)
    assert sum(exporter.batches) == 3
    assert (sender.sent, sender.failed, sender.dropped) == (3, 0, 0)


def test_without_a_span_there_is_no_thread():
    before = threading.active_count()
    sender_to(Exporter()).close()
    assert threading.active_count() == before


def test_a_collector_that_hangs_costs_what_finds_no_room_and_no_more():
    exporter = Exporter()
    sender = sender_to(exporter)
    sender.put(Ended())
    assert exporter.asked.wait(PATIENCE)
    for _ in range(MOST_WAITING + 7):
        sender.put(Ended())
    assert sender.dropped == 7
    exporter.let.set()
    sender.close(PATIENCE)
    assert sender.sent == 1 + MOST_WAITING
    assert max(exporter.batches) == BATCH


def test_refused_requests_have_a_share_of_each_batch_and_no_more():
    exporter = Exporter()
    sender = sender_to(exporter)
    sender.put(Ended())
    assert exporter.asked.wait(PATIENCE)
    with_key = [sender.put_refused(Ended(), known=True) for _ in range(REFUSED + 3)]
    without = [sender.put_refused(Ended(), known=False) for _ in range(2 * REFUSED)]
    assert with_key == [True] * REFUSED + [False] * 3
    assert without == [True] * REFUSED + [False] * REFUSED
    for _ in range(MOST_WAITING - 2 * REFUSED):
        sender.put(Ended())
    assert (sender.limited, sender.dropped) == (3 + REFUSED, 0)
    exporter.let.set()
    sender.close(PATIENCE)
    assert sender.sent == 1 + MOST_WAITING


def test_refused_requests_never_have_more_than_their_part_of_the_queue_however_long_a_collector_hangs():
    sender = Sender(CONFIG, lambda config, timeout: Exporter())
    sender._thread = threading.current_thread()  # nobody takes anything but this test
    calls, refused = Ended(), Ended()
    for _ in range(100):
        for _ in range(1_000):
            sender.put_refused(refused, known=False)
            sender.put_refused(refused, known=True)
        while len(sender._waiting) < MOST_WAITING:
            sender.put(calls)
        assert sender._waiting.count(refused) <= MOST_WAITING * 2 * REFUSED // BATCH
        sender._take()
    assert sender.dropped == 0


def test_an_end_does_not_wait_for_a_collector_that_hangs():
    exporter = Exporter()
    sender = sender_to(exporter)
    sender.put(Ended())
    assert exporter.asked.wait(PATIENCE)
    for _ in range(5):
        sender.put(Ended())
    sender.close(0.0)
    assert sender.dropped == 5
    assert exporter.stopped


@pytest.mark.parametrize("fault", [False, RuntimeError("a defect")])
def test_what_is_not_taken_is_counted(fault):
    exporter = Exporter(takes=fault)
    exporter.let.set()
    sender = sender_to(exporter)
    sender.put(Ended())
    sender.close(PATIENCE)
    assert (sender.sent, sender.failed, sender.dropped) == (0, 1, 0)


def test_without_an_exporter_all_is_counted_as_failed():
    def broken(config, timeout):
        raise ImportError("half an installation")

    sender = Sender(CONFIG, broken)
    sender.put(Ended())
    sender.close(PATIENCE)
    assert sender.failed == 1


class Unsayable(Ended):
    def span(self):
        raise ValueError("half a surrogate pair")


class Refusing(Exporter):
    """Cannot encode one of the spans."""

    def __init__(self, bad):
        super().__init__()
        self.bad, self.calls = bad, 0
        self.let.set()

    def export(self, spans):
        self.calls += 1
        if self.bad in spans:
            raise ValueError("cannot be encoded")
        return super().export(spans)


def test_a_span_that_cannot_be_encoded_costs_no_other():
    bad = object()
    exporter = Refusing(bad)
    sender = sender_to(exporter)
    ended = [Ended() for _ in range(20)]
    ended[7].span = lambda: bad
    ended[11] = Unsayable()
    sender._exporter = exporter
    sender._send(ended)
    assert (sender.sent, sender.failed) == (18, 2)
    assert sum(exporter.batches) == 18
    assert exporter.calls <= 11  # of twenty the half that has it, each time


def test_the_log_is_told_of_such_spans_once_a_minute(caplog):
    sender = sender_to(None)
    for _ in range(3):
        sender._send([Unsayable()])
    assert [record.message for record in caplog.records] == ["defect while making a span"]
    assert sender.failed == 3
