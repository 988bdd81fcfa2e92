"""What one call holds of the limits that concern it."""

from hypothesis import given
from hypothesis import strategies as st

from penstock.config.model import LimitConfig
from penstock.flow.account import DOLLAR, Account
from penstock.flow.reservation import CallReservation, Concerned
from penstock.messages import Usage

_LIMIT = st.none() | st.sampled_from([0, 1, 3, 100])
_CONFIGS = st.lists(
    st.builds(
        LimitConfig,
        requests_per_minute=_LIMIT,
        tokens_per_minute=_LIMIT,
        concurrent=_LIMIT,
        usd_per_day=st.none() | st.sampled_from([0.0, 1.0, 20.0]),
    ),
    min_size=1,
    max_size=3,
)
_CALLS = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.1, 0.7, 30.0, 90.0]), st.integers(0, 150), st.integers(0, 3), st.booleans()
    ),
    max_size=20,
)


@given(_CONFIGS, _CALLS)
def test_all_limits_in_one_go_come_to_the_same_as_each_by_itself(configs, calls):
    def concerned():
        accounts = [Account("key", str(number), config, None) for number, config in enumerate(configs)]
        return Concerned(accounts, lambda: now, shared=False)

    now = 0.0
    together, alone = concerned(), concerned()
    alone._rows = ()  # then each is asked by itself
    running = []
    for passed, tokens, cost, ends in calls:
        now += passed
        taken = [each.take(tokens, cost * DOLLAR, now) for each in (together, alone)]
        assert taken[0] is taken[1]
        if taken[0]:
            running.append([CallReservation(each, now, tokens, cost * DOLLAR) for each in (together, alone)])
        if ends and running:
            for reservation in running.pop(0):
                reservation.settle(Usage(tokens, 0), DOLLAR)
                reservation.release()
        assert _state(together) == _state(alone)


def _state(concerned):
    buckets = [(bucket.full_at, bucket.found_full) for bucket in concerned.tokens]
    return (
        buckets,
        [bucket.full_at for bucket in concerned.requests],
        [budget.left for budget in concerned.budgets],
        [account.in_progress for account in concerned.accounts],
    )
