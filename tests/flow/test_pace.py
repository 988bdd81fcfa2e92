from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from penstock.flow.pace import RECENT, Pace


@given(st.lists(st.floats(0.001, 100.0), max_size=3 * RECENT), st.floats(0, 1))
def test_its_quantiles_are_those_of_the_latest_first_tokens(seconds, quantile):
    pace, latest = Pace(), deque(maxlen=RECENT)
    for each in seconds:
        latest.append(pace.observe_first_token(each, 10))
    expected = 0.0
    if latest:
        expected = sorted(latest)[min(len(latest) - 1, int(quantile * len(latest)))]
    shape = pace._shape.get(12, 1.0)  # of prompts as short as these
    assert pace.first_token(quantile, 10) == expected * shape
