"""An upstream that goes away under load: real processes, and the command that tells the gateway of it."""

import json
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

from penstock.cli.drain import drain as commanded
from penstock.cli.drain import seconds
from penstock.errors import ConfigError
from penstock.testing import GatewayProcess, SimulatorProcess, expected_text
from penstock.wire.sse import Splitter, fields

STREAMS = 6
TOKENS = 40
PAUSED = "stall-after=9"  # so that all are in their middles when the notice comes, however slow the machine


def drain(gateway, upstream, notice="", *, undo=False):
    commanded(upstream, notice, undo, gateway.control_url, "")


def body(number):
    return {"model": "sim", "messages": [{"role": "user", "content": f"call {number}"}]}


def stream(gateway, number, begun):
    """The text of an answer; ``begun`` is passed when its first words are there."""
    asked = json.dumps({**body(number), "stream": True}).encode()
    request = urllib.request.Request(
        gateway.base_url + "/chat/completions", asked, {"content-type": "application/json"}
    )
    text, splitter = "", Splitter()
    with urllib.request.urlopen(request, timeout=60) as answer:
        while piece := answer.read1():
            for frame in splitter.feed(piece):
                data = fields(frame).data
                if data and data != b"[DONE]":
                    (choice,) = json.loads(data)["choices"] or [{"delta": {}}]
                    text += choice["delta"].get("content") or ""
            if text and begun is not None:
                begun.wait(60)
                begun = None
    return text


def test_streams_outlive_an_upstream_that_is_taken_away_and_nobody_is_sent_there(tmp_path, capsys):
    length = ("--output-tokens", str(TOKENS))
    with SimulatorProcess(*length, "--scenario", PAUSED) as spot, SimulatorProcess(*length) as reserved:
        config = {
            "upstreams": {
                "spot": {"kind": "sim", "base_url": spot.base_url},
                "reserved": {"kind": "sim", "base_url": reserved.base_url},
            },
            "models": {
                "*": {"candidates": [{"upstream": "spot"}, {"upstream": "reserved", "weight": 0}]},
            },
            "workers": 2,
            "log": {"requests": False},
        }
        with GatewayProcess(config, tmp_path) as gateway, ThreadPoolExecutor(STREAMS) as pool:
            begun = threading.Barrier(STREAMS + 1)
            streams = [pool.submit(stream, gateway, number, begun) for number in range(STREAMS)]
            begun.wait(60)
            drain(gateway, "spot", "1s")
            told = capsys.readouterr().out
            texts = [one.result(60) for one in streams]
            moved = _metric(gateway, "penstock_moved_total")
            bill = spot.bill()
            spot.stop()
            late = stream(gateway, STREAMS, None)
            (leaving,) = [one for one in gateway.ask("/v1/upstreams") if one["leaving"]]
            drain(gateway, "spot", undo=True)
            undone = capsys.readouterr().out
            with pytest.raises(ConfigError, match="there is no upstream"):
                drain(gateway, "nobody")
    path = "/v1/chat/completions"
    assert texts == [expected_text(body(number), path, TOKENS) for number in range(STREAMS)]
    assert (moved, bill["requests"]) == (STREAMS, STREAMS)
    assert late == expected_text(body(STREAMS), path, TOKENS)
    assert told == "spot gets no new calls, and is gone in 1 s\n"
    assert (leaving["name"], leaving["gone_in"]) == ("spot", pytest.approx(0.0, abs=1.0))
    assert undone == "spot gets calls\n"


@pytest.mark.parametrize(("text", "meant"), [("30s", 30.0), ("2m", 120.0), ("1h", 3_600.0), ("7", 7.0)])
def test_a_notice_is_a_time(text, meant):
    assert seconds(text) == meant


@pytest.mark.parametrize("text", ["soon", "-3s", "1d", "s"])
def test_what_is_no_time_is_said_to_be_none(text):
    with pytest.raises(ConfigError, match="a time like 30s"):
        seconds(text)


def test_what_stays_goes_at_no_time():
    with pytest.raises(ConfigError, match="takes no --in"):
        commanded("spot", "3s", True, "http://127.0.0.1:1", "")


def _metric(gateway, name):
    lines = gateway.metrics().splitlines()
    return sum(float(line.split()[1]) for line in lines if line.startswith(name + " "))
