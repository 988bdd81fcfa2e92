"""What the settings of OpenVINO change in a step: CPU time and waits, by how many answers are under way.

::

    python -m benchmarks.engine.settings [MODEL_DIR] [--rounds 9] [--at-once 1 8 32] [--prompts 16 200]
        [--only "as it comes" ...]

A step computes one token of each answer; a figure is the median of the steps of one run, and of the rounds the least
and the median, which go in turns.  On a machine that is shared the least tells more.  ``switches``: how often the
process gave its core up in a step, which does not depend on who else is there.
"""

from __future__ import annotations

import argparse
import itertools
import os
import resource
import statistics
import time
from pathlib import Path

import numpy as np
import openvino
import openvino_genai

from penstock.config.model import LocalConfig
from penstock.engine import demo
from penstock.engine.openvino import FOR_TOKENIZERS, properties

TOKENS = 40
NUMBERS = itertools.count(1)
EXACT = properties(LocalConfig(threads=1, exact=True))
QUICK = properties(LocalConfig(threads=1))
SETTINGS = {
    "exact": (EXACT, {}),
    "as it comes": (QUICK, {}),
    "as it comes, fp32 between": (QUICK | {"INFERENCE_PRECISION_HINT": "f32"}, {}),
    "int8 in groups of 64": (QUICK | {"DYNAMIC_QUANTIZATION_GROUP_SIZE": 64}, {}),
    "int8 in groups of 128": (QUICK | {"DYNAMIC_QUANTIZATION_GROUP_SIZE": 128}, {}),
    "int8 in groups of 256": (QUICK | {"DYNAMIC_QUANTIZATION_GROUP_SIZE": 256}, {}),
    "no int8": (QUICK | {"DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}, {}),
    "cache in int8": (QUICK | {"KV_CACHE_PRECISION": "u8"}, {}),
    "hint: throughput": (QUICK | {"PERFORMANCE_HINT": "THROUGHPUT"}, {}),
    "all cores draw": (QUICK | {"sampler_num_threads": os.cpu_count()}, {}),
    "prompts whole": (QUICK, {"dynamic_split_fuse": False, "max_num_batched_tokens": 2_048}),
    "2,048 tokens a step": (QUICK, {"max_num_batched_tokens": 2_048}),
    "64 tokens a step": (QUICK, {"max_num_batched_tokens": 64}),
}


def pipeline(model, told, scheduling):
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.max_num_batched_tokens = 256
    scheduler.max_num_seqs = 40
    scheduler.num_kv_blocks = 600
    for name, value in scheduling.items():
        setattr(scheduler, name, value)
    return openvino_genai.ContinuousBatchingPipeline(str(model), scheduler, "CPU", told, FOR_TOKENIZERS)


def step_of(computed, at_once, length):
    """CPU milliseconds of a step that reads no prompt, and switches."""
    chance = np.random.default_rng(0)
    asked = openvino_genai.GenerationConfig()
    asked.max_new_tokens, asked.ignore_eos, asked.apply_chat_template = TOKENS, True, False
    handles = [  # one that is dropped ends its answer
        computed.add_request(next(NUMBERS), openvino.Tensor(chance.integers(5, 2_000, (1, length))), asked)
        for _ in range(at_once)
    ]
    spent = []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
    while computed.has_non_finished_requests():
        began = time.process_time()
        computed.step()
        spent.append(time.process_time() - began)
        for handle in handles:
            while handle.can_read():
                handle.read()
    switches = (resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw - before) / len(spent)
    return 1_000 * statistics.median(spent[2 - TOKENS :]), switches


def main():
    parser = argparse.ArgumentParser(
        prog="benchmarks.engine.settings", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("model", type=Path, nargs="?", default=demo.path())
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--at-once", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--prompts", nargs="+", type=int, default=[16, 200], help="tokens of each prompt")
    parser.add_argument("--only", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    options = parser.parse_args()
    made = {name: pipeline(options.model, *SETTINGS[name]) for name in options.only}
    cases = list(itertools.product(options.prompts, options.at_once))
    found = {(name, *case): [] for name in made for case in cases}
    for computed in made.values():
        step_of(computed, 2, 16)  # what is compiled at the first use is compiled
    for _ in range(options.rounds):
        for (name, length, at_once), steps in found.items():
            steps.append(step_of(made[name], at_once, length))
    load = " ".join(f"{figure:.1f}" for figure in os.getloadavg())
    print(
        f"{options.model}, {os.cpu_count()} cores, load {load}, one thread; CPU ms of a step: least (median)"
    )
    for name in made:
        print(f"\n{name}")
        for length, at_once in cases:
            spent, switches = zip(*found[name, length, at_once], strict=True)
            alone = min(cost for cost, _ in found[name, length, options.at_once[0]])
            print(
                f"  prompts of {length:4}, {at_once:3} at once: {min(spent):7.2f} ({statistics.median(spent):.2f})"
                f"   {at_once * alone / (options.at_once[0] * min(spent)):4.1f} times"
                f"   {statistics.median(switches):5.1f} switches"
            )


if __name__ == "__main__":
    main()
