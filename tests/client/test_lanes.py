"""Blocks side by side where one connection does not fill the link: when they are tried, and what is made of that."""

from __future__ import annotations

import pytest

from penstock.client._lanes import (
    FIRST,
    LOOK,
    MOST,
    REMEMBERED_FOR,
    SETTLES,
    WORTH,
    Append,
    Crawling,
    Lanes,
    Width,
)

BLOCKS = [bytes([number]) for number in range(40)]
MB = 1_000_000


def carried(lanes, rate, now, blocks=FIRST):
    """As many blocks as there are lanes; when they have arrived."""
    for number in range(1, blocks + 1):
        lanes.arrived(100_000, now + number * 100_000 / rate)
    return now + blocks * 100_000 / rate


def running(width=None, alone=100_000.0):
    lanes = Lanes(BLOCKS, width or Width(), alone, 0.0)
    assert lanes.more() == FIRST
    return lanes


def test_an_append_that_would_take_long_crawls():
    append = Append([200_000] * 10, 0.0)
    append.went_out(100_000, LOOK / 2)
    with pytest.raises(Crawling) as found:
        append.went_out(100_000, LOOK)
    assert found.value.rate == 200_000 / LOOK
    assert 0 < found.value.settled_in <= SETTLES


@pytest.mark.parametrize(("block", "waits"), [(250_000, True), (2 * MB, False)])
def test_the_end_of_a_block_is_waited_for_if_it_is_near(block, waits):
    append = Append([block, 4 * MB], 0.0)
    append.went_out(100_000, LOOK / 2)
    if waits:
        append.went_out(100_000, LOOK)
    with pytest.raises(Crawling):
        append.went_out(60_000, LOOK + 1.0)


@pytest.mark.parametrize("size", [200_000, 200_000 + int(200_000 / LOOK * (WORTH - 0.1))])
def test_an_append_that_is_soon_through_is_left_alone(size):
    append = Append([size], 0.0)
    append.went_out(100_000, LOOK / 2)
    append.went_out(100_000, LOOK)


def test_lanes_that_carry_more_become_more_and_are_remembered():
    width = Width()
    lanes = running(width)
    now = carried(lanes, 380_000, 0.0)
    assert lanes.more() == MOST - FIRST
    assert width.at(now) == FIRST
    now = carried(lanes, 700_000, now, MOST)
    assert width.at(now) == MOST
    assert lanes.more() == 0
    assert width.at(now + REMEMBERED_FOR) == 0


def test_lanes_that_carry_no_more_than_the_lanes_before_end():
    width = Width()
    lanes = running(width)
    now = carried(lanes, 380_000, 0.0)
    lanes.more()
    now = carried(lanes, 400_000, now, MOST)
    assert width.at(now) == FIRST
    taken = [lanes.take() for _ in range(MOST)]
    assert taken.count(None) == MOST - FIRST


def test_where_one_connection_fills_the_link_the_rest_goes_in_one():
    width = Width()
    lanes = running(width)
    now = carried(lanes, 110_000, 0.0)
    assert width.at(now) == 1
    assert [lanes.take() is None for _ in range(FIRST)] == [True, True, True, False]


def test_what_was_found_is_not_tried_again():
    width = Width()
    width.found(MOST, 0.0)
    lanes = Lanes(BLOCKS, width, 0.0, 1.0)
    assert lanes.more() == MOST
    carried(lanes, 1.0, 1.0, MOST)
    assert width.at(10.0) == MOST


def test_there_are_no_more_lanes_than_blocks():
    lanes = Lanes(BLOCKS[:2], Width(), 1.0, 0.0)
    assert lanes.more() == 2


def test_each_block_goes_once_and_what_has_not_arrived_again():
    lanes = running()
    first = lanes.take()
    taken = {lanes.take().digest for _ in range(len(BLOCKS) - 1)}
    assert {first.digest} | taken == set(BLOCKS)
    lanes.broke(first, OSError(), lambda _error: 0.0)
    assert lanes.take().digest == first.digest
    assert lanes.take() is None


def test_what_breaks_all_lanes_is_one_break_and_who_breaks_again_another():
    waits, error = [0.5, 1.5], OSError()
    lanes = running()
    taken = [lanes.take() for _ in range(FIRST)]
    assert [lanes.broke(each, error, lambda _error: waits.pop(0)) for each in taken] == [0.5] * FIRST
    again = lanes.take()
    assert lanes.broke(again, error, lambda _error: waits.pop(0)) == 1.5
    assert lanes.error is None


def test_a_break_after_which_nothing_is_tried_ends_all_lanes():
    lanes = running()
    taken, error = lanes.take(), OSError()
    assert lanes.broke(taken, error, lambda _error: None) == 0.0
    assert lanes.error is error
    assert lanes.take() is None


@pytest.mark.parametrize("end", [lambda lanes: lanes.refuse(), lambda lanes: lanes.fail(OSError())])
def test_what_ends_one_lane_for_good_ends_all(end):
    lanes = running()
    end(lanes)
    assert lanes.more() == 0
    assert [lanes.take() for _ in range(FIRST)] == [None] * FIRST
