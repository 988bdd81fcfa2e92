"""What ends is said once a day, and again with a new configuration."""

from __future__ import annotations

from penstock.config.model import CandidateConfig, Config, KeyConfig, ModelConfig
from penstock.config.reminder import Reminder, endings
from penstock.config.sunset import began

ENDED = Config(
    models={"m": ModelConfig(candidates=[CandidateConfig(upstream="up", sunset="2020-01-01")])},
    keys=[KeyConfig(name="alice", hash="", expires="2020-01-01")],
)
NOW = began("2026-01-01")


def test_versions_and_keys_are_told_of():
    version, key = endings(ENDED, NOW)
    assert "'m' at up has ended" in version
    assert "'alice' has ended" in key
    assert endings(Config(), NOW) == []


def test_it_is_said_once_a_day_and_again_with_a_new_configuration():
    reminder = Reminder()
    assert len(reminder.due(ENDED, NOW, 100.0)) == 2
    assert reminder.due(ENDED, NOW + 1e9, 101.0) == []  # the clock jumped
    assert len(reminder.due(ENDED, NOW, 100.0 + 86_400)) == 2
    reminder.again()
    assert len(reminder.due(ENDED, NOW, 101.0 + 86_400)) == 2
    assert reminder.due(Config(), NOW, 1e9) == []
