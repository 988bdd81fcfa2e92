"""CPU time that the client adds to a call of OpenAI's SDK: ``python -m benchmarks.client_cost``.

Plain and streamed calls of 1 KB to the simulator, which is a process of its own; in turn, with the SDK alone and
with our client below it.  What is counted is the CPU time of this process, all threads; the least of the rounds
is told, because everything that disturbs a round makes it longer.

``--instructions`` counts the processor's instructions of the caller's process in their place, by valgrind, of OpenAI's and
Anthropic's SDKs, synchronous and asynchronous: an hour, and the same figures on a machine that is busy with other things.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import anthropic
import openai
from benchmarks.cachegrind import instructions

import penstock
from penstock.client import CacheOptions
from penstock.testing import GatewayProcess, SimulatorProcess

QUESTION = [{"role": "user", "content": "word " * 200}]
TOKENS = 64
CALLERS = {
    "openai": openai.OpenAI,
    "openai-async": openai.AsyncOpenAI,
    "anthropic": anthropic.Anthropic,
    "anthropic-async": anthropic.AsyncAnthropic,
}


@contextmanager
def gateway():
    with SimulatorProcess() as simulator, tempfile.TemporaryDirectory() as folder:
        settings = {
            "upstreams": {"sim": {"kind": "sim", "base_url": simulator.base_url}},
            "models": {"*": {"candidates": [{"upstream": "sim"}]}},
        }
        with GatewayProcess(settings, Path(folder)) as running:
            yield running


def sdk(url, http=None):
    return openai.OpenAI(base_url=url, api_key="any", http_client=http)


def make_calls(client, calls, *, stream):
    for _ in range(calls):
        answer = client.chat.completions.create(
            model="sim", messages=QUESTION, max_tokens=TOKENS, temperature=0, stream=stream
        )
        if stream:
            for _ in answer:
                pass


def cost(client, calls, *, stream):
    """Microseconds of CPU per call."""
    began = time.process_time()
    make_calls(client, calls, stream=stream)
    return (time.process_time() - began) / calls * 1e6


def measure(calls, rounds):
    """Rows of: kind of call, SDK alone, with our client, µs."""
    with gateway() as running, ExitStack() as stack:
        https = {
            "the SDK alone": None,
            "with the client": penstock.http_client(trust_env=False),
            "with its cache": penstock.http_client(trust_env=False, cache=CacheOptions()),
        }
        systems = {name: stack.enter_context(sdk(running.base_url, http)) for name, http in https.items()}
        for stream in (False, True):
            least = dict.fromkeys(systems, float("inf"))
            for number in range(rounds + 1):
                for name, client in systems.items():
                    found = cost(client, calls, stream=stream)
                    if number:  # the first one warms up
                        least[name] = min(least[name], found)
            yield stream, least


def count(callers, few=3, many=13):
    """Rows of: SDK, kind of call, SDK alone, with our client, instructions per call."""
    calling = (sys.executable, "-m", "benchmarks.client_cost", "--calling")
    with gateway() as running:
        for caller in callers:
            for kind in ("plain", "streamed"):
                found = []
                for system in ("sdk", "client"):
                    some, more = (
                        instructions(*calling, caller, system, kind, str(calls), running.url)
                        for calls in (few, many)
                    )
                    found.append((more - some) / (many - few))
                yield caller, kind, *found


def asked_of(sdk, url, http):
    """What makes one call of this SDK, given whether it is streamed."""
    asked = {"model": "sim", "messages": QUESTION, "max_tokens": TOKENS}
    if sdk in (anthropic.Anthropic, anthropic.AsyncAnthropic):
        client = sdk(base_url=url, api_key="any", http_client=http)
        return client, lambda stream: client.messages.create(**asked, stream=stream)
    client = sdk(base_url=url + "/v1", api_key="any", http_client=http)
    return client, lambda stream: client.chat.completions.create(**asked, stream=stream)


def call_as_told(caller, system, kind, calls, url):
    sdk, stream = CALLERS[caller], kind == "streamed"
    if sdk.__name__.startswith("Async"):
        asyncio.run(calls_of_tasks(sdk, system, int(calls), url, stream=stream))
        return
    http = penstock.http_client(trust_env=False) if system == "client" else None
    client, call = asked_of(sdk, url, http)
    with client:
        for _ in range(int(calls)):
            answer = call(stream)
            if stream:
                for _ in answer:
                    pass


async def calls_of_tasks(sdk, system, calls, url, *, stream):
    http = penstock.async_http_client(trust_env=False) if system == "client" else None
    client, call = asked_of(sdk, url, http)
    async with client:
        for _ in range(calls):
            answer = await call(stream)
            if stream:
                async for _ in answer:
                    pass


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--instructions", action="store_true", help="count them, by valgrind")
    parser.add_argument("--callers", nargs="+", default=list(CALLERS), choices=CALLERS)
    parser.add_argument("--calling", nargs=5, help=argparse.SUPPRESS)  # what is counted
    options = parser.parse_args(arguments)
    if options.calling:
        gc.disable()  # a collection of all there is falls into the one count or the other, and costs as much as a call
        call_as_told(*options.calling)
        return
    if options.instructions:
        print("| SDK | call | the SDK alone, instructions | with the client |\n|---|---|--:|--:|")
        for caller, kind, alone, ours in count(options.callers):
            print(
                f"| {caller} | {kind} | {alone:,.0f} | {ours:,.0f} (+{(ours / alone - 1) * 100:.0f} %) |",
                flush=True,
            )
        return
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
