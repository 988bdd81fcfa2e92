"""``python -m benchmarks.triton``: what Triton's dynamic batching gains and costs, through a gateway.

A model whose every run takes 10 ms, for one input or for sixteen, behind a real tritonserver, behind a gateway:
clients that ask for an embedding each, and again when they have it.  *unbatched* runs one call at a time,
*dynamic* those that have come, waiting 5 ms at most for more.  Needs the environment of ``make triton``:

    .venv-triton/bin/python -m benchmarks.triton
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "upstream" / "triton"))

from triton_models import write_models
from triton_server import TritonServer

from penstock.testing import GatewayProcess

CONCURRENCIES = (1, 4, 16)
MODELS = {"unbatched": "single", "dynamic": "embed"}


async def clients(port: int, model: str, count: int, seconds: float) -> list[float]:
    """Seconds that each answer took."""
    loop = asyncio.get_running_loop()
    body = json.dumps({"model": model, "input": [1, 2, 3]}).encode()
    request = (
        b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
        % (
            len(body),
            body,
        )
    )
    end = loop.time() + seconds
    times: list[float] = []

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (began := loop.time()) < end:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].partition(b"\r")[0])
            answer = await reader.readexactly(length)
            if not head.startswith(b"HTTP/1.1 200") or json.loads(answer)["data"][0]["embedding"][0] != 6:
                raise RuntimeError(f"no answer: {head + answer!r}")
            times.append(loop.time() - began)
        writer.close()

    await asyncio.gather(*(client() for _ in range(count)))
    return sorted(times)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.triton", description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_models(folder / "models")
        with TritonServer(folder / "models", folder) as server:
            config = {
                "upstreams": {"triton": {"kind": "triton", "base_url": server.url}},
                "models": {
                    "*": {"candidates": [{"upstream": "triton"}], "join": "never"}
                },  # they all ask the same
                "log": {"requests": False},
            }
            with GatewayProcess(config, folder) as gateway:
                port = int(gateway.url.rpartition(":")[2])
                print(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}\n")
                print(
                    "| clients | | calls/s | × | p50, ms | p99, ms | calls in one run |\n|--:|---|--:|--:|--:|--:|--:|"
                )
                for count in CONCURRENCIES:
                    base = 0.0
                    for label, model in MODELS.items():
                        asyncio.run(clients(port, model, count, 1.0))
                        before = server.metrics()
                        times = asyncio.run(clients(port, model, count, given.seconds))
                        after = server.metrics()
                        runs = (
                            after["nv_inference_exec_count", model] - before["nv_inference_exec_count", model]
                        )
                        rate = len(times) / given.seconds
                        base = base or rate
                        print(
                            f"| {count} | {label} | {rate:.0f} | {rate / base:.1f} | {1_000 * times[len(times) // 2]:.1f} "
                            f"| {1_000 * times[int(0.99 * len(times))]:.1f} | {len(times) / runs:.1f} |",
                            flush=True,
                        )


if __name__ == "__main__":
    main()
