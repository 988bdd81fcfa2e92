"""Measure a local model: one at a time, many at once, with our layer and without, who goes first, and what a cut costs.

::

    python -m benchmarks.engine [MODEL_DIR] [--rounds 5] [--threads 1] [--longest 128] [--prompts 200]
        [--calls 32] [--quick] [--parts batch cuts order http]
    python -m benchmarks.engine MODEL_DIR --parts http --at-once 1 16
    python -m benchmarks.engine MODEL_DIR --backend transformers [--attention 'paged|sdpa']

Tokens per CPU-second of the process that computes: on a machine that is shared, the wall tells of the others.  Each
figure is the median of the rounds, which go in turns; beside it stand the least and the greatest.  Outputs of
everything that computes in fp32 are compared with greedy decoding one by one.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import statistics
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

from benchmarks.engine import workload
from benchmarks.engine.served import Served, ask_all

from penstock.config.model import LocalConfig
from penstock.engine import demo
from penstock.engine.backend import Sampling
from penstock.engine.engine import Engine, Job
from penstock.engine.serve import load
from penstock.engine.text import TextStream, text_of

SLOTS = 32
CACHE = 256_000_000
NUMBERS = itertools.count(1)


def backend_for(options, **more):
    settings = {
        "threads": options.threads,
        "exact": not options.quick,
        "slots": SLOTS,
        "cache_bytes": CACHE,
        **more,
    }
    named = {"model": str(options.model), "backend": options.backend}
    return load(LocalConfig(prefix_cache=False, **named, **settings))


def use_attention(name):
    """One of transformers' own in the place of ours."""
    from penstock.engine import _attention  # where there is PyTorch

    _attention.NAME = name
    _attention.register = lambda: None


# ---- without our layer -------------------------------------------------------------------------------


def bare(backend, calls):
    """The library alone, as many at once as our engine has places: what its own example does."""
    if not hasattr(backend, "_pipeline"):
        return stepped(backend, calls)
    said = {}
    pipeline = backend._pipeline  # noqa: SLF001 - what is measured is what it is without us
    handles = {}
    waiting = deque(calls)
    while waiting or handles:
        while waiting and len(handles) < SLOTS:
            number = next(NUMBERS)
            backend.add(number, *waiting.popleft())
            handles[number] = backend._handles.pop(number)  # noqa: SLF001
            said[number] = []
        pipeline.step()
        for number, handle in list(handles.items()):
            while handle.can_read():
                for output in handle.read().values():
                    said[number] += output.generated_ids
            if handle.get_status() != handle.get_status().RUNNING:
                del handles[number]
    texts = [backend.tokenizer.decode(ids) for ids in said.values()]
    assert all(texts)
    return list(said.values())


def stepped(backend, calls):
    """The same for a library that has no loop of its own: steps, and the text at the end."""
    said = {}
    waiting = deque(calls)
    open_ = set()
    while waiting or open_:
        while waiting and len(open_) < SLOTS:
            number = next(NUMBERS)
            backend.add(number, *waiting.popleft())
            open_.add(number)
            said[number] = []
        for progress in backend.step():
            said[progress.number] += progress.ids
            if progress.finish:
                open_.remove(progress.number)
    assert all(backend.tokenizer.decode(ids) for ids in said.values())
    return list(said.values())


def one_by_one(backend, calls):
    return [bare(backend, [call])[0] for call in calls]


# ---- with it -----------------------------------------------------------------------------------------


class Reader:
    """Makes text of the ids, as the server does."""

    def __init__(self, backend, pieces, prompt):
        self.ids = []
        self.text = ""
        self.first = None
        self.began = time.perf_counter()
        self.ended = asyncio.get_running_loop().create_future()
        self._stream = TextStream(text_of(pieces, backend.tokenizer.decode, prompt))

    def on_progress(self, progress):
        if self.first is None:
            self.first = time.perf_counter() - self.began
        self.ids += progress.ids
        for piece in self._stream.feed(progress.ids, progress.logprobs):
            self.text += piece.text
        if progress.finish:
            self.text += self._stream.end().text
            self.ended.set_result(None)

    def on_failure(self, error):
        self.ended.set_exception(error)


async def in_engine(backend, calls, engine, pieces):
    readers = []
    for prompt, sampling in calls:
        readers.append(Reader(backend, pieces, prompt))
        engine.submit(Job(prompt, sampling), readers[-1])
    for reader in readers:
        await reader.ended
    return [reader.ids for reader in readers]


# ---- what is shown -----------------------------------------------------------------------------------


def rate(compute, *arguments):
    """Tokens per CPU-second of this process, and what was said."""
    before = time.process_time()
    said = compute(*arguments)
    return sum(map(len, said)) / (time.process_time() - before), said


def shown(rates):
    return f"{statistics.median(rates):8.0f}   ({min(rates):.0f} to {max(rates):.0f})"


def times(ratios):
    """Of two that were measured in the same round, which a machine's other work meets alike."""
    return f"{statistics.median(ratios):.2f} times ({min(ratios):.2f} to {max(ratios):.2f})"


def throughput(options):
    backend = backend_for(options)
    samplings = workload.samplings(options.calls, longest=options.longest)
    prompts = workload.prompts(backend.tokenizer, options.calls, longest=options.prompts)
    calls = list(zip(prompts, samplings, strict=True))
    pieces = backend.tokenizer.pieces()
    bare(backend, calls[:4])  # what is compiled at the first use is compiled
    loop = asyncio.new_event_loop()
    engine = None

    async def start():
        return Engine(lambda: backend, slots=SLOTS)

    engine = loop.run_until_complete(start())
    loop.run_until_complete(engine.loaded())
    rates = {"one at a time": [], "32 at once, the library": [], "32 at once, our engine": []}
    reference = None
    for _ in range(options.rounds):
        alone, said = rate(one_by_one, backend, calls)
        reference = reference or said
        rates["one at a time"].append(alone)
        assert said == reference
        together, said = rate(bare, backend, calls)
        rates["32 at once, the library"].append(together)
        equal_bare = sum(a == b for a, b in zip(said, reference, strict=True))
        ours, said = rate(lambda: loop.run_until_complete(in_engine(backend, calls, engine, pieces)))
        rates["32 at once, our engine"].append(ours)
        equal_ours = sum(a == b for a, b in zip(said, reference, strict=True))
    tokens = sum(map(len, reference))
    read = sum(map(len, prompts))
    kind = "as it comes" if options.quick else "fp32"
    print(
        f"\n{kind}, {len(calls)} calls, {read} tokens in prompts, {tokens} tokens, {options.rounds} rounds; tokens per CPU-second"
    )
    for name, found in rates.items():
        print(f"  {name:28} {shown(found)}")
    rounds = list(zip(*rates.values(), strict=True))
    print(f"  at once against one at a time: {times([ours / alone for alone, _, ours in rounds])}")
    print(f"  the library against our engine: {times([library / ours for _, library, ours in rounds])}")
    print(f"  equal to greedy decoding one by one: library {equal_bare} of {len(calls)}, ours {equal_ours}")
    loop.run_until_complete(engine.close())
    loop.close()


def cuts(options):
    """Four answers, cut after each of their tokens and gone on with."""
    backend = backend_for(options)
    samplings = workload.samplings(longest=options.longest)
    calls = list(zip(workload.prompts(backend.tokenizer, longest=options.prompts), samplings, strict=True))[
        :4
    ]
    tried = equal = 0
    for (prompt, sampling), whole in zip(calls, one_by_one(backend, calls), strict=True):
        rests = []
        for cut in range(1, len(whole)):
            rest = Sampling(
                max_tokens=sampling.max_tokens - cut,
                temperature=0.0,
                ignore_eos=True,
                repetition_penalty=workload.PENALTY,
            )
            rests.append(([*prompt, *whole[:cut]], rest))
        for cut, said in enumerate(bare(backend, rests), 1):
            tried += 1
            equal += whole[:cut] + said == whole
    print(f"\nanswers cut at a token and gone on with, equal to the uncut one: {equal} of {tried}")


def priorities(options):
    """Calls of the top tier that come while 24 others are under way and more wait."""

    async def main():
        backend = backend_for(options, slots=24)
        engine = Engine(lambda: backend, slots=24)
        await engine.loaded()
        pieces = backend.tokenizer.pieces()
        ids = workload.prompts(backend.tokenizer, 96, 100, 200)
        sampling = Sampling(max_tokens=48, temperature=0.0, ignore_eos=True)
        background = []
        for prompt in ids[:80]:
            background.append(Reader(backend, pieces, prompt))
            engine.submit(Job(prompt, sampling), background[-1])
        urgent = []
        for prompt in ids[80:]:
            while engine.statistics().steps < 20 * (len(urgent) + 1):  # noqa: ASYNC110 - a thread tells nobody
                await asyncio.sleep(0.001)
            urgent.append(Reader(backend, pieces, prompt))
            engine.submit(Job(prompt, sampling, priority=10), urgent[-1])
            await urgent[-1].ended
        for reader in background:
            await reader.ended
        await engine.close()
        return [r.first * 1000 for r in urgent], [r.first * 1000 for r in background]

    urgent, background = asyncio.run(main())
    print("\ntime to the first token, ms (wall): median, 95 %")
    for name, found in (("top tier", urgent), ("background", background)):
        found.sort()
        print(f"  {name:12} {statistics.median(found):7.0f} {found[int(len(found) * 0.95)]:7.0f}")
    print(f"  top tier / background: {statistics.median(urgent) / statistics.median(background):.2f}")


def served(options):
    """Over HTTP, streamed: CPU of the server's process alone."""
    command = [sys.executable, "-m", "penstock", "engine", "serve", str(options.model), "--port", "0"]
    command += [
        "--backend",
        options.backend,
        "--name",
        "m",
        "--exact",
        "--threads",
        str(options.threads),
        "--no-prefix-cache",
        "--slots",
        "32",
    ]
    process = subprocess.Popen([*command, "--cache-bytes", str(CACHE)], stdout=subprocess.PIPE, text=True)
    try:
        url = process.stdout.readline().split(" at ")[1].split(" ")[0]
        backend = backend_for(options)
        texts = [
            backend.tokenizer.decode(prompt)
            for prompt in workload.prompts(backend.tokenizer, longest=options.prompts)
        ]
        server = Served(url, process.pid, "m")
        print("\nover HTTP, streamed; tokens per CPU-second of the server")
        limits = [sampling.max_tokens for sampling in workload.samplings(longest=options.longest)]
        found = {at_once: [] for at_once in options.at_once}
        ask_all(server, texts[:2], limits[:2], 2)
        for _ in range(options.rounds):
            for at_once, rates in found.items():
                rates.append(ask_all(server, texts, limits, at_once).rate)
        for at_once, rates in found.items():
            print(f"  {at_once:3} at once {shown(rates)}")
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def main():
    parser = argparse.ArgumentParser(prog="benchmarks.engine", description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path, nargs="?", default=demo.path())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--longest", type=int, default=128, help="tokens of the longest answer")
    parser.add_argument("--prompts", type=int, default=200, help="tokens of the longest prompt")
    parser.add_argument(
        "--calls",
        type=int,
        default=workload.CALLS,
        help="of batch; more than 32: so many are always under way",
    )
    parser.add_argument("--quick", action="store_true", help="as it comes, and not in fp32 throughout")
    parser.add_argument("--parts", nargs="+", default=["batch", "cuts", "order", "http"])
    parser.add_argument("--at-once", nargs="+", type=int, default=[SLOTS], help="calls under way, over HTTP")
    parser.add_argument("--backend", default="auto", choices=["auto", "openvino", "onnx", "transformers"])
    parser.add_argument("--attention", default="", help="of transformers; not ours")
    options = parser.parse_args()
    if options.attention:
        use_attention(options.attention)
    load = " ".join(f"{figure:.1f}" for figure in os.getloadavg())
    print(f"{options.model}, {os.cpu_count()} cores, load {load}, {options.threads} thread(s)")
    for part in options.parts:
        {"batch": throughput, "cuts": cuts, "order": priorities, "http": served}[part](options)


if __name__ == "__main__":
    main()
