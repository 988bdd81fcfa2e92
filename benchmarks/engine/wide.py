"""A step of the transformers backend where keys and values are as wide as a large model's: CPU time, and page faults.

::

    .venv-optimize/bin/python -m benchmarks.engine.wide MODEL_DIR [--at-once 32] [--prompts 300] [--rounds 3]

The model has four layers of random weights with eight heads of keys, 128 wide, as those of seven or eight thousand
million parameters have; its tokenizer and all else are those of MODEL_DIR, one of ``scripts/train_tiny_llama.py``.
"""

from __future__ import annotations

import argparse
import itertools
import os
import resource
import statistics
import tempfile
import time
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from penstock.config.model import LocalConfig
from penstock.engine.backend import Sampling
from penstock.engine.serve import load

HEADS = {"num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128}
CACHE = 1_000_000_000
STEPS = 12
NUMBERS = itertools.count(1)


def wide(source, target):
    """A model with such heads."""
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(source)
    config.update(HEADS)
    AutoModelForCausalLM.from_config(config).save_pretrained(target)
    AutoTokenizer.from_pretrained(source).save_pretrained(target)


def measured(backend, at_once, length):
    """CPU milliseconds (median) and page faults (mean) of steps that compute one token of each answer."""
    most = STEPS + at_once * length  # nobody ends before the last has begun
    sampling = Sampling(max_tokens=min(most, backend.card.context - length), temperature=0.0, ignore_eos=True)
    numbers = [next(NUMBERS) for _ in range(at_once)]
    for number in numbers:
        backend.add(number, [(7 + number + 31 * place) % 4_000 for place in range(length)], sampling)
    begun = set()
    while len(begun) < at_once:
        begun |= {progress.number for progress in backend.step()}
    faults, spent = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, []
    for _ in range(STEPS):
        began = time.process_time()
        backend.step()
        spent.append(1_000 * (time.process_time() - began))
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
    for number in numbers:
        backend.cancel(number)
    backend.step()
    return statistics.median(spent), faults / STEPS


def main():
    parser = argparse.ArgumentParser(prog="benchmarks.engine.wide", description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--at-once", type=int, default=32)
    parser.add_argument("--prompts", type=int, default=300, help="tokens of each prompt")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        wide(options.model, made)
        backend = load(
            LocalConfig(model=made, threads=1, slots=options.at_once, cache_bytes=CACHE, prefix_cache=False)
        )
        measured(backend, options.at_once, options.prompts)  # what is made at the first use is made
        rounds = [measured(backend, options.at_once, options.prompts) for _ in range(options.rounds)]
        backend.close()
    print(
        f"{options.at_once} at once, prompts of {options.prompts}, load {os.getloadavg()[0]:.1f}, one thread"
    )
    for spent, faults in rounds:
        print(f"  {spent:6.1f} ms a step, {faults:7.0f} page faults")


if __name__ == "__main__":
    main()
