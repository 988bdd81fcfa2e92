"""A spot server that is told to end: real processes on two "machines", of which one asks it how it is."""

import http.server
import json
import threading
import time
import urllib.request

from needing import needs_redis
from penstock.testing import GatewayProcess, RedisServer, SimulatorProcess

PATIENCE = 60.0  # seconds after which the test has failed


class Spot(http.server.ThreadingHTTPServer):
    """Answers as vLLM does, which ends its life with 503 to everything but its own metrics."""

    daemon_threads = True

    def __init__(self):
        self.drains = False
        self.calls = 0
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self._answer({})

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.server.calls += 1
        message = {"role": "assistant", "content": "spot"}
        self._answer({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": {}})

    def _answer(self, value):
        if self.server.drains:
            value = {"error": "Server is unavailable. Please try again later."}
        body = json.dumps(value).encode()
        self.send_response(503 if self.server.drains else 200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def who_answers(gateway):
    body = json.dumps({"model": "sim", "messages": [{"role": "user", "content": "hello"}]}).encode()
    request = urllib.request.Request(
        gateway.base_url + "/chat/completions", body, {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        (choice,) = json.load(answer)["choices"]
    return "spot" if choice["message"]["content"] == "spot" else "own"


def leaves(gateway):
    (spot,) = [one for one in gateway.ask("/v1/upstreams") if one["name"] == "spot"]
    return spot["leaving"]


def is_left_alone(spot, gateway):
    """Whether all workers send their calls elsewhere."""
    before = spot.calls
    return {who_answers(gateway) for _ in range(6)} == {"own"} and spot.calls == before


def eventually(reached):
    until = time.monotonic() + PATIENCE
    while not reached():
        assert time.monotonic() < until
        time.sleep(0.02)


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
            eventually(lambda: leaves(asks) and leaves(hears))
            eventually(lambda: all(is_left_alone(spot, gateway) for gateway in (asks, hears)))
            spot.drains = False
            eventually(lambda: not leaves(asks) and not leaves(hears))
            eventually(lambda: [who_answers(asks), who_answers(hears)] == ["spot", "spot"])
        spot.shutdown()
        serving.join(PATIENCE)
