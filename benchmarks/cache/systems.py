"""Systems that answer the same calls, each a process of its own: nginx, Penstock and LiteLLM's proxy."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.gateway.processes import free_port
from benchmarks.gateway.systems import LiteLLM

from penstock.testing import GatewayProcess

TICK = os.sysconf("SC_CLK_TCK")

_NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  keepalive_requests 1000000;
  upstream mock {{ server 127.0.0.1:{upstream}; keepalive 64; }}
  server {{ listen 127.0.0.1:{itself}; location / {{ return 200 "{answer}"; }} }}
  server {{
    listen 127.0.0.1:{port};
    location / {{ proxy_pass http://mock; proxy_http_version 1.1; proxy_set_header Connection ""; }}
  }}
}}
"""


@contextlib.contextmanager
def process(
    *command: object, environ: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    started = subprocess.Popen(
        [str(word) for word in command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **(environ or {})},
        cwd=cwd,
    )
    try:
        yield started
    finally:
        started.terminate()
        started.wait()


def wait_for(port: int, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.02)
    raise RuntimeError(f"nobody listens on {port}")


def cpu(pids: Sequence[int]) -> float:
    """Seconds of CPU that these processes have used, and their children."""
    total = 0
    for pid in family(pids):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICK


def family(pids: Sequence[int]) -> list[int]:
    """These processes and all that they have started."""
    found: list[int] = []
    to_see = list(pids)
    while to_see:
        pid = to_see.pop()
        if pid not in found:
            found.append(pid)
            for task in Path(f"/proc/{pid}/task").iterdir():
                to_see += map(int, (task / "children").read_text().split())
    return found


@contextlib.contextmanager
def nginx(folder: Path, upstream: int) -> Iterator[tuple[int, int, int]]:
    """The port where it proxies, the one where it answers by itself, and its process."""
    port, itself = free_port(), free_port()
    config = folder / "nginx.conf"
    config.write_text(
        _NGINX.format(folder=folder, port=port, itself=itself, upstream=upstream, answer="x" * 600)
    )
    with process("nginx", "-e", folder / "error.log", "-c", config) as started:
        wait_for(port)
        yield port, itself, started.pid


def penstock(
    folder: Path, upstream: int, model: Mapping[str, object], cache: Mapping[str, object]
) -> GatewayProcess:
    """A gateway to be started, which keeps a ledger and writes no line for each request.

    :param model: of every name, besides who answers it
    """
    folder.mkdir()
    mock = {"kind": "openai", "base_url": f"http://127.0.0.1:{upstream}/v1", "api_key": "k"}
    settings = {
        "upstreams": {"mock": mock},
        "models": {"*": {"candidates": [{"upstream": "mock"}], **model}},
        "cache": {"disk_budget": 1, "redis_budget": 1, **cache},
        "ledger": {"path": str(folder / "ledger.sqlite")},
        "log": {"requests": False},
    }
    return GatewayProcess(settings, folder)


def hits_of(gateway: GatewayProcess, tier: str) -> int:
    """How many answers this tier has given."""
    workers = gateway.ask("/v1/cache")["workers"]
    return sum(each["hits"] for worker in workers for each in worker["tiers"] if each["name"] == tier)


class CachingLiteLLM(LiteLLM):
    """LiteLLM's proxy that keeps answers."""

    def __init__(self, folder: Path, upstream_port: int, cache: Mapping[str, object]) -> None:
        super().__init__(folder, upstream_port, free_port())
        self.cache = cache

    def settings(self) -> Mapping[str, object]:
        return {"cache": True, "cache_params": self.cache}


@contextlib.contextmanager
def litellm(folder: Path, upstream: int, cache: Mapping[str, object]) -> Iterator[tuple[int, int]]:
    """LiteLLM's proxy with one worker: its port, and its process."""
    proxy = CachingLiteLLM(folder, upstream, cache)
    proxy.install()
    work = proxy.cwd()
    with process(*proxy.command(), environ=proxy.environ(), cwd=work) as started:
        wait_for(proxy.port, proxy.start_timeout)
        yield proxy.port, started.pid
