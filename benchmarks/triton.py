"""``python -m benchmarks.triton``: what Triton's dynamic batching gains and costs, through a gateway.

Clients that ask, and again when they have their answer; a real tritonserver behind a gateway.  *alone*: one call at a
time; *usual* and *tuned*: as ``penstock triton-repo`` writes it, by itself and with ``--tuned``.  The model is one
whose every run takes 10 ms, for one input or for 32, so that only the batching is measured; or, with ``--model``, a
directory of a real one.  Then what is told of processor time is the more certain part, where others are at work on the
machine.  The settings have their turns one after the other, in several rounds, of which the medians are told.  Needs
the environment of ``make triton``:

    .venv-triton/bin/python -m benchmarks.triton
    .venv-triton/bin/python -m benchmarks.triton --model models/tiny-int4
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from benchmarks.gateway.processes import cpu_of

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "upstream" / "triton"))

from triton_models import EMBED, EMBED_CONFIG
from triton_server import TritonServer

from penstock.optimize.triton_repository import TUNED, Batching, dynamic_batching, write_repository
from penstock.testing import GatewayProcess

CONCURRENCIES = (1, 4, 16, 32)
SETTINGS = {"alone": Batching(max_batch_size=1, max_queue_delay_us=0), "usual": Batching(), "tuned": TUNED}
WARMING = 1.0  # seconds


class Load(msgspec.Struct, frozen=True):
    """What each client asks."""

    path: str
    body: dict[str, Any]
    right: Callable[[Any], bool]
    output_tokens: Callable[[Any], int]


EMBEDDING = Load(
    "/v1/embeddings", {"input": [1, 2, 3]}, lambda told: told["data"][0]["embedding"][0] == 6, lambda _: 0
)


def completion(tokens: int) -> Load:
    return Load(
        "/v1/completions",
        {"prompt": "import json", "max_tokens": tokens, "temperature": 0},
        lambda told: 0 < told["usage"]["completion_tokens"] <= tokens,
        lambda told: told["usage"]["completion_tokens"],
    )


class Round(msgspec.Struct, frozen=True):
    """What some seconds of one setting gave."""

    rate: float  # calls a second
    p50: float  # seconds
    p99: float
    together: float  # calls in one run of the model
    triton: float  # seconds of processor time for each call
    gateway: float
    tokens: float  # for each second of Triton's processor time


async def answered(
    port: int, load: Load, model: str, clients: int, seconds: float
) -> tuple[list[float], int]:
    """Seconds that each answer took, in order of size, and how many tokens came."""
    loop = asyncio.get_running_loop()
    body = json.dumps({"model": model, **load.body}).encode()
    head = f"POST {load.path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    end = loop.time() + seconds
    times: list[float] = []
    tokens = 0

    async def client() -> None:
        nonlocal tokens
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (began := loop.time()) < end:
            writer.write(head.encode() + body)
            found = await reader.readuntil(b"\r\n\r\n")
            length = int(found.lower().partition(b"content-length:")[2].partition(b"\r")[0])
            answer = await reader.readexactly(length)
            if not found.startswith(b"HTTP/1.1 200") or not load.right(told := json.loads(answer)):
                raise RuntimeError(f"no answer: {found + answer!r}")
            times.append(loop.time() - began)
            tokens += load.output_tokens(told)
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return sorted(times), tokens


class Bench:
    """A Triton server with a model for each setting, and a gateway before it."""

    def __init__(self, server: TritonServer, gateway: GatewayProcess, load: Load) -> None:
        self._server = server
        self._gateway = gateway
        self._load = load
        self._port = int(gateway.url.rpartition(":")[2])

    def round(self, model: str, clients: int, seconds: float) -> Round:
        asyncio.run(answered(self._port, self._load, model, clients, WARMING))
        runs, triton, gateway = self._used(model)
        times, tokens = asyncio.run(answered(self._port, self._load, model, clients, seconds))
        runs, triton, gateway = (
            after - before for after, before in zip(self._used(model), (runs, triton, gateway), strict=True)
        )
        calls = len(times)
        return Round(
            rate=calls / seconds,
            p50=times[calls // 2],
            p99=times[int(0.99 * calls)],
            together=calls / runs,
            triton=triton / calls,
            gateway=gateway / calls,
            tokens=tokens / triton,
        )

    def _used(self, model: str) -> tuple[float, float, float]:
        """Runs of the model, and seconds of processor time of both."""
        runs = self._server.metrics()["nv_inference_exec_count", model]
        return runs, cpu_of(self._server.pid), cpu_of(self._gateway.pid)


def write_steady(folder: Path) -> None:
    """A model whose every run takes 10 ms, once for each setting."""
    for name, batching in SETTINGS.items():
        alone = batching.max_batch_size == 1
        more = "" if alone else dynamic_batching(batching)
        batch = 0 if alone else batching.max_batch_size
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "1" / "model.py").write_text(EMBED)
        (folder / name / "config.pbtxt").write_text(EMBED_CONFIG.format(name=name, batch=batch, more=more))


def write_real(model: Path, folder: Path) -> None:
    folder.mkdir()
    for name, batching in SETTINGS.items():
        own = folder.with_name(f"{folder.name}-{name}")
        write_repository({name: model}, own, batching, decoupled=False)
        (own / name).rename(folder / name)


def table(found: dict[tuple[int, str], list[Round]]) -> str:
    lines = [
        "| clients | | calls/s | × | p50, ms | p99, ms | calls in one run | Triton's CPU, ms/call | the gateway's | tokens per CPU-second |",
        "|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for (clients, setting), rounds in found.items():
        of = {
            name: statistics.median(getattr(each, name) for each in rounds)
            for name in Round.__struct_fields__
        }
        times = [each.rate / base.rate for each, base in zip(rounds, found[clients, "alone"], strict=True)]
        lines.append(
            f"| {clients} | {setting} | {of['rate']:.0f} | {statistics.median(times):.2f} ({min(times):.2f}–{max(times):.2f}) "
            f"| {1e3 * of['p50']:.1f} | {1e3 * of['p99']:.1f} | {of['together']:.1f} | {1e3 * of['triton']:.2f} "
            f"| {1e3 * of['gateway']:.2f} | {of['tokens']:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.triton",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seconds", type=float, default=4.0, help="of each setting, in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", type=Path, metavar="DIRECTORY", help="a real one, for text")
    parser.add_argument("--tokens", type=int, default=32, help="of each answer of a real model")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if given.model:
            write_real(given.model, folder / "models")
        else:
            write_steady(folder / "models")
        config = {
            "upstreams": {"triton": {"kind": "triton"}},
            # They all ask the same, and each is to be asked.
            "models": {"*": {"candidates": [{"upstream": "triton"}], "join": "never"}},
            "log": {"requests": False},
        }
        with TritonServer(folder / "models", folder) as server:
            config["upstreams"]["triton"]["base_url"] = server.url
            with GatewayProcess(config, folder) as gateway:
                bench = Bench(server, gateway, completion(given.tokens) if given.model else EMBEDDING)
                found: dict[tuple[int, str], list[Round]] = {}
                loads = [os.getloadavg()[0]]
                for clients in CONCURRENCIES:
                    for _ in range(given.rounds):
                        for setting in SETTINGS:
                            one = bench.round(setting, clients, given.seconds)
                            found.setdefault((clients, setting), []).append(one)
                    loads.append(os.getloadavg()[0])
    print(f"{os.cpu_count()} cores, load average {min(loads):.1f} to {max(loads):.1f}\n")
    print(table(found))


if __name__ == "__main__":
    main()
