"""Large bodies on links that break: what has arrived is not sent again, and nothing is computed twice."""

from __future__ import annotations

import pytest
from client_gateway import config, noise, through, through_all
from sdks import ask, expected

from penstock.client import _clocks
from penstock.lab.faults import Break, Kind
from penstock.testing import GatewayProcess

MB = 1_000_000
SIZE = 3 * MB
QUESTION = noise(SIZE)
WAYS = ("chat", "chat-async", "chat-httpx", "responses", "messages")


@pytest.fixture(scope="module")
def taking(simulator, tmp_path_factory):
    """A gateway that takes uploads."""
    folder = tmp_path_factory.mktemp("taking")
    settings = {**config(simulator), "files": {"directory": str(folder / "files")}}
    settings["listener"] = {"max_body_bytes": 64 * MB}
    with GatewayProcess(settings, folder) as running:
        yield running


def billed(simulator):
    return simulator.bill()["requests"]


def send(way, link, **more):
    more = {"timeout": 60.0, "first_delay": 0.01, "question": QUESTION, "sdk": {"max_retries": 0}, **more}
    return ask(way, link.url, gateways=[link.url], **more)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_what_has_arrived_is_not_sent_again(taking, simulator, way, stream):
    before = billed(simulator)
    # Not faster than the gateway reads: a reset takes with it what its kernel still holds.
    with through(taking, *(Break(Kind.RESET, 1_200_000, "up") for _ in range(2)), rate=10 * MB) as link:
        text, figures = send(way, link, stream=stream)
        assert link.figures.broken == 2
        assert link.figures.bytes_up < SIZE * 1.5
    assert text == expected(way, 12, question=QUESTION)
    assert billed(simulator) == before + 1
    assert (figures.succeeded, figures.failed) == (1, 0)


@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind_of_break_is_survived(taking, simulator, kind):
    before = billed(simulator)
    with through_all(taking, Break(kind, 1_500_000, "up"), stall=0.2) as link:
        text, _ = send("chat", link, attempt_timeout=1.0)
        assert link.figures.broken >= 1
    assert text == expected("chat", 12, question=QUESTION)
    assert billed(simulator) == before + 1


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("place", [1_500_000, 2_990_000])
def test_silence_in_an_upload_is_not_put_up_with_as_long_as_that_of_an_answer(
    taking, simulator, monkeypatch, place, stream
):
    """To ask what has arrived costs nothing.  With the call's own clock alone there would be no time for it."""
    monkeypatch.setattr(_clocks, "UPLOAD_STALL", 0.5)
    before = simulator.bill()["requests"]
    with through(taking, Break(Kind.BLACK_HOLE, place, "up")) as link:
        text, figures = send("chat", link, attempt_timeout=20.0, timeout=20.0, stream=stream)
    assert text == expected("chat", 12, question=QUESTION)
    assert billed(simulator) == before + 1
    assert figures.resumed >= 1


def test_the_answer_that_was_lost_is_told_again(taking, simulator):
    before = billed(simulator)
    with through(taking, Break(Kind.RESET, 1_100, "down")) as link:
        text, _ = send("chat", link, stream=False)
        assert link.figures.broken == 1
        assert link.figures.bytes_up < SIZE * 1.1
    assert text == expected("chat", 12, question=QUESTION)
    assert billed(simulator) == before + 1


def test_a_gateway_that_takes_none_gets_it_as_it_is(gateway, simulator):
    question = noise(400_000)
    with through(gateway) as link:
        text, figures = send("chat", link, question=question, upload_above=100_000)
    assert text == expected("chat", 12, question=question)
    assert figures.attempts == 1


def test_a_link_without_breaks_carries_it_once_and_in_one_piece(taking, simulator):
    with through(taking) as link:
        _, figures = send("chat", link)
        assert link.figures.bytes_up < SIZE * 1.02
        assert link.figures.connections == 1
    assert figures.broken == 0


def test_a_body_on_a_link_that_breaks_all_the_time_arrives(taking, simulator):
    """Two breaks per MB, about: a whole body would arrive once in four hundred times."""
    before = billed(simulator)
    kinds = (Kind.RESET, Kind.CLOSE, Kind.LOST_ANSWER)
    with through(taking, hazard=2.0, kinds=kinds, seed=9, rate=10 * MB) as link:
        text, figures = send("chat", link, attempt_timeout=0.7)
        assert link.figures.broken >= 2
    assert text == expected("chat", 12, question=QUESTION)
    assert billed(simulator) == before + 1
    assert figures.bytes_saved > MB
