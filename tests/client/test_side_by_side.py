"""Large bodies on a link of which one connection gets little: they go over several, arrive once, and leave nothing behind."""

from __future__ import annotations

import httpx2
import pytest
from client_gateway import config, noise, through
from sdks import ask, expected

from penstock.client import _lanes
from penstock.client._sync_uploads_httpx2 import Uploading
from penstock.lab.faults import Break, Kind
from penstock.testing import GatewayProcess

MB = 1_000_000
SIZE = 6 * MB
WAYS = ("chat", "chat-async", "chat-httpx", "responses", "messages")
LINK = {"alone": 1.5 * MB, "delay": 0.005}


@pytest.fixture(scope="module")
def taking(simulator, tmp_path_factory):
    """A gateway that takes uploads, of which one at a time may be open."""
    folder = tmp_path_factory.mktemp("taking")
    settings = {
        **config(simulator),
        "files": {"directory": str(folder / "files")},
        "uploads": {"max_open": 1},
    }
    settings["listener"] = {"max_body_bytes": 64 * MB}
    with GatewayProcess(settings, folder) as running:
        yield running


@pytest.fixture(autouse=True)
def hurried(monkeypatch):
    monkeypatch.setattr(_lanes, "LOOK", 0.3)
    monkeypatch.setattr(_lanes, "WORTH", 0.5)
    monkeypatch.setattr(_lanes, "NEAR", 0.1)


@pytest.fixture
def question(request):
    """Of each test another: blocks that the gateway has are not sent to it."""
    return noise(SIZE, request.node.name)


def send(way, link, question):
    return ask(way, link.url, gateways=[link.url], question=question, sdk={"max_retries": 0})


@pytest.mark.parametrize("way", WAYS)
def test_a_body_that_crawls_goes_over_several_connections(taking, simulator, way, question):
    before = simulator.bill()["requests"]
    with through(taking, **LINK) as link:
        text, figures = send(way, link, question)
        assert link.figures.connections > _lanes.FIRST
        assert figures.resumed == 0  # which is what an append does that is cut and goes on alone
        assert link.figures.bytes_up < SIZE * 1.3
    assert text == expected(way, 12, question=question)
    assert simulator.bill()["requests"] == before + 1
    assert (figures.succeeded, figures.failed) == (1, 0)


@pytest.mark.parametrize("kind", [Kind.RESET, Kind.CLOSE])
def test_a_lane_that_breaks_costs_its_block(taking, simulator, kind, question):
    before = simulator.bill()["requests"]
    breaks = (None, *(Break(kind, 300_000, "up") for _ in range(4)))
    with through(taking, *breaks, **LINK) as link:
        text, figures = send("chat", link, question)
        assert link.figures.broken >= 2
        assert link.figures.bytes_up < SIZE * 1.6
    assert text == expected("chat", 12, question=question)
    assert simulator.bill()["requests"] == before + 1
    assert figures.succeeded == 1


def test_where_the_link_is_what_is_narrow_it_still_arrives(taking, simulator, question):
    before = simulator.bill()["requests"]
    with through(taking, rate=2 * MB) as link:
        text, _ = send("chat", link, question)
        assert link.figures.bytes_up < SIZE * 1.3
    assert text == expected("chat", 12, question=question)
    assert simulator.bill()["requests"] == before + 1


@pytest.mark.parametrize("stays", [0, 1], ids=["unreached", "not let go of"])
def test_what_cannot_be_divided_goes_on_as_it_was(taking, simulator, monkeypatch, question, stays):
    """Where the upload lies is not told, or it is not given up."""
    before = simulator.bill()["requests"]
    asked = Uploading._parted

    def lost(uploading, call, request, upload):
        def breaking(call, made):
            answered = uploading._ask(call, made)
            if (made.method == "DELETE") < stays:
                return answered
            answered.close()
            raise httpx2.ReadError("lost", request=made)

        return asked(Uploading(breaking), call, request, upload)

    monkeypatch.setattr(Uploading, "_parted", lost)
    with through(taking, **{**LINK, "alone": 4 * MB}) as link:
        text, _ = send("chat", link, question)
        assert link.figures.bytes_up < SIZE * 1.6
    assert text == expected("chat", 12, question=question)
    assert simulator.bill()["requests"] == before + 1
