import random

from hypothesis import given
from hypothesis import strategies as st

from penstock.config.model import HedgeConfig
from penstock.flow.hedge import LEAST, MAX_EARNED, MAX_KINDS, RECENT, Hedging


def learnt(config=None, seconds=None):
    hedging = Hedging(config or HedgeConfig(extra=0.1))
    for one in seconds or [0.1 * (i % 100) for i in range(100)]:
        hedging.observe("m", one, 10)
    return hedging


def test_nothing_is_late_until_enough_is_known():
    hedging = Hedging(HedgeConfig())
    for _ in range(LEAST - 1):
        hedging.observe("m", 1.0, 10)
    assert hedging.late_after("m", 10) is None
    hedging.observe("m", 1.0, 10)
    assert hedging.late_after("m", 10) is not None
    assert hedging.late_after("another", 10) is None


def test_late_is_what_the_quantile_says():
    rand = random.Random(1)
    taken = [rand.lognormvariate(0.0, 1.0) for _ in range(512)]
    late = learnt(seconds=taken).late_after("m", 10)
    assert 0.93 < sum(one <= late for one in taken) / len(taken) < 0.97


@given(st.lists(st.booleans(), max_size=2_000), st.floats(min_value=0.0, max_value=1.0, exclude_min=False))
def test_second_calls_are_never_more_than_their_share_of_the_calls(asks, extra):
    hedging = Hedging(HedgeConfig(extra=extra))
    seconds = 0
    for calls, asked in enumerate(asks, 1):
        hedging.earn()
        seconds += asked and hedging.withdraw()
        assert seconds <= extra * calls + 1e-9


def test_only_so_many_second_calls_are_saved_up():
    hedging = Hedging(HedgeConfig(extra=0.5))
    for _ in range(10_000):
        hedging.earn()
    assert sum(hedging.withdraw() for _ in range(100)) == MAX_EARNED


def test_without_a_share_no_second_call_is_made():
    hedging = Hedging(HedgeConfig(extra=0.0))
    for _ in range(1_000):
        hedging.earn()
    assert not hedging.withdraw()


def test_long_prompts_are_not_late_because_they_are_long():
    hedging = Hedging(HedgeConfig())
    for _ in range(LEAST):
        hedging.observe("m", 0.1, 100)
        hedging.observe("m", 2.0, 30_000)
    assert (hedging.late_after("m", 200), hedging.late_after("m", 40_000)) == (0.1, 2.0)


def test_only_the_latest_count():
    hedging = learnt(seconds=[9.0] * RECENT)
    for _ in range(RECENT):
        hedging.observe("m", 1.0, 10)
    assert hedging.late_after("m", 10) == 1.0


def test_no_more_calls_are_late_than_may_be_asked_again():
    taken = [i / 512 for i in range(1, 513)]
    assert learnt(HedgeConfig(quantile=0.95, extra=0.03), taken).late_after("m", 10) >= 0.97
    assert 0.95 <= learnt(HedgeConfig(quantile=0.95, extra=0.2), taken).late_after("m", 10) < 0.96


def test_who_was_given_up_because_it_was_late_still_counts_as_late():
    """Else each second call would lower the bar for the next one."""
    rand = random.Random(2)
    hedging = learnt(seconds=[rand.lognormvariate(0.0, 1.0) for _ in range(512)])
    before = hedging.late_after("m", 10)
    for _ in range(2_000):
        took = rand.lognormvariate(0.0, 1.0)
        late = hedging.late_after("m", 10)
        if took > late:
            hedging.outlived("m", late, 10)
        else:
            hedging.observe("m", took, 10)
    assert hedging.late_after("m", 10) > before / 2


def test_who_left_early_says_nothing():
    hedging = learnt()
    before = hedging.late_after("m", 10)
    for _ in range(500):
        hedging.outlived("m", 0.001, 10)
    hedging.outlived("unknown", 9.0, 10)
    assert hedging.late_after("m", 10) == before


def test_invented_models_do_not_add_up():
    hedging = Hedging(HedgeConfig())
    for i in range(MAX_KINDS + 10):
        hedging.observe(f"m{i}", 1.0, 10)
    assert str(MAX_KINDS) in repr(hedging)
