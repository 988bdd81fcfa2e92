from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from penstock.lab import gateway_ledger
from penstock.lab.gateway_ledger import LedgerSum, LedgerUnreadableError, ledger_sum, settled_sum


@contextmanager
def control_port(answers):
    """A control port that gives each path's answers in turn, and the last one for ever."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            turns = answers.get(self.path)
            if turns is None or self.headers["authorization"] != "Bearer k":
                self.send_error(404 if turns is None else 401)
                return
            value = turns.pop(0) if len(turns) > 1 else turns[0]
            body = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def summary(**outcomes):
    return {
        "outcomes": {
            name: {
                "attempts": 2,
                "estimated": 0,
                "usage": {"input_tokens": 5, "output_tokens": tokens},
                "cost": 10**9,
            }
            for name, tokens in outcomes.items()
        },
        "silent": [],
    }


def test_the_outcomes_are_added_up():
    # Of the last three nothing was used.
    told = summary(completed=7, cancelled=1, cached=7, joined=7, attached=7)
    with control_port({"/v1/ledger/summary": [told]}) as url:
        assert ledger_sum(url, "k") == LedgerSum(4, 10, 8, 0.002)


def test_what_is_left_out_is_nothing():
    answers = {"/v1/ledger/summary": [{"outcomes": {"failed": {"attempts": 1, "usage": {}, "cost": 0}}}]}
    with control_port(answers) as url:
        assert ledger_sum(url, "k") == LedgerSum(attempts=1)


def test_a_sum_is_settled_when_nothing_is_in_flight_and_it_stands_still(monkeypatch):
    monkeypatch.setattr(gateway_ledger, "_STILL", 0.001)
    answers = {
        "/v1/ledger/summary": [summary(completed=n) for n in (5, 6, 6, 7, 8, 8)],
        "/v1/generations": [{"generations": [{}]}, {"generations": [{}]}, {"generations": []}],
    }
    with control_port(answers) as url:
        assert settled_sum(url, "k").output_tokens == 8


def test_a_difference_is_a_sum():
    assert LedgerSum(5, 50, 9, 1.5).since(LedgerSum(2, 20, 3, 0.5)) == LedgerSum(3, 30, 6, 1.0)


@pytest.mark.parametrize(
    ("answer", "key", "said"),
    [
        (None, "k", "404"),
        ({"outcomes": {}}, "wrong", "401"),
        ({"detail": "x"}, "k", "not a gateway's control port"),
        ([], "k", "not a gateway's control port"),
        (b"<html>", "k", "Expecting value"),
    ],
)
def test_what_cannot_be_read_is_said(answer, key, said):
    with control_port({} if answer is None else {"/v1/ledger/summary": [answer]}) as url:
        with pytest.raises(LedgerUnreadableError, match=said):
            ledger_sum(url, key)


def test_a_port_where_nobody_listens():
    with control_port({}) as url:
        pass
    with pytest.raises(LedgerUnreadableError, match="refused"):
        ledger_sum(url)
