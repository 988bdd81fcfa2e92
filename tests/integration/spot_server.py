"""A server that answers calls, and whoever asks how it is, until it is told to end; and who has answered."""

import http.server
import json
import urllib.request

PATIENCE = 60.0  # seconds after which the test has failed


class Spot(http.server.ThreadingHTTPServer):
    """Answers as vLLM does, which ends its life with 503 to everything but its own metrics."""

    daemon_threads = True

    def __init__(self):
        self.drains = False
        self.calls = 0
        self.asking = []  # the ports from which it was asked how it is
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.asking.append(self.client_address[1])
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
