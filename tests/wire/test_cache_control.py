"""What callers may say in ``Cache-Control``, rightly or not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.wire.cache_control import Control, control_of


@pytest.mark.parametrize(
    ("field", "control"),
    [
        (b"", Control()),
        (b"no-cache", Control(reads=False)),
        (b"NO-STORE", Control(reads=False, stores=False)),
        (b"max-age=60, only-if-cached", Control(max_age=60, only=True)),
        (b'max-age="60"', Control(max_age=60)),
        (b"max-age=-1", Control(max_age=0)),
        (b"max-age=x", Control(max_age=0)),
        (b"max-age=9999999999999999999999", Control(max_age=0)),
        (b"stale-while-revalidate=5,stale-if-error=7", Control(stale_while_revalidate=5, stale_if_error=7)),
        ("max-age=١".encode(), Control(max_age=0)),
        (b"max-age=1, max-age=2", Control(max_age=1)),
    ],
)
def test_it_is_read_as_it_is_written(field, control):
    assert control_of(field) == control


@given(st.binary(max_size=60))
def test_whatever_it_says_makes_no_trouble(field):
    control_of(field)
