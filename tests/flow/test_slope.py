import pytest

from penstock.flow.slope import Slope, common_slope


def seen(*pairs):
    made = Slope()
    for x, y in pairs:
        made.add(x, y)
    return made


def test_what_nobody_has_seen_is_as_supposed():
    assert common_slope([Slope(), Slope()], 0.5, 1.0) == 0.5
    assert common_slope([], 0.5, 1.0) == 0.5


def test_a_constant_does_not_change_the_slope():
    for constant in (0.0, 100.0):
        line = seen(*((x, constant + 2.0 * x) for x in range(50)))
        assert common_slope([line], 0.0, 1e-6) == pytest.approx(2.0, rel=1e-3)


def test_each_has_a_constant_of_its_own():
    low = seen((0.0, 0.0), (1.0, 2.0), (2.0, 4.0))
    high = seen((10.0, 0.0), (11.0, 2.0), (12.0, 4.0))  # as one line, they would hardly rise
    assert common_slope([low, high], 0.0, 1e-6) == pytest.approx(2.0)


def test_pairs_that_are_alike_tell_nothing():
    assert common_slope([seen(*[(5.0, 9.0)] * 20)], 0.5, 1.0) == pytest.approx(0.5)


def test_what_was_seen_long_ago_is_forgotten():
    changed = seen(*((x % 10, x % 10) for x in range(300)), *((x % 10, 3.0 * (x % 10)) for x in range(300)))
    assert common_slope([changed], 0.0, 1e-6) == pytest.approx(3.0, rel=0.01)
