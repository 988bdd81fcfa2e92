from __future__ import annotations

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
