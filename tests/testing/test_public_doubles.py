from __future__ import annotations

import pytest

import penstock.testing


def test_the_public_names_are_these():
    assert penstock.testing.__all__ == [
        "FakeClock",
        "GatewayProcess",
        "RedisServer",
        "ScriptedUpstream",
        "SimulatorProcess",
        "Step",
        "expected_text",
    ]
    for name in penstock.testing.__all__:
        assert getattr(penstock.testing, name).__doc__


def test_a_path_that_is_none_is_said_to_be_none():
    with pytest.raises(ValueError, match="'chat' is no path of a call, such as /v1/chat/completions"):
        penstock.testing.expected_text({}, "chat", 1)


def test_a_gateway_that_was_stopped_can_be_started_and_stopped_again(tmp_path):
    config = {"upstreams": {"sim": {"kind": "sim"}}, "models": {"*": {"candidates": [{"upstream": "sim"}]}}}
    gateway = penstock.testing.GatewayProcess(config, tmp_path)
    for _ in range(2):
        gateway.start()
        assert gateway.stop(patience=30) == 0
