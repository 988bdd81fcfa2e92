"""What an answer costs that breaks on its way: output tokens paid for each one that the application can use.

``python -m benchmarks.network.broken_answers``: OpenAI's SDK over a link on which 2, 5 and 10 % of the answers are
reset at a place that is as likely as any other, half of them streamed, half plain.  Every attempt has a connection and
a draw of its own, from one seed, so the figures depend on neither the machine nor its load.  Three systems:

* ``provider``: the SDK alone, with its own 2 retries, at the provider itself; a stream that breaks is asked for again
  by the application, as it has to be
* ``gateway``: the same, with a gateway between link and provider
* ``penstock``: the SDK with our client, and the gateway

``--repeats 0.4``: four of ten calls ask what was asked before (temperature 0), and our client keeps answers in memory.

The provider is the simulator, which has made and bills the whole answer before the break is noticed.  A provider that
makes an answer slowly and stops when its caller is gone bills a part: then what the others pay twice is less.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from pathlib import Path

import httpx2
import openai

import penstock
from penstock.client import CacheOptions
from penstock.lab.faults import Break, FaultProxy, Kind
from penstock.testing import GatewayProcess, SimulatorProcess, expected_text

TOKENS = 64
SYSTEMS = ("provider", "gateway", "penstock")
ASKED = 6  # how often the application asks for one answer, at the most
LENGTHS = {True: 17_000, False: 1_100}  # bytes of an answer, head and all, streamed and plain: the shortest
NO_CONNECTION_TWICE = httpx2.Limits(max_keepalive_connections=0)


class Draws:
    """The breaks of one system's connections, in the order in which they are made."""

    def __init__(self, share, seed):
        self._share = share
        self._chance = random.Random(seed)
        self.stream = True  # what goes out next

    def __iter__(self):
        while True:
            hit, place = self._chance.random() < self._share, self._chance.random()
            yield Break(Kind.RESET, int(place * LENGTHS[self.stream]), "down") if hit else None


def answered(client, asked):
    """The text of one answer; half a stream raises, as one that lost its connection does."""
    if not asked["stream"]:
        return client.chat.completions.create(**asked).choices[0].message.content
    text, finished = "", False
    for chunk in client.chat.completions.create(**asked):
        if chunk.choices:
            text += chunk.choices[0].delta.content or ""
            finished = finished or chunk.choices[0].finish_reason is not None
    if not finished:
        raise openai.APIConnectionError(message="half an answer", request=None)
    return text


def asked_in_turn(calls, repeats, seed):
    """Numbers of questions; so many of them, as a share, were asked before, each as likely as any other."""
    chance, numbers = random.Random(f"questions {seed}"), []
    for number in range(calls):
        numbers.append(chance.choice(numbers) if numbers and chance.random() < repeats else number)
    return numbers


def run(system, url, simulator, calls, share, seed, repeats=0.0):
    """What one system's answers have cost."""
    simulator.reset_bill()
    draws = Draws(share, seed)
    host, _, port = url.removeprefix("http://").rpartition(":")
    right = 0
    with FaultProxy(host, int(port), breaks=iter(draws)) as link:
        if system == "penstock":
            http = penstock.http_client(
                gateways=[link.url],
                limits=NO_CONNECTION_TWICE,
                trust_env=False,
                cache=CacheOptions() if repeats else None,
            )
        else:
            http = httpx2.Client(limits=NO_CONNECTION_TWICE, trust_env=False)
        with openai.OpenAI(base_url=link.url + "/v1", api_key="any", http_client=http) as client:
            for place, number in enumerate(asked_in_turn(calls, repeats, seed)):
                draws.stream = place % 2 == 0
                question = [{"role": "user", "content": f"{seed} {number}"}]
                asked = {"model": "sim", "messages": question, "max_tokens": TOKENS, "stream": draws.stream}
                if repeats:
                    asked["temperature"] = 0
                for _ in range(ASKED):
                    try:
                        text = answered(client, asked)
                    except (openai.APIConnectionError, httpx2.TransportError):
                        continue
                    right += text == expected_text(asked, "/v1/chat/completions", TOKENS)
                    break
    bill = simulator.bill()
    return {
        "right": right,
        "broken": link.figures.broken,
        "upstream_calls": bill["requests"],
        "paid": bill["output_tokens"] / (right * TOKENS),
    }


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=1_000)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.02, 0.05, 0.1])
    parser.add_argument(
        "--repeats", type=float, default=0.0, help="share of calls that ask what was asked before"
    )
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    found = {}
    with SimulatorProcess() as simulator, tempfile.TemporaryDirectory() as folder:
        settings = {
            "upstreams": {"sim": {"kind": "sim", "base_url": simulator.base_url}},
            "models": {"*": {"candidates": [{"upstream": "sim"}]}},
        }
        with GatewayProcess(settings, Path(folder)) as gateway:
            for share in options.shares:
                for system in SYSTEMS:
                    url = simulator.base_url.removesuffix("/v1") if system == "provider" else gateway.url
                    figures = run(system, url, simulator, options.calls, share, options.seed, options.repeats)
                    found[share, system] = figures
                    print(f"{share:.0%} {system}: {figures}", flush=True)
    return found


if __name__ == "__main__":
    main()
