"""``python -m benchmarks.flow.prefixes [TRACE]``: which replica gets which prompt, where replicas cache prefixes.

A simulation with a clock of its own.  The calls are those of Mooncake's trace (Qin et al., FAST 2025), at the moments at
which they came, or so many times as fast; prompts are texts that have in common what the trace's blocks of 512 tokens
have in common, and are cut by the product's code.  A replica computes one prompt after the other, in the order in which
they come, at :data:`PREFILL` tokens per second, and keeps the blocks of the prompts that it had last; answers come at a
pace that falls with the calls under way.  Of each way to choose: how many of the blocks that had been sent to anybody
before were found where the call went, and when first tokens came.

The second workload is one system prompt of 4,096 tokens, which all calls have, each with a question of its own.

Nobody in the trace says which conversation a call belongs to.  For consistent hashing by session a call is of the session
of the longest earlier prompt that it goes on from.
"""

from __future__ import annotations

import argparse
import random
from bisect import bisect_left
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from math import ceil, log
from pathlib import Path

import msgspec
from benchmarks.flow.simulate import Simulation

from penstock.flow.choose import Option, Standing, least_busy
from penstock.flow.prefix import Place, Replica, Sent, by_prefix
from penstock.flow.prefix_blocks import Prompt, cut
from penstock.lab.prompts import prompt
from penstock.lab.trace import BLOCK_TOKENS, TraceCall, read_trace

PREFILL = 8_000.0  # tokens per second
STEP, STEP_MORE = 0.015, 0.000_3  # seconds for a token of an answer; for each further call under way
PLACES = 64  # calls that a replica has at a time; the others wait in it
CACHE = 1_000_000  # tokens that it keeps
FORMER_BYTES, BUSIEST = 4_096, 1.5  # as the strategy was before
RING = 160  # points of each replica on the ring of consistent hashing, as vLLM's router has
# Of SGLang's and vLLM's routers, cache_aware.
SHARE_KNOWN, MOST_APART, MOST_TIMES = 0.3, 64, 1.5


@dataclass(eq=False)
class Asked:
    """One call."""

    at: float
    tokens: int
    answer: int
    blocks: tuple[int, ...]
    prompt: Prompt
    beginning: bytes
    session: int
    findable: int  # blocks that anybody had been sent before
    found: int = 0
    first_token: float = 0.0  # seconds


@dataclass(eq=False)
class Server:
    """A replica; ``cache``: its blocks, the last ones that were used last."""

    simulation: Simulation
    keeps: int
    cache: OrderedDict[int, None] = field(default_factory=OrderedDict)
    line: deque[tuple[Asked, float, Callable[[], None]]] = field(default_factory=deque)
    running: int = 0
    computing: bool = False

    def take(self, call: Asked, ended: Callable[[], None]) -> None:
        self.line.append((call, self.simulation.now, ended))
        self.go_on()

    def go_on(self) -> None:
        if self.computing or self.running >= PLACES or not self.line:
            return
        call, came, ended = self.line.popleft()
        self.computing = True
        self.running += 1
        for block in call.blocks:
            if block not in self.cache:
                break
            call.found += 1
        tokens = max(1, call.tokens - call.found * BLOCK_TOKENS)

        def computed() -> None:
            self.computing = False
            for block in reversed(call.blocks):
                self.cache[block] = None
                self.cache.move_to_end(block)
            while len(self.cache) > self.keeps:
                self.cache.popitem(last=False)
            call.first_token = self.simulation.now - came
            took = call.answer * (STEP + STEP_MORE * self.running)
            self.simulation.at(self.simulation.now + took, end)
            self.go_on()

        def end() -> None:
            self.running -= 1
            ended()
            self.go_on()

        self.simulation.at(self.simulation.now + tokens / PREFILL, computed)


class Gateway:
    """What one gateway knows of the replicas."""

    def __init__(self, replicas: int, simulation: Simulation, seed: int) -> None:
        self.simulation = simulation
        self.rand = random.Random(seed)
        self.standings = [Standing() for _ in range(replicas)]
        self.replicas = [Replica(lambda: simulation.now) for _ in range(replicas)]
        self.places = [
            Place(f"gpu{i}/m", 1.0, standing, replica)
            for i, (standing, replica) in enumerate(zip(self.standings, self.replicas, strict=True))
        ]
        self.options = [Option(1.0, place.standing) for place in self.places]
        self.turn = seed
        self.trees: list[dict[int, None]] = [{} for _ in range(replicas)]


def round_robin(gateway: Gateway, call: Asked) -> int:
    del call
    gateway.turn += 1
    return gateway.turn % len(gateway.places)


def busy(gateway: Gateway, call: Asked) -> int:
    del call
    return least_busy(gateway.options, gateway.rand.random, gateway.simulation.now)[0]


def _hash(key: bytes, name: str) -> float:
    digest = blake2b(key, key=name.encode(), digest_size=8).digest()
    return -1.0 / log((int.from_bytes(digest) + 1) / (2**64 + 1))


def former(gateway: Gateway, call: Asked) -> int:
    """One beginning of 4 KiB, whose order is gone through until there is somebody without too many calls."""
    calls = 1 + sum(each.in_progress for each in gateway.standings)
    most = ceil(BUSIEST * calls / len(gateway.places))
    order = sorted(range(len(gateway.places)), key=lambda i: -_hash(call.beginning, gateway.places[i].name))
    return min(order, key=lambda i: gateway.standings[i].in_progress + 1 > most)


def session_hash(gateway: Gateway, call: Asked) -> int:
    """A ring; whoever follows the session's point has it, however busy."""
    ring = _ring(len(gateway.places))
    point = int.from_bytes(blake2b(b"%d" % call.session, digest_size=8).digest())
    return ring[bisect_left(ring, (point, 0)) % len(ring)][1]


def _ring(replicas: int, made: dict[int, list[tuple[int, int]]] = {}) -> list[tuple[int, int]]:  # noqa: B006
    if replicas not in made:
        made[replicas] = sorted(
            (int.from_bytes(blake2b(b"%d:%d" % (i, point), digest_size=8).digest()), i)
            for i in range(replicas)
            for point in range(RING)
        )
    return made[replicas]


def cache_aware(gateway: Gateway, call: Asked) -> int:
    """The longest known beginning, if it is a part worth it, else the smallest tree; who is least busy, if far apart."""
    loads = [each.in_progress for each in gateway.standings]
    replicas = range(len(loads))
    chain = call.prompt.chain
    if max(loads) - min(loads) > MOST_APART and max(loads) > MOST_TIMES * min(loads):
        chosen = min(replicas, key=lambda i: loads[i])
    else:
        known = [
            next((n for n, block in enumerate(chain) if block not in tree), len(chain))
            for tree in gateway.trees
        ]
        chosen = max(replicas, key=lambda i: known[i])
        if known[chosen] <= SHARE_KNOWN * len(chain):
            chosen = min(replicas, key=lambda i: len(gateway.trees[i]))
    gateway.trees[chosen].update(dict.fromkeys(chain))
    return chosen


def prefix(gateway: Gateway, call: Asked) -> int:
    return by_prefix(gateway.places, call.prompt, gateway.simulation.now)[0]


WAYS: dict[str, Callable[[Gateway, Asked], int]] = {
    "round robin": round_robin,
    "least_busy": busy,
    "session on a ring": session_hash,
    "cache_aware": cache_aware,
    "4 KiB, bounded": former,
    "prefix": prefix,
}


def calls(trace: Iterable[TraceCall]) -> list[Asked]:
    """What arrives, with what it has in common with what came before."""
    made = []
    sent: set[int] = set()
    sessions: dict[int, int] = {}  # by a prompt's blocks but for the last, which it seldom fills
    for number, call in enumerate(trace):
        blocks = call.blocks
        text = prompt(call, number)
        found = next((n for n, block in enumerate(blocks) if block not in sent), len(blocks))
        sent.update(blocks)
        ends = [hash(blocks[:n]) for n in range(2, len(blocks))]
        session = next((sessions[end] for end in reversed(ends) if end in sessions), number)
        if ends:
            sessions[ends[-1]] = session
        answer = max(1, call.output_tokens)
        found_by = cut([text], b"")
        made.append(
            Asked(call.at, call.input_tokens, answer, blocks, found_by, text[:FORMER_BYTES], session, found)
        )
    return made


def faster(trace: Iterable[TraceCall], speed: float) -> list[Asked]:
    return calls(msgspec.structs.replace(call, at=call.at / speed) for call in trace)


def one_system_prompt(seed: int = 3) -> list[Asked]:
    """Calls of all kinds of people, and the same 4,096 tokens before each question; 40 per second."""
    rand, now, made = random.Random(seed), 0.0, []
    for number in range(6_000):
        now += rand.expovariate(40.0)
        answer = int(rand.lognormvariate(5.5, 0.8))
        blocks = (*range(8), 1_000 + number)
        made.append(TraceCall(now, 8 * BLOCK_TOKENS + 200, answer, blocks))
    asked = calls(made)
    for number, call in enumerate(asked):
        call.session = number
    return asked


def run(way: str, asked: list[Asked], replicas: int, gateways: int, cache: int) -> list[int]:
    """Serve them all; how many went to each replica."""
    simulation = Simulation()
    servers = [Server(simulation, cache // BLOCK_TOKENS) for _ in range(replicas)]
    doors = [Gateway(replicas, simulation, seed) for seed in range(gateways)]
    rand = random.Random(1)
    went = [0] * replicas

    def arrive(call: Asked) -> None:
        door = rand.choice(doors)
        chosen = WAYS[way](door, call)
        went[chosen] += 1
        standing = door.standings[chosen]
        sent: Standing | Sent = standing
        if WAYS[way] is prefix:
            sent = Sent(standing, door.replicas[chosen], call.prompt)
        else:
            standing.begin()

        def ended() -> None:
            sent.answered(call.first_token, call.answer, None, simulation.now)
            sent.end()

        servers[chosen].take(call, ended)

    for call in asked:
        call.found, call.first_token = 0, 0.0
        simulation.at(call.at, lambda call=call: arrive(call))
    simulation.run(float("inf"))
    return went


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[int(len(values) * share)]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flow.prefixes", description=__doc__)
    parser.add_argument("trace", type=Path, nargs="?", help="Mooncake's; left out without")
    parser.add_argument("--replicas", type=int, default=8)
    parser.add_argument("--gateways", type=int, nargs="*", default=[1, 4])
    parser.add_argument("--speed", type=float, nargs="*", default=[1.0, 1.5])
    parser.add_argument("--cache", type=int, default=CACHE, help="tokens that a replica keeps")
    given = parser.parse_args()
    trace = read_trace(given.trace) if given.trace is not None else []
    workloads = {f"trace × {speed:g}": faster(trace, speed) for speed in given.speed if trace}
    workloads["one system prompt"] = one_system_prompt()
    print("| calls | gateways | strategy | found, % | busiest | first token p50, s | mean, s | p99, s |")
    print("|---|--:|---|--:|--:|--:|--:|--:|")
    for name, asked in workloads.items():
        for gateways in given.gateways:
            for way in WAYS:
                went = run(way, asked, given.replicas, gateways, given.cache)
                firsts = [call.first_token for call in asked]
                found = sum(call.found for call in asked) / sum(call.findable for call in asked)
                busiest = max(went) * len(went) / sum(went)
                print(
                    f"| {name} | {gateways} | {way} | {100 * found:.1f} | {busiest:.2f} "
                    f"| {quantile(firsts, 0.5):.2f} | {sum(firsts) / len(firsts):.2f} | {quantile(firsts, 0.99):.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
