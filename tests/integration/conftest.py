"""A real gateway between real SDKs and real upstreams: processes of their own, sockets between them.

Two simulators stand behind it.  The gateway speaks OpenAI's API to one of them and Anthropic's to the
other, so that each of its callers' dialects meets each of its upstreams'.  What a simulator answers is
made of the prompt's digest, and the digest is that of the *meaning*: the text that a caller gets is right
only if nothing of his prompt was lost or changed on the way, in whichever dialect it went on.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import venv
from pathlib import Path
from typing import Self

import anthropic
import httpx2
import openai
import pytest
import yaml

from penstock.config.keys import hash_key, new_key
from penstock.testing.simulator import SimulatorProcess, expected_text

PATIENCE = 60.0  # seconds after which a process that does not end has failed the test
TOKENS = 64  # of an answer of the simulator, where nothing else is said
LITELLM = ("litellm>=1.100", "mcp")
ROOT = Path(__file__).resolve().parents[2]

# What the model's name asks of the simulator, after "openai/" or "anthropic/", which say how it is asked.
SCRIPTS = {
    "plain": "sim",
    "thinking": "sim-thinking",
    "two-calls": "sim:tool,parallel=2",
    "cached": "sim:cached=3",
    "400": "sim:400",
    "context-length": "sim:400-context-length",
    "content-filter": "sim:400-content-filter",
    "401": "sim:401",
    "404": "sim:404",
    "429": "sim:429,retry-after=0",
    "500": "sim:500",
    "500-once": "sim:500-once",
    "529": "sim:529",
    "reset": "sim:reset-before-headers",
    "garbage": "sim:garbage",
    "html": "sim:html",
    "cut": "sim:cut-after=5",
    "closed": "sim:close-after=5",
    "malformed": "sim:malformed-event=5,tps=50",
    "malformed-once": "sim:malformed-event=5,once",
    "error-event": "sim:error-event=5,tps=50",
    "error-event-once": "sim:error-event=5,once",
    "no-terminator": "sim:no-terminator",
    "no-done": "sim:no-done",
    "stalled": "sim:stall-after=5",
}
KINDS = ("openai", "anthropic")
# Long enough for a machine that is busy with other things, but where nothing comes anyway.
CLOCKS = {"first_token": 20, "between_tokens": 20, "total": 60}
SHORT_CLOCKS = {"stalled": {**CLOCKS, "between_tokens": 0.5}}


class Gateway:
    """``penstock serve`` as a process; a context manager."""

    def __init__(self, config: Path, log: Path) -> None:
        self._config = config
        self._log = log
        self._process: subprocess.Popen[str] | None = None
        self.url = ""  # without /v1

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "penstock", "serve", str(self._config)],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self._process.stdout is not None
        greeting = self._process.stdout.readline()
        if "http://" not in greeting:
            self._end()
            raise RuntimeError(f"the gateway did not start: {greeting!r}\n{self.log}")
        self.url = greeting.split()[-1].removesuffix("/v1")
        return self

    def __exit__(self, *_: object) -> None:
        status = self._end()
        assert status == 0, f"the gateway ended with {status}\n{self.log}"

    def _end(self) -> int:
        process = self._process
        assert process is not None
        assert process.stdout is not None
        process.terminate()
        try:
            status = process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        process.stdout.close()
        return status

    @property
    def log(self) -> str:
        return self._log.read_text()

    def __repr__(self) -> str:
        return f"<Gateway at {self.url or 'nowhere'}, {self._config}>"


@pytest.fixture(scope="package")
def simulators():
    """The upstreams, by the dialect in which they are asked."""
    with SimulatorProcess() as openai_side, SimulatorProcess() as anthropic_side:
        yield {"openai": openai_side, "anthropic": anthropic_side}


@pytest.fixture(scope="package")
def key():
    return new_key()


@pytest.fixture(scope="package")
def gateway(simulators, key, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gateway")
    config = folder / "penstock.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "listen": "127.0.0.1:0",
                "control": "127.0.0.1:0",
                "upstreams": {
                    "openai": {
                        "kind": "openai",
                        "base_url": simulators["openai"].base_url,
                        "api_key": "sk-o",
                    },
                    "anthropic": {
                        "kind": "anthropic",
                        "base_url": simulators["anthropic"].url,
                        "api_key": "sk-a",
                    },
                },
                "models": {
                    f"{kind}/{name}": {
                        "candidates": [{"upstream": kind, "model": script}],
                        "timeouts": SHORT_CLOCKS.get(name, CLOCKS),
                    }
                    for kind in KINDS
                    for name, script in SCRIPTS.items()
                },
                "keys": [
                    {"name": "tester", "hash": hash_key(key)},
                    {"name": "narrow", "hash": hash_key("narrow" + key), "models": ["openai/plain"]},
                ],
                "continuation": {"attempts": 0},  # what is broken on purpose here is to be seen
                "retry": {"attempts": 2, "first_delay": 0.01, "max_delay": 0.02, "budget_floor": 1000},
            }
        )
    )
    with Gateway(config, folder / "log") as running:
        yield running


class Heard:
    """What an SDK sent and got, at the edge of its process."""

    def __init__(self) -> None:
        self.requests: list[httpx2.Request] = []
        self.responses: list[httpx2.Response] = []

    def client(self) -> httpx2.Client:
        hooks = {"request": [self.requests.append], "response": [self.responses.append]}
        return httpx2.Client(event_hooks=hooks, trust_env=False)

    @property
    def body(self) -> dict[str, object]:
        return json.loads(self.requests[-1].content)

    def expected(self, tokens: int = TOKENS) -> str:
        """What the model must have said to the last request, if it has heard it as it was meant."""
        request = self.requests[-1]
        return expected_text(self.body, request.url.path, tokens)


@pytest.fixture
def heard():
    return Heard()


@pytest.fixture
def openai_client(gateway, key, heard):
    with heard.client() as http:
        yield openai.OpenAI(base_url=gateway.url + "/v1", api_key=key, max_retries=0, http_client=http)


@pytest.fixture
def anthropic_client(gateway, key, heard):
    with heard.client() as http:
        yield anthropic.Anthropic(base_url=gateway.url, api_key=key, max_retries=0, http_client=http)


@pytest.fixture(params=KINDS)
def upstream(request):
    """How the upstream is asked."""
    return request.param


@pytest.fixture(scope="package")
def litellm_python():
    """An interpreter that has litellm: it wants an openai SDK older than ours, so it lives by itself.

    Also mcp, without which litellm refuses calls with tools, although it does not ask for it.
    """
    home = ROOT / ".cache" / "litellm"
    python = home / "bin" / "python"
    stamp = home / "installed"
    if not stamp.exists() or stamp.read_text() != str(LITELLM):
        venv.create(home, clear=True)
        pip = [sys.executable, "-m", "pip", "--python", str(python)]
        # Most of it is never imported, so that compiling it all would take longer than the tests.
        options = ["--quiet", "--disable-pip-version-check", "--no-compile"]
        done = subprocess.run(
            [*pip, "install", *options, *LITELLM],
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"litellm could not be installed:\n{done.stderr}"
        stamp.write_text(str(LITELLM))
    return python


@pytest.fixture
def client_of():
    """Makes the SDK's clients, and closes them."""
    with contextlib.ExitStack() as stack:

        def make(gateway, key="any", retries=0, timeout=60.0):
            http = stack.enter_context(httpx2.Client(trust_env=False, timeout=timeout))
            return openai.OpenAI(
                base_url=gateway.base_url, api_key=key, max_retries=retries, http_client=http
            )

        yield make
