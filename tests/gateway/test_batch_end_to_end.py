"""Calls that share a request: what callers, upstreams and the ledger see of it."""

import asyncio
import contextlib
import json

import msgspec
import pytest
from serving import call, config, error, plain, request, serving, until

from penstock.config.model import BatchingConfig, ConcurrencyConfig, RetryConfig, TimeoutConfig
from penstock.messages import Outcome
from penstock.testing import SimulatorProcess

PATH = "/v1/embeddings"
AT_ONCE = RetryConfig(attempts=2, first_delay=0.0)


def full_at(inputs, **more):
    """A window that is closed by the last call that a test makes, however busy the machine is."""
    return BatchingConfig(window="fixed", max_queue_delay=60.0, max_batch_size=inputs, **more)


class Embedder:
    """An upstream whose vectors tell which input they are of; ``answer`` can be replaced."""

    def __init__(self):
        self.asked = []  # the inputs of each request
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.gone = 0

    def answer(self, inputs):
        data = [{"object": "embedding", "index": i, "embedding": [text]} for i, text in enumerate(inputs)]
        tokens = sum(len(str(one)) for one in inputs)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return plain({"object": "list", "data": data, "model": "theirs", "usage": usage})

    async def serve(self, reader, writer):
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    int(line.partition(b":")[2]) for line in head.split(b"\r\n") if b"content-length" in line
                )
                inputs = json.loads(await reader.readexactly(length))["input"]
                inputs = inputs if isinstance(inputs, list) else [inputs]
                self.asked.append(inputs)
                if not self.go_on.is_set():
                    left = asyncio.ensure_future(reader.read(1))
                    waiting = asyncio.ensure_future(self.go_on.wait())
                    await asyncio.wait([left, waiting], return_when=asyncio.FIRST_COMPLETED)
                    waiting.cancel()
                    if left.done():
                        self.gone += 1
                        break
                    left.cancel()
                    await asyncio.wait([left])
                writer.write(self.answer(inputs))
        writer.close()


def run(test, embedder=None, *, batching, **more):
    """``test(gateway, port, embedder)`` on a gateway whose one upstream is the embedder."""

    async def main():
        upstream = embedder or Embedder()
        server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        gate = more.pop("concurrency", None)
        whole = config(url, **{"retry": AT_ONCE, **more})
        settings = {
            name: msgspec.structs.replace(each, batching=batching, concurrency=gate)
            for name, each in whole.upstreams.items()
        }
        try:
            async with serving(msgspec.structs.replace(whole, upstreams=settings)) as (gateway, port):
                return await test(gateway, port, upstream)
        finally:
            server.close()

    return asyncio.run(main())


def asked_for(text, **more):
    return {"model": "m", "input": text, **more}


async def ask_all(port, *bodies):
    return await asyncio.gather(*(call(port, body, PATH) for body in bodies))


def vectors(answer):
    return [one["embedding"][0] for one in answer.json()["data"]]


def rows(gateway):
    return gateway.recorder.ledger.recent()


def test_calls_that_come_together_are_one_request_and_each_gets_its_own_answer():
    async def test(gateway, port, embedder):
        answers = await ask_all(port, *(asked_for(f"text {i}") for i in range(6)), asked_for(["a 7", "b 8"]))
        return answers, embedder.asked, rows(gateway)

    answers, asked, booked = run(test, batching=full_at(8))
    assert [vectors(answer) for answer in answers] == [[f"text {i}"] for i in range(6)] + [["a 7", "b 8"]]
    assert len(asked) == 1
    assert all(answer.json()["data"][0]["index"] == 0 for answer in answers)
    assert len({answer.headers["penstock-generation"] for answer in answers}) == 7
    assert {(row.outcome, row.status, row.usage.estimated) for row in booked} == {
        (Outcome.COMPLETED, 200, True)
    }
    assert sum(row.usage.input_tokens for row in booked) == sum(len(text) for text in asked[0])
    assert len(booked) == 7


class Moderator(Embedder):
    """Flags what holds "bad"; refuses what holds "ugly"."""

    def answer(self, inputs):
        if "ugly" in inputs:
            return error("400 Bad Request", "ugly")
        return plain(
            {"id": "modr-1", "model": "theirs", "results": [{"flagged": "bad" in one} for one in inputs]}
        )


def test_moderations_share_a_request_and_who_is_refused_is_refused_alone():
    async def test(gateway, port, moderator):
        async def ask(given):
            return await call(port, {"model": "m", "input": given}, "/v1/moderations")

        first = await asyncio.gather(*map(ask, ("good", "bad", ["good", "bad"])))
        second = await asyncio.gather(*map(ask, ("ok", ["ugly", "fine", "well"])))
        return first, second, moderator.asked, rows(gateway)

    first, second, asked, booked = run(test, Moderator(), batching=full_at(4, length_ratio=1.0))
    assert [[one["flagged"] for one in each.json()["results"]] for each in first] == [
        [False],
        [True],
        [False, True],
    ]
    assert len({each.headers["penstock-generation"] for each in first}) == 3
    assert {each.headers["content-type"] for each in first} == {"application/json"}
    assert [each.status for each in second] == [200, 400]
    assert sorted(map(len, asked)) == [1, 3, 4, 4]
    assert len(booked) == 5


def test_a_call_that_is_alone_is_sent_as_it_came():
    async def test(gateway, port, embedder):
        answer = await call(port, asked_for("text"), PATH)
        return answer, rows(gateway)

    answer, booked = run(test, batching=BatchingConfig())
    assert vectors(answer) == ["text"]
    assert answer.json()["model"] == "theirs"
    assert not booked[0].usage.estimated


def test_only_calls_that_ask_for_the_same_share_a_request():
    async def test(gateway, port, embedder):
        bodies = [
            asked_for("text"),
            asked_for("text", dimensions=2),
            asked_for("text" * 100),
            asked_for([1, 2]),
        ]
        await ask_all(port, *bodies)
        return sorted(map(len, embedder.asked))

    batching = BatchingConfig(window="fixed", max_queue_delay=0.05)
    assert run(test, batching=batching) == [1, 1, 1, 2]  # the last one is two token ids of one input


def test_without_a_ratio_lengths_do_not_matter():
    async def test(gateway, port, embedder):
        await ask_all(port, asked_for("text"), asked_for("text" * 100))
        return len(embedder.asked)

    assert run(test, batching=full_at(2, length_ratio=1.0)) == 1


def test_more_than_fits_is_several_requests():
    async def test(gateway, port, embedder):
        answers = await ask_all(port, *(asked_for(f"text {i:2}") for i in range(24)))
        return answers, sorted(map(len, embedder.asked))

    answers, sizes = run(test, batching=full_at(8))
    assert [vectors(answer) for answer in answers] == [[f"text {i:2}"] for i in range(24)]
    assert sizes == [8, 8, 8]


class Picky(Embedder):
    """Refuses, or breaks down at, every request that has a bad input in it."""

    def __init__(self, status):
        super().__init__()
        self.status = status

    def answer(self, inputs):
        return error(self.status, "bad input") if "bad" in inputs else super().answer(inputs)


@pytest.mark.parametrize(("status", "told"), [("400 Bad", 400), ("413 Large", 413), ("500 Oops", 502)])
def test_one_bad_input_fails_its_own_caller_only(status, told):
    async def test(gateway, port, embedder):
        answers = await ask_all(port, asked_for("one"), asked_for("bad"), asked_for("two"))
        return [answer.status for answer in answers], rows(gateway)

    statuses, booked = run(test, Picky(status), batching=full_at(3))
    assert statuses == [200, told, 200]
    assert sum(row.usage.input_tokens for row in booked) == len("onetwo")


class Careless(Embedder):
    """Loses an answer where there are several."""

    def answer(self, inputs):
        return super().answer(inputs[: max(1, len(inputs) - 1)])


def test_an_answer_that_does_not_fit_is_given_to_nobody_but_billed():
    async def test(gateway, port, embedder):
        answers = await ask_all(port, asked_for("aa"), asked_for("bb"), asked_for("cc"))
        return answers, rows(gateway)

    answers, booked = run(test, Careless(), batching=full_at(3))
    assert [vectors(answer) for answer in answers] == [["aa"], ["bb"], ["cc"]]
    failed = [row for row in booked if row.outcome is not Outcome.COMPLETED]
    assert len(failed) == 3
    assert sum(row.usage.input_tokens for row in failed) == 4  # what the upstream told of its answer to two
    assert {row.error for row in failed} == {"upstream_broken"}


async def left_after(port, body, reached):
    """A caller who leaves once something has been reached."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request(body, PATH))
    await until(reached)
    writer.close()
    await writer.wait_closed()


def test_who_leaves_while_waiting_is_not_asked_for():
    async def test(gateway, port, embedder):
        first = asyncio.ensure_future(call(port, asked_for("one"), PATH))
        batching = gateway.pipeline.snapshot.upstreams["up0"].batching

        def waiting():
            return sum(len(group.members) for group in batching._open.values())

        await left_after(port, asked_for("gone"), lambda: waiting() == 2)
        await until(lambda: waiting() == 1)
        await ask_all(port, asked_for("two"), asked_for("three"))
        await first
        await until(lambda: len(rows(gateway)) == 4)
        return embedder.asked, rows(gateway)

    asked, booked = run(test, batching=full_at(3))
    assert [sorted(inputs) for inputs in asked] == [["one", "three", "two"]]
    assert [row.usage.input_tokens for row in booked if row.outcome is Outcome.CANCELLED] == [0]


def test_who_leaves_after_that_pays_its_share_and_the_others_are_answered():
    async def test(gateway, port, embedder):
        embedder.go_on.clear()
        staying = asyncio.ensure_future(ask_all(port, asked_for("one"), asked_for("two")))
        await left_after(port, asked_for("gone"), lambda: embedder.asked)
        await until(lambda: len(gateway.pipeline.readings) == 2)
        await call(port, b"", "/v1/models", "GET")  # what its leaving does at once has been done
        assert len(gateway.pipeline.productions) == 3  # it waits for its bill
        embedder.go_on.set()
        answers = await staying
        await until(lambda: len(rows(gateway)) == 3)
        return answers, embedder.asked, rows(gateway)

    answers, asked, booked = run(test, batching=full_at(3))
    assert [vectors(answer) for answer in answers] == [["one"], ["two"]]
    assert len(asked) == 1
    assert sum(row.usage.input_tokens for row in booked) == len("onetwogone")
    assert sorted(row.outcome.value for row in booked) == ["cancelled", "completed", "completed"]


def test_when_all_have_left_the_upstream_is_hung_up_on():
    async def test(gateway, port, embedder):
        embedder.go_on.clear()
        leaving = [left_after(port, asked_for(text), lambda: embedder.asked) for text in ("one", "two")]
        await asyncio.gather(*leaving)
        await until(lambda: embedder.gone == 1)
        await until(lambda: len(rows(gateway)) == 2)
        return rows(gateway)

    assert {row.outcome for row in run(test, batching=full_at(2))} == {Outcome.CANCELLED}


def test_a_shared_request_takes_one_turn():
    async def test(gateway, port, embedder):
        gate = gateway.pipeline.snapshot.upstreams["up0"].gate
        embedder.go_on.clear()
        calling = asyncio.ensure_future(ask_all(port, *(asked_for(f"text {i}") for i in range(4))))
        await until(lambda: embedder.asked)
        in_progress = gate.in_progress
        embedder.go_on.set()
        answers = await calling
        return in_progress, gate.in_progress, {answer.status for answer in answers}

    gate = ConcurrencyConfig(limit=1, adaptive=False)
    assert run(test, batching=full_at(4), concurrency=gate) == (1, 0, {200})


def gateway_has(gateway, calls):
    return len(gateway.recorder.ledger.open_attempts()) == calls


def test_while_a_request_waits_for_its_turn_more_calls_join_it():
    async def test(gateway, port, embedder):
        queue = gateway.pipeline.snapshot.upstreams["up0"].gate.queue
        embedder.go_on.clear()
        first = asyncio.ensure_future(ask_all(port, asked_for("first")))
        await until(lambda: embedder.asked)
        calling = []
        for number in range(5):
            calling.append(asyncio.ensure_future(ask_all(port, asked_for(f"text {number}"))))
            await until(lambda number=number: gateway_has(gateway, number + 2))
        places = queue.length
        embedder.go_on.set()
        answers = [answer for one in (first, *calling) for answer in await one]
        told = [answer.json()["data"][0]["embedding"] for answer in answers]
        return places, embedder.asked, told, [row.usage for row in rows(gateway)]

    alone = BatchingConfig(max_queue_delay=0.001, max_batch_size=4)
    gate = ConcurrencyConfig(limit=1, adaptive=False)
    places, asked, told, used = run(test, batching=alone, concurrency=gate)
    assert places == 2  # one of four calls, which is full, and one of the last
    texts = [f"text {number}" for number in range(5)]
    assert asked == [["first"], texts[:4], texts[4:]]
    assert told == [["first"], *([text] for text in texts)]
    assert [usage.estimated for usage in used].count(True) == 4  # whose usage is a share


def test_who_leaves_a_request_that_waits_for_its_turn_is_not_in_it_and_the_last_one_gives_it_up():
    async def test(gateway, port, embedder):
        queue = gateway.pipeline.snapshot.upstreams["up0"].gate.queue
        embedder.go_on.clear()
        first = asyncio.ensure_future(ask_all(port, asked_for("first")))
        await until(lambda: embedder.asked)
        stays = asyncio.ensure_future(ask_all(port, asked_for("stays")))
        await until(lambda: gateway_has(gateway, 2))
        await left_after(port, asked_for("leaves"), lambda: gateway_has(gateway, 3))
        await until(lambda: gateway_has(gateway, 2))
        other = asyncio.ensure_future(
            # Of another length, so of another group.
            left_after(port, asked_for("x" * 500), lambda: queue.length == 2)
        )
        await other
        await until(lambda: queue.length == 1)
        embedder.go_on.set()
        await asyncio.gather(first, stays)
        return embedder.asked

    alone = BatchingConfig(max_queue_delay=0.001, max_batch_size=4, length_ratio=2.0)
    gate = ConcurrencyConfig(limit=1, adaptive=False)
    assert run(test, batching=alone, concurrency=gate) == [["first"], ["stays"]]


def test_a_deadline_that_passes_in_the_line_is_its_own_callers_and_the_others_are_asked_for_alone():
    async def test(gateway, port, embedder):
        embedder.go_on.clear()
        first = asyncio.ensure_future(ask_all(port, asked_for("first")))
        await until(lambda: embedder.asked)
        hurried = asyncio.ensure_future(
            call(port, asked_for("hurried"), PATH, headers=["penstock-deadline: 0.5"])
        )
        await until(lambda: gateway_has(gateway, 2))
        patient = asyncio.ensure_future(ask_all(port, asked_for("patient")))
        refused = await hurried
        embedder.go_on.set()
        await asyncio.gather(first, patient)
        return refused.status, [answer.status for answer in await patient], embedder.asked

    alone = BatchingConfig(max_queue_delay=0.001, max_batch_size=4)
    gate = ConcurrencyConfig(limit=1, adaptive=False)
    assert run(test, batching=alone, concurrency=gate) == (503, [200], [["first"], ["patient"]])


def test_silence_ends_the_request_and_each_call_goes_on_alone():
    class Silent(Embedder):
        async def serve(self, reader, writer):
            self.go_on.clear()
            if self.asked:
                self.go_on.set()
            await super().serve(reader, writer)

    async def test(gateway, port, embedder):
        answers = await ask_all(port, asked_for("one"), asked_for("two"))
        return [answer.status for answer in answers], len(embedder.asked)

    timeouts = TimeoutConfig(first_token=0.2)
    # One that was silent is left for the next candidate, of which there is none.
    assert run(test, Silent(), batching=full_at(2), timeouts=timeouts) == ([504, 504], 1)


def simulated(test, batching):
    async def main():
        whole = config(simulator.url)
        settings = {
            name: msgspec.structs.replace(each, batching=batching) for name, each in whole.upstreams.items()
        }
        async with serving(msgspec.structs.replace(whole, upstreams=settings)) as (gateway, port):
            return await test(gateway, port, simulator)

    with SimulatorProcess() as simulator:
        return asyncio.run(main())


def test_vectors_and_bills_are_those_of_calls_that_were_asked_alone():
    async def test(gateway, port, simulator):
        texts = [f"text number {i} of some length" for i in range(8)]
        bodies = [{"model": "m", "input": text, "dimensions": 4} for text in texts]
        together = await ask_all(port, *bodies)
        bill = simulator.reset_bill()
        direct = int(simulator.url.rpartition(":")[2])
        alone = [await call(direct, body, PATH) for body in bodies]
        booked = rows(gateway)
        assert [one.json()["data"] for one in together] == [one.json()["data"] for one in alone]
        assert bill["requests"] == 1
        assert sum(row.usage.input_tokens for row in booked) == bill["input_tokens"]
        assert sum(one.json()["usage"]["prompt_tokens"] for one in together) == bill["input_tokens"]

    simulated(test, full_at(8))


def test_old_completions_share_a_request_too():
    async def test(gateway, port, simulator):
        bodies = [{"model": "m", "prompt": f"prompt {i}", "max_tokens": 5, "n": 2} for i in range(3)]
        path = "/v1/completions"
        together = await asyncio.gather(*(call(port, body, path) for body in bodies))
        bill = simulator.reset_bill()
        assert bill["requests"] == 1
        direct = int(simulator.url.rpartition(":")[2])
        for answer, body in zip(together, bodies, strict=True):
            alone = await call(direct, body, path)
            assert answer.json()["choices"] == alone.json()["choices"]
        booked = rows(gateway)
        assert sum(row.usage.input_tokens for row in booked) == bill["input_tokens"]
        assert sum(row.usage.output_tokens for row in booked) == bill["output_tokens"]

    simulated(test, full_at(3))
