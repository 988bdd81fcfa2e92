"""Any calls in any order, hung up, resumed, cancelled, before providers that fail: no answer is wrong, no account open."""

import asyncio
import itertools
import os

import pytest
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from serving import new_event_loop
from whole_gateway import (
    FAIR,
    PATHS,
    RESPONSES,
    TENANTS,
    TROUBLES,
    Asked,
    Reading,
    World,
    answer_json,
    code_of,
    request,
    text_of,
)

from penstock.cache.cache import EVERYTHING

# So many take some seconds, and are the same each time; who looks for more than these few sets this.
EXAMPLES = int(os.environ.get("PENSTOCK_FUZZ_EXAMPLES", "0"))
FEW = not EXAMPLES
STEPS = 30

PACES = ("", "ttft=2,tps=2000", "tps=400", "ttft=30")
FAILURES = (
    "500", "503", "429", "529", "429,retry-after=0", "reset-before-headers", "garbage", "html", "no-answer",
    "cut-after=0", "cut-after=1", "cut-after=5", "close-after=3", "stall-after=3", "malformed-event=2", "error-event=4",
    "no-terminator", "no-done", "slow-first-token=30", "401", "408",
)  # fmt: skip
WEATHERS = st.sampled_from((FAIR, *PACES[1:])) | st.tuples(
    st.sampled_from(FAILURES), st.sampled_from(("", ",once", ",share=0.5")), st.sampled_from(PACES)
).map(lambda parts: ",".join(filter(None, (parts[0] + parts[1], parts[2]))))

MODELS = ("chain", "openai", "anthropic", "kept")


@st.composite
def questions(draw, background=False):
    path = RESPONSES if background else draw(st.sampled_from(PATHS))
    headers = {}
    if draw(st.integers(0, 3)) == 0:
        headers["penstock-join"] = draw(st.sampled_from(["always", "never"]))
    if draw(st.integers(0, 3)) == 0:
        headers["x-stainless-retry-count"] = str(draw(st.integers(0, 2)))
    if draw(st.integers(0, 7)) == 0:
        headers["cache-control"] = draw(st.sampled_from(["no-cache", "no-store", "max-age=30"]))
    return Asked(
        draw(st.sampled_from(TENANTS)),
        path,
        f"{draw(st.sampled_from(MODELS))}-{draw(st.integers(0, 3))}",
        draw(st.sampled_from(["why?", "when?", "how on earth, and what else would there be to know of it?"])),
        draw(st.sampled_from([1, 2, 5, 12, 40])),
        stream=not background and draw(st.booleans()),
        headers=headers,
        background=background,
    )


HANG_UPS = st.none() | st.integers(0, 40) | st.integers(0, 4_000)


NUMBERS = st.integers(0, 1_000)


def pick(several, number):
    """One of them; how many there are may depend on what came first in this run."""
    return several[number % len(several)]


class Machine(RuleBasedStateMachine):
    stores = itertools.repeat("")  # of its gateways, one after the other
    processes = 1  # over each

    def __init__(self):
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=new_event_loop)
        self.runner.run(asyncio.sleep(0))
        self.world = World(next(self.stores), self.processes)
        self.left = []  # (question, answer so far): streams whose reader has hung up
        self.answered = {}  # (tenant, key): (question, generation) of whole answers
        self.begun = []  # (question, response id) in the background
        self.gone = set()  # response ids that were deleted
        self.keys = 0

    def do(self, coroutine):
        return self.runner.run(coroutine)

    @initialize()
    def start(self):
        self.do(self.world.start())

    # ---- calls ----

    @rule(several=st.lists(st.tuples(questions(), HANG_UPS, st.integers(0, 5)), min_size=1, max_size=5))
    def call(self, several):
        """At once, some later by a few turns of the loop."""

        async def one(asked, hang_up, turns):
            for _ in range(turns):
                await asyncio.sleep(0)
            return await self.world.ask(asked, hang_up)

        async def all_of_them():
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(*each)) for each in several]
            return [task.result() for task in tasks]

        for (asked, _, _), answer in zip(several, self.do(all_of_them()), strict=True):
            kept = answer.how in {"cached", "stale"}  # such a stream cannot be come back to by its id
            if answer.generation and answer.streamed and not kept:
                self.left.append((asked, answer))

    @rule(asked=questions(), hang_up=HANG_UPS, again=st.lists(HANG_UPS, max_size=3))
    def call_with_a_key(self, asked, hang_up, again):
        """And come back by it, until there is an answer."""
        self.keys += 1
        asked.headers = {"idempotency-key": f"key {self.keys}"}
        for place in (hang_up, *again, None):
            answer = self.do(self.world.ask(asked, place))
        if not self._is_whole(asked, answer):
            return
        repeated = self.do(self.world.ask(asked))
        if repeated.status == 429 and asked.tenant == "poor":
            return  # each request counts, whatever becomes of it
        assert self._is_whole(asked, repeated)
        if answer.how in ("created", "attached", "replayed"):
            assert repeated.generation == answer.generation
            # Another process may not have heard of its end yet.
            assert repeated.how == "replayed" or (self.processes > 1 and repeated.how == "attached")

    def _is_whole(self, asked, answer):
        if answer.status != 200 or not answer.ended:
            return False
        return Reading(asked.path, answer.events).done if asked.stream else True

    # ---- coming back ----

    @rule(which=NUMBERS, event=NUMBERS, by_query=st.booleans(), hang_up=HANG_UPS)
    def resume(self, which, event, by_query, hang_up):
        """From any event on: what was there before and what comes now are one answer."""
        if not self.left:
            return
        asked, before = pick(self.left, which)
        numbers = [number for number, _, _ in before.events if number is not None]
        after = pick([None, *numbers], event)
        path = f"/v1/generations/{before.generation}/events"
        if by_query and after is not None:
            raw = request("GET", f"{path}?starting_after={after}", asked.tenant)
        else:
            headers = {} if after is None else {"last-event-id": str(after)}
            raw = request("GET", path, asked.tenant, headers=headers)
        answer = self.do(self.world.fetch(raw, hang_up))
        note(f"{asked} {before} {answer}")
        if not answer.ended:
            assert hang_up is not None
            return
        if answer.status == 204:
            assert Reading(asked.path, before.events).done
            assert after == numbers[-1]
            return
        if answer.status != 200:
            code = code_of(answer_json(answer))
            if answer.status == 404:  # of what failed before its first event nothing is kept
                assert not numbers
            else:
                assert code in TROUBLES[answer.status], answer
            return
        kept = []
        for one in before.events if after is not None else ():
            kept.append(one)
            if one[0] == after:
                break
        reading = Reading(asked.path, [*kept, *answer.events])
        assert reading.done or reading.error, "without an end"
        if reading.done:
            assert reading.text == asked.text
        else:
            assert asked.text.startswith(reading.text)

    @rule(which=NUMBERS)
    def cancel(self, which):
        if not self.left:
            return
        asked, answer = pick(self.left, which)
        self.world.cancelled.add(answer.generation)
        raw = request("POST", f"/v1/generations/{answer.generation}/cancel", asked.tenant)
        told = self.do(self.world.fetch(raw))
        if told.status == 404:  # as above
            assert not [number for number, _, _ in answer.events if number is not None]
        else:
            assert answer_json(told)["status"] in {"finished", "failed", "cancelled"}, told

    @rule(which=NUMBERS, other=st.sampled_from(TENANTS), rest=st.sampled_from(["", "/events", "/cancel"]))
    def pry(self, which, other, rest):
        """Another tenant has no such generation."""
        generation, owner = pick([*self.world.owners.items()] or [("", other)], which)
        if other != owner:
            method = "POST" if rest == "/cancel" else "GET"
            answer = self.do(self.world.fetch(request(method, f"/v1/generations/{generation}{rest}", other)))
            assert answer.status == 404, answer
            answer = self.do(self.world.fetch(request("GET", f"/v1/responses/resp_{generation[4:]}", other)))
            assert answer.status == 404, answer

    # ---- in the background ----

    @rule(asked=questions(background=True))
    def begin(self, asked):
        answer = self.do(self.world.ask(asked))
        if answer.status == 200:
            self.begun.append((asked, answer_json(answer)["id"]))

    @rule(which=NUMBERS, what=st.sampled_from(["GET", "GET", "cancel", "DELETE"]))
    def look_after(self, which, what):
        if not self.begun:
            return
        asked, own = pick(self.begun, which)
        path, method = f"/v1/responses/{own}", what
        if what == "cancel":
            path, method = path + "/cancel", "POST"
        answer = self.do(self.world.fetch(request(method, path, asked.tenant)))
        if own in self.gone:
            assert answer.status in {404, 410}, answer
        elif what == "DELETE":
            assert answer.status == 200, answer
            self.gone.add(own)
        else:
            told = answer_json(answer)
            assert answer.status == 200, answer
            if told["status"] == "incomplete":
                assert text_of(RESPONSES, told) == asked.text
            else:
                assert told["status"] in {"in_progress", "failed", "cancelled"}, told

    # ---- what happens meanwhile ----

    @rule(which=st.integers(0, 1), weather=WEATHERS)
    def turn(self, which, weather):
        self.world.turn(which, weather)

    @rule()
    def clear_up(self):
        self.world.turn(0, FAIR)
        self.world.turn(1, FAIR)

    @rule()
    def reload(self):
        async def soon():
            self.world.reload()

        self.do(soon())

    @rule(tag=st.sampled_from(["everything", "tenant:red", "tenant:blue", "model:kept-1"]))
    def purge(self, tag):
        self.world.gateway.purge((EVERYTHING if tag == "everything" else tag,), ())

    @rule(seconds=st.sampled_from([0.5, 5.0, 20.0, 100.0]))
    def time_passes(self, seconds):
        async def soon():
            self.world.clock.advance(seconds)
            await asyncio.sleep(0.005)

        self.do(soon())

    @rule()
    def settle(self):
        self.do(self.world.settle())

    def teardown(self):
        try:
            if hasattr(self.world, "gateway"):
                self.do(self.world.settle())
        finally:
            self.do(self.world.close())
            self.runner.close()


@pytest.mark.parametrize("kept", ["in memory", "on disk", "by two on one disk"])
def test_whatever_is_asked_and_however_it_fails_answers_are_right_and_nothing_is_left(
    kept, tmp_path, monkeypatch
):
    for budget in ("names.CLAIM_BUDGET", "reading.READ_BUDGET"):  # a busy machine's disk is waited for
        monkeypatch.setattr(f"penstock.generation.{budget}", 60.0)

    class Durable(Machine):
        stores = (tmp_path / f"{number}.sqlite" for number in itertools.count())
        processes = 2 if "two" in kept else 1

    run_state_machine_as_test(
        Machine if kept == "in memory" else Durable,
        settings=settings(
            max_examples=EXAMPLES or 8,
            stateful_step_count=STEPS,
            deadline=None,
            derandomize=FEW,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )
