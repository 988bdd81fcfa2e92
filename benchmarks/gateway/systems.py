"""The systems under test: how each is started in front of the upstream, on one core, with one worker."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.gateway import install
from benchmarks.gateway.load import KEY, Target
from benchmarks.gateway.processes import DidNotStart, Tree, free_port
from benchmarks.gateway.upstream import MODEL

ROOT = Path(__file__).resolve().parents[2]


class System(ABC):
    """One of the systems; started once, measured many times."""

    name: str
    does: str  # besides forwarding
    start_timeout = 20.0

    def __init__(self, folder: Path, upstream_port: int, port: int) -> None:
        self.folder = folder
        self.upstream = f"http://127.0.0.1:{upstream_port}"
        self.port = port
        self.tree: Tree | None = None

    def install(self) -> None:  # noqa: B027 - most need nothing
        """Get what it needs.

        :raises benchmarks.gateway.install.NotInstalled: it cannot be had here
        """

    @abstractmethod
    def command(self) -> Sequence[str | Path]:
        """What starts it; its files are written to ``folder``."""

    def environ(self) -> Mapping[str, str]:
        return {}

    def cwd(self) -> Path:
        return self.folder

    @abstractmethod
    def version(self) -> str: ...

    def target(self) -> Target:
        return Target(self.port)

    def start(self, core: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.tree = Tree(
            self.command(), core=core, log=self.folder / "log", cwd=self.cwd(), environ=self.environ()
        )

    def wait_ready(self) -> Tree:
        """:raises DidNotStart: with the end of its log"""
        if self.tree is None:
            raise DidNotStart("was not started")
        self.tree.wait_port(self.port, self.start_timeout)
        return self.tree

    def end(self) -> None:
        if self.tree is not None:
            self.tree.end()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} on port {self.port}, {self.tree!r}>"


_NGINX = """\
daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  upstream bench {{ server {upstream}; keepalive 256; keepalive_requests 10000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    keepalive_requests 10000000; client_max_body_size 32m; client_body_buffer_size 256k;
    location / {{
      proxy_pass http://bench; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off; proxy_read_timeout 600s;
    }}
  }}
}}
"""


class Nginx(System):
    name = "nginx"
    does = "nothing: the floor"

    def install(self) -> None:
        install.debian("nginx-light", "nginx")

    def command(self) -> Sequence[str | Path]:
        config = self.folder / "nginx.conf"
        upstream = self.upstream.removeprefix("http://")
        config.write_text(_NGINX.format(folder=self.folder, upstream=upstream, port=self.port))
        return [install.which("nginx"), "-e", self.folder / "error.log", "-c", config]

    def version(self) -> str:
        done = subprocess.run([install.which("nginx"), "-v"], capture_output=True, text=True, check=False)
        return done.stderr.rpartition("/")[2].strip()


class Penstock(System):
    """As in production: key check, ledger, metrics and request log are all on."""

    name = "penstock"
    does = "key check, routing, usage, price, ledger (SQLite), metrics, request log (file)"
    options: tuple[str, ...] = ()

    def more(self) -> Mapping[str, object]:
        """What its configuration has beside the usual."""
        return {}

    def of_upstream(self) -> Mapping[str, object]:
        """What the upstream's has."""
        return {}

    def command(self) -> Sequence[str | Path]:
        from penstock.config.keys import hash_key

        config = {
            "listen": f"127.0.0.1:{self.port}",
            "control": "127.0.0.1:0",
            "upstreams": {
                "mock": {
                    "kind": "openai",
                    "base_url": self.upstream + "/v1",
                    "api_key": "sk-upstream",
                    "pool": {"max_open": 4000, "max_idle": 256},
                    **self.of_upstream(),
                }
            },
            "models": {MODEL: {"candidates": [{"upstream": "mock", "model": MODEL}]}},
            "keys": [
                {"name": "bench", "hash": hash_key(KEY)},
                {"name": "another", "hash": hash_key(KEY + "x")},
            ],
            "ledger": {"path": str(self.folder / "ledger.sqlite")},
            **self.more(),
        }
        file = self.folder / "penstock.yaml"
        file.write_text(json.dumps(config, indent=1))  # JSON is YAML
        return [sys.executable, "-m", "penstock", "serve", file, "--workers", "1", *self.options]

    def version(self) -> str:
        return importlib.metadata.version("penstock")


class PenstockDisk(Penstock):
    name = "penstock-disk"
    does = "the same, and every event is in a file before its caller has it (`durability: disk`)"

    def more(self) -> Mapping[str, object]:
        return {"generations": {"durability": "disk", "path": str(self.folder / "generations.sqlite")}}


class PenstockFlow(Penstock):
    """Everything that decides about calls is on, and none of it is ever used up."""

    name = "penstock-flow"
    does = "the same, and limits and budgets of key and tenant, tiers with a ladder, queue, adaptive concurrency, breaker"

    def more(self) -> Mapping[str, object]:
        much = {
            "requests_per_minute": 10**9,
            "tokens_per_minute": 10**12,
            "concurrent": 10**5,
            "usd_per_day": 10**6,
        }
        ladder = {"stale": 0.9, "smaller": 1.0, "shorter": 1.2, "refuse": 3}
        return {
            "limits": {"keys": {"*": much}, "tenants": {"*": much}},
            "tiers": {
                "realtime": {"priority": 10},
                "standard": {"priority": 5, "floor": 0.1, "deadline": 600, "degradation": ladder},
            },
        }

    def of_upstream(self) -> Mapping[str, object]:
        return {"concurrency": {"limit": 4000, "start": 2000, "max_waiting": 4000}, "breaker": {}}


class PenstockUvicorn(Penstock):
    name = "penstock-asgi"
    does = "the same, behind uvicorn (`--server uvicorn`)"
    options = ("--server", "uvicorn")


class FastAPIHttpx(System):
    name = "fastapi-httpx"
    does = "key check, decodes the JSON; 40 lines on uvicorn, httptools and uvloop"

    def command(self) -> Sequence[str | Path]:
        words = f"--loop uvloop --http httptools --no-access-log --log-level warning --port {self.port}"
        return [sys.executable, "-m", "uvicorn", "benchmarks.gateway.fastapi_httpx:app", *words.split()]

    def cwd(self) -> Path:
        return ROOT

    def environ(self) -> Mapping[str, str]:
        return {"WRAPPER_KEY": KEY, "WRAPPER_UPSTREAM": self.upstream}

    def version(self) -> str:
        return " ".join(
            f"{name} {importlib.metadata.version(name)}" for name in ("fastapi", "uvicorn", "httpx")
        )


class SglangRouter(System):
    name = "sglang-router"
    does = "balancing (round robin), health checks, metrics; no key check"
    command_words = ("python", "-m", "sglang_router.launch_router")

    def install(self) -> None:
        self.home = install.environment(self.name, self.name)

    def command(self) -> Sequence[str | Path]:
        program, *words = self.command_words
        words += ["--host", "127.0.0.1", "--port", str(self.port), "--worker-urls", self.upstream]
        words += [
            "--policy",
            "round_robin",
            "--max-concurrent-requests",
            "8192",
            "--log-level",
            self.warnings,
        ]
        words += ["--prometheus-host", "127.0.0.1", "--prometheus-port", str(free_port())]
        return [self.home / "bin" / program, *words]

    warnings = "warn"

    def version(self) -> str:
        return install.installed_version(self.home, self.name)


class VllmRouter(SglangRouter):
    name = "vllm-router"
    command_words = ("vllm-router",)
    warnings = "warning"


class Portkey(System):
    name = "portkey"
    does = "routing by the request's headers; no key check, no log"

    def install(self) -> None:
        # Newer versions of the server that it stands on break its streams.
        self.home = install.node_modules(
            self.name, ["@portkey-ai/gateway"], overrides={"@hono/node-server": "1.13.8"}
        )
        self.package = self.home / "node_modules" / "@portkey-ai" / "gateway"

    def command(self) -> Sequence[str | Path]:
        script = self.package / "build" / "start-server.js"
        return [install.which("node"), script, f"--port={self.port}", "--headless"]

    def environ(self) -> Mapping[str, str]:
        return {"NODE_ENV": "production", "TRUSTED_CUSTOM_HOSTS": "127.0.0.1"}

    def target(self) -> Target:
        headers = {"x-portkey-provider": "openai", "x-portkey-custom-host": self.upstream + "/v1"}
        return Target(self.port, headers=headers)

    def version(self) -> str:
        told: str = json.loads((self.package / "package.json").read_text())["version"]
        node = subprocess.run([install.which("node"), "-v"], capture_output=True, text=True, check=False)
        return f"{told} on Node.js {node.stdout.strip()}"


class LiteLLM(System):
    name = "litellm"
    does = "key check (master key), routing, usage, price; no database"
    start_timeout = 90.0

    def settings(self) -> Mapping[str, object]:
        """What its ``litellm_settings`` have beside the usual."""
        return {}

    def install(self) -> None:
        self.home = install.environment(self.name, "litellm[proxy]")

    def command(self) -> Sequence[str | Path]:
        parameters = {"model": f"openai/{MODEL}", "api_base": self.upstream + "/v1", "api_key": "sk-upstream"}
        config = {
            "model_list": [{"model_name": MODEL, "litellm_params": parameters}],
            "general_settings": {"master_key": KEY},
            "litellm_settings": {"telemetry": False, "num_retries": 0, **self.settings()},
        }
        file = self.folder / "config.yaml"
        file.write_text(json.dumps(config))
        words = f"--host 127.0.0.1 --port {self.port} --num_workers 1".split()
        return [self.home / "bin" / "litellm", "--config", file, *words]

    def cwd(self) -> Path:
        return install.litellm_folder(self.folder)

    def environ(self) -> Mapping[str, str]:
        path = f"{self.home / 'bin'}:{os.environ.get('PATH', '')}"
        return {
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_LOG": "ERROR",
            "LITELLM_MODE": "PRODUCTION",
            # As many streams at once as the others.
            "AIOHTTP_CONNECTOR_LIMIT": "4000",
            "AIOHTTP_CONNECTOR_LIMIT_PER_HOST": "4000",
            "PATH": path,
        }

    def version(self) -> str:
        return install.installed_version(self.home, "litellm")


QUICK: tuple[type[System], ...] = (Nginx, Penstock, FastAPIHttpx)
ALL: tuple[type[System], ...] = (
    Nginx,
    Penstock,
    PenstockDisk,
    PenstockFlow,
    PenstockUvicorn,
    VllmRouter,
    SglangRouter,
    Portkey,
    FastAPIHttpx,
    LiteLLM,
)
