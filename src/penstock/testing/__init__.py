"""Doubles and contract suites for those who test against Penstock.

* :class:`SimulatorProcess`: a simulated provider as a process of its own, with a bill
* :func:`expected_text`: what it will say
* :class:`GatewayProcess`: the whole gateway as a process of its own
* :class:`ScriptedUpstream`, :class:`Step`: an upstream that does exactly what a test says, byte by byte
* :class:`RedisServer`: a ``redis-server`` of one's own, to be killed and stopped in its tracks
* :class:`FakeClock`: time that passes when it is told to
"""

from penstock.testing.clock import FakeClock
from penstock.testing.gateway import GatewayProcess
from penstock.testing.redis import RedisServer
from penstock.testing.scripted import ScriptedUpstream, Step
from penstock.testing.simulator import SimulatorProcess, expected_text

__all__ = [
    "FakeClock",
    "GatewayProcess",
    "RedisServer",
    "ScriptedUpstream",
    "SimulatorProcess",
    "Step",
    "expected_text",
]
