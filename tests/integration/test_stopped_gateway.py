"""A gateway whose answers are on disk is told to end, and started anew: nothing of them is lost, or paid for twice.

What ends within ``drain_timeout`` ends where it is.  The rest is handed over: its readers are told to come back, and the
gateway that is started next goes on with it at once, without waiting for a lease.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sqlite3
from collections import Counter

import httpx2
import pytest
from gateway_books import asked, billed, ledger_rows, settled_bill, tokens, wait_until
from killing import PATIENCE, TOKENS, Caller, MessagesCaller, ResponsesCaller, configured, expected

from penstock.testing import GatewayProcess, SimulatorProcess
from penstock.testing._ports import free_port
from waiting import until

LEASE = 30.0  # seconds: longer than anything here takes, so that nobody is taken for dead
DRAIN = 4.0  # seconds: longer than a brief answer takes
STOPS = (1, 7)


class NamedCaller(Caller):
    """Asks the same once more, with the same key, and is shown all from the beginning."""

    async def ask(self, client, url):
        headers = {"idempotency-key": self.body["messages"][0]["content"]}
        async with client.stream("POST", url + self.path, json=self.body, headers=headers) as answer:
            if answer.status_code == 503:
                raise httpx2.ReadError(await answer.aread())
            self.generation = answer.headers["penstock-generation"]
            shown, self.frames = self.frames, {}
            await self._read(answer)
        if len(shown) > len(self.frames):
            shown, self.frames = self.frames, shown
        assert all(self.frames[index] == frame for index, frame in shown.items())

    async def come_back(self, client, url):
        await self.ask(client, url)


class LeavingCaller(NamedCaller):
    """Has left when the gateway is told to end, and comes back once it is there again."""

    left = False

    async def _read(self, answer):
        reading = asyncio.ensure_future(super()._read(answer))
        if not self.restarted.is_set():
            await until(lambda: self.text == expected(self, STOPS[0]))
            reading.cancel()
        await asyncio.wait([reading])

    async def come_back(self, client, url):
        self.left = True
        await self.restarted.wait()
        await super().come_back(client, url)


class RetrievingCaller(ResponsesCaller):
    """Comes back as OpenAI's SDK does."""

    async def come_back(self, client, url):
        response = (
            self.events()[0]["response"]["id"] if self.frames else self.generation.replace("gen_", "resp_")
        )
        where = f"{url}/v1/responses/{response}"
        asked_for = {"stream": "true", **({"starting_after": self.last} if self.frames else {})}
        async with client.stream("GET", where, params=asked_for) as answer:
            assert answer.status_code == 200, await answer.aread()
            await self._read(answer)


class BackgroundCaller(RetrievingCaller):
    """Reads its answer's stream, which would be made without it, too."""

    def asking(self, prompt):
        return {**super().asking(prompt), "background": True}


class PolledCaller(ResponsesCaller):
    """A response in the background, of which its caller has the id only."""

    text = ""

    async def until_done(self, client, here, there):
        answer = await client.post(here + self.path, json={**self.body, "stream": False, "background": True})
        assert answer.json()["status"] in {"queued", "in_progress"}
        self.generation = answer.headers["penstock-generation"]
        where = f"{there}{self.path}/{answer.json()['id']}"
        async with asyncio.timeout(PATIENCE):
            while not self.done:
                with contextlib.suppress(httpx2.TransportError):  # nobody is there yet
                    told = (await client.get(where)).json()
                    assert told["status"] in {"queued", "in_progress", "incomplete"}
                    self.done = told["status"] == "incomplete"  # its limit was reached
                await asyncio.sleep(0.05)
        (message,) = told["output"]
        self.text = message["content"][0]["text"]


class PlainCaller(Caller):
    """Asks until it has a whole answer, with the same key each time."""

    answer = None

    async def until_done(self, client, here, there):
        body = {**self.body, "stream": False}
        body.pop("stream_options", None)
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    answer = await client.post(
                        here + self.path,
                        json=body,
                        headers={"idempotency-key": body["messages"][0]["content"]},
                    )
                except httpx2.HTTPError:
                    self.breaks += 1
                else:
                    if answer.status_code == 200:
                        break
                    assert answer.status_code == 503, answer.text
                    self.breaks += 1
                await asyncio.sleep(0.05)
        self.generation = answer.headers["penstock-generation"]
        self.answer = answer.json()
        self.done = True
        return self

    @property
    def text(self):
        return self.answer["choices"][0]["message"]["content"] if self.answer else ""


class PlainMessagesCaller(PlainCaller):
    path = "/v1/messages"
    asking = MessagesCaller.asking

    @property
    def text(self):
        return self.answer["content"][0]["text"] if self.answer else ""


DIALECTS = (MessagesCaller, ResponsesCaller, Caller)
STREAMS = (Caller, NamedCaller, MessagesCaller, ResponsesCaller, RetrievingCaller, BackgroundCaller)


def stopping(url, folder):
    config = configured(url, folder, durability="disk", path=str(folder / "generations.sqlite"), lease=LEASE)
    # What an upstream makes in the background stalls there for whoever reads it on: that has tests of its own.
    own = {
        **config["upstreams"]["sim"],
        "cancel_grace": 10,
        "capabilities": {"usage_lookup": "generation", "background": False},
    }
    return {
        **config,
        "upstreams": {"sim": own},
        "listen": f"127.0.0.1:{free_port()}",
        "drain_timeout": DRAIN,
    }


async def stopped_and_read(gateway, callers, begun, streams):
    """All callers ask; once ``begun()`` holds the gateway is ended and started anew, and they come back until they have all.

    :returns: its exit status and log; and each of these streams as somebody reads it who was never cut
    """
    limits = httpx2.Limits(max_connections=100, max_keepalive_connections=0)
    url = gateway.url
    async with httpx2.AsyncClient(trust_env=False, timeout=PATIENCE, limits=limits) as client:
        restarted = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for caller in callers:
                caller.restarted = restarted
                group.create_task(caller.until_done(client, url, url))
            await until(begun)
            status = await asyncio.to_thread(gateway.stop)  # it waits for these callers
            log = gateway.log
            await asyncio.to_thread(gateway.start)
            restarted.set()
        whole = []
        for caller in streams:
            uncut = next(kind for kind in DIALECTS if isinstance(caller, kind))("", "")
            uncut.generation = caller.generation
            await uncut.come_back(client, url)
            whole.append(uncut)
    return status, log, whole


def told(ledger):
    """Whether nobody is still to be asked what an answer has cost."""
    with contextlib.closing(sqlite3.connect(ledger, timeout=10)) as database:
        open_rows = database.execute(
            "SELECT count(*) FROM attempts WHERE outcome = 'reserved' OR (answer != '' AND estimated AND told = 0)"
        )
        return open_rows.fetchone() == (0,)


@pytest.mark.slow  # two starts of a gateway, and a drain
@pytest.mark.parametrize("more", [{"temperature": 0}, {}], ids=["deterministic", "prefilled"])
def test_what_a_drain_cuts_goes_on_after_the_restart_byte_for_byte_and_is_paid_for_once(more, tmp_path):
    stalled = [
        kind(f"{kind.__name__} {n}", f"sim:stall-after={n},once", **more) for kind in STREAMS for n in STOPS
    ]
    unread = [
        kind(f"{kind.__name__} {fault}", f"sim:{fault},once", **more)
        for kind in (PlainCaller, PlainMessagesCaller, PolledCaller)
        for fault in ("stall-after=4", "no-answer")
    ]
    brief = [kind("brief", "sim:tps=5", **more) for kind in (Caller, MessagesCaller, ResponsesCaller)]
    callers = [*stalled, *unread, *brief]
    with SimulatorProcess() as simulator:

        def begun():
            stopped = zip(stalled, itertools.cycle(STOPS), strict=False)
            return all(caller.text == expected(caller, n) for caller, n in stopped) and (
                simulator.bill()["requests"] == len(callers)
            )

        with GatewayProcess(stopping(simulator.base_url, tmp_path), tmp_path) as gateway:
            status, log, whole = asyncio.run(stopped_and_read(gateway, callers, begun, stalled))
            bill = settled_bill(simulator)
            wait_until(lambda: told(tmp_path / "ledger.sqlite"), what="what answers have cost")
    handed_over = len(stalled) + len(unread)
    assert status == 0
    assert f"{handed_over} generations are left to other processes" in log
    assert gateway.log.count('"taking over gen_') == handed_over
    for caller in callers:
        assert caller.text == expected(caller, TOKENS)
    for caller, uncut in zip(stalled, whole, strict=True):
        assert caller.told_to_come_back == 1
        assert caller.frames == uncut.frames
    for caller in brief:
        assert (caller.breaks, caller.told_to_come_back) == (0, 0), "it had the time to end"
    rows = asked(ledger_rows(tmp_path / "ledger.sqlite"))
    assert tokens(rows) == billed(bill)
    assert Counter(Counter(row.generation for row in rows).values()) == {1: len(brief), 2: handed_over}
    assert bill["requests"] == len(brief) + 2 * handed_over


@pytest.mark.slow  # the same
def test_who_has_left_before_the_drain_finds_his_answer_after_the_restart(tmp_path):
    """Nobody is connected any more, and yet nothing is given up before its grace is over."""
    callers = [LeavingCaller(f"left {n}", f"sim:stall-after={STOPS[0]},once") for n in range(3)]
    with SimulatorProcess() as simulator:
        with GatewayProcess(stopping(simulator.base_url, tmp_path), tmp_path) as gateway:

            def begun():
                return simulator.bill()["requests"] == len(callers) and all(caller.left for caller in callers)

            _, log, whole = asyncio.run(stopped_and_read(gateway, callers, begun, callers))
            bill = settled_bill(simulator)
            wait_until(lambda: told(tmp_path / "ledger.sqlite"), what="what answers have cost")
    assert f"{len(callers)} generations are left to other processes" in log
    for caller, uncut in zip(callers, whole, strict=True):
        assert caller.text == expected(caller, TOKENS)
        assert caller.frames == uncut.frames
    assert tokens(asked(ledger_rows(tmp_path / "ledger.sqlite"))) == billed(bill)
    assert bill["requests"] == 2 * len(callers)
