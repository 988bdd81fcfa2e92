"""SDKs with our client, on connections that break in every way, between real processes."""

from __future__ import annotations

import os
import signal
import ssl
import time
import uuid

import httpx2
import openai
import pytest
from client_gateway import config, noise, through, through_all
from sdks import QUESTION, WAYS, ask, expected

import penstock
from penstock.lab.faults import Break, Kind
from penstock.testing import GatewayProcess
from penstock.testing._ports import free_port

PATIENCE = 60.0
TOKENS = 12


def billed(simulator):
    return simulator.bill()["requests"]


def eventually(reached):
    deadline = time.monotonic() + PATIENCE
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# ---- what a stream is made of ------------------------------------------------------------------------


def body_and_generation(http, url, model="sim"):
    body = {"model": model, "messages": QUESTION, "max_tokens": TOKENS, "stream": True}
    with http.stream("POST", url + "/v1/chat/completions", json=body) as response:
        return b"".join(response.iter_raw()), response.headers["penstock-generation"]


@pytest.mark.parametrize("kind", [Kind.RESET, Kind.CLOSE])
def test_a_cut_anywhere_leaves_no_trace_in_the_bytes(gateway, simulator, kind):
    """In the head, between events, within one, and in the end of the chunked coding."""
    trust = ssl.create_default_context()  # made once: it takes longer than a call
    with httpx2.Client(trust_env=False) as plain:
        size = len(body_and_generation(plain, gateway.url)[0]) + 900  # head, and framing
        before, calls = billed(simulator), 0
        cuts = range(1, size, 61)
        breaks = [each for cut in cuts for each in (Break(kind, cut, "down"), None)]
        with through(gateway, *breaks) as link:
            while link.figures.connections < len(breaks):
                with penstock.http_client(trust_env=False, verify=trust, first_delay=0.01) as http:
                    got, generation = body_and_generation(http, link.url)
                path = f"/v1/generations/{generation}/events"
                assert got == plain.get(gateway.url + path).content
                calls += 1
            assert link.figures.broken > 50
    assert billed(simulator) == before + calls


# ---- SDKs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", [Kind.RESET, Kind.CLOSE, Kind.LOST_ANSWER, Kind.BLACK_HOLE])
def test_no_sdk_notices_a_break(gateway, simulator, way, stream, kind):
    """Two breaks in the answer; what says nothing is noticed by the clocks.

    Where these are short, a busy machine may let them run out once more.
    """
    before = billed(simulator)
    silent = kind in {Kind.LOST_ANSWER, Kind.BLACK_HOLE}
    breaks = [Break(kind, 700, "down"), Break(kind, 900 if stream else 300, "down")]
    with through_all(gateway, *breaks) as link:
        text, figures = ask(
            way,
            link.url,
            tokens=TOKENS,
            stream=stream,
            gateways=[link.url],
            stall_timeout=0.5 if silent else PATIENCE,
            attempt_timeout=0.5 if silent else None,
            timeout=PATIENCE,
            first_delay=0.01,
            sdk={"max_retries": 0},
        )
        assert link.figures.broken >= 2 if silent else link.figures.broken == 2
    assert text == expected(way, TOKENS)
    assert billed(simulator) == before + 1
    assert (figures.succeeded, figures.failed) == (1, 0)
    mended = figures.retries + figures.resumed
    assert figures.broken >= max(2, mended) if silent else figures.broken == mended == 2
    assert figures.reruns == 0


@pytest.mark.parametrize("way", WAYS)
def test_a_request_that_broke_is_sent_again(gateway, simulator, way):
    before = billed(simulator)
    question = noise(100_000)
    with through_all(gateway, Break(Kind.RESET, 50_000, "up"), Break(Kind.BLACK_HOLE, 99_000, "up")) as link:
        text, figures = ask(
            way,
            link.url,
            question=question,
            gateways=[link.url],
            attempt_timeout=0.5,
            first_delay=0.01,
        )
    assert text == expected(way, 12, question=question)
    assert billed(simulator) == before + 1
    assert figures.retries >= 2


def test_a_stall_is_waited_for(gateway, simulator):
    before = billed(simulator)
    with through(gateway, Break(Kind.STALL, 800, "down"), stall=0.2) as link:
        text, figures = ask("chat", link.url)
    assert text == expected("chat", 12)
    assert (figures.broken, billed(simulator)) == (0, before + 1)


def test_a_slow_stream_that_breaks_again_and_again(gateway, simulator):
    """Tokens at a pace: the log grows while the reader is away."""
    before = billed(simulator)
    breaks = [Break(Kind.RESET, size, "down") for size in (1_500, 2_000, 600, 3_000, 1_100)]
    notices = []
    with through(gateway, *breaks) as link:
        text, figures = ask("chat", link.url, tokens=60, model="sim:tps=100", on_notice=notices.append)
        assert link.figures.broken == 5
    assert text == expected("chat", 60)
    assert billed(simulator) == before + 1
    assert figures.resumed == 5
    assert [each.kind for each in notices] == ["resume"] * 5 + ["succeeded"]
    assert figures.bytes_saved > 5 * 1_000
    assert figures.success_rate == 1.0
    assert figures.transfer_success_rate < 1.0


# ---- when the application leaves ---------------------------------------------------------------------


def test_a_stream_that_is_given_up_is_cancelled_at_once(gateway, simulator):
    with penstock.http_client(trust_env=False) as http:
        client = openai.OpenAI(base_url=gateway.base_url, api_key="any", http_client=http)
        chunks = client.chat.completions.create(
            model="sim:tps=20", messages=QUESTION, stream=True, max_tokens=1_000
        )
        pieces = iter(chunks)
        next(pieces)
        chunks.close()
        # The key would give it a grace time of ten seconds, in which it could be finished.
        eventually(lambda: simulator.bill()["by_request"][-1]["state"] == "cancelled")
        assert simulator.bill()["by_request"][-1]["output_tokens"] < 150
        figures = http.statistics()
        assert (figures.abandoned, figures.succeeded, figures.failed) == (1, 0, 0)


def test_others_who_read_the_same_are_left_their_answer(gateway):
    body = {
        "model": "sim:tps=50,tokens=150",
        "messages": [{"role": "user", "content": "shared"}],
        "temperature": 0,
    }
    with penstock.http_client(trust_env=False) as http, httpx2.Client(trust_env=False) as other:
        url = gateway.url + "/v1/chat/completions"
        with http.stream("POST", url, json={**body, "stream": True}) as leaving:
            with other.stream("POST", url, json={**body, "stream": True}) as staying:
                assert staying.headers["penstock-status"] == "joined"
                leaving.close()
                assert b"[DONE]" in b"".join(staying.iter_raw())


# ---- servers that die --------------------------------------------------------------------------------


def killed(gateway):
    """As by the kernel: the supervisor, and its workers with it."""
    for pid in (gateway.pid, *gateway.worker_pids()):
        os.kill(pid, signal.SIGKILL)
    gateway.stop()


def dies_in_midstream(simulator, tmp_path, temperature):
    """The text, the figures, and what was asked: of its answer twelve tokens come before the gateway is killed."""
    question = [{"role": "user", "content": f"the first time it stalls, {uuid.uuid4()}"}]
    settings = {**config(simulator), "listen": f"127.0.0.1:{free_port()}"}
    first = GatewayProcess(settings, tmp_path).start()
    second = None
    try:
        with penstock.http_client(trust_env=False, resume_for=PATIENCE) as http:
            client = openai.OpenAI(base_url=first.base_url, api_key="any", http_client=http, max_retries=0)
            text = ""
            for chunk in client.chat.completions.create(
                model="sim:stall-after=12,once",
                messages=question,
                stream=True,
                max_tokens=40,
                temperature=temperature,
            ):
                text += chunk.choices[0].delta.content or ""
                if len(text) > 20 and second is None:
                    killed(first)
                    second = GatewayProcess(settings, tmp_path).start()
            return text, http.statistics(), question
    finally:
        first.stop()
        if second is not None:
            second.stop()


def test_a_gateway_that_is_killed_and_keeps_nothing_is_asked_once_more(simulator, tmp_path):
    text, figures, question = dies_in_midstream(simulator, tmp_path, temperature=0)
    assert text == expected("chat", 40, question=question)
    assert (figures.reruns, figures.succeeded) == (1, 1)


def test_an_answer_that_cannot_be_made_again_ends_in_an_error(simulator, tmp_path):
    with pytest.raises(openai.APIConnectionError):
        dies_in_midstream(simulator, tmp_path, temperature=1)


def test_the_next_gateway_goes_on(simulator, tmp_path_factory):
    with (
        GatewayProcess(config(simulator), tmp_path_factory.mktemp("a")) as first,
        GatewayProcess(config(simulator), tmp_path_factory.mktemp("b")) as second,
    ):
        gateways = [first.url, second.url]
        with penstock.http_client(trust_env=False, gateways=gateways) as http:
            client = openai.OpenAI(base_url=first.base_url, api_key="any", http_client=http, max_retries=0)

            def chunks(**asked):
                return client.chat.completions.create(
                    model="sim:tps=50", messages=QUESTION, max_tokens=30, temperature=0, **asked
                )

            assert chunks().choices[0].message.content == expected("chat", 30)
            text = ""
            for chunk in chunks(stream=True):
                text += chunk.choices[0].delta.content or ""
                if len(text) > 40 and first.status is None:
                    killed(first)
            assert text == expected("chat", 30)
            assert chunks().choices[0].message.content == expected("chat", 30)
            figures = http.statistics()
            assert (figures.succeeded, figures.failed) == (3, 0)
            assert figures.failovers >= 1
        first.status = 0  # not the end that its context manager would call one
