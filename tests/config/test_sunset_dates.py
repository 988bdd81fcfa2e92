"""When callers and operators are told that a version ends."""

from __future__ import annotations

from penstock.config.model import CandidateConfig, Config, ModelConfig
from penstock.config.sunset import began, sunset_of, warnings


def config(after="replace", **days):
    candidate = CandidateConfig(upstream="up", version="old", **days)
    return Config(models={"m": ModelConfig(candidates=[candidate], after_sunset=after)})


def test_days_begin_at_midnight_utc():
    both = sunset_of(CandidateConfig(upstream="up", deprecated="2026-06-01", sunset="2026-12-31"))
    assert (both.deprecated, both.ends) == (1_780_272_000.0, 1_798_675_200.0)
    assert sunset_of(CandidateConfig(upstream="up", deprecated="2026-06-01")).ends == float("inf")
    assert sunset_of(CandidateConfig(upstream="up")) is None


def test_it_is_warned_of_from_its_deprecation_on():
    both = config(deprecated="2026-06-01", sunset="2026-12-31")
    assert warnings(both, began("2026-05-31")) == []
    (told,) = warnings(both, began("2026-06-01"))
    assert told == "the version 'old' of 'm' at up is deprecated, and ends on 2026-12-31, in 213 days"


def test_without_one_it_is_warned_of_three_months_before_the_end():
    ending = config(sunset="2026-12-31")
    assert warnings(ending, began("2026-10-01")) == []
    assert "will end, and ends on 2026-12-31, in 89 days" in warnings(ending, began("2026-10-03"))[0]


def test_after_the_end_it_is_said_what_became_of_it():
    day = began("2026-12-31")
    assert "is replaced by the others" in warnings(config(sunset="2026-12-31"), day)[0]
    assert "is refused" in warnings(config("refuse", sunset="2026-12-31"), day)[0]
