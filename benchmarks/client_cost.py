"""CPU time that the client adds to a call of OpenAI's SDK: ``python -m benchmarks.client_cost``.

Plain and streamed calls of 1 KB to the simulator, which is a process of its own; in turn, with the SDK alone and
with our client below it.  What is counted is the CPU time of this process, all threads; the least of the rounds
is told, because everything that disturbs a round makes it longer.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import openai

import penstock
from penstock.client import CacheOptions
from penstock.testing import GatewayProcess, SimulatorProcess

QUESTION = [{"role": "user", "content": "word " * 200}]
TOKENS = 64


def cost(client, calls, *, stream):
    """Microseconds of CPU per call."""
    began = time.process_time()
    for _ in range(calls):
        answer = client.chat.completions.create(
            model="sim", messages=QUESTION, max_tokens=TOKENS, temperature=0, stream=stream
        )
        if stream:
            for _ in answer:
                pass
    return (time.process_time() - began) / calls * 1e6


def measure(calls, rounds):
    """Rows of: kind of call, SDK alone, with our client, µs."""
    with SimulatorProcess() as simulator, tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        settings = {
            "upstreams": {"sim": {"kind": "sim", "base_url": simulator.base_url}},
            "models": {"*": {"candidates": [{"upstream": "sim"}]}},
        }
        with GatewayProcess(settings, Path(folder)) as gateway:

            def sdk(http=None):
                client = openai.OpenAI(base_url=gateway.base_url, api_key="any", http_client=http)
                return stack.enter_context(client)

            systems = {
                "the SDK alone": sdk(),
                "with the client": sdk(penstock.http_client(trust_env=False)),
                "with its cache": sdk(penstock.http_client(trust_env=False, cache=CacheOptions())),
            }
            for stream in (False, True):
                least = dict.fromkeys(systems, float("inf"))
                for number in range(rounds + 1):
                    for name, client in systems.items():
                        found = cost(client, calls, stream=stream)
                        if number:  # the first one warms up
                            least[name] = min(least[name], found)
                yield stream, least


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args(arguments)
    print("| call | the SDK alone, µs | with the client, µs | with its cache, a hit, µs |\n|---|--:|--:|--:|")
    for stream, least in measure(options.calls, options.rounds):
        alone, ours, hit = least.values()
        kind = f"streamed, {TOKENS} events" if stream else "plain"
        print(
            f"| {kind} | {alone:.0f} | {ours:.0f} (+{(ours / alone - 1) * 100:.0f} %) | {hit:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
