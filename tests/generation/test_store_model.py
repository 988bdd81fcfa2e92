"""Any order of beginnings, appends, ends and take-overs: every store does what the plainest model says."""

import asyncio
import contextlib

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from memory_store import MemoryStore
from store_suite import FAILED, LARGE, LATER, NOW, record

from penstock.generation.log import State
from penstock.generation.store import End, Ending, Reason, Write
from penstock.generation.stores.redis import RedisStore
from penstock.generation.stores.sqlite import SQLiteStore
from penstock.testing import RedisServer

OWNERS = ("one", "other")
EVENTS = st.lists(st.binary(max_size=40), max_size=4)
# Enough for a piece of a file.
MANY = st.integers(60, 200).map(lambda count: [b"%d" % i for i in range(count)])


class Model:
    """What is known of one generation."""

    def __init__(self, who):
        self.events = []
        self.epoch = 1
        self.writer = self.before = who  # the process of this epoch, and that of the epoch before
        self.owner = OWNERS[who]
        self.state = State.RUNNING


class Machine(RuleBasedStateMachine):
    """Two processes with a store object each, of the same data; leases end when a rule says so."""

    def open(self):
        """The two stores."""
        raise NotImplementedError

    def __init__(self):
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.stores = self.open()
        self.model = {}
        self.followed = {}
        self.now = NOW
        for store in {id(store): store for store in self.stores}.values():
            self.do(store.start())

    def do(self, coroutine):
        return self.loop.run_until_complete(coroutine)

    @initialize()
    def leases(self):
        for owner in OWNERS:
            self.do(self.stores[0].renew(owner, self.now + 10))

    def pick(self, number):
        ids = list(self.model)
        return ids[number % len(ids)] if ids else None

    # ---- writing ----

    @rule(who=st.integers(0, 1), events=EVENTS, ends=st.booleans())
    def begin(self, who, events, ends):
        one = record(owner=OWNERS[who])
        end = End(Ending(), LATER) if ends else None
        assert self.do(self.stores[who].write([Write(one.id, 1, 0, events, one, end)])) == {}
        model = self.model[one.id] = Model(who)
        model.events += events
        if ends:
            model.state = State.FINISHED

    @rule(
        numbers=st.sets(st.integers(0, 30), min_size=1, max_size=4),
        events=EVENTS | MANY,
        shift=st.sampled_from([0, 0, 0, 0, -1, 1]),
        late=st.sampled_from([False, False, False, True]),
        end=st.sampled_from([None, None, None, Ending(), Ending(failure=FAILED)]),
    )
    def append(self, numbers, events, shift, late, end):
        """To some generations at once; perhaps at the wrong index, perhaps by who was replaced."""
        batches, expected = ([], []), {}
        for generation_id in {self.pick(number) for number in numbers} - {None}:
            model = self.model[generation_id]
            first = len(model.events) + shift
            write = Write(
                generation_id, model.epoch - late, first, events, None, End(end, LATER) if end else None
            )
            batches[model.before if late else model.writer].append(write)
            if late:
                expected[generation_id] = Reason.FENCED
            elif model.state is not State.RUNNING:
                expected[generation_id] = Reason.ENDED
            elif shift:
                expected[generation_id] = Reason.MISPLACED
            else:
                model.events += events
                if end is not None:
                    model.state = State.FINISHED if end.failure is None else State.FAILED
        refused = {}
        for store, writes in zip(self.stores, batches, strict=True):
            refused |= self.do(store.write(writes))
        assert {i: refusal.reason for i, refusal in refused.items()} == expected
        assert all(refusal.events == len(self.model[i].events) for i, refusal in refused.items())

    # ---- owning ----

    @rule(who=st.integers(0, 1))
    def renew(self, who):
        self.do(self.stores[who].renew(OWNERS[who], self.now + 10))

    @rule(seconds=st.sampled_from([1, 5, 20]))
    def time_passes(self, seconds):
        self.now += seconds

    @rule(who=st.integers(0, 1), number=st.integers(0, 30))
    def release(self, who, number):
        generation_id = self.pick(number)
        if generation_id is not None:
            self.do(self.stores[who].release(OWNERS[who], [generation_id]))
            model = self.model[generation_id]
            if model.owner == OWNERS[who] and model.state is State.RUNNING:
                model.owner = ""

    @rule(who=st.integers(0, 1))
    def take_over(self, who):
        """Everything that is said to be expired can be had, once; nothing else can."""
        owner = OWNERS[who]
        self.do(self.stores[who].renew(owner, self.now + 10))
        expired = set(self.do(self.stores[who].expired(self.now, 1_000)))
        for generation_id, model in self.model.items():
            if model.owner == "" and model.state is State.RUNNING:
                assert generation_id in expired
            if model.owner == owner or model.state is not State.RUNNING:
                assert generation_id not in expired
            taken = self.do(self.stores[who].take_over(generation_id, owner, self.now))
            assert (taken is not None) is (generation_id in expired)
            if taken is not None:
                model.owner = owner
                model.epoch += 1
                model.before, model.writer = model.writer, who
                assert (taken.epoch, taken.events) == (model.epoch, len(model.events))

    # ---- reading ----

    @rule(who=st.integers(0, 1), start=st.integers(0, 250))
    def read(self, who, start):
        for generation_id, model in self.model.items():
            assert self.do(self.stores[who].events(generation_id, start, LARGE)) == model.events[start:]
            loaded = self.do(self.stores[who].load(generation_id))
            assert (loaded.events, loaded.state, loaded.epoch) == (
                len(model.events),
                model.state,
                model.epoch,
            )
            if model.state is State.RUNNING:
                assert loaded.owner == model.owner

    @rule(who=st.integers(0, 1), number=st.integers(0, 30))
    def follow(self, who, number):
        generation_id = self.pick(number)
        if generation_id is not None:
            self.followed.setdefault((who, generation_id), [])

    @rule(who=st.integers(0, 1))
    def look(self, who):
        wanted = {i: len(got) for (whose, i), got in self.followed.items() if whose == who}
        for generation_id, tail in self.do(self.stores[who].tail(wanted)).items():
            got = self.followed[who, generation_id]
            got += tail.events
            model = self.model[generation_id]
            assert got == model.events
            assert tail.state is model.state

    def teardown(self):
        for store in {id(store): store for store in self.stores}.values():
            self.do(store.close())
        self.do(self.loop.shutdown_default_executor())
        self.loop.close()


@contextlib.contextmanager
def machine(kind, tmp_path):
    counter = iter(range(1_000_000))
    if kind == "memory":

        class Kind(Machine):
            def open(self):
                return [MemoryStore(1 << 30)] * 2

        yield Kind
    elif kind == "sqlite":

        class Kind(Machine):
            def open(self):
                path = tmp_path / f"{next(counter)}.db"
                return [SQLiteStore(path, 1 << 30) for _ in range(2)]

        yield Kind
    elif not RedisServer.available():
        pytest.skip("there is no redis-server on this machine")
    else:
        with RedisServer() as server:

            class Kind(Machine):
                def open(self):
                    prefix = str(next(counter))
                    return [RedisStore(server.url, 1 << 30, prefix=prefix, budget=60) for _ in range(2)]

            yield Kind


@pytest.mark.parametrize("kind", ["memory", "sqlite", "redis"])
def test_every_store_does_what_the_model_says(kind, tmp_path):
    with machine(kind, tmp_path) as kind_of_machine:
        run_state_machine_as_test(
            kind_of_machine,
            settings=settings(
                max_examples=60,
                stateful_step_count=40,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
