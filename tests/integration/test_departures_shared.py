"""A spot server that is told to end: real processes on two "machines", of which one asks it how it is."""

import threading

from spot_server import PATIENCE, Spot, who_answers

from needing import needs_redis
from penstock.testing import GatewayProcess, RedisServer, SimulatorProcess
from waiting import wait_until


def leaves(gateway):
    (spot,) = [one for one in gateway.ask("/v1/upstreams") if one["name"] == "spot"]
    return spot["leaving"]


def is_left_alone(spot, gateway):
    """Whether all workers send their calls elsewhere."""
    before = spot.calls
    return {who_answers(gateway) for _ in range(6)} == {"own"} and spot.calls == before


@needs_redis
def test_one_machine_finds_out_that_a_server_goes_and_all_leave_it_and_come_back(tmp_path):
    def started(name, probe, workers):
        folder = tmp_path / name
        folder.mkdir()
        departure = {"shared": "machines", "probe": probe, "every": 0.1}
        config = {
            "upstreams": {
                "spot": {"kind": "openai", "base_url": spot.url, "departure": departure},
                "own": {"kind": "sim", "base_url": own.base_url},
            },
            "models": {"sim": {"candidates": [{"upstream": "spot"}, {"upstream": "own", "weight": 0}]}},
            "limits": {"redis": redis.url},
            "workers": workers,
            "log": {"requests": False},
        }
        return GatewayProcess(config, folder)

    with (
        Spot() as spot,
        RedisServer() as redis,
        SimulatorProcess() as own,
    ):
        serving = threading.Thread(target=spot.serve_forever, daemon=True)
        serving.start()
        with started("asks", "/health", 1) as asks, started("hears", "", 2) as hears:
            assert [who_answers(asks), who_answers(hears)] == ["spot", "spot"]
            spot.drains = True
            wait_until(lambda: leaves(asks) and leaves(hears))
            wait_until(lambda: all(is_left_alone(spot, gateway) for gateway in (asks, hears)))
            spot.drains = False
            wait_until(lambda: not leaves(asks) and not leaves(hears))
            wait_until(lambda: [who_answers(asks), who_answers(hears)] == ["spot", "spot"])
        spot.shutdown()
        serving.join(PATIENCE)
