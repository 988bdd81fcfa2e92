"""Lines that go to a provider's own batches: asked for once, waited for, taken in once."""

import asyncio
import contextlib
import json

import pytest
from batch_doubles import URL, a_world
from provider_doubles import Provider, Providers

from penstock.batches import division, provider_run
from penstock.batches.batch import Status
from penstock.batches.provider_batch import Step
from penstock.batches.provider_run import FIND_FOR
from penstock.errors import UpstreamBroken, UpstreamFailed, UpstreamRefused, UpstreamUnreachable
from penstock.wire.provider_batch import Fate, NotMade

BOTH = pytest.mark.parametrize("takes_files", [True, False], ids=["openai", "anthropic"])


@contextlib.asynccontextmanager
async def handing_on(directory, *, takes_files=True, takes=lambda line: True, **config):
    async with a_world(directory, **config) as world:
        provider = Provider(world, takes_files=takes_files)
        world.providers = Providers(provider, takes)
        yield world, await world.worker(), provider


def say(exchange):
    return 200, {"by": "call"}, []


async def results(worker, done):
    return {each["custom_id"]: each for each in await worker.results(done.output_file)}


def by(found):
    return {name: each["response"]["body"]["by"] for name, each in found.items()}


@BOTH
def test_what_the_provider_takes_goes_there_and_the_rest_is_called(tmp_path, takes_files):
    async def main():
        def takes(line):
            return int(line.custom_id[1:]) % 2 == 0

        async with handing_on(tmp_path, takes_files=takes_files, takes=takes) as (world, worker, provider):
            worker.pipeline.say = say
            batch = await worker.begin(range(6))
            await world.until(lambda: provider.batches and len(worker.pipeline.asked) == 3)
            assert world.providers.asides
            provider.end("b0")
            done = await worker.ended(batch)
            assert (done.status, done.counts.completed, done.counts.failed) == (Status.COMPLETED, 6, 0)
            assert by(await results(worker, done)) == {
                f"c{i}": "provider" if i % 2 == 0 else "call" for i in range(6)
            }
            assert len(world.providers.delivered) == len(set(world.providers.delivered)) == 3
            assert not world.providers.asides
            assert provider.count("create") == 1
            assert not provider.files  # what was sent there is not left there

    asyncio.run(main())


def test_it_is_asked_for_more_and_more_seldom(tmp_path):
    async def main():
        async with handing_on(tmp_path) as (world, worker, provider):
            batch = await worker.begin(range(2))
            await world.until(lambda: len(provider.looks) == 9)
            gaps = [b - a for a, b in zip(provider.looks, provider.looks[1:], strict=False)]
            for gap, at_least in zip(gaps, [1, 2, 4, 8, 16, 32, 60, 60], strict=True):
                assert at_least <= gap < at_least + 2
            provider.end("b0")
            await worker.ended(batch)

    asyncio.run(main())


def test_no_more_goes_together_than_providers_take(tmp_path, monkeypatch):
    async def main():
        async with handing_on(tmp_path) as (world, worker, provider):
            monkeypatch.setattr(type(provider.form), "most_lines", 4)
            batch = await worker.begin(range(10))
            await world.until(lambda: len(provider.batches) == 3)
            assert sorted(map(len, provider.requests.values())) == [2, 4, 4]
            for name in list(provider.batches):
                provider.end(name)
            done = await worker.ended(batch)
            assert len(await results(worker, done)) == 10

    asyncio.run(main())


def test_what_is_too_long_to_be_sent_with_others_is_called(tmp_path, monkeypatch):
    monkeypatch.setattr(division, "MOST_BYTES", 400)

    async def main():
        async with handing_on(tmp_path) as (world, worker, provider):
            worker.pipeline.say = say
            long = json.dumps(
                {"custom_id": "long", "method": "POST", "url": URL, "body": {"prompt": "y" * 500}}
            )
            batch = await worker.begin([*range(5), long])
            await world.until(lambda: len(provider.batches) >= 2 and worker.pipeline.asked)
            assert all(sum(map(len, lines)) <= 400 for lines in provider.requests.values())
            await world.until(lambda: sum(map(len, provider.requests.values())) == 5)
            for name in list(provider.batches):
                provider.end(name)
            done = await worker.ended(batch)
            found = by(await results(worker, done))
            assert {name for name, who in found.items() if who == "call"} == {"long"}
            assert len(found) == 6

    asyncio.run(main())


@BOTH
@pytest.mark.parametrize("made", [True, False])
def test_one_that_may_have_been_made_is_looked_for_before_it_is_asked_for_again(tmp_path, takes_files, made):
    async def main():
        async with handing_on(tmp_path, takes_files=takes_files) as (world, worker, provider):

            def broken():
                provider.before_create = provider.after_create = lambda: None
                raise UpstreamBroken("the connection broke")

            if made:
                provider.after_create = broken
            else:
                provider.before_create = broken
            began = world.clock.now()
            batch = await worker.begin(range(3))
            await world.until(lambda: provider.batches)
            if not made:
                assert world.clock.now() - began >= FIND_FOR
            provider.end("b0")
            done = await worker.ended(batch)
            assert len(await results(worker, done)) == 3
            assert provider.count("create") == (1 if made else 2)
            assert len(provider.batches) == 1

    asyncio.run(main())


def test_a_request_that_was_still_on_its_way_can_only_fail_when_another_is_made(tmp_path):
    """The file is gone by then."""

    async def main():
        async with handing_on(tmp_path) as (world, worker, provider):

            def broken():
                provider.before_create = lambda: None
                raise UpstreamBroken("the connection broke")

            provider.before_create = broken
            batch = await worker.begin(range(3))
            await world.until(lambda: provider.batches)
            steps = [what[0] for what in provider.asked if what[0] in {"upload", "create", "delete_file"}]
            assert steps == ["upload", "create", "delete_file", "upload", "create"]
            assert len(provider.files) == 1
            provider.end("b0")
            await worker.ended(batch)

    asyncio.run(main())


def test_anthropics_that_might_be_ours_is_waited_for_and_not_taken_if_it_is_anothers(tmp_path):
    async def main():
        async with handing_on(tmp_path, takes_files=False) as (world, worker, provider):

            def broken():
                provider.before_create = lambda: None
                provider.add(
                    b'{"custom_id":"theirs-1"}\n{"custom_id":"theirs-2"}\n{"custom_id":"theirs-3"}\n'
                )
                raise UpstreamBroken("the connection broke")

            provider.before_create = broken
            batch = await worker.begin(range(3))
            await world.until(lambda: "b0" in provider.batches)
            began = world.clock.now()
            await world.until(lambda: world.clock.now() - began > 10 * FIND_FOR)
            assert provider.count("create") == 1
            provider.end("b0")
            await world.until(lambda: "b1" in provider.batches)
            provider.end("b1")
            done = await worker.ended(batch)
            assert len(await results(worker, done)) == 3
            assert provider.count("create") == 2

    asyncio.run(main())


def test_one_that_was_one_too_many_is_tried_again_later(tmp_path):
    async def main():
        async with handing_on(tmp_path) as (world, worker, provider):
            batch = await worker.begin(range(3))
            await world.until(lambda: provider.batches)
            provider.end("b0", Fate.FAILED, answered=0, is_crowded=True, why="too much is enqueued")
            await world.until(lambda: len(provider.batches) == 2)
            assert len(provider.files) == 1
            provider.end("b1")
            done = await worker.ended(batch)
            assert len(await results(worker, done)) == 3

    asyncio.run(main())


def test_one_that_is_refused_for_now_is_asked_for_again_and_one_that_is_refused_has_that_as_its_result(
    tmp_path,
):
    async def main():
        async with handing_on(tmp_path) as (_world, worker, provider):
            errors = [
                UpstreamFailed("not so many", status=429),
                UpstreamRefused("this model has no batches", status=400),
            ]

            def refuse():
                raise NotMade(errors.pop(0))

            provider.before_create = refuse
            batch = await worker.begin(range(2))
            done = await worker.ended(batch)
            assert not errors
            assert provider.count("upload") == 1
            assert provider.count("page") == 0  # it is known that there is none
            assert (done.counts.completed, done.counts.failed) == (0, 2)
            for each in await worker.results(done.error_file):
                assert each["response"]["body"]["error"]["message"] == "this model has no batches"

    asyncio.run(main())


@pytest.mark.parametrize("step", ["before it is made", "while it runs"])
def test_a_cancel_is_passed_on_and_costs_nothing_more(tmp_path, step):
    async def main():
        async with handing_on(tmp_path) as (world, worker, provider):
            world.providers.has_money = step == "while it runs"
            batch = await worker.begin(range(4))
            if step == "while it runs":
                await world.until(lambda: provider.looks)
            else:
                await world.until(lambda: worker.runner._runs)
                await world.settle()
            await worker.runner.store.cancel(batch.id, world.wall())
            done = await worker.ended(batch)
            assert (done.status, done.unrun) == (Status.CANCELLED, 4)
            assert provider.count("cancel") == (step == "while it runs")
            assert provider.count("create") == (step == "while it runs")
            assert not world.providers.asides

    asyncio.run(main())


def test_when_the_window_ends_what_has_come_is_kept(tmp_path):
    async def main():
        async with handing_on(tmp_path) as (world, worker, provider):

            async def cancel(batch_id):
                provider.end(batch_id, Fate.CANCELLED, answered=1)

            provider.cancel = cancel
            batch = await worker.begin(range(4), window=60.0)
            await world.until(lambda: provider.looks)
            world.wall.time += 61
            done = await worker.ended(batch)
            assert (done.status, done.counts.completed, done.unrun) == (Status.EXPIRED, 1, 3)

    asyncio.run(main())


def test_a_provider_that_cannot_be_reached_is_asked_again(tmp_path):
    async def main():
        async with handing_on(tmp_path) as (world, worker, provider):
            batch = await worker.begin(range(2))
            await world.until(lambda: provider.looks)
            provider.reachable = False
            asked = len(provider.asked)
            await world.until(lambda: len(provider.asked) > asked + 2)
            provider.reachable = True
            provider.end("b0")
            done = await worker.ended(batch)
            assert len(await results(worker, done)) == 2

    asyncio.run(main())


def test_an_upstream_that_is_gone_from_the_configuration_is_waited_for_until_the_window_ends(tmp_path):
    async def main():
        async with handing_on(tmp_path) as (world, worker, provider):
            batch = await worker.begin(range(2), window=600.0)
            await world.until(lambda: provider.looks)
            world.providers.configured = False
            began = world.clock.now()
            await world.until(lambda: world.clock.now() - began > 120)
            assert (await worker.now(batch)).status is Status.IN_PROGRESS
            world.wall.time += 601
            done = await worker.ended(batch)
            assert (done.status, done.unrun) == (Status.EXPIRED, 2)

    asyncio.run(main())


@BOTH
@pytest.mark.parametrize("moment", [Step.ASKED, Step.RUNNING, Step.ENDED])
def test_another_worker_goes_on_where_one_died_and_nothing_is_bought_or_booked_twice(
    tmp_path, takes_files, moment
):
    async def main():
        async with handing_on(tmp_path, takes_files=takes_files) as (world, worker, provider):
            noted = worker.runner.store.note
            reached = asyncio.Event()

            async def note(record):
                await noted(record)
                if record.step is moment:
                    reached.set()
                    await asyncio.Event().wait()  # and nothing more is done

            worker.runner.store.note = note
            batch = await worker.begin(range(5))
            while not reached.is_set():
                world.clock.advance(0.1)
                await asyncio.sleep(0.001)
                if provider.batches:
                    provider.end("b0")
            await worker.die()
            heir = await world.worker()

            def end_all():
                for name, told in provider.batches.items():
                    if told.ended is None:
                        provider.end(name)
                return batch.id in {told for told, _ in world.told}

            await world.until(end_all)
            done = await heir.now(batch)
            assert len(await results(heir, done)) == 5
            assert len(provider.batches) == 1
            assert len(world.providers.delivered) == len(set(world.providers.delivered)) == 5

    asyncio.run(main())


def test_a_worker_that_goes_waits_for_no_provider(tmp_path):
    async def main():
        async with handing_on(tmp_path) as (world, worker, provider):

            async def look(batch_id):
                provider.looks.append(world.clock.now())
                await asyncio.Event().wait()

            provider.look = look
            batch = await worker.begin(range(2))
            await world.until(lambda: provider.looks)
            async with asyncio.timeout(10):
                await worker.close()
            world.workers.remove(worker)
            del provider.look
            heir = await world.worker()
            await world.until(lambda: len(provider.looks) > 1)
            provider.end("b0")
            await heir.ended(batch)

    asyncio.run(main())


@BOTH
def test_a_provider_that_has_forgotten_a_batch_is_not_asked_for_it_again(tmp_path, takes_files):
    async def main():
        async with handing_on(tmp_path, takes_files=takes_files, call_rest=True) as (
            _world,
            worker,
            provider,
        ):

            async def look(batch_id):
                raise UpstreamRefused("there is no such batch", status=404)

            provider.look = look
            batch = await worker.begin(range(2))
            done = await worker.ended(batch)
            assert (done.counts.completed, done.counts.failed) == (0, 2)
            assert provider.count("create") == 1
            assert worker.pipeline.asked == []  # they may have been paid for

    asyncio.run(main())


def test_one_that_budgets_have_no_room_for_waits_until_they_have(tmp_path):
    async def main():
        async with handing_on(tmp_path) as (world, worker, provider):
            world.providers.has_money = False
            batch = await worker.begin(range(2))
            began = world.clock.now()
            await world.until(lambda: world.clock.now() - began > 60)
            assert provider.asked == []
            world.providers.has_money = True
            await world.until(lambda: provider.batches)
            provider.end("b0")
            done = await worker.ended(batch)
            assert len(await results(worker, done)) == 2

    asyncio.run(main())


def test_results_of_an_upstream_that_is_gone_are_waited_for_until_the_window_ends_and_no_longer(tmp_path):
    async def main():
        async with handing_on(tmp_path) as (world, worker, provider):

            def deliver(*what, **more):
                raise UpstreamUnreachable("the upstream is not configured any more")

            world.providers.deliver = deliver
            batch = await worker.begin(range(2), window=600.0)
            await world.until(lambda: provider.looks)
            world.providers.configured = False
            provider.end("b0")
            began = world.clock.now()
            await world.until(lambda: world.clock.now() - began > 120)
            assert (await worker.now(batch)).status is Status.IN_PROGRESS
            world.wall.time += 601
            done = await worker.ended(batch)
            assert (done.status, done.unrun) == (Status.EXPIRED, 2)
            assert not world.providers.asides

    asyncio.run(main())


def test_anthropics_that_might_be_ours_is_looked_at_more_and_more_seldom(tmp_path):
    async def main():
        async with handing_on(tmp_path, takes_files=False) as (world, worker, provider):

            def broken():
                provider.before_create = lambda: None
                provider.add(b'{"custom_id":"theirs-1"}\n{"custom_id":"theirs-2"}\n')
                raise UpstreamBroken("the connection broke")

            provider.before_create = broken
            await worker.begin(range(2))
            await world.until(lambda: "b0" in provider.batches)
            began = world.clock.now()
            await world.until(lambda: world.clock.now() - began > 600)
            assert 10 < provider.count("page") < 25

    asyncio.run(main())


def test_what_is_called_by_itself_needs_no_money_that_is_kept_for_its_batch(tmp_path):
    async def main():
        async with handing_on(tmp_path, call_rest=True) as (world, worker, provider):
            kept = []

            def answered(exchange):
                kept.append(len(world.providers.asides))
                return say(exchange)

            worker.pipeline.say = answered
            batch = await worker.begin(range(2))
            await world.until(lambda: provider.looks)
            provider.end("b0", Fate.EXPIRED, answered=0)
            done = await worker.ended(batch)
            assert done.counts.completed == 2
            assert kept == [0, 0]

    asyncio.run(main())


def test_no_other_is_made_before_it_is_certain_that_the_file_of_the_first_is_gone(tmp_path):
    async def main():
        async with handing_on(tmp_path) as (world, worker, provider):
            delete_file, refusals = provider.delete_file, []

            async def refusing(file_id):
                if len(refusals) < 3:
                    refusals.append(provider.count("create"))
                    raise UpstreamFailed("no", status=503)
                await delete_file(file_id)

            def broken():
                provider.before_create = lambda: None
                raise UpstreamBroken("the connection broke")

            provider.delete_file, provider.before_create = refusing, broken
            batch = await worker.begin(range(2))
            await world.until(lambda: provider.batches)
            assert refusals == [1, 1, 1]
            provider.end("b0")
            await worker.ended(batch)

    asyncio.run(main())


def test_a_batch_that_its_provider_does_not_know_for_a_moment_is_not_given_up(tmp_path):
    """A list of one of its servers may be behind, or an address or a key may be wrong until somebody mends it."""

    async def main():
        async with handing_on(tmp_path) as (world, worker, provider):
            known, refused = provider.look, []

            async def look(batch_id):
                if len(refused) < 4:
                    refused.append(batch_id)
                    raise UpstreamRefused("there is no such batch", status=404)
                return await known(batch_id)

            provider.look = look
            batch = await worker.begin(range(2))
            await world.until(lambda: provider.looks)
            provider.end("b0")
            done = await worker.ended(batch)
            assert (done.counts.completed, done.counts.failed) == (2, 0)

    asyncio.run(main())


def let_no_cancel_help(provider):
    async def cancel(batch_id):
        provider._ask("cancel", batch_id)

    provider.cancel = cancel


@pytest.mark.parametrize("ended", [False, True], ids=["running", "its results are there"])
def test_one_whose_provider_cannot_be_reached_ends_soon_after_its_window(tmp_path, monkeypatch, ended):
    monkeypatch.setattr(provider_run, "FAILING_FOR", 60.0)

    async def main():
        async with handing_on(tmp_path) as (world, worker, provider):
            let_no_cancel_help(provider)
            batch = await worker.begin(range(2), window=600.0)
            await world.until(lambda: provider.looks)
            if ended:

                async def broken(results, write):
                    raise UpstreamUnreachable("nobody is there")

                provider.download = broken
                provider.end("b0")
            else:
                provider.reachable = False
            world.wall.time += 601
            began = world.clock.now()
            done = await worker.ended(batch)
            assert 60 <= world.clock.now() - began < 180
            assert (done.status, done.unrun) == (Status.EXPIRED, 2)
            assert not world.providers.asides

    asyncio.run(main())


def test_one_whose_provider_comes_back_after_its_window_has_what_was_answered(tmp_path, monkeypatch):
    monkeypatch.setattr(provider_run, "FAILING_FOR", 60.0)

    async def main():
        async with handing_on(tmp_path) as (world, worker, provider):
            let_no_cancel_help(provider)
            batch = await worker.begin(range(2), window=600.0)
            await world.until(lambda: provider.looks)
            provider.reachable = False
            world.wall.time += 601
            began = world.clock.now()
            await world.until(lambda: world.clock.now() - began > 30)
            provider.end("b0")
            provider.reachable = True
            done = await worker.ended(batch)
            assert (done.status, done.counts.completed) == (Status.COMPLETED, 2)

    asyncio.run(main())


SPOILED = b'{"custom_id": "%b", "response": {"status_code": 200, "body": {"by": "prov\n'


@pytest.mark.parametrize(
    ("fate", "called"),
    [
        pytest.param(Fate.COMPLETED, set(), id="all were run"),
        pytest.param(Fate.EXPIRED, {"c1", "c2"}, id="some were not run"),
    ],
)
def test_a_result_that_cannot_be_read_is_told_as_such_and_not_bought_again(tmp_path, fate, called):
    async def main():
        async with handing_on(tmp_path, call_rest=True) as (world, worker, provider):
            worker.pipeline.say = say

            async def download(results, write):
                ids = [json.loads(line)["custom_id"] for line in provider.requests[results]]
                await write(SPOILED % ids[0].encode() + b"what is this\n" + provider.answered(ids[3]))

            provider.download = download
            batch = await worker.begin(range(4))
            await world.until(lambda: provider.looks)
            provider.end("b0", fate)
            done = await worker.ended(batch)
            found = by(await results(worker, done))
            assert found == {"c3": "provider", **dict.fromkeys(called, "call")}
            assert done.counts.failed == 3 - len(called)
            assert len(world.providers.delivered) == 4 - len(called)

    asyncio.run(main())


def test_a_worker_that_goes_waits_for_no_money(tmp_path):
    async def main():
        async with handing_on(tmp_path) as (world, worker, provider):
            asked = asyncio.Event()

            async def set_aside(batch, record, *, bought):
                asked.set()
                await asyncio.Event().wait()

            world.providers.set_aside = set_aside
            await worker.begin(range(2))
            await world.until(asked.is_set)
            world.workers.remove(worker)
            async with asyncio.timeout(20):
                await worker.close()
            assert provider.asked == []

    asyncio.run(main())
