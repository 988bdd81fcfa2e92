from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger_attempts import attempt, ended, one_and_two

import penstock.ledger
from penstock.errors import InternalError
from penstock.ledger.ledger import Ledger
from penstock.ledger.prices import Price, PriceTable
from penstock.messages import SAVING, Outcome, Usage


class Listening:
    """A store that keeps what it is told."""

    def __init__(self):
        self.told = []

    def opened(self, attempt):
        self.told.append(("opened", attempt.id))

    def noted(self, attempt):
        self.told.append(("noted", attempt.id, attempt.answer))

    def settled(self, attempt):
        self.told.append(("settled", attempt.id, attempt.cost))


@pytest.fixture
def ledger():
    return Ledger(one_and_two(), max_rows=3)


def test_an_attempt_is_open_until_it_is_settled(ledger):
    one = attempt()
    ledger.open(one)
    assert ledger.open_attempts() == [one]
    ledger.settle(ended(one))
    assert ledger.open_attempts() == []
    assert ledger.recent() == [one]


def test_settling_fills_in_the_cost(ledger):
    one = attempt()
    ledger.open(one)
    ledger.settle(ended(one, usage=Usage(input_tokens=3, output_tokens=5)))
    assert one.cost == 13 * 10**6  # 13 microdollars in units of 1e-12


def test_a_prompt_cache_has_saved_what_the_prompt_would_have_cost_more():
    price = Price(models=("*",), input=10, cached_input=1, cache_write=12, cache_write_1h=20, output=0)
    ledger = Ledger(PriceTable([price]))
    micro = 10**6
    for usage, saved in (
        (Usage(100, 9, 40), 40 * 9),
        (Usage(100, 9, 0, 50), -50 * 2),
        (Usage(100, 9, 40, 50, cache_write_1h_tokens=50), 40 * 9 - 50 * 10),
        (Usage(100, 9), 0),
    ):
        one = attempt()
        ledger.open(one)
        before = ledger.totals()[Outcome.COMPLETED].prompt_cache_saved
        ledger.settle(ended(one, usage=usage))
        assert one.cache_saved == saved * micro
        assert ledger.totals()[Outcome.COMPLETED].prompt_cache_saved - before == saved * micro
        assert one.cost + one.cache_saved == 100 * 10 * micro


def test_what_nobody_has_read_was_not_shortened(ledger):
    for usage, left_out in ((Usage(), 0), (Usage(5), 70)):
        one = attempt(left_out=70)
        ledger.open(one)
        ledger.settle(ended(one, Outcome.FAILED, usage))
        assert one.left_out == left_out
    assert ledger.totals()[Outcome.FAILED].left_out_tokens == 70


def test_a_kept_answer_to_a_shortened_prompt_counts_what_was_left_out():
    ledger = Ledger(PriceTable([]))
    for usage in (Usage(5), Usage()):
        ledger.enter(ended(attempt(left_out=70), Outcome.CACHED, usage))
    assert ledger.totals()[Outcome.CACHED].left_out_tokens == 70
    assert [one.left_out for one in ledger.recent()] == [0, 70]


def test_the_row_of_a_process_that_died_has_what_its_prompts_cache_saved():
    ledger = Ledger(PriceTable([Price(models=("*",), input=10, cached_input=1)]))
    ledger.enter(one := ended(attempt(), Outcome.PARTIAL, Usage(100, 9, 40)))
    assert one.cache_saved == 40 * 9 * 10**6


def test_every_outcome_has_its_own_total(ledger):
    for count, outcome in enumerate(Outcome, start=1):
        for _ in range(count):
            one = attempt()
            ledger.open(one)
            ledger.settle(ended(one, outcome, Usage(input_tokens=10, output_tokens=1)))
    totals = ledger.totals()
    assert list(totals) == list(Outcome)
    for count, outcome in enumerate(Outcome, start=1):
        assert totals[outcome].attempts == count
        assert totals[outcome].usage == Usage(input_tokens=10 * count, output_tokens=count)


def test_what_was_not_asked_of_an_upstream_costs_nothing(ledger):
    for outcome in SAVING:
        one = attempt()
        ledger.open(one)
        ledger.settle(ended(one, outcome))
        assert one.cost == 0
        assert ledger.totals()[outcome].usage == one.usage


@pytest.mark.parametrize(
    "outcome", [Outcome.PARTIAL, Outcome.CANCELLED, Outcome.HEDGED_AWAY, Outcome.CONTINUED]
)
def test_what_an_upstream_delivered_is_paid_however_it_ended(ledger, outcome):
    one = attempt()
    ledger.open(one)
    ledger.settle(ended(one, outcome, Usage(input_tokens=1, output_tokens=1)))
    assert one.cost == 3 * 10**6


class TestDefects:
    def test_settling_twice_is_refused_and_counts_nothing(self, ledger):
        one = attempt()
        ledger.open(one)
        ledger.settle(ended(one))
        before = ledger.totals()
        with pytest.raises(InternalError, match="settled twice"):
            ledger.settle(one)
        assert ledger.totals() == before
        assert ledger.defects == 1

    def test_settling_what_was_never_opened_is_refused(self, ledger):
        with pytest.raises(InternalError, match="not open"):
            ledger.settle(ended(attempt()))
        assert ledger.defects == 1
        assert ledger.statistics().settled == 0

    def test_settling_without_an_outcome_is_refused_and_leaves_it_open(self, ledger):
        one = attempt()
        ledger.open(one)
        with pytest.raises(InternalError, match="without an outcome"):
            ledger.settle(one)
        assert ledger.open_attempts() == [one]

    def test_settling_through_another_object_is_refused(self, ledger):
        one = attempt()
        ledger.open(one)
        with pytest.raises(InternalError, match="another object"):
            ledger.settle(ended(attempt(id=one.id)))
        assert ledger.open_attempts() == [one]

    def test_opening_twice_is_refused(self, ledger):
        one = attempt()
        ledger.open(one)
        with pytest.raises(InternalError, match="opened twice"):
            ledger.open(one)
        assert ledger.statistics().open == 1


def test_recent_is_bounded_and_newest_first_while_totals_know_everything(ledger):
    attempts = [attempt() for _ in range(5)]
    for one in attempts:
        ledger.open(one)
        ledger.settle(ended(one))
    assert ledger.recent() == attempts[:1:-1]
    assert ledger.recent(2) == [attempts[4], attempts[3]]
    assert ledger.totals()[Outcome.COMPLETED].attempts == 5


def test_the_store_is_told_of_both_halves_and_sees_the_cost():
    store = Listening()
    ledger = Ledger(one_and_two(), store)
    one = attempt()
    ledger.open(one)
    assert store.told == [("opened", one.id)]
    ledger.settle(ended(one, usage=Usage(input_tokens=1)))
    assert store.told[1:] == [("settled", one.id, 10**6)]


def test_a_refused_settling_does_not_reach_the_store():
    store = Listening()
    ledger = Ledger(one_and_two(), store)
    with pytest.raises(InternalError):
        ledger.settle(ended(attempt()))
    assert store.told == []


counts = st.integers(0, 10**9)
usages = st.builds(
    Usage, counts, counts, counts, st.integers(1, 10**9), counts, counts, counts, st.booleans(), counts
)


@given(st.lists(st.tuples(st.sampled_from(Outcome), usages)))
def test_totals_are_the_exact_sum_of_what_was_settled(ends):
    ledger = Ledger(one_and_two())
    attempts = []
    for outcome, usage in ends:
        one = attempt()
        ledger.open(one)
        ledger.settle(ended(one, outcome, usage))
        attempts.append(one)
    for outcome, total in ledger.totals().items():
        mine = [one for one in attempts if one.outcome is outcome]
        assert total.attempts == len(mine)
        assert total.cost == sum(one.cost for one in mine)
        assert total.estimated == sum(one.usage.estimated for one in mine)
        for field in set(Usage.__struct_fields__) - {"estimated"}:
            assert getattr(total.usage, field) == sum(getattr(one.usage, field) for one in mine)


@given(usages, usages, st.sampled_from(Outcome))
def test_what_a_provider_told_afterwards_takes_the_place_of_what_was_counted(before, told, outcome):
    ledger, as_told = Ledger(one_and_two()), Ledger(one_and_two())
    for one, usage in ((ledger, before), (as_told, told)):
        one.open(row := attempt())
        one.settle(ended(row, outcome, usage))
    more = (sums.totals()[outcome].cost for sums in (as_told, ledger))
    more_saved = (sums.totals()[outcome].prompt_cache_saved for sums in (as_told, ledger))
    ledger.correct(outcome, before, told, next(more) - next(more), next(more_saved) - next(more_saved))
    assert ledger.totals() == as_told.totals()


def test_what_prompt_caches_could_have_saved_besides_is_summed_up(ledger):
    for missed in (3, 4):
        ledger.open(one := attempt(cache_missed=missed))
        ledger.settle(ended(one))
    ledger.enter(ended(attempt(cache_missed=5)))
    assert ledger.totals()[Outcome.COMPLETED].prompt_cache_missed == 12


@pytest.mark.parametrize("outcome", Outcome)
def test_what_is_entered_when_it_is_over_counts_as_what_was_opened_and_settled_does(outcome):
    one, other = Ledger(one_and_two()), Ledger(one_and_two())
    one.enter(entered := ended(attempt(), outcome))
    other.open(opened := attempt())
    other.settle(ended(opened, outcome))
    assert one.totals() == other.totals()
    assert entered.cost == opened.cost
    assert one.recent() == [entered]


def test_what_was_part_of_a_providers_batch_costs_what_such_parts_do():
    price = Price(models=("*",), input=1, output=2, batch=Decimal("0.5"))
    ledger = Ledger(PriceTable([price]))
    ledger.enter(one := ended(attempt(), usage=Usage(input_tokens=3, output_tokens=5)), batched=True)
    assert one.cost == 13 * 10**6 // 2
    assert ledger.totals()[Outcome.COMPLETED].cost == one.cost


def test_the_store_is_told_of_an_answers_id_only_while_its_attempt_is_open():
    ledger = Ledger(one_and_two(), Listening())
    ledger.note(unknown := attempt(), "chatcmpl-0")
    assert (unknown.answer, ledger.store.told) == ("chatcmpl-0", [])
    ledger.open(one := attempt())
    ledger.note(attempt(id=one.id), "chatcmpl-1")
    ledger.note(one, "chatcmpl-2")
    ledger.settle(ended(one))
    ledger.note(one, "chatcmpl-3")
    assert [told for told in ledger.store.told if told[0] == "noted"] == [("noted", one.id, "chatcmpl-2")]


def test_without_a_store_an_answers_id_is_noted_in_its_attempt(ledger):
    ledger.open(one := attempt())
    ledger.note(one, "chatcmpl-1")
    assert one.answer == "chatcmpl-1"


def test_new_prices_hold_from_the_next_settling_on(ledger):
    nobody_knows, both = PriceTable(), (attempt(), attempt())
    ledger.use_prices(nobody_knows)
    for one in both:
        ledger.open(one)
    ledger.settle(ended(both[0]))
    ledger.use_prices(one_and_two())
    ledger.settle(ended(both[1]))
    assert both[0].cost == 0
    assert both[1].cost > 0
    assert ledger.statistics().unpriced == 1


def test_the_package_lists_its_public_names():
    public = {name for name, value in vars(penstock.ledger).items() if callable(value) and name[0] != "_"}
    assert public | {"UNITS_PER_DOLLAR"} == set(penstock.ledger.__all__)


def test_repr_tells_the_state(ledger):
    ledger.open(attempt())
    assert "1 open, 0 settled" in repr(ledger)
