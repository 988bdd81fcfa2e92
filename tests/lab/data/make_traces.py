"""Makes the two small traces beside it, in the forms of the published ones.

Run it again only to change them: ``python tests/lab/data/make_traces.py``.  The numbers are drawn from a
seeded generator: bursts and lulls of arrivals, lengths with a long tail, and conversations whose prompts
grow and so share their first blocks.
"""

from __future__ import annotations

import datetime as dt
import gzip
import io
import json
import random
from pathlib import Path

HERE = Path(__file__).parent
CALLS = 60
BLOCK = 512


def azure(chance: random.Random) -> str:
    lines = ["TIMESTAMP,ContextTokens,GeneratedTokens"]
    at = dt.datetime(2024, 3, 1, 9, 30, 0, 123_456)  # noqa: DTZ001 - the published ones have no zone either
    for _ in range(CALLS):
        at += dt.timedelta(seconds=chance.expovariate(5))
        context = min(14_000, int(chance.lognormvariate(6, 1.2)) + 2)
        generated = min(1_000, int(chance.lognormvariate(3.5, 1)) + 1)
        lines.append(f"{at:%Y-%m-%d %H:%M:%S.%f}0,{context},{generated}")  # seven digits, as published
    return "\n".join(lines) + "\n"


def mooncake(chance: random.Random) -> str:
    conversations: list[list[int]] = []
    lines = []
    blocks = 1
    at = 0
    for _ in range(CALLS):
        at += chance.choice([0, 0, 0, 3_000])
        if conversations and chance.random() < 0.5:
            ids = chance.choice(conversations)
        else:
            ids = [0]
            conversations.append(ids)
        for _ in range(chance.randint(1, 4)):
            ids.append(blocks)
            blocks += 1
        length = (len(ids) - 1) * BLOCK + chance.randint(1, BLOCK)
        call = {
            "timestamp": at,
            "input_length": length,
            "output_length": chance.randint(1, 200),
            "hash_ids": list(ids),
        }
        lines.append(json.dumps(call))
    return "\n".join(lines) + "\n"


def zipped(text: str) -> bytes:
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", mtime=0, filename="") as file:
        file.write(text.encode())
    return out.getvalue()


def main() -> None:
    (HERE / "azure_small.csv").write_text(azure(random.Random(1)))
    (HERE / "mooncake_small.jsonl.gz").write_bytes(zipped(mooncake(random.Random(2))))


if __name__ == "__main__":
    main()
