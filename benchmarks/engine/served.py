"""A model behind HTTP, and what its process spends on it."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import NamedTuple

import httpx2

_TICK = os.sysconf("SC_CLK_TCK")


class Served(NamedTuple):
    url: str  # with /v1
    pid: int
    model: str


def cpu_seconds(pid):
    """Of the process and those that it has started."""
    spent = _own(pid)
    for thread in Path(f"/proc/{pid}/task").iterdir():
        for child in (thread / "children").read_text().split():
            spent += cpu_seconds(int(child))
    return spent


def _own(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def ask_all(served, prompts, limits, at_once):
    """Streamed, so many at once: tokens per CPU-second."""
    before = cpu_seconds(served.pid)
    tokens = asyncio.run(_ask_all(served, prompts, limits, at_once))
    return tokens / (cpu_seconds(served.pid) - before)


async def _ask_all(served, prompts, limits, at_once):
    places = asyncio.Semaphore(at_once)

    async def ask(client, prompt, limit):
        async with places:
            return await _ask(client, served, prompt, limit)

    async with httpx2.AsyncClient(timeout=600, trust_env=False) as client:
        calls = (ask(client, prompt, limit) for prompt, limit in zip(prompts, limits, strict=True))
        return sum(await asyncio.gather(*calls))


async def _ask(client, served, prompt, limit):
    """Tokens of one answer, counted by its chunks."""
    body = {
        "model": served.model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": limit,
        "temperature": 0,
        "stream": True,
    }
    chunks = 0
    async with client.stream("POST", served.url + "/chat/completions", json=body) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                choices = json.loads(line[6:]).get("choices") or [{}]
                chunks += bool(choices[0].get("delta", {}).get("content"))
    return chunks
