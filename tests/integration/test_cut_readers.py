"""Readers whose connections are cut anywhere, again and again: in the end they have what one unbroken reader has.

Three readers come back, each in its way: one that counts bytes, one whose events are read by another project's
decoder (httpx-sse), and OpenAI's SDK.  The first two are written after ``docs/topics/resumable-generations.md`` and
nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from urllib.parse import urlsplit

import httpx
import httpx2
import httpx_sse
import openai
import pytest
from cutting_proxy import KINDS, Cut, CuttingProxy
from gateway_books import asked, ledger_rows, wait_until
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sized_upstream import SizedUpstream, asking, frames, texts

from penstock.testing import GatewayProcess, RedisServer

# Seconds of silence after which these readers come back; a real one waits longer than a sign of life.
PATIENCE = 0.6
TRIES = 60
DURABILITIES = ["memory", "disk", "shared"]


@pytest.fixture(scope="module")
def upstream():
    with SizedUpstream() as running:
        yield running


@pytest.fixture(scope="module", params=DURABILITIES)
def gateway(request, upstream, tmp_path_factory):
    if request.param == "shared" and not RedisServer.available():
        pytest.skip("there is no redis-server on this machine")
    folder = tmp_path_factory.mktemp("gateway")
    with contextlib.ExitStack() as stack:
        generations = {"durability": request.param, "path": str(folder / "generations.sqlite")}
        if request.param == "shared":
            generations["redis"] = stack.enter_context(RedisServer()).url
        config = {
            # Where workers share what they have, a reader comes back to another one than it was cut from.
            "workers": 1 if request.param == "memory" else 2,
            "upstreams": {"sized": {"kind": "openai", "base_url": upstream.url, "api_key": "any"}},
            "models": {"*": {"candidates": [{"upstream": "sized"}], "grace": 30}},
            "generations": generations,
            "continuation": {"attempts": 0},  # nothing breaks but the readers' own connections
        }
        config["ledger"] = {"path": str(folder / "ledger.sqlite")}
        running = GatewayProcess(config, folder)
        running.ledger, running.calls_before = folder / "ledger.sqlite", upstream.calls
        with running:
            yield running


class BytesReader:
    """Keeps what it gets byte for byte, up to the last event that is whole and has a number."""

    def __init__(self):
        self.frames = []  # each to its blank line
        self.last_id = None
        self.ended = False

    async def read(self, response):
        rest = held = b""
        async for data in response.aiter_raw():
            *whole, rest = (rest + data).split(b"\n\n")
            for frame in whole:
                lines = [line for line in frame.split(b"\n") if not line.startswith(b":")]
                held += b"\n".join(lines) + b"\n\n"
                numbers = [int(line[4:]) for line in lines if line.startswith(b"id: ")]
                if numbers:
                    self.frames.append(held)
                    self.last_id, held = numbers[0], b""
                    self.ended = b"data: [DONE]" in lines


class DecodingReader:
    """Reads events by a decoder that knows nothing of us."""

    def __init__(self):
        self.events = []
        self.last_id = None
        self.ended = False

    async def read(self, response):
        async for event in httpx_sse.EventSource(response).aiter_sse():
            self.events.append((event.id, event.event, event.data))
            self.last_id = event.id
            self.ended = event.data == "[DONE]"


async def read_to_the_end(reader, url, body, key):
    """Ask, and come back for as long as the end has not come, as the page tells; returns the generation's id."""
    generation = None
    limits = httpx.Limits(max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=PATIENCE, limits=limits) as http:
        for _ in range(TRIES):
            if generation is None or reader.last_id is None:
                asking = http.stream(
                    "POST", "/v1/chat/completions", json=body, headers={"Idempotency-Key": key}
                )
            else:
                headers = {"Last-Event-ID": str(reader.last_id)}
                asking = http.stream("GET", f"/v1/generations/{generation}/events", headers=headers)
            try:
                async with asking as response:
                    if response.status_code == 204:
                        return generation
                    assert response.status_code == 200, await response.aread()
                    generation = response.headers["penstock-generation"]
                    await reader.read(response)
            except httpx.TransportError:
                continue
            if reader.ended:
                return generation
    raise AssertionError(f"not at the end after {TRIES} connections")


def proxied(gateway, upstream, cuts, key):
    """The network before the gateway; a stall lasts until the upstream has sent everything."""

    async def sent():
        while key not in upstream.sent:
            await asyncio.sleep(0.005)

    parts = urlsplit(gateway.url)
    return CuttingProxy(parts.hostname, parts.port, cuts, sent)


def assert_booked_once(gateway, upstream):
    """The ledger has one row for each generation, which was completed, and for each call that the upstream got."""

    def settled():
        rows = asked(ledger_rows(gateway.ledger))
        over = all(row.outcome != "reserved" for row in rows)
        return rows if over and len(rows) >= upstream.calls - gateway.calls_before else None

    rows = wait_until(settled)
    assert len({row.generation for row in rows}) == len(rows)
    assert {row.outcome for row in rows} == {"completed"}
    assert len(rows) == upstream.calls - gateway.calls_before


SIZES = st.lists(
    st.one_of(st.integers(1, 30), st.integers(100, 3_000), st.integers(20_000, 70_000)),
    min_size=1,
    max_size=25,
).filter(lambda sizes: sum(sizes) < 300_000)
CUTS = st.lists(
    st.builds(
        Cut,
        # The first three hundred bytes are the answer's head.
        st.one_of(st.integers(1, 400), st.integers(1, 5_000), st.integers(1, 200_000)),
        st.sampled_from(KINDS),
    ),
    max_size=6,
)
SIZED = [3_000] * 20
# After a stall a connection may go on to the end, and after half of it was closed as well.
STALLED = example(sizes=SIZED, cuts=[Cut(5_000, kind) for kind in ("reset", "close", "black hole", "stall")])
HALF_CLOSED = example(sizes=SIZED, cuts=[Cut(5_000, "half-close")])


@pytest.mark.parametrize("make", [BytesReader, DecodingReader])
def test_a_reader_that_is_cut_anywhere_gets_every_event_once(gateway, upstream, make):
    made, again = set(), []

    @given(sizes=SIZES, cuts=CUTS)
    @STALLED
    @HALF_CLOSED
    @settings(max_examples=15)
    def property_(sizes, cuts):
        key = uuid.uuid4().hex
        body = {"model": "m", "messages": asking(sizes, key), "stream": True}
        calls = upstream.calls

        async def main():
            async with proxied(gateway, upstream, cuts, key) as proxy:
                reader = make()
                generation = await read_to_the_end(reader, proxy.url, body, key)
                made.update(cut.kind for cut in proxy.made)
            async with httpx.AsyncClient(base_url=gateway.url, trust_env=False, timeout=30) as http:
                uncut = await http.get(f"/v1/generations/{generation}/events")
            return reader, uncut.content

        reader, uncut = asyncio.run(main())
        expected = [b"id: %d\n%b" % numbered for numbered in enumerate(frames(sizes))]
        assert uncut == b"".join(expected)
        if isinstance(reader, BytesReader):
            assert b"".join(reader.frames) == uncut
        else:
            datas = [frame[6:-2].decode() for frame in frames(sizes)]
            assert reader.events == [(str(number), "message", data) for number, data in enumerate(datas)]
        again.append(upstream.calls - calls - 1)

    property_()
    assert made == set(KINDS)
    assert sum(again) == 0, "it was asked for once, however often it was read"
    assert_booked_once(gateway, upstream)


class SDKReader:
    """OpenAI's SDK as it is: asks for a response, and takes it up again after a sequence number."""

    def __init__(self, url):
        self.http = httpx2.AsyncClient(trust_env=False, limits=httpx2.Limits(max_keepalive_connections=0))
        self.client = openai.AsyncOpenAI(
            base_url=url + "/v1", api_key="any", timeout=PATIENCE, http_client=self.http
        )
        self.events = []
        self.response_id = None

    @property
    def text(self):
        return "".join(
            event["delta"] for event in self.events if event["type"] == "response.output_text.delta"
        )

    async def read_to_the_end(self, asked, key):
        for _ in range(TRIES):
            try:
                stream = await self._opened(asked, key)
                async with stream:
                    async for event in stream:
                        self.events.append(event.model_dump())
                        if event.type == "response.created":
                            self.response_id = event.response.id
                        if event.type == "response.completed":
                            return
            except (openai.APIConnectionError, httpx2.TransportError):
                continue
        raise AssertionError(f"not at the end after {TRIES} tries")

    async def _opened(self, asked, key):
        if self.response_id is None:
            headers = {"Idempotency-Key": key}
            return await self.client.responses.create(
                model="m", input=asked, stream=True, extra_headers=headers
            )
        last = self.events[-1]["sequence_number"] if self.events else openai.omit
        return await self.client.responses.retrieve(self.response_id, stream=True, starting_after=last)


def test_the_openai_sdk_that_is_cut_anywhere_gets_every_event_once(gateway, upstream):
    made, again = set(), []

    @given(sizes=SIZES, cuts=CUTS)
    @STALLED
    @HALF_CLOSED
    @settings(max_examples=10)  # the SDK waits half a second and more before it tries again
    def property_(sizes, cuts):
        key = uuid.uuid4().hex
        calls = upstream.calls

        async def main():
            async with proxied(gateway, upstream, cuts, key) as proxy:
                reader = SDKReader(proxy.url)
                async with reader.http:
                    await reader.read_to_the_end(asking(sizes, key), key)
                made.update(cut.kind for cut in proxy.made)
            uncut = SDKReader(gateway.url)
            uncut.response_id = reader.response_id
            async with uncut.http:
                await uncut.read_to_the_end(None, None)
            return reader, uncut.events

        reader, uncut = asyncio.run(main())
        assert reader.events == uncut
        assert [event["sequence_number"] for event in reader.events] == list(range(len(uncut)))
        assert reader.text == "".join(texts(sizes))
        again.append(upstream.calls - calls - 1)

    property_()
    assert made == set(KINDS)
    assert sum(again) == 0
    assert_booked_once(gateway, upstream)
