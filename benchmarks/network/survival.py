"""A thousand calls over a link that breaks: how many errors reach the caller, and what is computed for them.

``python -m benchmarks.network.survival``: OpenAI's and Anthropic's SDKs, plain and streamed, bodies of 1 KB to 20 MB
(log-uniform), with our client and with the SDKs alone, over the same breaks: 18 % of transfers of 10 MB, by resets,
orderly ends, black holes and lost answers.  The calls themselves say at the simulator how many there were.

``--every``: a few small calls, of which each connection breaks after some hundred bytes of an answer, in turn in each
way: in half a minute there is no call that the client does not have to mend, so that whatever it has lost shows.
"""

from __future__ import annotations

import argparse
import base64
import collections
import math
import random
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import anthropic
import openai

import penstock
from penstock.lab.faults import Break, Conditions, FaultProxy, Kind
from penstock.testing import GatewayProcess, SimulatorProcess, expected_text

KINDS = (Kind.RESET, Kind.CLOSE, Kind.BLACK_HOLE, Kind.LOST_ANSWER)
LEAST, MOST = 1_000, 20_000_000  # bytes
TOKENS = 64
TIMEOUT = 10.0  # seconds of silence, for all
PATIENCE = 3 * TIMEOUT  # with the client, which has it for all attempts together


def drawn(number, seed, most):
    """What the n-th call is: its SDK, its form, its question."""
    chance = random.Random(f"{seed} {number}")
    size = int(math.exp(chance.uniform(math.log(LEAST), math.log(most))))
    text = base64.b64encode(chance.randbytes(size * 3 // 4)).decode()
    return chance.choice(("openai", "anthropic")), chance.random() < 0.5, [{"role": "user", "content": text}]


def answered(clients, number, seed, most):
    """The text of one call, and what it must be."""
    kind, stream, question = drawn(number, seed, most)
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


def every_connection_breaks(seed):
    """One break for each connection, of every kind in turn; what is silent costs a clock, and is rare."""
    rand = random.Random(seed)
    while True:
        for kind in (Kind.RESET, Kind.CLOSE) * 4 + (Kind.LOST_ANSWER, Kind.BLACK_HOLE):
            yield Break(kind, rand.randrange(200, 4_000), "down")


def run(
    gateway,
    simulator,
    system,
    calls,
    seed,
    hazard,
    at_once=4,
    timeout=TIMEOUT,
    breaks=(),
    most=MOST,
    **settings,
):
    """One system: what became of its calls.

    :param timeout: seconds of silence
    :param breaks: of the connections, in their order; the hazard holds for those that have none
    :param most: bytes of a body
    :param settings: of the client
    """
    simulator.reset_bill()
    port = int(gateway.url.rpartition(":")[2])
    outcomes = collections.Counter()
    conditions = Conditions(hazard=hazard, kinds=KINDS, seed=seed, rate=100e6)
    with FaultProxy("127.0.0.1", port, conditions, breaks=breaks) as link:
        http = None
        if system == "penstock":
            clocks = {"attempt_timeout": timeout, "stall_timeout": timeout}
            http = penstock.http_client(trust_env=False, gateways=[link.url], **clocks, **settings)
        told = {"api_key": "any", "timeout": PATIENCE if http else timeout, "http_client": http}
        if http is not None:  # or the SDKs' own retries hide what the client has lost
            told["max_retries"] = 0
        with (
            openai.OpenAI(base_url=link.url + "/v1", **told) as first,
            anthropic.Anthropic(base_url=link.url, **told) as second,
        ):
            clients = {"openai": first, "anthropic": second}

            def one(number):
                try:
                    text, must = answered(clients, number, seed, most)
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


def every(gateway, simulator, system, calls, seed, **settings):
    """As :func:`run`, of small calls whose connections all break."""
    conditions = {
        "timeout": 0.7,
        "retry_budget": 1.0,
        "breaks": every_connection_breaks(seed),
        "most": 20_000,
        "first_delay": 0.01,
    }
    return run(gateway, simulator, system, calls, seed, 0.0, at_once=1, **{**conditions, **settings})


@contextmanager
def serving():
    """A gateway that takes large bodies and keeps its answers, and the provider behind it."""
    with SimulatorProcess() as simulator, tempfile.TemporaryDirectory() as folder:
        settings = {
            "upstreams": {"sim": {"kind": "sim", "base_url": simulator.base_url}},
            "models": {"*": {"candidates": [{"upstream": "sim"}]}},
            "files": {"directory": folder + "/files"},
            "listener": {"max_body_bytes": 64_000_000},
            "generations": {"kept_bytes": 512_000_000},  # they hold the bodies of calls with keys, too
        }
        with GatewayProcess(settings, Path(folder)) as gateway:
            yield gateway, simulator


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=1_000)
    parser.add_argument("--hazard", type=float, default=0.0198, help="breaks per MB")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--every", action="store_true", help="every connection breaks, after some hundred bytes"
    )
    options = parser.parse_args(arguments)
    found = {}
    with serving() as (gateway, simulator):
        for system in ("penstock", "the SDKs alone"):
            if options.every:
                found[system] = every(gateway, simulator, system, options.calls, options.seed)
            else:
                found[system] = run(gateway, simulator, system, options.calls, options.seed, options.hazard)
            print(f"{system}: {found[system]}", flush=True)
    return found


if __name__ == "__main__":
    main()
