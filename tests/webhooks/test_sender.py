"""Webhooks: signed as an independent reader wants it, delivered until taken, once, and by whoever is there."""

import asyncio
import base64
import contextlib
import json
import time
from collections import Counter

import openai
import pytest

from penstock.config.model import WebhookConfig, WebhooksConfig
from penstock.config.secret import Secret
from penstock.metrics import Registry
from penstock.testing import FakeClock, ScriptedUpstream, Step
from penstock.webhooks import outbox as outbox_module
from penstock.webhooks.outbox import Outbox
from penstock.webhooks.sender import SCHEDULE, Sender
from waiting import until

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
TAKEN = b"HTTP/1.1 204 No Content\r\n\r\n"
READER = openai.OpenAI(api_key="any", webhook_secret=SECRET)


def said(status, headers=b"", body=b""):
    return b"HTTP/1.1 %b\r\n%bcontent-length: %d\r\n\r\n%b" % (status, headers, len(body), body)


def script(*answers):
    return [step for answer in answers for step in (Step.REQUEST, answer)]


def requests_of(connection):
    """(head lines, body) of each request that one connection sent."""
    found = []
    while connection:
        head, _, rest = connection.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        size = int(headers["content-length"])
        found.append((first, headers, rest[:size]))
        connection = rest[size:]
    return found


class CountingOutbox(Outbox):
    """``looks``: how often it was asked for what is due, and has answered."""

    looks = 0

    async def take(self, *what):
        found = await super().take(*what)
        self.looks += 1
        return found


class World:
    """A clock, Unix time, and the outcomes that were counted."""

    def __init__(self, path):
        self.path = path
        self.clock = FakeClock()
        self.wall = time.time()  # the reader refuses what is old
        self.registries = []  # of each worker
        self.senders = []

    @contextlib.asynccontextmanager
    async def sender(self, *endpoints, patience=10.0):
        config = WebhooksConfig(
            path=str(self.path),
            timeout=patience,
            endpoints=[
                endpoint if isinstance(endpoint, WebhookConfig) else an_endpoint(endpoint)
                for endpoint in endpoints
            ],
        )
        outbox = CountingOutbox(self.path)
        self.registries.append(Registry())
        sender = Sender(
            config, outbox, self.clock, self.registries[-1], now=lambda: self.wall, rand=lambda: 0.5
        )
        await sender.start()
        sender.box = outbox
        self.senders.append(sender)
        try:
            yield sender
        finally:
            self.senders.remove(sender)
            await sender.close()

    def outcomes(self):
        counted = Counter()
        for registry in self.registries:
            (family,) = (f for f in registry.collect() if f.name == "penstock_webhook_attempts_total")
            counted.update({sample.labels[0]: sample.value for sample in family.samples})
        return dict(counted)

    async def until(self, reached):
        async with asyncio.timeout(60):
            while not reached():
                # What threads are busy with takes no time, else connections would grow old meanwhile.
                if not any(sender._looking or sender._under_way for sender in self.senders):
                    self.clock.advance(0.1)
                await asyncio.sleep(0.001)

    async def let_pass(self, seconds):
        """Time goes by, whatever is under way."""
        for _ in range(round(seconds * 10)):
            self.clock.advance(0.1)
            await asyncio.sleep(0.001)


def an_endpoint(url, **more):
    return WebhookConfig(url=url, secret=Secret(SECRET), **more)


def run(main):
    asyncio.run(main)


def test_an_event_is_what_an_independent_reader_accepts(tmp_path):
    async def main():
        world = World(tmp_path / "w")
        async with (
            ScriptedUpstream([script(TAKEN)]) as upstream,
            world.sender(upstream.url + "/a/hook/") as sender,
        ):
            await sender.announce("default", "batch.completed", "batch_1")
            await world.until(lambda: world.outcomes() == {"delivered": 1})
            ((first, headers, body),) = requests_of(upstream.received[0])
            assert first == "POST /a/hook/ HTTP/1.1"
            event = READER.webhooks.unwrap(body, headers)
            assert (event.type, event.data.id, event.object) == ("batch.completed", "batch_1", "event")
            assert headers["webhook-id"] == event.id
            with pytest.raises(openai.InvalidWebhookSignatureError):
                READER.webhooks.unwrap(body + b" ", headers)
            with pytest.raises(openai.InvalidWebhookSignatureError):
                READER.webhooks.unwrap(body, {**headers, "webhook-id": "evt_other"})

    run(main())


def test_events_go_to_whom_they_concern(tmp_path):
    async def main():
        world = World(tmp_path / "w")
        async with ScriptedUpstream([script(*[TAKEN] * 9)]) as upstream:
            endpoints = [
                an_endpoint(upstream.url + "/all", tenant="alice"),
                an_endpoint(upstream.url + "/some", tenant="alice", events=["batch.*"]),
                an_endpoint(upstream.url + "/one", tenant="alice", events=["response.completed"]),
                an_endpoint(upstream.url + "/bob", tenant="bob"),
            ]
            async with world.sender(*endpoints) as sender:
                await sender.announce("alice", "batch.failed", "batch_1")
                await sender.announce("nobody", "batch.failed", "batch_2")
                await world.until(lambda: world.outcomes().get("delivered") == 2)
                assert await sender.box.waiting() == 0
                told = sorted(first.split()[1] for c in upstream.received for first, _, _ in requests_of(c))
                assert told == ["/all", "/some"]

    run(main())


@pytest.mark.parametrize(
    ("refusal", "keeps"),
    [
        (said(b"500 No"), True),
        (said(b"302 Found", b"location: http://127.0.0.1:1/elsewhere\r\n"), True),
        (said(b"404 Not Found"), True),
        (said(b"429 No", b"retry-after: 1\r\n", b"x" * 200_000), False),
        (b"nonsense\r\n\r\n", False),
        (Step.RESET, False),
    ],
)
def test_what_is_not_taken_is_sent_again_as_the_schedule_says(refusal, keeps, tmp_path):
    async def main():
        world = World(tmp_path / "w")
        # A connection that is kept serves the second attempt; before the third it has been idle for too long.
        first = [script(refusal, refusal)] if keeps else [script(refusal), script(refusal)]
        again = [*first, script(TAKEN)]
        async with ScriptedUpstream(again) as upstream, world.sender(upstream.url) as sender:
            await sender.announce("default", "batch.completed", "batch_1")
            for attempt, wait in enumerate(SCHEDULE[:2], 1):
                await world.until(lambda n=attempt: world.outcomes().get("failed") == n)
                world.wall += wait - 1.0
                world.clock.advance(wait)
                looks = sender.box.looks
                await world.until(lambda n=looks: sender.box.looks > n + 1)
                assert world.outcomes() == {"failed": attempt}  # not yet
                world.wall += 1.5
            await world.until(lambda: world.outcomes().get("delivered") == 1)
            seen = [headers for c in upstream.received for _, headers, _ in requests_of(c)]
            assert len(seen) == 3
            assert len({headers["webhook-id"] for headers in seen}) == 1
            assert len({headers["webhook-timestamp"] for headers in seen}) == 3
            assert len({headers["webhook-signature"] for headers in seen}) == 3

    run(main())


def test_after_the_last_attempt_it_is_given_up(tmp_path, caplog):
    async def main():
        world = World(tmp_path / "w")
        async with (
            ScriptedUpstream([script(*[said(b"503 No")] * 20)]) as upstream,
            world.sender(upstream.url) as sender,
        ):
            await sender.announce("default", "batch.completed", "batch_1")
            for attempt, wait in enumerate(SCHEDULE, 1):
                await world.until(lambda n=attempt: world.outcomes().get("failed") == n)
                world.wall += wait + 1.0
            await world.until(lambda: world.outcomes().get("given_up") == 1)
            assert world.outcomes()["failed"] == len(SCHEDULE)
            assert await sender.box.waiting() == 0

    run(main())
    assert "given up" in caplog.text


def test_gone_is_taken_at_its_word(tmp_path):
    async def main():
        world = World(tmp_path / "w")
        async with (
            ScriptedUpstream([script(said(b"410 Gone"))]) as upstream,
            world.sender(upstream.url) as sender,
        ):
            await sender.announce("default", "batch.completed", "batch_1")
            await world.until(lambda: world.outcomes() == {"given_up": 1})
            assert await sender.box.waiting() == 0

    run(main())


def test_a_receiver_that_says_nothing_is_not_waited_for_longer_than_allowed(tmp_path):
    async def main():
        world = World(tmp_path / "w")
        silent = [Step.REQUEST, asyncio.Event()]
        async with (
            ScriptedUpstream([silent]) as upstream,
            world.sender(upstream.url, patience=1.0) as sender,
        ):
            await sender.announce("default", "batch.completed", "batch_1")
            await world.until(lambda: world.outcomes() == {"failed": 1})
            await upstream.wait_gone()

    run(main())


def test_a_receiver_that_says_nothing_holds_nobody_else_up(tmp_path):
    async def main():
        world = World(tmp_path / "w")
        silent = [[Step.REQUEST, asyncio.Event()]] * 50
        takes = [script(*[TAKEN] * 10)] * 10
        async with ScriptedUpstream(silent) as bad, ScriptedUpstream(takes) as good:
            endpoints = (an_endpoint(bad.url), an_endpoint(good.url, events=("response.*",)))
            async with world.sender(*endpoints, patience=600.0) as sender:
                for number in range(50):
                    await sender.announce("default", "batch.completed", f"batch_{number}")
                await world.let_pass(5.0)
                for number in range(10):
                    await sender.announce("default", "response.completed", f"resp_{number}")
                async with asyncio.timeout(60):
                    while world.outcomes() != {"delivered": 10}:
                        await world.let_pass(0.1)
                assert len(bad.received) == 4

    run(main())


def test_what_waits_survives_a_restart(tmp_path):
    async def main():
        world = World(tmp_path / "w")
        async with ScriptedUpstream([script(TAKEN)]) as upstream:
            async with world.sender(upstream.url) as sender:
                await sender.announce("default", "batch.completed", "batch_1")
            assert upstream.connections == 0
            async with world.sender(upstream.url) as sender:
                await world.until(lambda: world.outcomes() == {"delivered": 1})

    run(main())


def test_an_event_that_is_announced_again_is_not_sent_again(tmp_path):
    async def main():
        world = World(tmp_path / "w")
        async with ScriptedUpstream([script(TAKEN)]) as upstream, world.sender(upstream.url) as sender:
            for _ in range(3):
                await sender.announce("default", "batch.completed", "batch_1")
            await world.until(lambda: world.outcomes() == {"delivered": 1})
            await sender.announce("default", "batch.completed", "batch_1")
            assert await sender.box.waiting() == 0

    run(main())


def test_two_workers_deliver_once_and_what_one_had_taken_when_it_died_the_other_delivers(tmp_path):
    async def main():
        world = World(tmp_path / "w")
        held = [Step.REQUEST, asyncio.Event()]
        async with ScriptedUpstream([held, script(TAKEN)]) as upstream, contextlib.AsyncExitStack() as first:
            one = await first.enter_async_context(world.sender(upstream.url))
            await one.announce("default", "batch.completed", "batch_1")
            await world.until(lambda: upstream.connections == 1)
            async with world.sender(upstream.url) as two:
                await until(lambda: world.clock.advance(1.0) or two.box.looks > 3)
                assert upstream.connections == 1
                await first.aclose()
                world.wall += outbox_module.TAKEN_FOR + 1.0
                await world.until(lambda: world.outcomes() == {"delivered": 1})
                assert upstream.connections == 2
                assert repr(two).startswith("<Sender to 1")

    run(main())


def test_who_slept_while_another_delivered_does_not_have_it_delivered_again(tmp_path):
    async def main():
        asleep, other = Outbox(tmp_path / "w"), Outbox(tmp_path / "w")
        await asleep.put("evt_1", "t", ["http://a"], b"{}", 0.0)
        later = outbox_module.TAKEN_FOR + 1.0
        (early,) = await asleep.take(0.0, 1, {}, 1)
        (late,) = await other.take(later, 1, {}, 1)
        await asleep.settle(early, later + 1.0)  # it failed, says who does not have it any more
        assert await other.take(later + 1.0, 1, {}, 1) == []
        await other.settle(late, None)
        await asleep.settle(early, later + 2.0)
        assert await other.take(1e9, 1, {}, 1) == []
        await asleep.close()
        await other.close()

    run(main())


def test_an_endpoint_that_was_taken_out_gets_nothing_more(tmp_path):
    async def main():
        world = World(tmp_path / "w")
        async with ScriptedUpstream([script(TAKEN)]) as upstream:
            async with world.sender(upstream.url + "/old") as sender:
                await sender.announce("default", "batch.completed", "batch_1")
            async with world.sender(upstream.url + "/new"):
                await world.until(lambda: world.outcomes() == {"dropped": 1})
            assert upstream.connections == 0

    run(main())


def test_the_outbox_is_bounded_and_the_oldest_make_room(tmp_path, monkeypatch):
    monkeypatch.setattr(outbox_module, "MAX_WAITING", 5)

    async def main():
        box = Outbox(tmp_path / "w")
        await box.start()
        for n in range(9):
            await box.put(f"evt_{n}", "t", ["http://a"], json.dumps(n).encode(), float(n))
        assert [each.message for each in await box.take(100.0, 10, {}, 10)] == [
            f"evt_{n}" for n in range(4, 9)
        ]
        assert await box.take(100.0, 10, {}, 10) == []
        await box.close()

    run(main())


def test_who_has_the_most_waiting_makes_room_and_nobody_else(tmp_path, monkeypatch):
    monkeypatch.setattr(outbox_module, "MAX_WAITING", 20)

    async def main():
        box = Outbox(tmp_path / "w")
        await box.start()
        lost = Counter()
        for n in range(3):  # these are the oldest of all
            lost += await box.put(f"evt_old_{n}", "quiet", ["http://b"], b"{}", float(n))
        for n in range(90):
            urls = ["http://silent", "http://a"] if n < 3 else ["http://silent"]
            lost += await box.put(f"evt_{n}", "loud", urls, b"{}", 10.0 + n)
        assert set(lost) == {"loud"}
        left = await box.take(200.0, 100, {}, 100)
        assert len(left) + lost.total() == 96
        assert len(left) == 20
        by_url = Counter(each.url for each in left)
        assert (by_url["http://b"], by_url["http://a"]) == (3, 3)
        assert {f"evt_{n}" for n in range(83, 90)} <= {each.message for each in left}  # its newest stay
        await box.close()

    run(main())


def test_what_waits_is_not_counted_for_each_message(tmp_path, monkeypatch):
    monkeypatch.setattr(outbox_module, "MAX_WAITING", 800)

    async def main():
        box, statements = Outbox(tmp_path / "w"), []
        await box.start()
        await box._database.write(lambda db: db.set_trace_callback(statements.append))
        for n in range(90):
            await box.put(f"evt_{n}", "t", ["http://a"], b"{}", float(n))
        assert sum("count(*)" in each for each in statements) == 1
        assert sum(each.startswith("DELETE") for each in statements) == 1
        await box.close()

    run(main())


def test_what_had_to_make_room_is_counted_and_said(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(outbox_module, "MAX_WAITING", 2)

    async def main():
        world = World(tmp_path / "w")
        async with world.sender("http://127.0.0.1:9/") as sender:
            world.senders.clear()
            for n in range(3):
                await sender.announce("default", "batch.completed", f"batch_{n}")
            world.senders.append(sender)
        assert world.outcomes()["pushed_out"] == 1

    run(main())
    assert "1 of the oldest events for default are lost" in caplog.text
