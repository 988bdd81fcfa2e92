"""The simulated upstream, for tests: as a process of its own, and what it will say."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from penstock.lab.prompt import read
from penstock.lab.text import tokens as _tokens
from penstock.messages import Endpoint

READY_SECONDS = 60.0


def expected_text(body: Mapping[str, Any], endpoint: Endpoint | str, tokens: int) -> str:
    """The first ``tokens`` tokens of the text that the simulator answers a request with.

    The prompt decides, not its form: the body of either dialect, whichever of them the simulator was
    asked in, gives the same text.

    :param endpoint: or its path, such as ``/v1/chat/completions``
    :raises ValueError: there is no such path
    :raises penstock.errors.BadRequest: the body is not one that the API takes
    """
    if isinstance(endpoint, str):
        found = next((one for one in Endpoint if one.path == endpoint), None)
        if found is None:
            raise ValueError(f"{endpoint!r} is no path of a call, such as {Endpoint.CHAT.path}")
        endpoint = found
    request = read(endpoint, dict(body))
    return b"".join(_tokens(request.digest, 0, tokens)).decode()


class SimulatorProcess:
    """``penstock sim`` as a process; a context manager.

    ::

        with SimulatorProcess("--output-tokens", "max") as simulator:
            client = OpenAI(base_url=simulator.base_url, api_key="any")
            ...
            assert simulator.bill()["output_tokens"] == 64

    :param options: of the command line
    """

    def __init__(self, *options: str) -> None:
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""

    @property
    def base_url(self) -> str:
        """What OpenAI's SDK takes; Anthropic's takes :attr:`url`."""
        return self.url + "/v1"

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError("the simulator is not running")
        return self._process.pid

    def start(self) -> Self:
        """Start, and return once it listens.

        :raises RuntimeError: it ended before it did
        """
        reading, writing = os.pipe()
        try:
            command = [sys.executable, "-m", "penstock.cli.sim", "--ready-fd", str(writing), *self._options]
            # Its standard input ends with this process, and so does it, even if we are killed.
            self._process = subprocess.Popen(  # noqa: S603 - ourselves
                command, pass_fds=(writing,), stdin=subprocess.PIPE
            )
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        with os.fdopen(reading) as pipe:
            line = pipe.readline() if select.select([pipe], [], [], READY_SECONDS)[0] else ""
        if not line:
            self.stop()
            raise RuntimeError("the simulator does not listen; its own output says why")
        self.url = f"http://127.0.0.1:{int(line)}"
        return self

    def stop(self) -> None:
        """End it, by its process id."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdin is not None:
            process.stdin.close()

    def bill(self) -> Any:
        """What it charged: requests, input_tokens, output_tokens, in_flight, by_model, by_request ..."""
        return self._fetch("GET", "/bill")

    def reset_bill(self) -> Any:
        """Begin a new bill; returns the old one."""
        return self._fetch("POST", "/bill/reset")

    def requests(self) -> Any:
        """The last 64 requests as they came in: path, query, headers (lower case), body."""
        return self._fetch("GET", "/requests")

    def _fetch(self, method: str, path: str) -> Any:
        request = urllib.request.Request(self.url + path, method=method)  # noqa: S310 - our own http URL
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=READY_SECONDS) as answer:
            return json.load(answer)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = f"at {self.url}, pid {self._process.pid}" if self._process else "not running"
        return f"<SimulatorProcess {state}>"
