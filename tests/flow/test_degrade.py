import pytest

from penstock.config.model import DegradationConfig, TierConfig
from penstock.flow.degrade import RELEASE, Ladders


def ladders(**steps):
    return Ladders({"low": TierConfig(degradation=DegradationConfig(**steps)), "high": TierConfig()})


def taken(steps):
    return [name for name in ("stale", "smaller", "shorter", "refuse") if getattr(steps, name)]


def test_each_step_is_taken_from_its_load_on():
    ladder = ladders(stale=0.5, smaller=0.9, shorter=1.0, refuse=2.0)
    seen = [taken(ladder.look("low", "m", load, 0.0)) for load in (0.4, 0.5, 0.95, 1.5, float("inf"))]
    assert seen == [
        [],
        ["stale"],
        ["stale", "smaller"],
        ["stale", "smaller", "shorter"],
        ["stale", "smaller", "shorter", "refuse"],
    ]


def test_what_is_not_configured_is_not_done():
    ladder = ladders(shorter=1.0)
    assert taken(ladder.look("low", "m", 99.0, 0.0)) == ["shorter"]
    assert ladder.config("high") is None
    assert not Ladders({"high": TierConfig()})


def test_a_step_is_left_when_the_load_has_been_well_below_it_for_a_while():
    ladder = ladders(shorter=1.0, hold=10.0)
    ladder.look("low", "m", 1.0, 0.0)
    assert ladder.look("low", "m", 0.9, 100.0)  # not far enough below, however long
    assert ladder.look("low", "m", RELEASE - 0.01, 101.0)
    assert ladder.look("low", "m", RELEASE, 109.0)  # it begins anew
    assert ladder.look("low", "m", 0.0, 110.0)
    assert ladder.look("low", "m", 0.0, 118.9)
    assert not ladder.look("low", "m", 0.0, 119.0)
    assert not ladder.look("low", "m", 0.9, 121.0)


def test_what_was_long_ago_is_not_held_against_the_first_call_after_it():
    ladder = ladders(stale=0.5, shorter=1.0, hold=10.0)
    ladder.look("low", "m", 9.0, 0.0)
    assert not ladder.look("low", "m", 0.0, 3_600.0)


def test_nobody_is_refused_where_there_is_room_again():
    ladder = ladders(shorter=1.0, refuse=2.0, hold=10.0)
    ladder.look("low", "m", 2.0, 0.0)
    assert taken(ladder.look("low", "m", 1.7, 0.1)) == ["shorter", "refuse"]
    assert taken(ladder.look("low", "m", 1.5, 0.2)) == ["shorter"]


def test_models_and_tiers_are_apart():
    ladder = ladders(shorter=1.0)
    assert ladder.look("low", "m", 1.0, 0.0)
    assert not ladder.look("low", "other", 0.9, 0.0)


@pytest.mark.parametrize("load", [0.0, 0.9, 1.5])
def test_a_question_changes_nothing(load):
    ladder = ladders(shorter=1.0, refuse=1.4)
    asked = ladder.seen("low", "m", load, 0.0)
    assert ladder.look("low", "m", 0.9, 0.0) == ladder.seen("low", "m", 0.9, 0.0)
    assert taken(asked) == {0.0: [], 0.9: [], 1.5: ["shorter", "refuse"]}[load]


def test_a_question_sees_a_step_that_is_held():
    ladder = ladders(shorter=1.0)
    ladder.look("low", "m", 1.0, 0.0)
    assert taken(ladder.seen("low", "m", 0.0, 1.0)) == ["shorter"]
