"""A large body sent again, changed a little: how many bytes go up for it.

``python -m benchmarks.network.sent_again``: through OpenAI's SDK with our client, a link that counts, and a gateway.  Each
case begins with a client and a tenant that have sent nothing; the second column is the same body sent by a client whose
gateway keeps no blocks.  The figures depend on no load.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import openai
from benchmarks.network.caller import text

import penstock
from penstock.lab.faults import Conditions, FaultProxy
from penstock.testing import GatewayProcess, SimulatorProcess

MB = 1_000_000
INSERTED = "A line that was not there.\n" * 40


def asked(*contents):
    """A question in so many messages, the answers between them."""
    messages = [{"role": "user", "content": contents[0]}]
    for content in contents[1:]:
        messages += [{"role": "assistant", "content": "Go on."}, {"role": "user", "content": content}]
    return messages


def cases(size):
    """What is sent first, and then, by what has changed."""
    whole = text(size, 1)["messages"][0]["content"]
    more = text(100_000, 2)["messages"][0]["content"]
    middle = len(whole) // 2
    return {
        "the same, another question after it": (asked(whole), asked(whole, "And now?")),
        "something inserted at its beginning": (asked(whole), asked(INSERTED + whole)),
        "something inserted in its middle": (
            asked(whole),
            asked(whole[:middle] + INSERTED + whole[middle:]),
        ),
        "100 KB appended": (asked(whole), asked(whole, more)),
        "another of the same size": (asked(whole), asked(text(size, 3)["messages"][0]["content"])),
    }


def sent(gateway, key, first, then):
    """Bytes that went up for each."""
    port = int(gateway.url.rpartition(":")[2])
    with FaultProxy("127.0.0.1", port, Conditions()) as link:
        http = penstock.http_client(trust_env=False, gateways=[link.url], timeout=600)
        with openai.OpenAI(base_url=link.url + "/v1", api_key=key, http_client=http, max_retries=0) as client:
            bytes_up, before = [], 0
            for messages in (first, then):
                client.chat.completions.create(model="sim:tokens=8", messages=messages)
                bytes_up.append(link.figures.bytes_up - before)
                before = link.figures.bytes_up
            return bytes_up


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[5, 20])
    options = parser.parse_args(arguments)
    found = {}
    with SimulatorProcess() as simulator, tempfile.TemporaryDirectory() as folder:
        settings = {
            "upstreams": {"sim": {"kind": "sim", "base_url": simulator.base_url}},
            "models": {"*": {"candidates": [{"upstream": "sim"}]}},
            "files": {"directory": folder + "/files"},
            "listener": {"max_body_bytes": 64 * MB},
        }
        with GatewayProcess(settings, Path(folder)) as gateway:
            print("| body | then | first | then, of which sent | |\n|---|---|--:|--:|--:|")
            for size in options.megabytes:
                for number, (name, bodies) in enumerate(cases(size * MB).items()):
                    first, then = sent(gateway, f"key-{size}-{number}", *bodies)
                    found[size, name] = first, then
                    print(
                        f"| {size} MB of text | {name} | {first:,} | {then:,} | {then / first:.1%} |",
                        flush=True,
                    )
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
