"""The near side: one system and one workload, so many calls; prints seconds of each, and which failed, as JSON.

* ``requests``: what is called traditional: the whole body again after each failure, up to 5 times
* ``sdk``: OpenAI's SDK as it is, with its own 2 retries
* ``sdk-5``: the same with 5 retries
* ``sdk-zstd``: the same, and its bodies in zstd: the fair one
* ``penstock``: the SDK with our client
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import sys
import sysconfig
import time
from functools import cache
from pathlib import Path

import httpx2
import openai
from benchmarks.wire.coded import Coded

import penstock

# Seconds of silence, for all but our streams, which ask for signs of life; the articles lose so much at each failure.
TIMEOUT = 12.0
ATTEMPTS = 6
SYSTEMS = ("requests", "sdk", "sdk-5", "sdk-zstd", "penstock")
MB = 1_000_000


def upload(size, seed):
    """A prompt that cannot be compressed to less than three quarters, as with images in it."""
    text = base64.b64encode(random.Random(seed).randbytes(size * 3 // 4)).decode()
    return {"model": "sim:tokens=8", "messages": [{"role": "user", "content": text}]}


@cache
def library():
    """What a programmer sends: the source of Python's own library, file after file."""
    files = sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py"))
    return "".join(each.read_text(errors="ignore") for each in files if "site-packages" not in each.parts)


def text(size, seed):
    """A prompt of pieces of source code, none of which comes twice."""
    whole, piece = library(), 4_000
    places = random.Random(seed).sample(range(len(whole) // piece), size // piece)
    content = "".join(whole[place * piece : (place + 1) * piece] for place in places)
    return {"model": "sim:tokens=8", "messages": [{"role": "user", "content": content}]}


def stream(tokens, seed):
    messages = [{"role": "user", "content": f"{seed}"}]
    return {"model": f"sim:tokens={tokens}", "messages": messages, "stream": True}


WORKLOADS = {  # seed → body; calls at once
    "5 MB of text up": (lambda seed: text(5 * MB, seed), 1),
    "20 MB of text up": (lambda seed: text(20 * MB, seed), 1),
    "5 MB up": (lambda seed: upload(5 * MB, seed), 1),
    "20 MB up": (lambda seed: upload(20 * MB, seed), 1),
    "5 MB down": (lambda seed: stream(15_000, seed), 1),
    "100 at once": (lambda seed: {**upload(100_000, seed), "stream": True}, 100),
    "100 of text at once": (lambda seed: {**text(100_000, seed), "stream": True}, 100),
    "tiny": (lambda seed: upload(200_000, seed), 1),
}


def with_requests(url):
    import requests

    session = requests.Session()
    session.trust_env = False

    def call(body):
        for attempt in range(ATTEMPTS):
            try:
                answer = session.post(
                    url + "/v1/chat/completions", json=body, timeout=TIMEOUT, stream=body.get("stream", False)
                )
                answer.raise_for_status()
                if body.get("stream"):
                    lines = [line[6:] for line in answer.iter_lines() if line.startswith(b"data: ")]
                    if not lines or lines[-1] != b"[DONE]":
                        raise requests.ConnectionError("half an answer")
                    for line in lines[:-1]:
                        json.loads(line)
                else:
                    answer.json()
                return
            except requests.RequestException:
                if attempt + 1 == ATTEMPTS:
                    raise
                time.sleep(min(0.5 * 2**attempt, 10) * random.random())

    return call


def with_sdk(url, retries, http=None, timeout=TIMEOUT):
    client = openai.OpenAI(
        base_url=url + "/v1", api_key="any", max_retries=retries, timeout=timeout, http_client=http
    )

    def call(body):
        """The SDK does not repeat a stream that broke: the application does, as with ``requests``."""
        for attempt in range(retries + 1):
            try:
                answer = client.chat.completions.create(**body)
                if not body.get("stream") or finished(answer):
                    return
            except openai.APIError:
                if not body.get("stream") or attempt == retries:
                    raise
        raise RuntimeError("half an answer, each time")

    return call


def finished(chunks):
    """Whether a stream came to its end: the SDK takes an orderly end in the middle for one."""
    last = None
    for chunk in chunks:
        last = chunk.choices[0].finish_reason if chunk.choices else last
    return last is not None


def caller(system, url):
    if system == "requests":
        return with_requests(url)
    if system == "penstock":
        http = penstock.http_client(
            trust_env=False, gateways=[url], attempt_timeout=TIMEOUT, retry_budget=1.0
        )
        return with_sdk(url, 0, http, ATTEMPTS * TIMEOUT)  # the SDK's is that of all attempts
    if system == "sdk-zstd":
        timeout = httpx2.Timeout(TIMEOUT)
        return with_sdk(url, 5, httpx2.Client(transport=Coded("zstd"), timeout=timeout, trust_env=False))
    return with_sdk(url, 5 if system == "sdk-5" else 2)


async def main(system, workload, url, calls, seed):
    make, at_once = WORKLOADS[workload]
    call = caller(system, url)
    seconds, failures = [], []

    def one(body):
        began = time.monotonic()
        try:
            call(body)
        except Exception as error:
            failures.append(type(error).__name__)
        seconds.append(time.monotonic() - began)

    from concurrent.futures import ThreadPoolExecutor

    # A retry finds the answer to an earlier call with its body: no system may find another's.
    bodies = [{**make(seed * 1_000 + number), "user": system} for number in range(calls * at_once)]
    began = time.monotonic()
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(one, bodies))
    whole = time.monotonic() - began
    print(json.dumps({"seconds": seconds, "failures": failures, "whole": whole}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])))
