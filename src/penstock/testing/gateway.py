"""The whole gateway, for tests: ``penstock serve`` as a process of its own, with its workers."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

PATIENCE = 60.0  # seconds that an end may take before the process is killed
_SERVES = re.compile(r"serves (https?://\S+)/v1")
_CONTROL = re.compile(r"control +(http://\S+)/$", re.MULTILINE)
_PROCESSES = re.compile(r"^penstock_processes (\S+)$", re.MULTILINE)


class GatewayProcess:
    """``penstock serve`` as a process; a context manager, whose end is SIGTERM and a drain.

    ::

        with GatewayProcess({"upstreams": {...}, "models": {...}}, tmp_path) as gateway:
            client = OpenAI(base_url=gateway.base_url, api_key="any")
            ...
            assert gateway.generations() == []

    :param config: as in the configuration file; ports are any free ones unless it says otherwise
    :param folder: where the configuration and the log are written
    :param options: of ``penstock serve``
    :param preexec: run in the child before it becomes the gateway, to limit what it may use
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        folder: Path,
        *,
        environ: Mapping[str, str] | None = None,
        options: Sequence[str] = (),
        preexec: Any = None,
    ) -> None:
        self.config_path = folder / "penstock.yaml"
        self.log_path = folder / "gateway.log"
        self.url = ""  # without /v1: what Anthropic's SDK takes
        self.control_url = ""
        self.status: int | None = None  # the exit status, once it has ended
        self._config = {"listen": "127.0.0.1:0", "control": "127.0.0.1:0", **config}
        self._environ = environ
        self._options = tuple(options)
        self._preexec = preexec
        self._process: subprocess.Popen[str] | None = None
        self._told = False

    @property
    def base_url(self) -> str:
        """What OpenAI's SDK takes."""
        return self.url + "/v1"

    @property
    def pid(self) -> int:
        """The supervisor's."""
        if self._process is None:
            raise RuntimeError("the gateway is not running")
        return self._process.pid

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def start(self) -> Self:
        """Start, and return once every worker takes calls.

        :raises RuntimeError: it ended before it did
        """
        self._told = False
        self.config_path.write_text(json.dumps(self._config))  # JSON is YAML, too
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - ourselves
                [sys.executable, "-m", "penstock", "serve", str(self.config_path), *self._options],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, **(self._environ or {})},
                preexec_fn=self._preexec,  # noqa: PLW1509 - only tests that limit their gateway give one
            )
        assert self._process.stdout is not None
        greeting = ""
        for line in self._process.stdout:
            greeting += line
            if control := _CONTROL.search(greeting):
                serves = _SERVES.search(greeting)
                assert serves is not None, greeting
                self.url, self.control_url = serves[1], control[1]
                return self
        self.stop()
        raise RuntimeError(f"the gateway did not start: {greeting}\n{self.log}")

    def terminate(self) -> None:
        """Have it drain and end; :meth:`stop` waits for that."""
        if not self._told:
            self._told = True
            os.kill(self.pid, signal.SIGTERM)

    def stop(self, patience: float = PATIENCE) -> int:
        """End it, by its process id: its exit status, -9 if it had to be killed."""
        if self._process is not None and self._process.poll() is None:
            self.terminate()
        process, self._process = self._process, None
        if process is None:
            assert self.status is not None, "it was never started"
            return self.status
        try:
            self.status = process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            self.status = process.wait()
        if process.stdout is not None:
            process.stdout.close()
        return self.status

    # ---- what it says of itself ----

    def workers(self) -> Any:
        """``/v1/workers``: memory, connections, pools of each, once all have told them."""
        return self._once_all_told("/v1/workers", lambda told: all("pools" in worker for worker in told))

    def generations(self) -> Any:
        """What is in flight, once every worker has told it."""
        return self._once_all_told("/v1/generations", lambda told: not told["silent"])["generations"]

    def metrics(self) -> str:
        """``/metrics``, once every worker is in them."""
        deadline = time.monotonic() + PATIENCE
        while True:
            with contextlib.closing(_OPENER.open(self.control_url + "/metrics", timeout=PATIENCE)) as answer:
                text: str = answer.read().decode()
            counted = _PROCESSES.search(text)
            if counted is not None and float(counted[1]) == 1 + len(self.readiness()["workers"]):
                return text
            if time.monotonic() > deadline:
                raise TimeoutError("a worker does not answer")
            time.sleep(0.02)

    def worker_pids(self) -> list[int | None]:
        """By their places; None where nobody is."""
        return [worker["pid"] for worker in self.readiness()["workers"]]

    def readiness(self) -> Any:
        return self.ask("/readyz")

    def ask(self, path: str) -> Any:
        """What the control API answers, ready or not."""
        with contextlib.closing(_OPENER.open(self.control_url + path, timeout=PATIENCE)) as answer:
            return json.load(answer)

    def _once_all_told(self, path: str, told_all: Callable[[Any], bool]) -> Any:
        """On a busy machine a worker may be late with its answer, and is left out of the whole."""
        deadline = time.monotonic() + PATIENCE
        while not told_all(told := self.ask(path)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"a worker does not answer: {told}")
            time.sleep(0.02)
        return told

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        status = self.stop()
        if status != 0 and error is None:
            raise RuntimeError(f"the gateway ended with {status}\n{self.log}")

    def __repr__(self) -> str:
        state = f"at {self.url}, pid {self._process.pid}" if self._process else "not running"
        return f"<GatewayProcess {state}>"


class _AnyStatus(urllib.request.HTTPErrorProcessor):
    """A 503 of ``/readyz`` is an answer like any other."""

    def http_response(self, request: Any, response: Any) -> Any:
        del request
        return response


_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}), _AnyStatus())
