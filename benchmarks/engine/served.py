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


class Answers(NamedTuple):
    """``rate``: tokens per CPU-second of the server; ``texts``: one of each prompt."""

    rate: float
    texts: list[str]


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
    """Streamed, so many at once."""
    before = cpu_seconds(served.pid)
    answers = asyncio.run(_ask_all(served, prompts, limits, at_once))
    tokens = sum(counted for counted, _ in answers)
    return Answers(tokens / (cpu_seconds(served.pid) - before), [text for _, text in answers])


async def _ask_all(served, prompts, limits, at_once):
    places = asyncio.Semaphore(at_once)

    async def ask(client, prompt, limit):
        async with places:
            return await _ask(client, served, prompt, limit)

    async with httpx2.AsyncClient(timeout=600, trust_env=False) as client:
        calls = (ask(client, prompt, limit) for prompt, limit in zip(prompts, limits, strict=True))
        return await asyncio.gather(*calls)


async def _ask(client, served, prompt, limit):
    """Tokens of one answer, as the server counts them, and its text."""
    body = {
        "model": served.model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": limit,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    tokens, text = 0, ""
    async with client.stream("POST", served.url + "/chat/completions", json=body) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line[6:])
            if event.get("usage"):
                tokens = event["usage"]["completion_tokens"]
            for choice in event.get("choices") or ():
                text += choice.get("delta", {}).get("content") or ""
    return tokens, text
