import pytest

from penstock.config.model import RetryConfig
from penstock.flow.retry import RetryBudget, delay


def test_delays_double_from_half_a_second_and_stop_at_ten():
    config = RetryConfig()
    longest = [delay(config, attempt, rand=lambda: 1.0) for attempt in range(1, 8)]
    assert longest == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


@pytest.mark.parametrize("factor", [1.0, 2.0, 1e300])
@pytest.mark.parametrize("attempt", [1_024, 1_025, 1_000_000])
def test_no_number_of_attempts_is_too_many(factor, attempt):
    most = delay(RetryConfig(factor=factor), attempt, rand=lambda: 1.0)
    assert most == (0.5 if factor == 1.0 else 10.0)
    assert delay(RetryConfig(first_delay=0.0, factor=factor), attempt, rand=lambda: 1.0) == 0.0


def test_jitter_is_full():
    assert delay(RetryConfig(), 5, rand=lambda: 0.0) == 0.0


def test_the_floor_allows_some_retries_without_any_traffic():
    refused = []
    budget = RetryBudget(RetryConfig(budget_floor=3, budget_ratio=0.1), lambda: refused.append(1))
    assert [budget.withdraw(100.0) for _ in range(4)] == [True, True, True, False]
    assert refused == [1]


def test_each_call_earns_a_share_of_a_retry():
    budget = RetryBudget(RetryConfig(budget_floor=0, budget_ratio=0.1))
    for _ in range(20):
        budget.deposit(50.0)
    assert [budget.withdraw(50.5) for _ in range(3)] == [True, True, False]


def test_what_was_spent_is_forgotten_after_the_window():
    budget = RetryBudget(RetryConfig(budget_floor=1, budget_ratio=0))
    assert budget.withdraw(7.0)
    assert not budget.withdraw(16.9)
    assert budget.withdraw(17.1)


def test_a_long_silence_clears_everything():
    budget = RetryBudget(RetryConfig(budget_floor=1, budget_ratio=0))
    assert budget.withdraw(7.0)
    assert budget.withdraw(1_000_007.0)
