"""A thousand calls over a link that breaks: how many errors reach the caller, and what is computed for them.

``python -m benchmarks.network.survival``: OpenAI's and Anthropic's SDKs, plain and streamed, bodies of 1 KB to 20 MB
(log-uniform), with our client and with the SDKs alone, over the same breaks: 18 % of transfers of 10 MB, by resets,
orderly ends, black holes and lost answers.  The calls themselves say at the simulator how many there were.
"""

from __future__ import annotations

import argparse
import base64
import collections
import math
import random
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anthropic
import openai

import penstock
from penstock.lab.faults import Conditions, FaultProxy, Kind
from penstock.testing import GatewayProcess, SimulatorProcess, expected_text

KINDS = (Kind.RESET, Kind.CLOSE, Kind.BLACK_HOLE, Kind.LOST_ANSWER)
LEAST, MOST = 1_000, 20_000_000  # bytes
TOKENS = 64
TIMEOUT = 10.0  # seconds of silence, for all


def drawn(number, seed):
    """What the n-th call is: its SDK, its form, its question."""
    chance = random.Random(f"{seed} {number}")
    size = int(math.exp(chance.uniform(math.log(LEAST), math.log(MOST))))
    text = base64.b64encode(chance.randbytes(size * 3 // 4)).decode()
    return chance.choice(("openai", "anthropic")), chance.random() < 0.5, [{"role": "user", "content": text}]


def answered(clients, number, seed):
    """The text of one call, and what it must be."""
    kind, stream, question = drawn(number, seed)
    asked = {"model": "sim", "messages": question, "max_tokens": TOKENS}
    client = clients[kind]
    if kind == "anthropic":
        must = expected_text(asked, "/v1/messages", TOKENS)
        if not stream:
            return client.messages.create(**asked).content[0].text, must
        with client.messages.stream(**asked) as events:
            return events.get_final_text(), must
    must = expected_text(asked, "/v1/chat/completions", TOKENS)
    if not stream:
        return client.chat.completions.create(**asked).choices[0].message.content, must
    chunks = client.chat.completions.create(**asked, stream=True)
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices), must


def run(gateway, simulator, system, calls, seed, hazard, at_once=4):
    """One system: what became of its calls."""
    simulator.reset_bill()
    port = int(gateway.url.rpartition(":")[2])
    outcomes = collections.Counter()
    conditions = Conditions(hazard=hazard, kinds=KINDS, seed=seed, rate=100e6)
    with FaultProxy("127.0.0.1", port, conditions) as link:
        http = None
        if system == "penstock":
            http = penstock.http_client(
                trust_env=False, gateways=[link.url], attempt_timeout=TIMEOUT, stall_timeout=TIMEOUT
            )
        # With the client it is that of all attempts.
        told = {"api_key": "any", "timeout": 3 * TIMEOUT if http else TIMEOUT, "http_client": http}
        with (
            openai.OpenAI(base_url=link.url + "/v1", **told) as first,
            anthropic.Anthropic(base_url=link.url, **told) as second,
        ):
            clients = {"openai": first, "anthropic": second}

            def one(number):
                try:
                    text, must = answered(clients, number, seed)
                except Exception as error:
                    outcomes[f"error: {type(error).__name__}"] += 1
                else:
                    outcomes["right" if text == must else "wrong, told as right"] += 1

            with ThreadPoolExecutor(at_once) as pool:
                list(pool.map(one, range(calls)))
        bill = simulator.bill()
        return {
            "outcomes": dict(outcomes),
            "broken": link.figures.broken,
            "connections": link.figures.connections,
            "gigabytes": (link.figures.bytes_up + link.figures.bytes_down) / 1e9,
            "upstream_calls": bill["requests"],
            "output_tokens": bill["output_tokens"],
        }


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=1_000)
    parser.add_argument("--hazard", type=float, default=0.0198, help="breaks per MB")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    found = {}
    with SimulatorProcess() as simulator, tempfile.TemporaryDirectory() as folder:
        settings = {
            "upstreams": {"sim": {"kind": "sim", "base_url": simulator.base_url}},
            "models": {"*": {"candidates": [{"upstream": "sim"}]}},
            "files": {"directory": folder + "/files"},
            "listener": {"max_body_bytes": 64_000_000},
            "generations": {"kept_bytes": 512_000_000},  # they hold the bodies of calls with keys, too
        }
        with GatewayProcess(settings, Path(folder)) as gateway:
            for system in ("penstock", "the SDKs alone"):
                found[system] = run(gateway, simulator, system, options.calls, options.seed, options.hazard)
                print(f"{system}: {found[system]}", flush=True)
    return found


if __name__ == "__main__":
    main()
