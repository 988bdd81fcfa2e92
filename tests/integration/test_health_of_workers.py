"""Of the workers of a machine one asks an upstream how it is, and all go by what it hears."""

import threading

from spot_server import PATIENCE, Spot, who_answers

from penstock.testing import GatewayProcess, SimulatorProcess
from waiting import wait_until

WORKERS = 3


def test_one_worker_asks_and_all_leave_who_is_unwell_and_come_back(tmp_path):
    with Spot() as spot, SimulatorProcess() as own:
        serving = threading.Thread(target=spot.serve_forever, daemon=True)
        serving.start()
        health = {"every": 0.1, "unhealthy_after": 2, "healthy_after": 2, "slow_start": 0}
        config = {
            "upstreams": {
                "spot": {"kind": "openai", "base_url": spot.url, "health": health},
                "own": {"kind": "sim", "base_url": own.base_url},
            },
            "models": {"sim": {"candidates": [{"upstream": "spot"}, {"upstream": "own", "weight": 0}]}},
            "retry": {"attempts": 1},
            "workers": WORKERS,
            "log": {"requests": False},
        }
        with GatewayProcess(config, tmp_path) as gateway:

            def all_ask(name):
                return {who_answers(gateway) for _ in range(4 * WORKERS)} == {name}

            def all_left_it():
                before = spot.calls
                return all_ask("own") and spot.calls == before

            assert all_ask("spot")
            spot.drains = True
            wait_until(all_left_it)
            spot.drains = False
            wait_until(lambda: all_ask("spot"))
            wait_until(lambda: len(spot.asking) >= 10)
        spot.shutdown()
        serving.join(PATIENCE)
        assert len(set(spot.asking)) < WORKERS  # connections are kept: each worker would have had its own
