"""The same calls for everybody: prompts of 16 to 200 tokens, answers of 8 to 128, greedy."""

from __future__ import annotations

import random
from pydoc_data.topics import topics

from penstock.engine.backend import Sampling

CALLS = 32
SEED = 1
PENALTY = 1.2  # a model that babbles repeats itself otherwise


def prompts(tokenizer, count=CALLS, shortest=16, longest=200):
    """Token ids, cut out of Python's own documentation."""
    chance = random.Random(SEED)
    text = "\n".join(topics[name] for name in sorted(topics))
    made = []
    for _ in range(count):
        length = chance.randint(shortest, longest)
        start = chance.randrange(len(text) - 20 * length)
        made.append(tokenizer.encode(text[start : start + 20 * length], special=False)[:length])
    return made


def samplings(count=CALLS, shortest=8, longest=128):
    chance = random.Random(SEED + 1)
    return [
        Sampling(
            max_tokens=chance.randint(shortest, longest),
            temperature=0.0,
            ignore_eos=True,
            repetition_penalty=PENALTY,
        )
        for _ in range(count)
    ]
