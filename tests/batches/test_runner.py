"""Batches from their beginning to their end, by one worker and by several, interrupted in every way."""

import asyncio
import os
import threading

import msgspec
import pytest
from batch_doubles import a_world, answer

from penstock.batches import results as results_module
from penstock.batches.batch import OPENAI, Status
from penstock.batches.store import BatchStore
from penstock.errors import NotFound


def ids(found):
    return sorted(each["custom_id"] for each in found)


def say(status=200, headers=()):
    return lambda exchange: (status, None, headers)


def test_lines_are_called_on_behalf_of_the_key_at_the_lowest_tier_with_a_key_of_their_own(tmp_path):
    async def main():
        async with a_world(tmp_path) as world:
            worker = await world.worker()
            worker.pipeline.say = say()
            batch = await worker.begin(range(3))
            done = await worker.ended(batch)
            assert (done.status, done.counts.completed) == (Status.COMPLETED, 3)
            (tenant,) = set(worker.pipeline.tenants)
            assert (tenant.name, tenant.key_name, tenant.tier, tenant.models) == ("t", "k", "batch", ("m*",))
            keys = {exchange.headers[b"idempotency-key"] for exchange in worker.pipeline.asked}
            assert len(keys) == 3
            found = await worker.results(done.output_file)
            assert {each["id"].encode() for each in found} == keys
            assert world.told == [(batch.id, "completed")]

    asyncio.run(main())


def test_a_generation_is_let_go_of_once_its_answer_is_on_the_disk_unless_it_was_made_for_another(tmp_path):
    async def main():
        async with a_world(tmp_path) as world:
            worker = await world.worker()
            made = iter([b"created", b"joined", b"cached", b"created"])
            worker.pipeline.say = lambda exchange: (200, None, [(b"penstock-status", next(made))])
            await worker.ended(await worker.begin(range(4)))
            assert worker.forgotten == ["gen_1", "gen_1"]

    asyncio.run(main())


def test_no_more_calls_at_once_than_allowed_for_a_batch_and_for_a_worker(tmp_path):
    async def main():
        async with a_world(tmp_path, concurrency=3, worker_concurrency=4) as world:
            worker = await world.worker()
            batches = [await worker.begin(range(20)) for _ in range(2)]
            pipeline = worker.pipeline
            while len(world.told) < 2:
                await world.until(lambda: pipeline.open or len(world.told) == 2)
                await world.settle()
                waiting = pipeline.open
                assert len(waiting) <= 4
                for exchange in waiting:
                    answer(exchange)
            for batch in batches:
                assert (await worker.now(batch)).counts.completed == 20

    asyncio.run(main())


def test_what_is_not_answered_with_2xx_is_an_error_and_is_not_asked_twice(tmp_path):
    async def main():
        async with a_world(tmp_path) as world:
            worker = await world.worker()
            worker.pipeline.say = lambda exchange: (400 if b"1" in exchange.whole_body() else 200, None, ())
            done = await worker.ended(await worker.begin(range(4)))
            assert (done.counts.total, done.counts.completed, done.counts.failed) == (4, 3, 1)
            assert ids(await worker.results(done.output_file)) == ["c0", "c2", "c3"]
            (error,) = await worker.results(done.error_file)
            assert (error["custom_id"], error["response"]["status_code"], error["error"]) == ("c1", 400, None)
            assert len(worker.pipeline.asked) == 4

    asyncio.run(main())


def test_pressure_is_waited_out_as_long_as_it_says_and_no_longer_than_allowed(tmp_path):
    async def main():
        async with a_world(tmp_path, retry_for=500.0) as world:
            worker = await world.worker()
            worker.pipeline.say = say(429, [(b"retry-after-ms", b"100000")])
            began = world.clock.now()
            done = await worker.ended(await worker.begin([1]))
            assert done.counts.failed == 1
            assert 4 <= len(worker.pipeline.asked) <= 6
            assert 500 <= world.clock.now() - began <= 620
            (error,) = await worker.results(done.error_file)
            assert error["response"]["status_code"] == 429

    asyncio.run(main())


def test_pressure_that_passes_leaves_no_trace(tmp_path):
    async def main():
        async with a_world(tmp_path) as world:
            worker = await world.worker()
            statuses = iter([503, 429, 502, 200])
            worker.pipeline.say = lambda exchange: (next(statuses), None, [(b"retry-after-ms", b"nonsense")])
            done = await worker.ended(await worker.begin([1]))
            assert (done.status, done.counts.completed, done.has_errors) == (Status.COMPLETED, 1, False)

    asyncio.run(main())


def test_upstreams_that_fail_get_three_rounds(tmp_path):
    async def main():
        async with a_world(tmp_path) as world:
            worker = await world.worker()
            worker.pipeline.say = say(502)
            done = await worker.ended(await worker.begin([1]))
            assert (done.counts.failed, len(worker.pipeline.asked)) == (1, 3)

    asyncio.run(main())


def test_exactly_one_worker_runs_a_batch_and_another_goes_on_when_it_dies(tmp_path):
    async def main():
        async with a_world(tmp_path, concurrency=2) as world:
            one, two = await world.worker(), await world.worker()
            batch = await one.begin(range(10))
            await world.until(lambda: one.pipeline.open or two.pipeline.open)
            await world.settle()
            runs, other = (one, two) if one.pipeline.asked else (two, one)
            assert len(runs.pipeline.open) == 2
            assert not other.pipeline.asked
            for _ in range(2):
                for exchange in runs.pipeline.open:
                    answer(exchange)
                await world.until(lambda: len(runs.pipeline.open) == 2)
            assert len(runs.pipeline.asked) == 6
            bought = runs.pipeline.prompts()[:4]
            interrupted = runs.pipeline.prompts()[4:]
            await runs.die()
            other.pipeline.say = say()
            done = await other.ended(batch)
            assert (done.status, done.counts.completed) == (Status.COMPLETED, 10)
            assert ids(await other.results(done.output_file)) == sorted(f"c{n}" for n in range(10))
            assert not set(other.pipeline.prompts()) & set(bought)
            assert set(interrupted) <= set(other.pipeline.prompts())
            again = [e.headers[b"idempotency-key"] for e in other.pipeline.asked]
            assert {e.headers[b"idempotency-key"] for e in runs.pipeline.asked[4:]} <= set(again)

    asyncio.run(main())


def test_a_worker_that_goes_away_in_order_finishes_what_is_under_way_and_leaves_the_rest(tmp_path):
    async def main():
        async with a_world(tmp_path, concurrency=2) as world:
            one = await world.worker()
            batch = await one.begin(range(6))
            await world.until(lambda: len(one.pipeline.open) == 2)
            one.runner.stop()
            answered, cut = one.pipeline.open
            answer(answered)
            answer(cut, 503, {"error": {"code": "draining"}})
            world.workers.remove(one)
            await one.close()
            assert len(one.pipeline.asked) == 2
            two = await world.worker()
            two.pipeline.say = say()
            done = await two.ended(batch)
            assert (done.counts.completed, done.counts.failed) == (6, 0)
            assert len(two.pipeline.asked) == 5

    asyncio.run(main())


def test_a_cancelled_batch_finishes_what_is_under_way_and_tells_the_rest(tmp_path):
    async def main():
        async with a_world(tmp_path, concurrency=2) as world:
            one, two = await world.worker(), await world.worker()
            batch = await one.begin(range(50))
            await world.until(lambda: one.pipeline.open or two.pipeline.open)
            await world.settle()
            runs = one if one.pipeline.asked else two
            other = two if runs is one else one
            replace = msgspec.structs.replace
            await other.runner.store.change(batch.id, lambda b: replace(b, status=Status.CANCELLING))
            world.clock.advance(2.0)
            await world.until(
                lambda: next(iter(runs.runner._runs.values())).batch.status is Status.CANCELLING
            )
            for exchange in runs.pipeline.open:
                answer(exchange)
            done = await runs.ended(batch)
            assert (done.status, len(runs.pipeline.asked)) == (Status.CANCELLED, 2)
            errors = await runs.results(done.error_file)
            assert (len(errors), {error["error"]["code"] for error in errors}) == (48, {"batch_cancelled"})
            assert len(await runs.results(done.output_file)) == 2

    asyncio.run(main())


def test_a_batch_that_is_cancelled_while_its_last_line_settles_is_cancelled_with_all_its_answers(tmp_path):
    async def main():
        async with a_world(tmp_path) as world:
            worker = await world.worker()
            batch = await worker.begin(range(2))
            await world.until(lambda: len(worker.pipeline.open) == 2)
            # The store knows, and the run has not looked there since.
            assert (await worker.runner.store.cancel(batch.id, 1.0)).status is Status.CANCELLING
            for exchange in worker.pipeline.open:
                answer(exchange)
            done = await worker.ended(batch)
            assert (done.status, done.counts.completed) == (Status.CANCELLED, 2)
            assert len(await worker.results(done.output_file)) == 2

    asyncio.run(main())


def test_a_batch_that_is_cancelled_before_anybody_looked_ends_without_a_call(tmp_path):
    async def main():
        async with a_world(tmp_path) as world:
            worker = await world.worker()
            batch = await worker.begin(range(5))
            replace = msgspec.structs.replace
            await worker.runner.store.change(batch.id, lambda b: replace(b, status=Status.CANCELLING))
            done = await worker.ended(batch)
            assert (done.status, worker.pipeline.asked) == (Status.CANCELLED, [])
            assert not done.has_output
            assert not done.has_errors

    asyncio.run(main())


def test_a_window_that_ends_keeps_what_was_done_and_tells_the_rest(tmp_path):
    async def main():
        async with a_world(tmp_path, concurrency=2) as world:
            worker = await world.worker()
            batch = await worker.begin(range(5), window=3_600.0)
            await world.until(lambda: len(worker.pipeline.open) == 2)
            world.wall.time += 3_601.0
            for exchange in worker.pipeline.open:
                answer(exchange)
            done = await worker.ended(batch)
            assert done.status is Status.EXPIRED
            assert len(worker.pipeline.asked) == 2
            assert (done.counts.completed, done.counts.failed) == (2, 3)
            codes = {error["error"]["code"] for error in await worker.results(done.error_file)}
            assert codes == {"batch_expired"}
            assert world.told == [(batch.id, "expired")]

    asyncio.run(main())


def test_a_window_that_ends_while_a_line_waits_for_its_turn_again_ends_the_wait(tmp_path):
    async def main():
        async with a_world(tmp_path) as world:
            worker = await world.worker()
            worker.pipeline.say = say(503)
            batch = await worker.begin([1], window=3_600.0)
            await world.until(lambda: worker.pipeline.asked)
            world.wall.time += 3_601.0
            assert (await worker.ended(batch)).status is Status.EXPIRED

    asyncio.run(main())


def test_a_batch_whose_window_ended_while_nobody_ran_ends_without_a_call(tmp_path):
    async def main():
        async with a_world(tmp_path) as world:
            worker = await world.worker()
            batch = await worker.begin(range(3), window=-1.0)
            done = await worker.ended(batch)
            assert (done.status, done.counts.failed, worker.pipeline.asked) == (Status.EXPIRED, 3, [])

    asyncio.run(main())


def test_what_is_no_batch_fails_and_costs_nothing(tmp_path):
    async def main():
        async with a_world(tmp_path, max_lines=3) as world:
            worker = await world.worker()
            for lines, code in (
                ([""], "empty_batch"),
                (range(4), "too_many_tasks"),
                (["{"], "invalid_json_line"),
            ):
                done = await worker.ended(await worker.begin(lines))
                assert (done.status, [fault.code for fault in done.faults]) == (Status.FAILED, [code])
            assert worker.pipeline.asked == []
            assert os.listdir(world.directory / "batches") == []

    asyncio.run(main())


def test_the_input_may_be_deleted_while_its_batch_runs(tmp_path):
    async def main():
        async with a_world(tmp_path, concurrency=1) as world:
            worker = await world.worker()
            batch = await worker.begin(range(80))
            await worker.files.delete("t", batch.input_file)
            worker.pipeline.say = say()
            assert (await worker.ended(batch)).counts.completed == 80

    asyncio.run(main())


def test_results_that_the_disk_does_not_take_wait_in_memory_and_are_not_bought_again(tmp_path, monkeypatch):
    async def main():
        async with a_world(tmp_path, concurrency=2) as world:
            worker = await world.worker()
            full = True
            append = results_module.ResultFile.append

            def refusing(self, lines):
                if full:
                    self._file.write(lines[:10])  # what a full disk still took
                    self._file.truncate(self.size)
                    raise OSError(28, "No space left on device")
                append(self, lines)

            monkeypatch.setattr(results_module.ResultFile, "append", refusing)
            worker.pipeline.say = say()
            batch = await worker.begin(range(6))
            await world.until(lambda: len(worker.pipeline.asked) == 2)
            for _ in range(100):
                world.clock.advance(1.0)
                await asyncio.sleep(0)
            await world.settle()
            assert len(worker.pipeline.asked) == 2  # the batch stands still
            full = False
            done = await worker.ended(batch)
            assert done.counts.completed == 6
            assert len(worker.pipeline.asked) == 6
            assert ids(await worker.results(done.output_file)) == [f"c{n}" for n in range(6)]

    asyncio.run(main())


@pytest.mark.parametrize("step", ["link", "enter", "ended", "announced"])
def test_a_crash_at_any_step_of_the_end_is_made_good_by_the_next_worker(step, tmp_path, monkeypatch):
    """The worker dies at the step; what it had done until then is done once."""

    class KilledError(Exception):
        pass

    async def main():
        async with a_world(tmp_path) as world:
            one = await world.worker()
            batch = await one.begin(range(3))
            died = asyncio.Event()

            async def die(*args, **kwargs):
                died.set()
                await asyncio.Event().wait()  # until it is cancelled

            if step == "link":
                monkeypatch.setattr(one.files, "enter", die)
            elif step == "enter":
                enter = one.files.enter

                async def once(*args, **kwargs):
                    await enter(*args, **kwargs)
                    await die()

                monkeypatch.setattr(one.files, "enter", once)
            elif step == "ended":
                monkeypatch.setattr(one.runner, "announce", die)
            else:
                remove = one.runner.store.remove_files

                def removed(batch):
                    remove(batch)
                    died.set()
                    raise KilledError

                monkeypatch.setattr(one.runner.store, "remove_files", removed)
            one.pipeline.say = lambda exchange: (400 if b"1" in exchange.whole_body() else 200, None, ())
            await world.until(died.is_set)
            await one.die()
            two = await world.worker()
            done = await two.ended(batch)
            assert (done.status, done.counts.completed, done.counts.failed) == (Status.COMPLETED, 2, 1)
            assert ids(await two.results(done.output_file)) == ["c0", "c2"]
            assert ids(await two.results(done.error_file)) == ["c1"]
            assert two.pipeline.asked == []
            assert {told for _, told in world.told} == {"completed"}
            assert os.listdir(world.directory / "batches") == []
            assert len(os.listdir(world.directory / "content")) == 3

    asyncio.run(main())


def test_a_defect_is_logged_and_tried_again_later(tmp_path, caplog):
    async def main():
        async with a_world(tmp_path) as world:
            worker = await world.worker()

            def wrong(exchange):
                raise LookupError("a defect")

            worker.pipeline.say = wrong
            batch = await worker.begin([1])
            await world.until(lambda: "defect while running" in caplog.text)
            worker.pipeline.say = say()
            assert (await worker.ended(batch)).status is Status.COMPLETED

    asyncio.run(main())


def test_a_disk_that_does_not_answer_is_tried_again_later(tmp_path, monkeypatch, caplog):
    async def main():
        async with a_world(tmp_path) as world:
            worker = await world.worker()
            worker.pipeline.say = say()
            take = results_module.ResultFile.open
            monkeypatch.setattr(
                results_module.ResultFile, "open", lambda self: (_ for _ in ()).throw(OSError(5, "no"))
            )
            batch = await worker.begin([1])
            await world.until(lambda: "stands still" in caplog.text)
            monkeypatch.setattr(results_module.ResultFile, "open", take)
            assert (await worker.ended(batch)).status is Status.COMPLETED

    asyncio.run(main())


def test_records_go_after_half_a_year_and_open_ones_stay(tmp_path):
    async def main():
        async with a_world(tmp_path) as world:
            worker = await world.worker()
            worker.pipeline.say = say()
            done = await worker.ended(await worker.begin([1]))
            worker.pipeline.say = None
            waiting = await worker.begin([1], window=1e9)
            await world.until(lambda: worker.pipeline.open)
            world.wall.time += 15_552_001.0
            world.clock.advance(3_601.0)
            store = worker.runner.store

            async def there():
                return [batch.id for batch in (await store.page("t", OPENAI))[0]]

            async with asyncio.timeout(60):
                while await there() != [waiting.id]:
                    world.clock.advance(0.5)
                    await asyncio.sleep(0.001)
            with pytest.raises(NotFound):
                await store.get("t", OPENAI, done.id)

    asyncio.run(main())


def test_progress_is_shown_about_once_a_second(tmp_path):
    async def main():
        async with a_world(tmp_path, concurrency=1) as world:
            worker = await world.worker()
            batch = await worker.begin(range(3))
            for count in (1, 2):
                await world.until(lambda: worker.pipeline.open)
                world.clock.advance(1.5)
                answer(worker.pipeline.open[0])
                await world.until(lambda n=count: len(worker.pipeline.asked) > n)
                assert (await worker.now(batch)).counts.completed == count

    asyncio.run(main())


def test_a_worker_that_goes_away_while_the_disk_is_full_gives_up(tmp_path, monkeypatch):
    async def main():
        async with a_world(tmp_path) as world:
            worker = await world.worker()

            def full(self, lines):
                raise OSError(28, "No space left on device")

            monkeypatch.setattr(results_module.ResultFile, "append", full)
            worker.pipeline.say = say()
            batch = await worker.begin([1])
            await world.until(lambda: worker.pipeline.asked)
            await world.settle()
            world.workers.remove(worker)
            await asyncio.wait_for(worker.close(), 60)
            monkeypatch.undo()
            other = await world.worker()
            other.pipeline.say = say()
            assert (await other.ended(batch)).counts.completed == 1

    asyncio.run(main())


@pytest.fixture
def lock_held(monkeypatch):
    """``(reached, go on)``: has whoever wants a batch's lock wait for it."""
    reached, go_on = threading.Event(), threading.Event()
    lock = BatchStore.lock

    def held(*args):
        reached.set()
        assert go_on.wait(60)
        return lock(*args)

    monkeypatch.setattr(BatchStore, "lock", held)
    return reached, go_on


def test_a_worker_that_dies_while_it_is_given_a_lock_gives_it_back(tmp_path, lock_held):
    reached, go_on = lock_held

    async def main():
        async with a_world(tmp_path) as world:
            one = await world.worker()
            batch = await one.begin([1])
            await world.until(reached.is_set)
            dying = asyncio.create_task(one.die())
            await asyncio.sleep(0)
            go_on.set()
            await dying
            two = await world.worker()
            two.pipeline.say = say()
            assert (await two.ended(batch)).status is Status.COMPLETED

    asyncio.run(main())


def test_a_worker_that_is_given_a_lock_while_it_goes_away_ends_what_it_has_begun(tmp_path, lock_held, caplog):
    reached, go_on = lock_held

    async def main():
        async with a_world(tmp_path) as world:
            one = await world.worker()
            await one.begin([1])
            await world.until(reached.is_set)
            world.workers.remove(one)
            closing = asyncio.create_task(one.close())
            await asyncio.sleep(0)
            go_on.set()
            await closing
            assert not one.runner._runs

    asyncio.run(main())
    assert caplog.records == []
