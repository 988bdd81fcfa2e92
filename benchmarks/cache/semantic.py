"""How often does a semantic cache answer, and how often wrongly?

``python -m benchmarks.cache.semantic`` asks the questions of ``benchmarks.cache.paraphrases``, popular ones more often,
a fifth of them near misses, of the gateway's own stage (``gateway.stages.resemble``, with its embedding model and all
that it learns) and of what is usual: one fixed threshold of cosine similarity for all, as in GPTCache.  What was
asked in the very same words before is a hit of the exact cache and not counted here.

*False* is the share of the answers given to similar questions that were wrong; the answer to a matter is one
sentence of its own, so who is right is known.  "Confidence alone" leaves out the comparison of words.

It ends with 1 if with any seed more of what was learned was wrong than δ allows.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from collections.abc import Iterator, Sequence

import msgspec
import numpy as np
from benchmarks.cache.paraphrases import Matter, questions

from penstock.cache.cache import Cache
from penstock.cache.entry import Entry, Sealer
from penstock.cache.semantic import differences
from penstock.cache.semantic.embedding import Embedding
from penstock.cache.semantic.encoder import SentenceEncoder, packaged
from penstock.cache.semantic.index import Index
from penstock.cache.tiers.memory import MemoryTier
from penstock.config.model import SemanticConfig
from penstock.gateway.stages import resemble
from penstock.gateway.stages.resemble import Resemblance
from penstock.messages import Call, Endpoint, Tenant, Usage
from penstock.metrics import Registry
from penstock.wire import request

FOREVER = 1e12
DELTAS = (0.01, 0.001)


def answer(matter: Matter) -> bytes:
    text = "The answer is about " + repr(matter.intent) + " with " + repr(matter.filled)
    return b'{"choices":[{"message":{"content":%b}}]}' % msgspec.json.encode(text)


def entry(matter: Matter) -> Entry:
    return Entry(
        "chat",
        "m",
        "u",
        "m",
        False,
        False,
        False,
        (),
        (answer(matter),),
        Usage(),
        0,
        0.0,
        0.0,
        FOREVER,
        FOREVER,
        (),
    )


def call(text: str) -> Call:
    body = b'{"model":"m","messages":[{"role":"user","content":%b}]}' % msgspec.json.encode(text)
    opening = request.read(Endpoint.CHAT, body)
    return Call("gen_x", Endpoint.CHAT, "m", False, opening.fields, body, {}, 0.0, Tenant())


class Remembering:
    """Vectors by text, so that each is made once for all runs."""

    def __init__(self) -> None:
        self.encoder = SentenceEncoder(packaged())
        self.known: dict[str, np.ndarray] = {}

    async def encode(self, texts: Sequence[str]) -> np.ndarray:
        new = [text for text in texts if text not in self.known]
        if new:
            self.known |= dict(zip(new, self.encoder.encode(new), strict=True))
        return np.stack([self.known[text] for text in texts])


def fresh(asked: Sequence[tuple[Matter, str]]) -> Iterator[tuple[Matter, str]]:
    """Without what was asked in the same words before."""
    seen: set[str] = set()
    for matter, text in asked:
        if text not in seen:
            seen.add(text)
            yield matter, text


async def learned(
    asked: Sequence[tuple[Matter, str]], vectors: Remembering, delta: float, seed: int
) -> list[tuple[bool, bool]]:
    """Of each question: was it answered, was that wrong."""
    cache = Cache(MemoryTier(1 << 30), (), Sealer(bytes(32), 1 << 20), max_entry_bytes=1 << 20)
    rand = random.Random(seed)
    stage = Resemblance(cache, Embedding(vectors.encode, 60.0), Index(100_000), Registry(), rand.random)
    policy = SemanticConfig(max_error=delta)
    matters: dict[bytes, Matter] = {}
    outcome = []
    for number, (matter, text) in enumerate(asked):
        asking = call(text)
        key = number.to_bytes(32, "big")
        similar = stage.similar(asking, policy, model_version="", scope="t")
        found = await stage.find(similar) if similar is not None else None
        if found is not None:
            outcome.append((True, matters[found[0]] != matter))
        else:
            outcome.append((False, False))
        if similar is not None and (found is None or stage.is_to_verify(similar)):
            matters[key] = matter
            cache.put(key, entry(matter))
            stage.keep(asking, similar, key, entry(matter))
            await stage.wait_idle()
    return outcome


async def fixed(
    asked: Sequence[tuple[Matter, str]], vectors: Remembering, threshold: float
) -> list[tuple[bool, bool]]:
    """The same, of a cache that answers whatever is similar enough."""
    index = Index(100_000)
    matters: dict[bytes, Matter] = {}
    reading = differences.read("How is it?")
    assert reading is not None
    outcome = []
    for number, (matter, text) in enumerate(asked):
        (vector,) = await vectors.encode([text])
        nearest = index.nearest(b"", vector, 1)
        if nearest and nearest[0][0] >= threshold:
            outcome.append((True, matters[nearest[0][1].key] != matter))
            continue
        outcome.append((False, False))
        key = number.to_bytes(32, "big")
        matters[key] = matter
        index.add(key, b"", reading, vector)
    return outcome


def row(name: str, outcome: Sequence[tuple[bool, bool]]) -> str:
    late = outcome[len(outcome) // 2 :]
    cells = []
    for part in (outcome, late):
        given = sum(hit for hit, _ in part)
        wrong = sum(false for _, false in part)
        share = f"{100 * wrong / given:.2f} ({wrong:,} of {given:,})" if given else "–"
        cells.append(f"{100 * given / len(part):.1f} | {share}")
    return f"| {name} | {' | '.join(cells)} |"


async def holds(asked: Sequence[tuple[Matter, str]], vectors: Remembering, delta: float, seed: int) -> bool:
    """Whether no more of the answers were wrong than δ allows; prints how it was."""
    outcome = await learned(asked, vectors, delta, seed)
    print(row(f"learned, δ = {delta:.1%}", outcome), flush=True)
    return sum(wrong for _, wrong in outcome) <= delta * sum(given for given, _ in outcome)


async def run(count: int, near: float, seed: int, vectors: Remembering) -> bool:
    """Whether the bounds held."""
    rand = random.Random(seed)
    everything = list(questions(count, rand, near=near))
    asked = list(fresh(everything))
    print(f"Seed {seed}: {count:,} calls, {len(asked):,} of them in words that were not there before\n")
    print("| | hits, % | false, % | second half: hits, % | false, % |")
    print("|---|--:|--:|--:|--:|")
    for threshold in (0.8, 0.9, 0.95, 0.98):
        print(row(f"fixed threshold {threshold}", await fixed(asked, vectors, threshold)), flush=True)
    held = [await holds(asked, vectors, delta, seed) for delta in DELTAS]
    compare = resemble.differ
    resemble.differ = lambda _one, _other: None
    try:
        for delta in DELTAS:
            name = f"confidence alone, δ = {delta:.1%}"
            print(row(name, await learned(asked, vectors, delta, seed)), flush=True)
    finally:
        resemble.differ = compare
    print()
    return all(held)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--near", type=float, default=0.2, help="share of near misses")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    given = parser.parse_args()
    vectors = Remembering()
    held = [asyncio.run(run(given.calls, given.near, seed, vectors)) for seed in given.seeds]
    sys.exit(0 if all(held) else 1)


if __name__ == "__main__":
    main()
