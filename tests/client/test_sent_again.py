"""Large bodies that are sent again, changed a little: what a gateway has had need not go up once more."""

from __future__ import annotations

import base64
import random

import httpx2
import openai
import pytest
from client_gateway import config, through
from sdks import ask, expected

import penstock
from penstock.lab.faults import Break, Kind
from penstock.testing import GatewayProcess
from penstock.testing._ports import free_port

MB = 1_000_000


@pytest.fixture(scope="module")
def taking(simulator, tmp_path_factory):
    """A gateway that takes uploads, and so keeps blocks."""
    folder = tmp_path_factory.mktemp("taking-blocks")
    settings = {**config(simulator), "files": {"directory": str(folder / "files")}}
    settings["listener"] = {"max_body_bytes": 64 * MB}
    with GatewayProcess(settings, folder) as running:
        yield running


def questions(name):
    """One, and the same with something before and within it; nobody else's have their bytes."""
    whole = base64.b64encode(random.Random(name).randbytes(6 * MB)).decode()
    changed = f"before {whole[: 5 * MB]} within {whole[5 * MB :]}"
    return [[{"role": "user", "content": each}] for each in (whole, changed)]


def both(link, way, asked, **more):
    """The texts, bytes that went up for each, and the figures."""
    texts, sizes, before = [], [], 0
    library = "httpx" if way.endswith("-httpx") else "httpx2"
    with penstock.http_client(
        library=library, trust_env=False, gateways=[link.url], first_delay=0.01, timeout=60, **more
    ) as http:
        client = openai.OpenAI(base_url=link.url + "/v1", api_key="any", http_client=http, max_retries=0)
        for question in asked:
            answer = client.chat.completions.create(model="sim", messages=question, max_tokens=12)
            texts.append(answer.choices[0].message.content)
            sizes.append(link.figures.bytes_up - before)
            before = link.figures.bytes_up
        return texts, sizes, http.statistics()


@pytest.mark.parametrize("way", ["chat", "chat-httpx"])
def test_of_a_changed_body_only_what_is_new_goes(taking, simulator, way):
    before = simulator.bill()["requests"]
    asked = questions(way)
    with through(taking) as link:
        texts, (first, then), figures = both(link, way, asked)
    assert texts == [expected("chat", 12, question=each) for each in asked]
    assert first > 6 * MB
    assert then < first / 2
    assert simulator.bill()["requests"] == before + 2
    assert (figures.succeeded, figures.broken, figures.attempts) == (2, 0, 2)
    assert figures.bytes_saved > 3 * MB


def test_breaks_on_the_way_cost_no_more_than_what_was_on_its_way(taking, simulator):
    """Each request has a connection of its own: a block's breaks, its answer is lost, and the list's answer as well."""
    before = simulator.bill()["requests"]
    asked = questions("breaks")
    breaks = None, Break(Kind.RESET, 100_000, "up"), Break(Kind.RESET, 50, "down"), None
    with through(taking, *breaks) as link:
        alone = httpx2.Limits(max_keepalive_connections=0)
        texts, (first, then), figures = both(link, "chat", asked, limits=alone)
        assert link.figures.broken == 2
    assert texts == [expected("chat", 12, question=each) for each in asked]
    assert then < first
    assert (figures.succeeded, figures.broken) == (2, 2)
    assert simulator.bill()["requests"] == before + 2


def test_a_gateway_that_has_let_go_of_everything_gets_the_whole(simulator, tmp_path):
    asked = questions("gone")
    listen = f"127.0.0.1:{free_port()}"

    def serving(name):
        (tmp_path / name).mkdir()
        settings = {
            **config(simulator),
            "listen": listen,
            "files": {"directory": str(tmp_path / name / "files")},
        }
        settings["listener"] = {"max_body_bytes": 64 * MB}
        return GatewayProcess(settings, tmp_path / name)

    with penstock.http_client(trust_env=False, gateways=[f"http://{listen}"], timeout=60) as http:
        client = openai.OpenAI(base_url=f"http://{listen}/v1", api_key="any", http_client=http, max_retries=0)
        for number, question in enumerate(asked):
            before = http.statistics().bytes_sent
            with serving(str(number)):
                answer = client.chat.completions.create(model="sim", messages=question, max_tokens=12)
            assert answer.choices[0].message.content == expected("chat", 12, question=question)
            assert http.statistics().bytes_sent - before > 4 * MB


def test_a_gateway_that_keeps_no_blocks_is_never_told_a_list(gateway, simulator):
    asked = questions("none")
    with through(gateway) as link:
        texts, (first, then), figures = both(link, "chat", asked)
    assert texts == [expected("chat", 12, question=each) for each in asked]
    assert then > first * 0.99
    assert figures.attempts == 2


def test_a_small_body_is_not_cut(taking, monkeypatch):
    def cut(body):
        raise AssertionError("it was cut")

    monkeypatch.setattr("penstock.client._cutting.blocks", cut)
    with through(taking) as link:
        text, _ = ask(
            "chat", link.url, gateways=[link.url], question=[{"role": "user", "content": "a" * 900_000}]
        )
    assert text
