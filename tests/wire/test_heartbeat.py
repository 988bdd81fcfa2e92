import pytest

from penstock.wire import heartbeat


@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        (None, 15.0),
        (b"2", 2.0),
        (b"15", 15.0),
        (b"0", 1.0),
        (b"99", 15.0),
        (b"", 15.0),
        (b"-1", 15.0),
        (b"1.5", 15.0),
        (b"9" * 5_000, 15.0),
        ("²".encode(), 15.0),
    ],
)
def test_signs_of_life_come_every_one_to_fifteen_seconds(told, seconds):
    assert heartbeat.read(told) == seconds
