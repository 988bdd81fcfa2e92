"""Connections that die without a word: how long until that is noticed, and what is sent and computed once more for it.

``python -m benchmarks.network.silence`` (three minutes): OpenAI's SDK alone and with our client, through a gateway and a
link on which one connection dies in mid-transfer, in one of two ways.  *Black hole*: nothing comes through any more, in
neither direction.  *Half-open*: what the caller sends still gets there, and of the answer nothing comes back, which is
also what the last answer of an upload looks like when it is lost.  Nobody is told in either case.

The SDK alone is given ``--timeout`` seconds of silence (12); as it comes it would wait for 600.  Our client has its usual
clocks, and for plain answers, of which nobody can know whether they just take long, ``attempt_timeout`` as long.  What it
lost is what went over the link beyond the same call's transfer without a break.

``--quick``: all clocks are a twentieth, to see that it works.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from unittest import mock

import openai
from benchmarks.network.caller import MB, finished, stream, upload

import penstock
from penstock.client import _clocks
from penstock.lab.faults import Break, FaultProxy, Kind
from penstock.testing import GatewayProcess, SimulatorProcess

SYSTEMS = ("sdk", "penstock")
CASES = {  # seed → body; where it dies, in bytes
    "stream": (lambda seed: stream(2_000, seed), 200_000, "down"),
    "plain answer": (lambda seed: upload(10_000, seed), 100, "down"),
    "5 MB up": (lambda seed: upload(5 * MB, seed), 2_500_000, "up"),
    "5 MB up, its answer": (lambda seed: upload(5 * MB, seed), 10, "down"),
}
KINDS = {"black hole": Kind.BLACK_HOLE, "half-open": Kind.LOST_ANSWER}
ATTEMPTS = 3


def called(client, body):
    """One call, asked for again by the application where the SDK gives up a stream."""
    for attempt in range(ATTEMPTS):
        try:
            answer = client.chat.completions.create(**body)
            if not body.get("stream") or finished(answer):
                return
        except openai.APIError:
            if attempt + 1 == ATTEMPTS:
                raise


def run(system, gateway, simulator, body, breaks, timeout):
    """Seconds until the answer was there, until something was noticed, bytes over the link, calls at the provider."""
    simulator.reset_bill()
    noticed = []

    def notice(told):
        if told.kind in ("retry", "resume"):
            noticed.append(told.seconds)

    port = int(gateway.url.rpartition(":")[2])
    with FaultProxy("127.0.0.1", port, breaks=breaks) as link:
        settings = {"timeout": timeout, "max_retries": 2}
        if system == "penstock":
            http = penstock.http_client(
                trust_env=False, gateways=[link.url], attempt_timeout=timeout, on_notice=notice
            )
            settings = {"timeout": 600.0, "max_retries": 0, "http_client": http}
        with openai.OpenAI(base_url=link.url + "/v1", api_key="any", **settings) as client:
            began = time.monotonic()
            called(client, body)
            seconds = time.monotonic() - began
        moved = link.figures.bytes_up + link.figures.bytes_down
    return seconds, noticed[0] if noticed else None, moved, simulator.bill()["requests"]


def measure(gateway, simulator, timeout):
    """Rows: what dies, how, the system, seconds, seconds until it was noticed, bytes lost, calls at the provider."""
    seed = 0
    for case, (make, place, direction) in CASES.items():
        for kind, how in KINDS.items():
            if how is Kind.LOST_ANSWER and direction == "up":
                continue  # the request gets there: that is the case of its answer
            for system in SYSTEMS:
                seed += 1
                *_, whole, _ = run(system, gateway, simulator, make(seed), (), timeout)
                seed += 1
                breaks = (Break(how, place, direction),)
                seconds, noticed, moved, calls = run(system, gateway, simulator, make(seed), breaks, timeout)
                yield case, kind, system, seconds, noticed, max(moved - whole, 0), calls


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--timeout", type=float, default=12.0, help="seconds of silence for the SDK alone")
    parser.add_argument("--quick", action="store_true", help="with clocks of a twentieth")
    options = parser.parse_args(arguments)
    share = 20 if options.quick else 1
    clocks = {name: getattr(_clocks, name) / share for name in ("HURRIED_STALL", "UPLOAD_STALL")}
    rows = []
    with SimulatorProcess() as simulator, tempfile.TemporaryDirectory() as folder:
        settings = {
            "upstreams": {"sim": {"kind": "sim", "base_url": simulator.base_url}},
            "models": {"*": {"candidates": [{"upstream": "sim"}], "grace": 60}},
            "files": {"directory": folder + "/files"},
            "generations": {"kept_bytes": 256 * MB},
        }
        with GatewayProcess(settings, Path(folder)) as gateway, mock.patch.multiple(_clocks, **clocks):
            print(
                "| dies | how | system | answer, s | noticed, s | MB moved in vain | upstream calls |\n"
                "|---|---|---|--:|--:|--:|--:|"
            )
            for found in measure(gateway, simulator, options.timeout / share):
                rows.append(found)
                case, kind, system, seconds, noticed, lost, calls = found
                told = "" if noticed is None else f"{noticed:.1f}"
                print(
                    f"| {case} | {kind} | {system} | {seconds:.1f} | {told} | {lost / MB:.2f} | {calls} |",
                    flush=True,
                )
    return rows


if __name__ == "__main__":
    main()
