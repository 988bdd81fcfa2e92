"""Bytes that an agent sends whose history grows: ``python -m benchmarks.wire.agent``.

Twenty turns through OpenAI's SDK, a link that counts, and a gateway, to the simulator; with a history that grows to
200 KB.  Beside each other: the SDK as it is, the SDK with a transport that sends its JSON in gzip or zstd, and the SDK
with our client.  What is counted are the bodies, and all that the link carried up: heads as well.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from contextlib import ExitStack
from pathlib import Path

import httpx2
import openai
from benchmarks.wire.coded import CODINGS, Coded
from benchmarks.wire.conversation import TOOLS, Conversation

import penstock
from penstock.lab.faults import Conditions, FaultProxy
from penstock.testing import GatewayProcess, SimulatorProcess


def run(client, turns, grows):
    """The length of the last body."""
    conversation = Conversation(grows=grows)
    for _ in range(turns):
        conversation.turn()
        client.chat.completions.create(
            model="sim", messages=conversation.messages, tools=TOOLS, max_tokens=8, temperature=0
        )
    return len(json.dumps(conversation.messages, ensure_ascii=False, separators=(",", ":")).encode())


def measure(turns, grows):
    """Rows of: system, bytes of bodies, bytes that the link carried up, bytes of the last history."""
    with ExitStack() as stack:
        simulator = stack.enter_context(SimulatorProcess())
        settings = {
            "upstreams": {"sim": {"kind": "sim", "base_url": simulator.base_url}},
            "models": {"*": {"candidates": [{"upstream": "sim"}]}},
        }
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        gateway = stack.enter_context(GatewayProcess(settings, Path(folder)))
        port = int(gateway.url.rpartition(":")[2])
        for system in ("as it is", "gzip", "zstd", "the client"):
            link = stack.enter_context(FaultProxy("127.0.0.1", port, Conditions()))
            transport = None
            if system == "the client":
                http = penstock.http_client(trust_env=False, gateways=[link.url])
            else:
                transport = Coded(system if system in CODINGS else "")
                http = httpx2.Client(transport=transport)
            with openai.OpenAI(
                base_url=link.url + "/v1", api_key="any", http_client=http, max_retries=0
            ) as client:
                size = run(client, turns, grows)
            sent = transport.sent if transport is not None else http.statistics().bytes_sent
            yield system, sent, link.figures.bytes_up, size


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--grows", type=int, default=10_000, help="bytes of a turn, about")
    options = parser.parse_args(arguments)
    rows = list(measure(options.turns, options.grows))
    gzipped = next(row for row in rows if row[0] == "gzip")
    print(
        "| bodies | bytes of bodies | of all that went up | gzip's bodies ÷ these | all of gzip's ÷ all of these |"
    )
    print("|---|--:|--:|--:|--:|")
    for system, bodies, up, _ in rows:
        print(f"| {system} | {bodies:,} | {up:,} | {gzipped[1] / bodies:.1f} | {gzipped[2] / up:.1f} |")
    print(f"\nThe last history has {rows[-1][3]:,} bytes.")
    return rows


if __name__ == "__main__":
    main()
